"""Optimisers of any bilevel problem min_u f(u, v*(u)), v*(u) = argmin_v g(u, v).

They know only f, g, u and v: no images, no datasets.
"""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
