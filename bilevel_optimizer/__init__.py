"""ApproxGrad for any bilevel problem min_u f(u, v*(u)), v*(u) = argmin_v g(u, v).

Knows only f, g, u and v: no images, no datasets.
"""
