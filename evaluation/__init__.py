"""Scripts that train victims, and the tables, figures and studies of their certificates."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
