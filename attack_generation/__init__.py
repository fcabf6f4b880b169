"""Poison: the bilevel attack on one class, controls, checks, packing, and scripts."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
