"""Pointwise certificates against label-flipping attacks, without retraining for least squares and other fixed weights.

Source: Rosenfeld, Winston, Ravikumar, Kolter, "Certified Robustness to Label-Flipping Attacks via Randomized
Smoothing" (ICML 2020, arXiv 2002.03018), sections 3 and 4. Labels are flipped at random, each independently with
probability q. For ridge regression the score of a class at one test point is the inner product of a fixed vector
(its kernel vector, here ``alpha``) with the labels, so that a Chernoff bound on a sum of independent terms replaces
the sampling of noisy training sets. Probabilities fall below the smallest float64: everything is a logarithm.
A certificate holds for features, ridge and q that were fixed beforehand: labels that chose them count as trusted.
"""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from randomized_smoothing_certification.core import ABSTAIN
from randomized_smoothing_certification.training_set_smoothing import Smoothed, TrainingSet, TrainingSetNoise, answers
from runtime.files import InputError
from runtime.lazy import linalg

Bound = Literal["tight", "closed_form"]

_ROUNDING = 1e-9  # more than the rounding error of a Chernoff bound here; always taken off the certificate
_EPSILON = float(np.finfo(np.float64).eps)
_CHUNK = 2**18  # float64 entries worked on at once, so that they stay in a processor's cache
_LARGEST_EXPONENT = 300.0  # keeps exp() finite
_NEWTON_STEPS = 60
_NEWTON_TOLERANCE = 1e-6  # what a further step could still take off a logarithm


@dataclass(frozen=True)
class LabelFlips(TrainingSetNoise):
    """Each training label becomes another class with probability q, every other class being equally likely.

    num_classes: K, at least 2. bound: 'closed_form' certifies r flips while r * d < KL(1/2 || P), d the divergence of
    one flip (arXiv 2002.03018, theorem 1 and its multi-class version); 'tight' by the Neyman-Pearson lemma, the
    largest number of flips that the probability alone can show.

    Raises InputError unless 0 < q < 1/2.
    """

    q: float
    num_classes: int
    bound: Bound = "tight"

    def __post_init__(self) -> None:
        if not 0 < self.q < 0.5:
            raise InputError(f"q must lie strictly between 0 and 1/2, got {self.q}")
        if self.num_classes < 2:
            raise InputError(f"num_classes must be at least 2, got {self.num_classes}")
        if self.bound not in ("tight", "closed_form"):
            raise InputError(f"bound must be 'tight' or 'closed_form', got {self.bound!r}")

    @property
    def to_each(self) -> float:
        """Probability of becoming one particular other class."""
        return self.q / (self.num_classes - 1)

    def sample(self, training_set: TrainingSet, generator: np.random.Generator) -> TrainingSet:
        """The training set with flipped labels."""
        y = training_set.y
        shift = generator.integers(1, self.num_classes, size=len(y))
        flipped = generator.random(len(y)) < self.q
        return TrainingSet(training_set.x, np.where(flipped, (y + shift) % self.num_classes, y))

    def certified(self, log_eps: np.ndarray, size: int) -> np.ndarray:
        """Largest number of changed labels, int64 (m,), at most ``size`` (see TrainingSetNoise.certified)."""
        log_eps = np.asarray(log_eps, np.float64) + _ROUNDING
        if self.bound == "closed_form":
            return self._closed_form(log_eps, size)
        return self._tight(log_eps, size)

    def _closed_form(self, log_eps: np.ndarray, size: int) -> np.ndarray:
        # KL of one label's noise before and after it is changed: only its old and its new class differ.
        divergence = (1 - self.q - self.to_each) * np.log((1 - self.q) / self.to_each)
        log_eps = np.minimum(log_eps, np.log(0.5))
        limit = -(np.log(4) + log_eps + np.log1p(-np.exp(log_eps))) / (2 * divergence)
        return np.clip(np.ceil(limit) - 1, 0, size).astype(np.int64)  # strictly below the limit

    def _tight(self, log_eps: np.ndarray, size: int) -> np.ndarray:
        if not len(log_eps):
            return np.zeros(0, np.int64)
        smallest, thresholds = float(np.min(log_eps)), []
        for threshold in itertools.islice(self._thresholds(), size):
            if threshold <= smallest:
                break
            thresholds.append(threshold)
        # Descending thresholds: r flips are certified where log eps lies below the r-th.
        return np.searchsorted(-np.array(thresholds), -log_eps, side="left").astype(np.int64)

    def _thresholds(self) -> Iterator[float]:
        """For r = 1, 2, ...: the log eps that r changed labels can just turn into a probability of one half.

        Each is lowered by more than its rounding error, which grows with r.

        A changed label's noisy value shows the old class, the new one or a third; only the number of old ones minus
        that of new ones matters to the likelihood ratio of the two noisy training sets. The adversary's best event
        takes the outcomes in the order of that number until they hold half of the attacked mass.
        """
        third = self.q - self.to_each
        taps = np.log([self.to_each, third, 1 - self.q] if self.num_classes > 2 else [self.q, 1 - self.q])
        clean = np.zeros(1)
        for flips in itertools.count(1):
            longer = np.full(len(clean) + len(taps) - 1, -np.inf)
            for shift, tap in enumerate(taps):
                part = longer[shift : shift + len(clean)]
                np.logaddexp(part, clean + tap, out=part)
            clean = longer
            attacked = np.exp(clean[::-1])
            cumulated = np.cumsum(attacked)
            last = int(np.searchsorted(cumulated, 0.5))  # the outcome of which only a part is needed
            below = float(cumulated[last - 1]) if last else 0.0
            part_of_last = np.log((0.5 - below) / attacked[last]) + clean[last]
            threshold = float(np.logaddexp.reduce(np.append(clean[:last], part_of_last)))
            # Each convolution rounds logarithms that are at most about this large by a few units in the last place.
            yield threshold - 4 * _EPSILON * flips * (1 - threshold)


