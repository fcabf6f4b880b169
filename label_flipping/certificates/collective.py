"""Collective certificate: how many predictions one adversary who changes training labels can turn at once.

A certificate of a single test point lets the adversary choose different changes for every point. Here one set of
changed labels meets all test points. Other collective certificates come from Schuchardt et al. (ICLR 2021, "Collective
Robustness Certificates", graph neural networks) and Chen et al. (ICML 2022, "On Collective Robustness of Bagging
Against Data Poisoning", arXiv 2205.13176). Chen et al. also solve an integer program for the most changed predictions.

Derivation, for SignedClusters. Let n_j(c) be the number of labels c in cluster j. Cluster j gives class c the score
s_j(c) = n_j(c) - (number of labels c in the other clusters). Let ``out`` and ``in`` (M, K) count the labels that leave
and enter each class in each cluster. Then s_j(c) rises by the sum over clusters i of e_ij (in_i(c) - out_i(c)), with
e_ij = 1 if i = j, else -1. A cluster keeps its size, so its ``out`` and ``in`` have the same sum. The least
number of changes for them is sum(out), since two changes of a label are a single change. All of this is linear.

A change from a to b in a cluster that predicts a lowers its margin of a over b by 2. In a cluster that predicts b, it
lowers the margin of b over a by 2 as well. So adding up the costs of single clusters would count too many changes.
Instead the binary z_jb says that cluster j, which predicts a, loses to b: fall of s_j(a) + rise of s_j(b) >= margin.
Ties are lost. The number y_jb is the rise if z_jb = 1, else 0. So the fall is counted once for all rivals. This makes
the bounds of the relaxed problem much lower than a constraint for each rival does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from runtime.files import InputError
from runtime.lazy import optimize


class Turned(NamedTuple):
    """Numbers of correctly classified test points that one set of changed labels turns."""

    bound: int  # no set of this many changes turns more points
    found: int  # points that a found attack turns, counted in integers. If equal to bound, the bound is exact


def turned_at_once(train: np.ndarray, test: np.ndarray, changes: int, seconds: float = np.inf) -> Turned:
    """The most correctly classified test points that one set of at most ``changes`` changed labels turns.

    train, test: numbers of training and test points of each class in every cluster, int (M, K) each, from
    SignedClusters.counts. Misclassified points and abstentions count as lost from the start, even if an attack corrects
    them. seconds: time limit of each of two searches. The first allows fractions of changes, the second does not. When
    the limit ends a search, the bound proven so far still holds, but may not be exact. The bound relies on
    floating-point results of the solver (HiGHS), with a tolerance of half a test point.

    Raises InputError for other arrays, for negative changes, or for a time that is not positive.
    Source: derivation above.
    """
    train, test = np.asarray(train), np.asarray(test)
    for name, counts in (("train", train), ("test", test)):
        if counts.ndim != 2 or counts.shape != train.shape or counts.dtype.kind not in "iu" or counts.shape[1] < 2:
            raise InputError(
                f"{name} must hold integers of one shape (clusters, classes), got {counts.dtype} of shape "
                f"{counts.shape}, train {train.shape}; give SignedClusters.counts"
            )
        if counts.min(initial=0) < 0:
            raise InputError(f"{name} must hold no negative count, got {counts.min()}; give SignedClusters.counts")
    if changes < 0 or not seconds > 0:
        raise InputError(f"changes must not be negative and seconds must be positive, got {changes} and {seconds:g}")
    train, test = train.astype(np.int64), test.astype(np.int64)
    changes = min(int(changes), int(train.sum()))
    scores = 2 * train - train.sum(axis=0)
    rows = np.arange(len(train))
    own = scores.argmax(axis=1)  # the class that each cluster predicts
    margin = (scores[rows, own][:, None] - scores).astype(float)  # over every class, infinite over the own class
    margin[rows, own] = np.inf
    right = np.where(margin.min(axis=1) > 0, test[rows, own], 0)
    within_reach = (margin <= 2 * changes) & (right > 0)[:, None]  # a change takes at most 2 from a margin
    cluster, rival = np.nonzero(within_reach)
    bound, found = int(right[within_reach.any(axis=1)].sum()), 0
    size, pairs = train.size, len(cluster)
    # The variables: out and in of every cluster and class, z and y of every pair of a cluster and a rival.
    least = np.repeat([0, -changes], [2 * size + pairs, pairs])
    most = np.append(train, np.repeat([changes, 1, changes], [size, pairs, pairs]))
    for whole in (0, 1):  # a search with fractions of changes is faster, and its bound is hardly larger
        if found == bound:
            break
        solved = optimize.milp(
            np.concatenate([np.zeros(2 * size), -right[cluster], np.zeros(pairs)]),
            integrality=np.repeat([whole, 1, 0], [2 * size, pairs, pairs]),
            bounds=optimize.Bounds(least, most),
            constraints=_constraints(train, own, cluster, rival, margin[cluster, rival], changes),
            options={"time_limit": seconds, "mip_rel_gap": 0.0},
        )
        if solved.x is not None:
            found = max(found, _turned(train, own, right, solved.x[: 2 * size], changes))
        if solved.mip_dual_bound is not None and np.isfinite(solved.mip_dual_bound):
            bound = max(found, min(bound, int(np.floor(0.5 - solved.mip_dual_bound))))
        if solved.status != 0:
            break
    return Turned(bound, found)


def _constraints(
    train: np.ndarray, own: np.ndarray, cluster: np.ndarray, rival: np.ndarray, margin: np.ndarray, changes: int
) -> list[optimize.LinearConstraint]:
    """The constraints of the derivation on the variables (out, in), z and y. cluster, rival, margin: of each pair."""
    clusters, classes = train.shape
    size, pairs = train.size, len(cluster)
    entering = np.kron(2 * np.eye(clusters) - 1, np.eye(classes))  # what each label that enters adds to each score
    rises = np.hstack([-entering, entering]).reshape(clusters, classes, -1)  # of each score, by (out, in)
    rows = np.arange(clusters)
    fall, rise = -rises[rows, own], rises[cluster, rival]
    of_cluster = (rows[:, None] == cluster) * 1.0  # its pairs
    of_pair = np.eye(pairs)
    entries = np.repeat(np.eye(clusters), classes, axis=1)  # of each cluster

    def at_least(least: int, moved: np.ndarray, z: np.ndarray, y: np.ndarray) -> optimize.LinearConstraint:
        return optimize.LinearConstraint(np.hstack([moved, z, y]), least, np.inf)

    return [
        at_least(-changes, fall, -of_cluster * (margin + changes), of_cluster),  # fall + y >= margin if a z is 1
        at_least(0, np.maximum(fall, 0), -of_cluster * margin, of_cluster),  # implied for binary z, cuts off fractions
        at_least(-changes, rise, -changes * of_pair, -of_pair),  # y <= rise if z is 1
        at_least(0, np.maximum(rise, 0), 0 * of_pair, -of_pair),  # also implied
        at_least(0, 0 * rise, changes * of_pair, -of_pair),  # y <= 0 if z is 0
        at_least(-1, 0 * fall, -of_cluster, 0 * of_cluster),  # each cluster loses to at most one rival
        optimize.LinearConstraint(np.repeat([[1, 0]], [size, size + 2 * pairs], axis=1), 0, changes),
        optimize.LinearConstraint(np.hstack([entries, -entries, np.zeros((clusters, 2 * pairs))]), 0, 0),
    ]


def _turned(train: np.ndarray, own: np.ndarray, right: np.ndarray, moved: np.ndarray, changes: int) -> int:
    """Points that an attack (out, in) turns, or 0 if it is invalid or takes more than ``changes`` changes."""
    out, entering = np.rint(moved).astype(int).reshape(2, *train.shape)
    after = train - out + entering
    if out.sum() > changes or (out.sum(axis=1) != entering.sum(axis=1)).any() or min(out.min(), after.min()) < 0:
        return 0
    scores = 2 * after - after.sum(axis=0)
    is_above = scores[np.arange(len(train)), own][:, None] > scores
    lost = is_above.sum(axis=1) < train.shape[1] - 1  # a class is never above itself
    return int(right[lost].sum())
