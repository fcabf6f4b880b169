"""Keras models that return logits, and how they are saved and loaded."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
