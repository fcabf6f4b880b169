"""Victim training, comparison tables and figures."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
