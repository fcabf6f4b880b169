"""Training: the losses of the certified defences, one file each, and the loop that trains every victim with them."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
