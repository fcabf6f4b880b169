"""Scripts that train victims, and what is measured of them: tables, figures and studies."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
