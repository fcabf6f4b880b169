"""Keras models that return logits, their files, and features of images: fitted embeddings, or a network's output."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
