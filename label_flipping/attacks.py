"""Attacks that change training labels: at random, on all test points at once, on one test point.

Protocol: Rosenfeld, Winston, Ravikumar, Kolter (ICML 2020, arXiv 2002.03018), section 5.
"""

import numpy as np

from label_flipping.certificates.smoothed_weights import class_scores
from runtime.files import InputError
from runtime.noise import Stream

_ROUNDS = 20  # of flip_greedily, with an equal number of flips in each


def flip_at_random(y: np.ndarray, num_classes: int, flips: int, seed: int) -> np.ndarray:
    """Training classes, int (n,), after ``flips`` random points got another random class each. y: classes, int (n,).

    Raises InputError unless flips lies between 0 and n.
    """
    _require_possible(flips, y)
    random = np.random.default_rng([seed, Stream.LABEL_FLIPS])
    chosen = random.permutation(len(y))[:flips]
    y = y.copy()
    y[chosen] = (y[chosen] + random.integers(1, num_classes, size=flips)) % num_classes
    return y


def flip_greedily(alpha: np.ndarray, y: np.ndarray, y_test: np.ndarray, num_classes: int, flips: int) -> np.ndarray:
    """Training labels after an attack on all test points at once, int (n,), with ridge regression as the surrogate.

    Each round considers the test points that ridge regression still classifies correctly. It changes the labels that
    lower the sum of their margins most. This is a heuristic: no efficient optimal attack on many points is known. It
    serves against learners without a closed form, such as neural networks.

    alpha: weights, float (m, n), as from RidgeRegression. y, y_test: classes, int (n,) and (m,). flips: labels to
    change. Raises InputError unless flips lies between 0 and n.
    """
    _require_possible(flips, y)
    y = y.copy()
    untouched = np.ones(len(y), bool)
    points = np.arange(len(y_test))
    for count in np.diff(np.unique(np.arange(_ROUNDS + 1) * flips // _ROUNDS)):  # unique: no round without flips
        scores = class_scores(alpha, y, num_classes)
        rival = rivals(scores, y_test)
        right = scores[points, y_test] > scores[points, rival]
        counted = right if right.any() else np.ones_like(right)
        direction = (np.eye(num_classes)[y_test] - np.eye(num_classes)[rival]) * counted[:, None]
        influence = alpha.T @ direction  # (n, K): contribution of a label of each class to the sum of the margins
        gain = influence[np.arange(len(y)), y] - influence.min(axis=1)
        chosen = np.argsort(-np.where(untouched, gain, -np.inf), kind="stable")[:count]
        y[chosen] = np.argmin(influence[chosen], axis=1)
        untouched[chosen] = False
    return y


def _require_possible(flips: int, y: np.ndarray) -> None:
    if not 0 <= flips <= len(y):
        raise InputError(f"flips must lie between 0 and the {len(y)} training points, got {flips}")


def flip_nearest(x: np.ndarray, y: np.ndarray, image: np.ndarray, label: int, rival: int, flips: int) -> np.ndarray:
    """Training classes, int (n,), after the images of class ``label`` nearest to ``image`` got the label ``rival``.

    flips: number of changed labels. If the class has fewer images, all of them change. x: training images (n, H, W, C).
    y: their classes, int (n,). image: (H, W, C). Distance: l2 of the pixels.
    """
    own = np.flatnonzero(y == label)
    nearest = np.argsort(np.square(x[own] - image).sum(axis=(1, 2, 3)), kind="stable")[:flips]
    y = y.copy()
    y[own[nearest]] = rival
    return y


def rivals(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The class with the largest score among the classes other than y, int (n,). scores: (n, K). y: int (n,)."""
    return np.argmax(np.where(np.eye(scores.shape[1], dtype=bool)[y], -np.inf, scores), axis=1)
