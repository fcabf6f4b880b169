"""Classifiers whose scores are sums over training labels with weights that no label changes: exact certificates.

The score of a class at a test point is the sum of the point's weights (alpha) over the training points of that class.
Least squares (label_flipping.KernelVectors) is one such classifier; k nearest neighbours and kernel regression, here,
are others, and every certificate of label_flipping.py holds for each of them: smoothed (arXiv 2002.03018) and, for the
classifier itself, exact. Features, weights and number of neighbours must be fixed without the labels.

A changed label moves a margin by at most twice the largest weight. Between two classes, weights of at most 1 in size
certify the most changes where the expected margin is largest: 1 for a training point that is more likely of the test
point's class than a point at random, -1 for any other. These are SignedVotes. With more classes they need not be the
best.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from models.neighbours import nearest, squared_distances
from randomized_smoothing_certification.label_flipping import (
    LabelFlips,
    Votes,
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
    if isinstance(weights, NearestNeighbours | SignedVotes):
        votes = weights.votes(x_test, y, classes)
        return Certified([smooth_votes(votes, noise) for noise in noises], *vote_flips(votes))
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

    def votes(self, x_test: np.ndarray, y: np.ndarray, num_classes: int) -> Votes:
        """The neighbours of every class are for it, and nothing against it. y: training classes, int (n,)."""
        return Votes(_of_each_class(np.asarray(y)[nearest(x_test, self._x, self._k)], num_classes))


class SignedVotes:
    """The k training points most like a test point vote for their labels, all others against theirs, each by 1 / n.

    Where the classes are equally large it predicts as the k alone would, and certifies twice as many changes: each
    takes 2 from the margin either way, which is n_a - n_b for the k alone and (2 n_a - N_a) - (2 n_b - N_b) here (n of
    a class among the k, N in all). An adversary who gives a rival some of the k makes the rival larger, too.

    weights: those of another learner, or any array (m, n) that grows with likeness; the k largest are the most like.
    points: n. Raises InputError unless 1 <= k < n.
    """

    def __init__(self, weights: FixedWeights, points: int, k: int) -> None:
        if not 1 <= k < points:
            raise InputError(f"signed votes need from 1 to {points - 1} neighbours of the {points} points, got {k}")
        self._weights, self._points, self._k = weights, points, k

    @classmethod
    def of_distance(cls, x_train: np.ndarray, k: int) -> "SignedVotes":
        """Most like are the nearest, by l2 distance. x_train: features (n, d)."""
        x_train = np.asarray(x_train, np.float32)
        return cls(lambda x_test: -squared_distances(x_test, x_train), len(x_train), k)

    def __call__(self, x_test: np.ndarray) -> np.ndarray:
        """alpha, float64 (m, n), see FixedWeights."""
        alpha = np.full((len(x_test), self._points), -1 / self._points)
        np.put_along_axis(alpha, self._most_like(x_test), 1 / self._points, axis=1)
        return alpha

    def votes(self, x_test: np.ndarray, y: np.ndarray, num_classes: int) -> Votes:
        """Points of every class among the most like, for it, and among the others, against it. y: classes, int (n,)."""
        of_class = _of_each_class(np.asarray(y)[self._most_like(x_test)], num_classes)
        return Votes(of_class, np.bincount(y, minlength=num_classes) - of_class)

    def _most_like(self, x_test: np.ndarray) -> np.ndarray:
        """Indices of the k most like, int64 (m, k), in no order."""
        return np.argpartition(self._weights(x_test), self._points - self._k, axis=1)[:, -self._k :]


def _of_each_class(y: np.ndarray, num_classes: int) -> np.ndarray:
    """How many labels in each row of y (m, k) are of each class, int64 (m, K)."""
    return np.stack([(y == label).sum(axis=1) for label in range(num_classes)], axis=1)


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
