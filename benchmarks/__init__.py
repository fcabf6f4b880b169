"""Time and memory of every stage on this machine."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
