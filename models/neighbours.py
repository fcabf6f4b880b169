"""Nearest points, by brute force in blocks: the fast way for many neighbours of many features."""

import numpy as np

from runtime.files import InputError

_BLOCK_ENTRIES = 2**24  # distances held at once


def nearest(x: np.ndarray, among: np.ndarray, k: int) -> np.ndarray:
    """The k nearest of the points ``among`` (n, d) to each of x (m, d), int64 (m, k), in no order."""
    rows = max(1, _BLOCK_ENTRIES // len(among))
    if k == len(among):
        return np.tile(np.arange(k), (len(x), 1))
    blocks = (squared_distances(x[i : i + rows], among) for i in range(0, len(x), rows))
    # Copied: a view would keep every block alive.
    return np.concatenate([np.argpartition(block, k - 1, axis=1)[:, :k].copy() for block in blocks])


def squared_distances(x: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Between each of x (m, d) and each of the points ``among`` (n, d), float32 (m, n)."""
    x, among = np.asarray(x, np.float32), np.asarray(among, np.float32)
    if x.ndim != 2 or among.ndim != 2 or x.shape[1] != among.shape[1]:
        raise InputError(f"test features have shape {x.shape}, (points, {among.shape[-1]}) expected")
    squares = np.square(x).sum(axis=1)[:, None] + np.square(among).sum(axis=1)
    return np.maximum(squares - 2 * x @ among.T, 0)
