"""Certified radius by randomized smoothing: CERTIFY, PREDICT and the differentiable soft radius."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
