"""Nearest points by brute force in blocks, which is fastest for many neighbours and many features."""

import numpy as np

from models.stateless import in_batches
from runtime.files import InputError

_BLOCK_ENTRIES = 2**24  # distances held at once


def nearest(x: np.ndarray, among: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k points of ``among`` (n, d) nearest to each point of x (m, d), int64 (m, k), unordered."""
    rows = max(1, _BLOCK_ENTRIES // len(among))
    # Copied: a view would keep every part alive.
    return in_batches(lambda part: np.argpartition(squared_distances(part, among), k - 1)[:, :k].copy(), x, rows)


def squared_distances(x: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Squared l2 distance of each point of x (m, d) to each point of ``among`` (n, d), float32 (m, n)."""
    x, among = np.asarray(x, np.float32), np.asarray(among, np.float32)
    require_same_features(x, among)
    squares = np.square(x).sum(axis=1)[:, None] + np.square(among).sum(axis=1)
    return np.maximum(squares - 2 * x @ among.T, 0)


def require_same_features(x: np.ndarray, among: np.ndarray) -> None:
    """Raise InputError unless the points x (m, d) and the training points ``among`` (n, d) have d finite features."""
    if x.ndim != 2 or among.ndim != 2 or x.shape[1] != among.shape[1]:
        raise InputError(f"test features have shape {x.shape}, (points, {among.shape[-1]}) expected; use one embedding")
    require_finite_features(x)
    require_finite_features(among)


def require_finite_features(x: np.ndarray) -> None:
    """Raise InputError for NaN or infinite features."""
    if not np.isfinite(x).all():
        raise InputError("features hold NaN or infinite values; mend the embedding or the data")
