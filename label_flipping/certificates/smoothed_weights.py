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

from label_flipping.certificates.label_flips import LabelFlips
from label_flipping.certificates.training_set_smoothing import Smoothed, answers
from runtime.files import InputError

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


def checked_classes(y: np.ndarray, points: int, num_classes: int) -> np.ndarray:
    """Training classes y, int (points,). Raises InputError for labels that are not classes 0 to num_classes - 1."""
    y = np.asarray(y)
    if y.shape != (points,) or y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= num_classes:
        raise InputError(
            f"training labels must be {points} integers from 0 to {num_classes - 1}, got {y.dtype} of shape "
            f"{y.shape}" + (f" from {y.min()} to {y.max()}" if y.size and y.dtype.kind in "iuf" else "")
        )
    return y


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
    prediction = np.argmax(class_scores(alpha, y, noise.num_classes), axis=1)
    groups = [np.flatnonzero(np.asarray(y) == k) for k in range(noise.num_classes)]
    log_eps = np.full(len(alpha), -np.inf)
    # A point's weights may be scaled. A power of two does it exactly, and products of small weights do not underflow.
    power = -np.frexp(np.maximum(alpha.max(axis=1), -alpha.min(axis=1)))[1]

    def bound(job: tuple[int, np.ndarray]) -> None:
        predicted, chosen = job
        by_class = [np.ldexp(alpha[np.ix_(chosen, group)], power[chosen, None]) for group in groups]
        for rival in range(noise.num_classes):
            if rival != predicted:
                signed = np.concatenate([by_class[predicted], -by_class[rival]], axis=1)
                others = [by_class[k] for k in range(noise.num_classes) if k not in (predicted, rival)]
                rest = np.concatenate([signed[:, :0], *others], axis=1)
                log_eps[chosen] = np.maximum(log_eps[chosen], _log_chernoff(signed, rest, noise))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        list(pool.map(bound, chunks(prediction, alpha.shape[1])))  # list() raises what a job raised
    return answers(prediction, log_eps)


def smooth_votes(votes: Votes, noise: LabelFlips) -> Smoothed:
    """The smoothed vote at m test points: ``smooth_weights`` for weights of equal size."""
    support, against = np.broadcast_arrays(*(np.asarray(one).astype(np.int64) for one in votes))
    prediction = np.argmax(support - against, axis=1)
    log_eps = np.full(len(support), -np.inf)
    for rival in range(noise.num_classes):
        chosen = np.flatnonzero(prediction != rival)
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
    parts = [(signed, times_signed, stay, move), (rest, times_rest, move, move)]
    largest = np.maximum(np.abs(signed).max(axis=1, initial=0.0), np.abs(rest).max(axis=1, initial=0.0))

    def derivatives(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope, curvature = np.zeros_like(t), np.zeros_like(t)
        for a, times, keep, turn in parts:
            down, up, total = _terms(a, t, keep, turn)
            mean = (up - down) / total
            slope += _dot(a, mean, times)
            curvature += _dot(a, a, (up + down) / total - mean * mean, times)
        return slope, curvature

    t = low = np.zeros(len(signed))
    high = _LARGEST_EXPONENT / np.maximum(largest, 1e-300)
    # At t = 0, without exponentials.
    slope = np.sum([(turn - keep) * _total(a, times) for a, times, keep, turn in parts], axis=0)
    spreads = [(turn + keep - (turn - keep) ** 2) * _dot(a, a, times) for a, times, keep, turn in parts]
    curvature = np.sum(spreads, axis=0)
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
    """The sum of each row's terms (m, n), each counted ``times`` times (None: once).

    sum() adds pairwise, unlike _dot, so that its rounding error stays below label_flips._ROUNDING.
    """
    return terms.sum(axis=1) if times is None else _dot(terms, times)


def _dot(*factors: np.ndarray | None) -> np.ndarray:
    """The sum over each row of the product of arrays (m, n), without an array of the products. None counts as 1."""
    arrays = [factor for factor in factors if factor is not None]
    return np.einsum(",".join(["ij"] * len(arrays)) + "->i", *arrays)


def _terms(a: np.ndarray, t: np.ndarray, keep: float, turn: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """keep * exp(-t a), turn * exp(t a), and their sum with the probability of neither, (m, n) each."""
    up = np.exp(t[:, None] * a)
    down = keep / up
    up *= turn
    return down, up, down + up + (1 - keep - turn)