class KernelVectors:
    """Ridge regression as a function of the training labels: factored once, one vector per test point.

    x_train: features, float (n, d), centred and with a constant column where these are wanted. ridge: lambda, the
    multiple of the identity added to X^T X; 0 with fewer points than features gives the interpolating solution of
    least norm.

    Raises InputError for a negative ridge, features that are not finite, or a singular system.
    """

    def __init__(self, x_train: np.ndarray, ridge: float) -> None:
        if not ridge >= 0 or not np.isfinite(ridge):
            raise InputError(f"ridge must be finite and not negative, got {ridge}")
        if x_train.ndim != 2 or x_train.size == 0:
            raise InputError(f"features have shape {x_train.shape}, (training points, features) expected")
        self._x = np.asarray(x_train, np.float64)
        if not np.all(np.isfinite(self._x)):
            raise InputError("features hold NaN or infinite values; mend the embedding or the data")
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
        """alpha, float64 (m, n): the score of a class at test point j is the sum of alpha[j] over its points.

        x_test: features (m, d).
        """
        x_test = np.asarray(x_test, np.float64)
        if x_test.ndim != 2 or x_test.shape[1] != self._x.shape[1]:
            raise InputError(f"test features have shape {x_test.shape}, (points, {self._x.shape[1]}) expected")
        if self._primal:
            return linalg.cho_solve((self._factor, True), x_test.T).T @ self._x.T
        return linalg.cho_solve((self._factor, True), self._x @ x_test.T).T


def class_scores(alpha: np.ndarray, y: np.ndarray, num_classes: int) -> np.ndarray:
    """Scores of every class, float64 (m, K), of plain ridge regression on one-hot labels.

    alpha: (m, n) as from KernelVectors. y: training classes, int (n,).
    Raises InputError for labels that are not classes 0 to K - 1.
    """
    y = np.asarray(y)
    if y.shape != alpha.shape[1:] or y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= num_classes:
        raise InputError(
            f"training labels must be {alpha.shape[1]} integers from 0 to {num_classes - 1}, got {y.dtype} of shape "
            f"{y.shape}" + (f" from {y.min()} to {y.max()}" if y.size and y.dtype.kind in "iuf" else "")
        )
    return alpha @ np.eye(num_classes)[y]


