"""Certified radii by randomized smoothing, the soft radius, and statistics of radii over several runs."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
