"""Training losses of the certified defences, one file each: pure functions of a batch."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
