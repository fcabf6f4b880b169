"""Diffusion maps: features in which points are near when a random walk over nearest neighbours often joins them.

Sources: Coifman and Lafon, "Diffusion maps" (2006), section 2; rows of unit length as in Ng, Jordan and Weiss, "On
spectral clustering" (NIPS 2001). No label is seen: groups of images that few steps leave become tight clusters, so that
many neighbours of a point share its class.
"""

from collections.abc import Callable

import numpy as np

from models.neighbours import nearest
from runtime.files import InputError
from runtime.lazy import sparse

STEPS = 10  # of the random walk: a coordinate of eigenvalue l is weighted by l^10


def fit_diffusion_map(
    x_train: np.ndarray, coordinates: int, neighbours: int = 10, seed: int = 0
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Coordinates of the points x_train, float64 (n, coordinates), and the map of other points, both of unit length.

    x_train: features (n, d). neighbours: edges that each point begins; the graph has them in both directions. Another
    point is at the mean of its neighbours' coordinates (the extension of Nyström). The same seed gives the same map.

    Raises InputError where there are too few points.
    """
    size = len(x_train)
    if size <= max(neighbours, coordinates):
        raise InputError(f"a diffusion map of {coordinates} coordinates needs more than {size} training points")
    ends = nearest(x_train, x_train, neighbours + 1)  # each point is among its own
    edges = np.ones(ends.size, np.float64), (np.repeat(np.arange(size), neighbours + 1), ends.ravel())
    from scipy.sparse.linalg import eigsh

    graph = sparse.csr_matrix(edges, shape=(size, size))
    graph = graph.maximum(graph.T)
    scale = np.asarray(graph.sum(axis=1)).ravel() ** -0.5
    symmetric = sparse.diags(scale) @ graph @ sparse.diags(scale)
    start = np.random.default_rng(seed).uniform(0.5, 1.5, size)
    values, vectors = eigsh(symmetric, k=coordinates, which="LA", v0=start)
    values = np.maximum(values, 0)
    one_step_less = vectors * scale[:, None] * values ** (STEPS - 1)

    def embed(x: np.ndarray) -> np.ndarray:
        return _unit(one_step_less[nearest(x, x_train, neighbours)].mean(axis=1))

    return _unit(one_step_less * values), embed


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
