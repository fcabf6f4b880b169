"""Datasets: reading, checking and preparing their arrays, and the poison files beside them."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
