"""Poison: the bilevel attack on one class, controls, checks, packing, and scripts. Changes of training labels."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
