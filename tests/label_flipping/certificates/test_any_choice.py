"""Certificates for any choice among classifiers, against all labelings and all choices of small training sets."""

import itertools

import numpy as np
import pytest

from label_flipping.certificates.fixed_weights import (
    FixedWeights,
    KernelRegression,
    NearestNeighbours,
    SignedVotes,
    agreed,
    greedy_flips,
)
from label_flipping.certificates.label_flips import LabelFlips
from label_flipping.certificates.training_set_smoothing import Smoothed
from randomized_smoothing_certification.core import ABSTAIN

X_TEST = np.array([[0.2], [2.1]])


def line(points: int) -> np.ndarray:
    return np.arange(points, dtype=float)[:, None] ** 1.1


def candidates(kind: str, points: int) -> list[FixedWeights]:
    x = line(points)
    if kind == "kernel":
        return [KernelRegression(x, bandwidth) for bandwidth in (0.8, 2.0, 6.0)]
    if kind == "neighbours":
        return [NearestNeighbours(x, k) for k in (3, 4, 5)]
    return [SignedVotes.of_distance(x, k) for k in (3, 4)]


def labelings(points: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """All of them, and the number of labels in which each two differ."""
    every = np.array(list(itertools.product(range(classes), repeat=points)))
    return every, (every[:, None] != every).sum(axis=2)


@pytest.mark.parametrize("kind", ["kernel", "neighbours", "signed"])
@pytest.mark.parametrize(("points", "classes"), [(7, 2), (6, 3)])
def test_the_answer_stays_whichever_candidate_other_labels_choose(kind: str, points: int, classes: int) -> None:
    """Within the radius every candidate has the answer at every labeling. So no rule of selection changes it."""
    every, distance = labelings(points, classes)
    weights = [one(X_TEST) for one in candidates(kind, points)]
    found = [[greedy_flips(alpha, y, classes) for alpha in weights] for y in every]
    prediction, flips = np.array(found).transpose(2, 1, 0, 3)  # (candidates, labelings, test points)
    joint, radius = agreed(prediction, flips)
    same = (prediction == prediction[0]).all(axis=0)
    assert (joint[same] == prediction[0][same]).all() and (joint[~same] == ABSTAIN).all() and (radius[~same] == 0).all()
    for number, point in itertools.product(range(len(every)), range(len(X_TEST))):
        if joint[number, point] != ABSTAIN:
            near = distance[number] <= radius[number, point]
            assert (prediction[:, near, point] == joint[number, point]).all()
    assert radius.max() >= 1 and (~same).any() and (flips.min(axis=0) < flips.max(axis=0))[joint != ABSTAIN].any()


@pytest.mark.parametrize("bound", ["tight", "closed_form"])
def test_every_smoothed_candidate_keeps_the_answer(bound: str) -> None:
    """The probability of the answer under noise stays above one half, computed exactly from all noisy labelings."""
    points, q = 9, 0.01
    every, distance = labelings(points, 2)
    noise = LabelFlips(q, 2, bound)  # type: ignore[arg-type]
    of_noise = q**distance * (1 - q) ** (points - distance)
    weights = candidates("kernel", points)
    smoothed = [[one.certify(X_TEST, y, [noise]).smoothed[0] for y in every] for one in weights]
    predictions, log_eps = (np.array([[one[i] for one in of_one] for of_one in smoothed]) for i in (0, 1))
    joint, confidence = agreed(predictions, -log_eps)
    radius = Smoothed(joint.ravel(), -confidence.ravel()).certified(noise, points).reshape(joint.shape)
    each = np.array([[one.certified(noise, points) for one in of_one] for of_one in smoothed]).min(axis=0)
    np.testing.assert_array_equal(radius, np.where(joint == ABSTAIN, 0, each))
    for point, one in itertools.product(range(len(X_TEST)), weights):
        margin = (2.0 * every - 1) @ one(X_TEST)[point]  # of class 1
        probability = np.stack([of_noise @ (margin < -1e-12), of_noise @ (margin > 1e-12)])
        for number in np.flatnonzero(joint[:, point] != ABSTAIN):
            near = distance[number] <= radius[number, point]
            assert (probability[joint[number, point], near] > 0.5).all()
    assert radius.max() >= 1 and (joint == ABSTAIN).any()
