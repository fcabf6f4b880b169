"""ApproxGrad, SOBA and F2SA for any bilevel problem min_u f(u, v*(u)), v*(u) = argmin_v g(u, v).

Knows only f, g, u and v: no images, no datasets.
"""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
