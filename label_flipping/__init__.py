"""Changed training labels: certificates, attacks, and the study of both, with a script per data set."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
