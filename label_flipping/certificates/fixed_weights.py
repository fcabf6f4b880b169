"""Classifiers whose scores are sums over training labels, with weights that no label affects, and their certificates.

The score of a class at a test point is the sum of the point's weights (alpha) over the training points of that class.
Every classifier here has a certificate for its smoothed version (arXiv 2002.03018) and an exact certificate for itself.
Both hold for features, weights and settings that were fixed beforehand: labels that chose them count as trusted.
``agreed`` combines certificates of several settings into a certificate of any choice among them. It trusts no label.

A changed label moves a margin by at most twice the largest weight. So among weights of size at most 1, those with the
largest margin are best. Let p be the probability that a training point has the test point's class. If nothing tells the
other classes apart before the labels are seen, the point raises the expected margin against each of the K - 1 rivals by
(K p - 1) / (K - 1) times its weight. The best weight is 1 if p > 1/K, else -1. SignedVotes and SignedClusters have
these weights. A learner that knows class names can do better: with class probabilities (.4, .6, 0) of the point, the
best weight for the first class is 1 against the third class and -1 against the second.

Let N_a and N_b be the sizes of class a and of the smallest other class b. No learner that treats all class names alike
certifies more than (N_a + N_b - 1) // 2 changes of a prediction a: exchanging the two names takes N_a + N_b changes and
turns the prediction. Signed votes reach this limit if the supporters are the whole class.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from label_flipping.certificates.label_flips import EPSILON, LabelFlips, checked_classes
from label_flipping.certificates.smoothed_weights import Votes, chunks, class_scores, smooth_votes, smooth_weights
from label_flipping.certificates.training_set_smoothing import Smoothed
from models.neighbours import nearest, require_finite_features, require_same_features, squared_distances
from randomized_smoothing_certification.core import ABSTAIN
from runtime.bounds import POSITIVE, require_within
from runtime.files import InputError
from runtime.lazy import linalg, special


class Certified(NamedTuple):
    """Certificates at m test points: of the smoothed classifier for every noise, and of the classifier itself."""

    smoothed: list[Smoothed]
    prediction: np.ndarray  # int64 (m,), ABSTAIN where two classes tie
    flips: np.ndarray  # int64 (m,), label changes that the classifier itself survives, exactly


class FixedWeights(ABC):
    """Weights of the training points at test points."""

    @abstractmethod
    def __call__(self, x_test: np.ndarray) -> np.ndarray:
        """alpha, float64 (m, n): the weight of each training point at each test point. x_test: features (m, d)."""

    def certify(self, x_test: np.ndarray, y: np.ndarray, noises: Sequence[LabelFlips]) -> Certified:
        """Certificates at test points x_test (m, d). All weights are in memory at once. y: classes, int (n,).

        Raises InputError for labels that are no classes, and unless there are noises, all with the same num_classes.
        """
        num_classes, alpha = _num_classes(noises), self(x_test)
        return Certified([smooth_weights(alpha, y, noise) for noise in noises], *greedy_flips(alpha, y, num_classes))


class VotingWeights(FixedWeights):
    """Weights of equal size, for which counts of training points suffice.

    supporters: a function of test features (m, d) to bool (m, n): the training points that vote for their labels.
    weight: size of each vote, positive. against: whether all other points vote against their labels.
    """

    def __init__(self, supporters: Callable[[np.ndarray], np.ndarray], weight: float, *, against: bool) -> None:
        require_within("weight", weight, POSITIVE)
        self._supporters, self._weight, self._against = supporters, weight, against

    def __call__(self, x_test: np.ndarray) -> np.ndarray:
        return np.where(self._supporters(x_test), self._weight, -self._weight if self._against else 0.0)

    def votes(self, x_test: np.ndarray, y: np.ndarray, num_classes: int) -> Votes:
        """Training points of every class that vote at x_test (m, d). y: training classes, int (n,)."""
        supporters = self._supporters(x_test).astype(np.float32)
        y = checked_classes(y, supporters.shape[1], num_classes)
        is_of_class = np.eye(num_classes, dtype=np.float32)[y]  # float32 counts exactly up to 2^24 points
        support = (supporters @ is_of_class).astype(np.int64)
        class_sizes = np.bincount(y, minlength=num_classes)
        return Votes(support, class_sizes - support if self._against else 0)

    def certify(self, x_test: np.ndarray, y: np.ndarray, noises: Sequence[LabelFlips]) -> Certified:
        votes = self.votes(x_test, y, _num_classes(noises))
        return Certified([smooth_votes(votes, noise) for noise in noises], *vote_flips(votes))


class RidgeRegression(FixedWeights):
    """Ridge regression. Its matrix is factored once, and each test point gets a vector of weights.

    x_train: features, float (n, d). Any centring or constant column must already be in them. ridge: lambda, the
    multiple of the identity added to X^T X. With ridge 0 and n < d, the solution interpolates with the least norm.

    Raises InputError for a negative ridge, features that are not finite, or a singular system.
    """

    def __init__(self, x_train: np.ndarray, ridge: float) -> None:
        if not ridge >= 0 or not np.isfinite(ridge):
            raise InputError(f"ridge must be finite and not negative, got {ridge}")
        if x_train.ndim != 2 or x_train.size == 0:
            raise InputError(f"features have shape {x_train.shape}, (training points, features) expected; reshape them")
        self._x = np.asarray(x_train, np.float64)
        require_finite_features(self._x)
        points, features = self._x.shape
        self._primal = features <= points
        system = self._x.T @ self._x if self._primal else self._x @ self._x.T
        system[np.diag_indices_from(system)] += ridge
        try:
            self._factor = linalg.cholesky(system, lower=True)
            reciprocal_condition = linalg.lapack.dpocon(self._factor, np.abs(system).sum(axis=0).max(), uplo="L")[0]
        except linalg.LinAlgError:
            reciprocal_condition = 0.0
        if reciprocal_condition < 1e-14:
            raise InputError(
                f"ridge {ridge:g} leaves a singular system of {len(system)} equations (constant or repeated features, "
                "or repeated points); raise it"
            )

    def __call__(self, x_test: np.ndarray) -> np.ndarray:
        x_test = np.asarray(x_test, np.float64)
        require_same_features(x_test, self._x)
        if self._primal:
            return linalg.cho_solve((self._factor, True), x_test.T).T @ self._x.T
        return linalg.cho_solve((self._factor, True), self._x @ x_test.T).T


class NearestNeighbours(VotingWeights):
    """The k nearest training points by l2 distance vote, each with weight 1 / k. x_train: features (n, d).

    Raises InputError unless 1 <= k <= n.
    """

    def __init__(self, x_train: np.ndarray, k: int) -> None:
        if not 1 <= k <= len(x_train):
            raise InputError(f"neighbours must lie between 1 and the {len(x_train)} training points, got {k}")
        x_train = np.asarray(x_train, np.float32)
        super().__init__(lambda x_test: _mask(nearest(x_test, x_train, k), len(x_train)), 1 / k, against=False)


class SignedVotes(VotingWeights):
    """The k training points most like a test point vote for their labels, all others against theirs, each by 1 / n.

    If all classes have the same size, it predicts as the k points alone do and certifies twice as many changes. A
    change takes 2 from the margin in both cases. Let a class have n points among the k and N in all. The margin is
    n_a - n_b for the k alone, and (2 n_a - N_a) - (2 n_b - N_b) here. An adversary who gives points of the k to a rival
    also enlarges the rival's class.

    If a class has more than 2 k points, its points outside the k can outvote k points that all have its label. Let ten
    points have class 0 and one point class 1. With four 0s as its k, a test point gets the scores -2 and -1. The
    certificate stays exact.

    weights: a function of test features (m, d) to similarities (m, n), such as the weights of another learner.
    points: n. Raises InputError unless 1 <= k < n.
    """

    def __init__(self, weights: Callable[[np.ndarray], np.ndarray], points: int, k: int) -> None:
        if not 1 <= k < points:
            raise InputError(f"signed votes need from 1 to {points - 1} neighbours of the {points} points, got {k}")

        def most_like(x_test: np.ndarray) -> np.ndarray:
            return _mask(np.argpartition(weights(x_test), points - k, axis=1)[:, -k:], points)

        super().__init__(most_like, 1 / points, against=True)

    @classmethod
    def of_distance(cls, x_train: np.ndarray, k: int) -> "SignedVotes":
        """Signed votes in which the k nearest points by l2 distance are most alike. x_train: features (n, d)."""
        x_train = np.asarray(x_train, np.float32)
        return cls(lambda x_test: -squared_distances(x_test, x_train), len(x_train), k)


class SignedClusters(VotingWeights):
    """The training points in a test point's cluster vote for their labels, all others against theirs, each by 1 / n.

    All test points of a cluster share one prediction and one certificate. collective.py certifies all test points
    against one adversary. With two classes and two clusters, the prediction is the better of the two ways to give the
    clusters class names, as in the appendix of arXiv 2006.14768 on MNIST 1 against 7. For classes of different sizes
    see SignedVotes, with the size of the cluster in place of k.

    x_train: features (n, d), which k-means divides into ``clusters`` clusters. A test point is in the cluster of the
    nearest mean. The same seed gives the same clusters. Raises InputError unless 2 <= clusters <= n.
    """

    def __init__(self, x_train: np.ndarray, clusters: int, seed: int = 0) -> None:
        from sklearn.cluster import KMeans

        if not 2 <= clusters <= len(x_train):
            raise InputError(f"clusters must lie between 2 and the {len(x_train)} training points, got {clusters}")
        self._means = KMeans(clusters, n_init=10, random_state=seed).fit(np.asarray(x_train, np.float64))
        super().__init__(lambda x: self._cluster_of(x)[:, None] == self._means.labels_, 1 / len(x_train), against=True)

    def counts(self, y: np.ndarray, num_classes: int, x: np.ndarray | None = None) -> np.ndarray:
        """Number of points of each class in every cluster, int64 (clusters, K). y: classes of the points. x: their
        features, if they are not the training points."""
        counts = np.zeros((self._means.n_clusters, num_classes), np.int64)
        clusters = self._means.labels_ if x is None else self._cluster_of(x)
        np.add.at(counts, (clusters, checked_classes(y, len(clusters), num_classes)), 1)
        return counts

    def _cluster_of(self, x_test: np.ndarray) -> np.ndarray:
        return np.asarray(self._means.predict(np.asarray(x_test, np.float64)))


def _num_classes(noises: Sequence[LabelFlips]) -> int:
    found = {noise.num_classes for noise in noises}
    if len(found) != 1:
        raise InputError(f"noises have {len(found)} different num_classes; give at least one noise, and all alike")
    return found.pop()


def _mask(indices: np.ndarray, points: int) -> np.ndarray:
    """bool (m, points), true at the given indices (m, k) of each row."""
    mask = np.zeros((len(indices), points), bool)
    np.put_along_axis(mask, indices, True, axis=1)
    return mask


class KernelRegression(FixedWeights):
    """Every training point votes with a Gaussian kernel of its distance (Nadaraya and Watson).

    x_train: features (n, d). bandwidth: the kernel's standard deviation, in units of the root of the mean squared
    distance between two training points. Raises InputError unless the bandwidth is positive and finite.
    """

    def __init__(self, x_train: np.ndarray, bandwidth: float) -> None:
        require_within("bandwidth", bandwidth, POSITIVE)
        self._x = np.asarray(x_train, np.float32)
        self._variance = bandwidth**2 * 2 * float(np.var(self._x, axis=0, dtype=np.float64).sum())
        if not self._variance > 0:
            raise InputError("all training points have the same features, or NaN; choose other features")

    def __call__(self, x_test: np.ndarray) -> np.ndarray:
        """alpha, float64 (m, n), with sum 1 at each test point. See FixedWeights."""
        exponent = -squared_distances(x_test, self._x).astype(np.float64) / (2 * self._variance)
        return special.softmax(exponent, axis=1)


def greedy_flips(alpha: np.ndarray, y: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The classifier without noise and its exact robustness: (classes, label changes survived), int64 (m,) each.

    The optimal attack on one test point is known: for each rival class, it changes the labels that lower the margin
    most, largest first, until no margin is left. A tie counts as lost. The exact certificate is the largest number of
    changes that leaves a margin against all rivals. The classifier abstains if its margin is 0, up to rounding.

    alpha: weights (m, n). y: training classes, int (n,).
    """
    y = np.asarray(y)  # a list == a class is False, not an array
    scores = class_scores(alpha, y, num_classes)
    prediction = np.argmax(scores, axis=1)
    survived = np.full(len(alpha), alpha.shape[1], np.int64)
    for predicted, part in chunks(prediction, alpha.shape[1]):
        a = alpha[part].astype(np.float64, copy=False)  # -128 has no absolute value in int8
        size = np.abs(a)
        rounding = alpha.shape[1] * EPSILON * size.sum(axis=1)  # of a sum of all entries, in any order
        for rival in np.delete(np.arange(num_classes), predicted):
            # The best change leaves -|a| of a label's contribution to the margin.
            contribution = a * ((y == predicted) * 1.0 - (y == rival))
            drops = -np.sort(-(contribution + size), axis=1)
            margin = scores[part, predicted] - scores[part, rival] - 4 * rounding
            harmless = (np.cumsum(drops, axis=1) < margin[:, None]).sum(axis=1)  # numbers of changes
            survived[part] = np.minimum(survived[part], np.where(margin > 0, harmless, -1))
    return np.where(survived < 0, ABSTAIN, prediction), np.maximum(survived, 0)


