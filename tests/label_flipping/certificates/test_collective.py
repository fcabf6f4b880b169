"""One set of changed labels against all test points: complete enumeration, and bounds of a search that stops early."""

import itertools

import numpy as np
import pytest

from label_flipping.certificates.collective import turned_at_once
from label_flipping.certificates.fixed_weights import SignedClusters
from label_flipping.certificates.label_flips import LabelFlips
from runtime.files import InputError


def turned_by_enumeration(train_cluster: np.ndarray, y: np.ndarray, test: np.ndarray, most: int) -> list[int]:
    """Right test points that the worst labeling turns, for 0 to ``most`` changes: every labeling, scores as sums."""
    clusters, classes = test.shape
    labelings = np.array(list(itertools.product(range(classes), repeat=len(y))))
    signs = np.where(train_cluster == np.arange(clusters)[:, None], 1, -1)
    scores = np.einsum("jn,lnc->ljc", signs, np.eye(classes, dtype=int)[labelings])
    ranked = np.sort(scores, axis=2)
    prediction = np.where(ranked[..., -1] > ranked[..., -2], scores.argmax(axis=2), -1)
    before = prediction[(labelings == y).all(axis=1)][0]
    right = np.where(before < 0, 0, test[np.arange(clusters), before])
    turned, distance = (prediction != before) @ right, (labelings != y).sum(axis=1)
    return [int(turned[distance <= changes].max()) for changes in range(most + 1)]


@pytest.mark.parametrize(("clusters", "classes", "points"), [(2, 2, 9), (3, 2, 9), (2, 3, 7), (3, 3, 8), (4, 3, 7)])
def test_one_adversary_turns_exactly_so_many_points(clusters: int, classes: int, points: int) -> None:
    """All labelings of small sets: unequal clusters and classes, ties, empty clusters, points wrong beforehand."""
    random, seen = np.random.default_rng(clusters * classes), set()
    for problem in range(12):
        cluster = np.sort(random.integers(0, clusters, size=points))
        y = np.where(random.random(points) < 0.7, cluster % classes, random.integers(0, classes, size=points))
        test = random.integers(0, 5, size=(clusters, classes))
        train = np.zeros_like(test)
        np.add.at(train, (cluster, y), 1)
        for changes, wanted in enumerate(turned_by_enumeration(cluster, y, test, 4)):
            found = turned_at_once(train, test, changes)
            assert found == (wanted, wanted), (problem, changes)
            seen.add(wanted)
    assert len(seen) >= 5


def test_costs_of_single_clusters_do_not_add_up() -> None:
    """Two pure clusters of five: each certifies four changes, so that a sum would ask for ten changes for both. The
    same five turn both, and six turn three clusters of four where sums ask for twelve."""
    pure = np.diag([5, 5])
    points = np.diag([10, 10])
    x, y = np.repeat([0.0, 9.0], 5)[:, None], np.repeat([0, 1], 5)
    learner = SignedClusters(x, 2)
    assert learner.certify(x, y, [LabelFlips(0.1, 2)]).flips.tolist() == [4] * 10
    assert turned_at_once(pure, points, 4) == (0, 0) and turned_at_once(pure, points, 5) == (20, 20)
    cycle = [turned_at_once(np.diag([4, 4, 4]), np.diag([1, 1, 1]), changes).bound for changes in range(7)]
    assert cycle == [0, 0, 0, 0, 2, 2, 3]


def test_the_counts_of_clusters_are_those_of_their_points() -> None:
    x, y = np.array([[0.0], [0.1], [5.0], [5.2], [5.1]]), np.array([0, 2, 1, 1, 0])
    learner = SignedClusters(x, 2)
    first, second = learner.counts(y, 3), learner.counts(np.array([2, 2, 1]), 3, np.array([[0.2], [4.9], [6.0]]))
    order = np.argsort(first.sum(axis=1))
    assert first[order].tolist() == [[1, 0, 1], [1, 2, 0]] and second[order].tolist() == [[0, 0, 1], [0, 1, 1]]


def test_a_search_that_stops_early_keeps_a_bound_that_holds() -> None:
    random = np.random.default_rng(0)
    train = np.diag(random.integers(50, 70, size=6)) + random.integers(0, 4, size=(6, 6))
    test = np.diag(random.integers(90, 110, size=6))
    bounds = []
    for changes in (70, 90):
        exact = turned_at_once(train, test, changes)
        assert exact.bound == exact.found > 150
        for seconds in (1e-9, 0.05, 0.2):
            early = turned_at_once(train, test, changes, seconds)
            assert early.found <= exact.bound <= early.bound <= test.sum()
            bounds.append(early.bound > early.found)
    assert any(bounds)


def test_points_that_no_attack_can_turn_further() -> None:
    """More changes than labels turn everything that is right. Ties and wrong points are lost beforehand."""
    assert turned_at_once(np.diag([3, 3]), np.array([[2, 9], [9, 4]]), 10**9) == (6, 6)
    assert turned_at_once(np.diag([3, 3]).astype("uint8"), np.array([[2, 9], [9, 4]], "uint64"), 3) == (6, 6)
    assert turned_at_once(np.array([[1, 1], [1, 1]]), np.full((2, 2), 7), 4) == (0, 0)
    assert turned_at_once(np.diag([3, 3]), np.array([[0, 9], [9, 0]]), 6) == (0, 0)


def test_arguments_that_cannot_be() -> None:
    train = np.diag([3, 3])
    for test, message in (
        (np.zeros((3, 2), int), r"test must hold integers of one shape .*\(3, 2\), train \(2, 2\)"),
        (np.zeros((2, 2)), "test must hold integers of one shape .* got float64"),
        (np.diag([1, -1]), "test must hold no negative count, got -1"),
    ):
        with pytest.raises(InputError, match=message):
            turned_at_once(train, test, 1)
    with pytest.raises(InputError, match="train must hold integers"):
        turned_at_once(np.ones((2, 1), int), np.ones((2, 1), int), 1)
    for changes, seconds in ((-1, 1.0), (1, 0.0), (1, float("nan"))):
        with pytest.raises(InputError, match="changes must not be negative and seconds must be positive"):
            turned_at_once(train, train, changes, seconds)
