"""Diffusion maps: points are near each other if a random walk over nearest neighbours often joins them.

Sources: Coifman and Lafon, "Diffusion maps" (2006), section 2, and for rows of unit length Ng, Jordan and Weiss, "On
spectral clustering" (NIPS 2001). No label is used. Groups of images that the walk seldom leaves become tight clusters,
so that many neighbours of a point share its class.
"""

from collections.abc import Callable

import numpy as np

from models.neighbours import nearest
from runtime.files import InputError
from runtime.lazy import sparse

STEPS = 10  # steps of the random walk: a coordinate with eigenvalue l is weighted by l^10


def fit_diffusion_map(
    x_train: np.ndarray, coordinates: int, neighbours: int = 10, seed: int = 0
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Coordinates of the points x_train, float64 (n, coordinates), and a map for other points, both of unit length.

    x_train: features (n, d). neighbours: edges from each point to its nearest points. All edges go in both directions.
    Another point gets the mean of its neighbours' coordinates (Nyström extension). The same seed gives the same map.

    Raises InputError if there are too few points.
    """
    size = len(x_train)
    if size <= max(neighbours, coordinates):
        raise InputError(
            f"a diffusion map of {coordinates} coordinates and {neighbours} neighbours needs more training points than "
            f"either number, got {size}; lower the larger number"
        )
    ends = nearest(x_train, x_train, neighbours + 1)  # each point is its own neighbour, too
    edges = np.ones(ends.size, np.float64), (np.repeat(np.arange(size), neighbours + 1), ends.ravel())
    graph = sparse.csr_matrix(edges, shape=(size, size))
    graph = graph.maximum(graph.T)
    scale = np.asarray(graph.sum(axis=1)).ravel() ** -0.5
    symmetric = sparse.diags(scale) @ graph @ sparse.diags(scale)
    start = np.random.default_rng(seed).uniform(0.5, 1.5, size)
    values, vectors = sparse.linalg.eigsh(symmetric, k=coordinates, which="LA", v0=start)
    values = np.maximum(values, 0)
    one_step_less = vectors * scale[:, None] * values ** (STEPS - 1)

    def embed(x: np.ndarray) -> np.ndarray:
        return _unit(one_step_less[nearest(x, x_train, neighbours)].mean(axis=1))

    return _unit(one_step_less * values), embed


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