def vote_flips(votes: Votes) -> tuple[np.ndarray, np.ndarray]:
    """The vote and its exact robustness, as ``greedy_flips``: (classes, label changes survived), int64 (m,) each.

    A changed label moves a vote from the first class to the second, or a vote against the second to the first. Both
    take 2 from the margin. A tie is lost.
    """
    scores = np.asarray(votes.support, np.int64) - np.asarray(votes.against, np.int64)
    second, first = np.sort(scores, axis=1)[:, -2:].T
    margin = first - second
    return np.where(margin > 0, np.argmax(scores, axis=1), ABSTAIN), np.maximum(margin - 1, 0) // 2


def agreed(predictions: np.ndarray, strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The common prediction of H classifiers, ABSTAIN where they differ, and the strength of its weakest certificate.

    predictions: int (H, ...). strengths: (H, ...), flips that each classifier survives, or its -log eps, 0 where it
    abstains. Returns two arrays (...). The strength is 0 where the classifiers differ.

    Within the least number of flips, every classifier still predicts the class. So does any classifier that labels
    select. All certificates must come from the same training labels. The list of classifiers must not depend on labels.
    For Smoothed classifiers of one noise, the least -log eps certifies the least number of flips.
    """
    same = (predictions == predictions[0]).all(axis=0)
    return np.where(same, predictions[0], ABSTAIN), np.where(same, strengths.min(axis=0), 0)
