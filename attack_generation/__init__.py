"""Bilevel poisoning of one target class: the attack loop, its controls and the scripts."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
