"""Smoothed classifiers whose scores are sums of fixed weights over labels, with a Chernoff bound in place of sampling.

Source: Rosenfeld, Winston, Ravikumar, Kolter (ICML 2020, arXiv 2002.03018), sections 3 and 4. Each label flips with
probability q, independently. The score of a class at one test point is a sum of independent terms: the inner product of
the point's weights (``alpha``) with the labels. So a bound on the sum replaces the sampling of noisy training sets.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from label_flipping.certificates.label_flips import LabelFlips, checked_classes
from label_flipping.certificates.training_set_smoothing import Smoothed, answers

_CHUNK = 2**18  # float64 entries worked on at once, so that they stay in a processor's cache
_LARGEST_EXPONENT = 300.0  # keeps exp() finite
_NEWTON_STEPS = 60
_NEWTON_TOLERANCE = 1e-6  # steps end when a further step would lower the logarithm by less than this


class Votes(NamedTuple):
    """Numbers of training points of each class that vote at m test points, int (m, K) each."""

    support: np.ndarray  # each raises the score of its class by 1
    against: np.ndarray | int = 0  # each lowers the score of its class by 1


def class_scores(alpha: np.ndarray, y: np.ndarray, num_classes: int) -> np.ndarray:
    """Scores of every class without noise, float64 (m, K). alpha: weights (m, n). y: training classes, int (n,).

    Raises InputError for labels that are not classes 0 to K - 1.
    """
    return alpha @ np.eye(num_classes)[checked_classes(y, alpha.shape[1], num_classes)]


def chunks(prediction: np.ndarray, points: int) -> Iterator[tuple[int, np.ndarray]]:
    """Pairs of a predicted class and rows of ``prediction`` with it. The weights of a pair's rows fit into a cache."""
    rows = max(1, _CHUNK // points)
    for predicted in np.unique(prediction).tolist():
        chosen = np.flatnonzero(prediction == predicted)
        yield from ((predicted, chosen[i : i + rows]) for i in range(0, len(chosen), rows))


def smooth_weights(alpha: np.ndarray, y: np.ndarray, noise: LabelFlips) -> Smoothed:
    """The smoothed classifier of any fixed weights at m test points.

    alpha: weights (m, n). y: training classes, int (n,). The class with the largest mean score is predicted. For each
    other class, eps bounds the probability that flipped labels let it catch up. The largest eps is returned. With more
    than two classes, the smoothed classifier predicts the class that wins every pairwise majority.
    """
    alpha, y = np.asarray(alpha, np.float64), np.asarray(y)
    prediction = np.argmax(class_scores(alpha, y, noise.num_classes), axis=1)
    log_eps = np.full(len(alpha), -np.inf)
    # A point's weights may be scaled. A power of two does it exactly, and products of small weights do not underflow.
    power = -np.frexp(np.abs(alpha).max(axis=1))[1]

    def bound(job: tuple[int, np.ndarray]) -> None:
        predicted, chosen = job
        scaled = np.ldexp(alpha[chosen], power[chosen, None])
        of_class = [np.compress(y == k, scaled, axis=1) for k in range(noise.num_classes)]
        for rival in np.delete(np.arange(noise.num_classes), predicted):
            signed = np.concatenate([of_class[predicted], -of_class[rival]], axis=1)
            others = [of_class[k] for k in range(noise.num_classes) if k not in (predicted, rival)]
            rest = np.concatenate([scaled[:, :0], *others], axis=1)  # with two classes there are no others
            log_eps[chosen] = np.maximum(log_eps[chosen], _log_chernoff(signed, rest, noise))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        list(pool.map(bound, chunks(prediction, alpha.shape[1])))  # list() raises what a job raised
    return answers(prediction, log_eps)


def smooth_votes(votes: Votes, noise: LabelFlips) -> Smoothed:
    """The smoothed vote at m test points: ``smooth_weights`` for weights of equal size."""
    support, against = np.broadcast_arrays(*(np.asarray(side, np.int64) for side in votes))
    prediction = np.argmax(support - against, axis=1)
    log_eps = np.full(len(support), -np.inf)
    for rival in range(noise.num_classes):
        chosen = np.flatnonzero(prediction != rival)
        own = prediction[chosen]
        raising = support[chosen, own] + against[chosen, rival]  # votes that raise the margin of own over rival
        lowering = support[chosen, rival] + against[chosen, own]
        others = (support + against)[chosen].sum(axis=1) - raising - lowering
        signed = np.tile([1.0, -1.0], (len(chosen), 1))
        times_signed = np.stack([raising, lowering], axis=1)
        bound = _log_chernoff(signed, np.ones((len(chosen), 1)), noise, times_signed, others[:, None])
        log_eps[chosen] = np.maximum(log_eps[chosen], bound)
    return answers(prediction, log_eps)


def _log_chernoff(
    signed: np.ndarray, rest: np.ndarray, noise: LabelFlips, times_signed: np.ndarray | None = None,
    times_rest: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """log of min over t >= 0 of E[exp(-t S)], an upper bound on log P[S <= 0], for each of m sums S, (m,).

    Let b = q / (K - 1). S is a sum of independent terms. Each entry a of ``signed`` (m, n1) adds a with probability
    1 - q, -a with probability b, and else 0. Each entry a of ``rest`` (m, n2) adds a or -a with probability b each, and
    else 0. times_signed, times_rest: number of times that each entry counts, of the same shapes. Default: once. The
    logarithm is convex in t, so Newton's method finds the zero of its derivative, with bisection if a step leaves the
    bracket. Every t gives a valid bound: an early end only makes it less tight.
    """
    stay, move = 1 - noise.q, noise.to_each
    groups = [_Terms(signed, times_signed, stay, move), _Terms(rest, times_rest, move, move)]
    largest = np.maximum(np.abs(signed).max(axis=1, initial=0.0), np.abs(rest).max(axis=1, initial=0.0))
    t = low = np.zeros(len(signed))
    high = _LARGEST_EXPONENT / np.maximum(largest, 1e-300)
    slope, curvature = np.sum([group.derivatives_at_0() for group in groups], axis=0)
    for _ in range(_NEWTON_STEPS):
        low = np.where(slope < 0, t, low)
        high = np.where(slope < 0, high, t)
        newton = t - slope / np.maximum(curvature, 1e-300)
        inside = (low < newton) & (newton < high)
        following = np.where(inside, newton, (low + high) / 2)
        unfinished = (np.abs(slope * (following - t)) > 2 * _NEWTON_TOLERANCE) & (high > low)
        if not unfinished.any():
            break
        t = np.where(unfinished, following, t)
        slope, curvature = np.sum([group.derivatives(t) for group in groups], axis=0)
    return np.minimum(sum(group.log_moment(t) for group in groups), 0.0)


class _Terms(NamedTuple):
    """Independent terms of m sums. An entry a of ``values`` stands for ``times`` terms (None: one): a, -a or 0."""

    values: np.ndarray  # (m, n)
    times: np.ndarray | None  # (m, n)
    stay: float  # probability of a
    turn: float  # probability of -a

    def moments(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """E[exp(-t term)] of each entry, and the parts of it that come from a and from -a, (m, n) each."""
        growth = np.exp(t[:, None] * self.values)
        of_stay = self.stay / growth
        of_turn = np.multiply(growth, self.turn, out=growth)
        return of_stay + of_turn + (1 - self.stay - self.turn), of_stay, of_turn

    def log_moment(self, t: np.ndarray) -> np.ndarray:
        """log E[exp(-t sum)] of the terms' sum, (m,). sum() adds pairwise, so that the rounding error stays small."""
        logs = np.log(self.moments(t)[0])
        return (logs if self.times is None else logs * self.times).sum(axis=1)

    def derivatives(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and second derivative of ``log_moment`` at t, (m,) each."""
        moment, of_stay, of_turn = self.moments(t)
        slope = (of_turn - of_stay) / moment
        curvature = (of_turn + of_stay) / moment - slope * slope
        weighted = self.values if self.times is None else self.values * self.times
        first = np.einsum("ij,ij->i", weighted, slope)  # without an array of the products
        return first, np.einsum("ij,ij,ij->i", weighted, self.values, curvature)

    def derivatives_at_0(self) -> tuple[np.ndarray, np.ndarray]:
        """``derivatives`` at t = 0, without exponentials."""
        slope = self.turn - self.stay
        curvature = self.turn + self.stay - slope * slope
        weighted = self.values if self.times is None else self.values * self.times
        return slope * weighted.sum(axis=1), curvature * np.einsum("ij,ij->i", weighted, self.values)
