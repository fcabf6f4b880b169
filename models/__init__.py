"""Keras models that return logits, saved and loaded. Features of images, from fitted embeddings or a network."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
