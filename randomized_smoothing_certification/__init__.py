"""Certified radii by randomized smoothing, the soft radius, and certificates against changed training labels."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
