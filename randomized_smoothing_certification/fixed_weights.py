"""Classifiers whose scores are sums over training labels with weights that no label changes: exact certificates.

The score of a class at a test point is the sum of the point's weights (alpha) over the training points of that class.
Least squares (label_flipping.KernelVectors) is one such classifier; k nearest neighbours and kernel regression, here,
are others, and every certificate of label_flipping.py holds for each of them: smoothed (arXiv 2002.03018) and, for the
classifier itself, exact. Features, weights and number of neighbours must be fixed without the labels.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from models.neighbours import nearest, squared_distances
from randomized_smoothing_certification.label_flipping import (
    LabelFlips,
    greedy_flips,
    smooth_least_squares,
    smooth_votes,
    vote_flips,
)
from randomized_smoothing_certification.training_set_smoothing import Smoothed
from runtime.files import InputError


class FixedWeights(Protocol):
    """Weights of the training points at test points."""

    def __call__(self, x_test: np.ndarray) -> np.ndarray:
        """alpha, float64 (m, n): the weight of each training point at each test point. x_test: features (m, d)."""


class Certified(NamedTuple):
    """m test points: the smoothed classifier of every noise, and the classifier itself."""

    smoothed: list[Smoothed]
    prediction: np.ndarray  # int64 (m,), ABSTAIN where two classes tie
    flips: np.ndarray  # int64 (m,), label changes that the classifier itself survives, exactly


def certify_block(weights: FixedWeights, x_test: np.ndarray, y: np.ndarray, noises: Sequence[LabelFlips]) -> Certified:
    """Certificates at test points x_test (m, d), whose weights are held together. y: training classes, int (n,)."""
    classes = noises[0].num_classes
    if isinstance(weights, NearestNeighbours):
        counts = weights.votes(x_test, y, classes)
        return Certified([smooth_votes(counts, noise) for noise in noises], *vote_flips(counts))
    alpha = weights(x_test)
    return Certified([smooth_least_squares(alpha, y, noise) for noise in noises], *greedy_flips(alpha, y, classes))


class NearestNeighbours:
    """The k nearest training points vote, each with weight 1 / k. x_train: features (n, d); nearness is l2 distance.

    Raises InputError unless 1 <= k <= n.
    """

    def __init__(self, x_train: np.ndarray, k: int) -> None:
        if not 1 <= k <= len(x_train):
            raise InputError(f"neighbours must lie between 1 and the {len(x_train)} training points, got {k}")
        self._x, self._k = np.asarray(x_train, np.float32), k

    def __call__(self, x_test: np.ndarray) -> np.ndarray:
        """alpha, float64 (m, n), see FixedWeights."""
        alpha = np.zeros((len(x_test), len(self._x)))
        np.put_along_axis(alpha, nearest(x_test, self._x, self._k), 1 / self._k, axis=1)
        return alpha

    def votes(self, x_test: np.ndarray, y: np.ndarray, num_classes: int) -> np.ndarray:
        """Neighbours of every class, int64 (m, K). y: training classes, int (n,)."""
        of_neighbours = np.asarray(y)[nearest(x_test, self._x, self._k)]
        return np.stack([(of_neighbours == label).sum(axis=1) for label in range(num_classes)], axis=1)


class KernelRegression:
    """Every training point votes with a Gaussian kernel of its distance (Nadaraya and Watson).

    x_train: features (n, d). bandwidth: the kernel's standard deviation, in units of the root of the mean squared
    distance between two training points. Raises InputError unless the bandwidth is positive and finite.
    """

    def __init__(self, x_train: np.ndarray, bandwidth: float) -> None:
        if not 0 < bandwidth < np.inf:
            raise InputError(f"bandwidth must be positive and finite, got {bandwidth}")
        self._x = np.asarray(x_train, np.float32)
        self._variance = bandwidth**2 * 2 * float(np.var(self._x, axis=0, dtype=np.float64).sum())

    def __call__(self, x_test: np.ndarray) -> np.ndarray:
        """alpha, float64 (m, n), of sum 1 at each test point; see FixedWeights."""
        exponent = -squared_distances(x_test, self._x).astype(np.float64) / (2 * self._variance)
        kernel = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        return kernel / kernel.sum(axis=1, keepdims=True)