def smooth_least_squares(alpha: np.ndarray, y: np.ndarray, noise: LabelFlips) -> Smoothed:
    """The smoothed ridge classifier at m test points, with a Chernoff bound in place of sampling.

    alpha: (m, n) as from KernelVectors. y: training classes, int (n,). The class is that of the largest mean score.
    For each other class, eps bounds the probability that the flipped labels let it catch up, and the largest of them
    counts: with more than two classes the classifier is the one that wins every pairwise majority.
    """
    prediction = np.argmax(class_scores(alpha, y, noise.num_classes), axis=1)
    groups = [np.flatnonzero(y == k) for k in range(noise.num_classes)]
    log_eps = np.full(len(alpha), -np.inf)
    rows = max(1, _CHUNK // alpha.shape[1])
    jobs = [
        (chosen[i : i + rows], predicted)
        for predicted in range(noise.num_classes)
        for chosen in [np.flatnonzero(prediction == predicted)]
        for i in range(0, len(chosen), rows)
    ]

    def bound(job: tuple[np.ndarray, int]) -> None:
        chosen, predicted = job
        by_class = [alpha[np.ix_(chosen, group)] for group in groups]
        for rival in range(noise.num_classes):
            if rival != predicted:
                signed = np.concatenate([by_class[predicted], -by_class[rival]], axis=1)
                others = [by_class[k] for k in range(noise.num_classes) if k not in (predicted, rival)]
                rest = np.concatenate(others, axis=1) if others else signed[:, :0]
                log_eps[chosen] = np.maximum(log_eps[chosen], _log_chernoff(signed, rest, noise))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        list(pool.map(bound, jobs))  # list() raises what a job raised
    return answers(prediction, log_eps)


class Votes(NamedTuple):
    """Training points that vote at m test points, each with the weight 1, by their class: int (m, K) each."""

    support: np.ndarray
    """They raise the score of their class by 1."""
    against: np.ndarray | int = 0
    """They lower it by 1; 0 for nobody."""


def smooth_votes(votes: Votes, noise: LabelFlips) -> Smoothed:
    """The smoothed vote at m test points: ``smooth_least_squares`` for weights of one size."""
    support, against = np.broadcast_arrays(*votes)
    prediction = np.argmax(support - against, axis=1)
    points = np.arange(len(support))
    log_eps = np.full(len(support), -np.inf)
    for rival in range(noise.num_classes):
        chosen = points[prediction != rival]
        own = prediction[chosen]
        with_margin = support[chosen, own] + against[chosen, rival]
        against_margin = support[chosen, rival] + against[chosen, own]
        sides = np.stack([with_margin, against_margin], axis=1)
        rest = ((support + against)[chosen].sum(axis=1) - with_margin - against_margin)[:, None]
        signed = np.tile([1.0, -1.0], (len(chosen), 1))
        bound = _log_chernoff(signed, np.ones(rest.shape), noise, sides.astype(np.float64), rest.astype(np.float64))
        log_eps[chosen] = np.maximum(log_eps[chosen], bound)
    return answers(prediction, log_eps)


def _log_chernoff(
    signed: np.ndarray,
    rest: np.ndarray,
    noise: LabelFlips,
    times_signed: np.ndarray | None = None,
    times_rest: np.ndarray | None = None,
) -> np.ndarray:
    """log of min over t >= 0 of E[exp(-t S)], an upper bound on log P[S <= 0], for each of m sums S; (m,).

    S adds up, independently, each entry a of ``signed`` (m, n1) as a, -a or 0 with probabilities 1 - q, b and the
    rest, b = q / (K - 1), and each entry of ``rest`` (m, n2) as a, -a or 0 with probabilities b, b and the rest.
    times_signed, times_rest: how often each entry is there, of the same shapes; once where not given. The logarithm is
    convex in t: Newton's method on its derivative, with bisection where that leaves the bracket. Every t gives a valid
    bound, so that an early end costs tightness alone.
    """
    stay, move = 1 - noise.q, noise.to_each
    parts = [(signed, times_signed, stay, move)] + ([(rest, times_rest, move, move)] if rest.shape[1] else [])
    largest = np.maximum(np.abs(signed).max(axis=1, initial=0.0), np.abs(rest).max(axis=1, initial=0.0))
    ceiling = _LARGEST_EXPONENT / np.maximum(largest, 1e-300)

    def derivatives(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope, curvature = np.zeros_like(t), np.zeros_like(t)
        for a, times, keep, turn in parts:
            down, up, total = _terms(a, t, keep, turn)
            mean = (up - down) / total
            slope += _dot(a, mean, times=times)
            spread = (up + down) / total - mean * mean
            curvature += _dot(a, a, spread, times=times)
        return slope, curvature

    low, high = np.zeros(len(signed)), ceiling.copy()
    t = np.zeros(len(signed))
    slope, curvature = _derivatives_at_zero(parts)
    for _ in range(_NEWTON_STEPS):
        low, high = np.where(slope < 0, t, low), np.where(slope < 0, high, t)
        newton = t - slope / np.maximum(curvature, 1e-300)
        inside = (low < newton) & (newton < high)
        following = np.where(inside, newton, (low + high) / 2)
        unfinished = (np.abs(slope * (following - t)) > 2 * _NEWTON_TOLERANCE) & (high > low)
        if not unfinished.any():
            break
        t = np.where(unfinished, following, t)
        slope, curvature = derivatives(t)
    value = sum(_total(np.log(_terms(a, t, keep, turn)[2]), times) for a, times, keep, turn in parts)
    return np.minimum(value, 0.0)


def _total(terms: np.ndarray, times: np.ndarray | None) -> np.ndarray:
    """The sum of each row's terms (m, n), each as often as ``times`` says, once where it is None."""
    return terms.sum(axis=1) if times is None else _dot(terms, times)


def _dot(*factors: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
    """The sum over each row of the product of arrays (m, n), without an array of the products."""
    factors = factors if times is None else (*factors, times)
    return np.einsum(",".join(["ij"] * len(factors)) + "->i", *factors)


def _derivatives_at_zero(
    parts: list[tuple[np.ndarray, np.ndarray | None, float, float]],
) -> tuple[np.ndarray, np.ndarray]:
    """What ``derivatives`` of _log_chernoff gives at t = 0, without exponentials."""
    slope = [(turn - keep) * _total(a, times) for a, times, keep, turn in parts]
    curvature = [(turn + keep - (turn - keep) ** 2) * _dot(a, a, times=times) for a, times, keep, turn in parts]
    return np.sum(slope, axis=0), np.sum(curvature, axis=0)


def _terms(a: np.ndarray, t: np.ndarray, keep: float, turn: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """keep * exp(-t a), turn * exp(t a), and their sum with the probability of neither, (m, n) each."""
    up = np.exp(t[:, None] * a)
    down = keep / up
    up *= turn
    return down, up, down + up + (1 - keep - turn)


def greedy_flips(alpha: np.ndarray, y: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Plain ridge regression and its exact robustness: (classes, label changes survived), int64 (m,) each.

    The optimal attack on one test point is known: for each rival class, change the labels that take most off its
    margin, largest first, until nothing is left (a tie counts as lost; a margin of 0 from the start abstains, and what
    rounding cannot tell from 0 is 0). The number before that is the exact certificate of the undefended ridge
    classifier.

    alpha: (m, n) as from KernelVectors. y: training classes, int (n,).
    """
    scores = class_scores(alpha, y, num_classes)
    prediction = np.argmax(scores, axis=1)
    survived = np.full(len(alpha), alpha.shape[1], np.int64)
    rows = max(1, _CHUNK // alpha.shape[1])
    for predicted in range(num_classes):
        chosen = np.flatnonzero(prediction == predicted)
        for part in (chosen[i : i + rows] for i in range(0, len(chosen), rows)):
            a, size = alpha[part], np.abs(alpha[part])
            rounding = alpha.shape[1] * _EPSILON * size.sum(axis=1)  # of a sum of all entries, in any order
            for rival in (k for k in range(num_classes) if k != predicted):
                # The best change leaves -|a| of a label's contribution to the margin.
                contribution = a * ((y == predicted) * 1.0 - (y == rival))
                drops = -np.sort(-(contribution + size), axis=1)
                margin = scores[part, predicted] - scores[part, rival] - 4 * rounding
                needed = (np.cumsum(drops, axis=1) < margin[:, None]).sum(axis=1) + 1
                survived[part] = np.minimum(survived[part], np.where(margin > 0, needed - 1, -1))
    return np.where(survived < 0, ABSTAIN, prediction), np.maximum(survived, 0)


def vote_flips(votes: Votes) -> tuple[np.ndarray, np.ndarray]:
    """The vote and its exact robustness, as greedy_flips: (classes, label changes survived), int64 (m,) each.

    A changed label takes a vote from the first class and gives it to the second, or turns one against the second into
    one against the first: 2 of the margin, and a tie is lost.
    """
    scores = np.subtract(*votes)
    second, first = np.sort(scores, axis=1)[:, -2:].T
    margin = first - second
    return np.where(margin > 0, np.argmax(scores, axis=1), ABSTAIN), np.maximum(margin - 1, 0) // 2


def certified_accuracy(flips: np.ndarray, correct: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Share of test points that are right and certified for at least that many flips, for each number in ``at``."""
    robust = np.sort(flips[correct])
    return (len(robust) - np.searchsorted(robust, at, side="left")) / len(flips)
