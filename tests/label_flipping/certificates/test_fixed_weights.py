"""Neighbours and kernel regression: their weights, and certificates against the general ones and exhaustive attacks."""

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from label_flipping.certificates.fixed_weights import (
    FixedWeights,
    KernelRegression,
    NearestNeighbours,
    RidgeRegression,
    SignedClusters,
    SignedVotes,
    VotingWeights,
    greedy_flips,
    vote_flips,
)
from label_flipping.certificates.label_flips import LabelFlips
from label_flipping.certificates.smoothed_weights import Votes, _log_chernoff, smooth_votes, smooth_weights
from models.neighbours import nearest, squared_distances
from randomized_smoothing_certification.core import ABSTAIN
from runtime.files import InputError


def clusters(classes: int, size: int = 90, points: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(classes)
    centres = random.normal(scale=2, size=(classes, 3))
    y = np.arange(size) % classes
    return centres[y] + random.normal(size=(size, 3)), y, random.normal(scale=2, size=(points, 3))


def test_nearest_and_distances_are_scipys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.neighbours._BLOCK_ENTRIES", 300)  # several blocks
    among, _, x = clusters(3)
    wanted = cdist(x, among)
    np.testing.assert_allclose(squared_distances(x, among), wanted**2, rtol=1e-4, atol=1e-4)
    for k in (1, 7, 90):
        found = nearest(x, among, k)
        np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(np.argsort(wanted, axis=1)[:, :k], axis=1))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_votes_are_certified_as_the_weights_that_they_are(classes: int) -> None:
    x, y, x_test = clusters(classes)
    for weights, size, values in (
        (NearestNeighbours(x, 21), 21, {0, 1}),
        (SignedVotes.of_distance(x, 21), 90, {-1, 1}),
        (SignedVotes(RidgeRegression(x, 1.0), 90, 30), 90, {-1, 1}),
    ):
        alpha = weights(x_test)
        np.testing.assert_allclose(np.abs(alpha).sum(axis=1), 1)
        assert set(np.round(np.unique(alpha) * size, 9)) == values
        _agree_with_the_general_ones(weights, alpha, y, x_test, classes)


def _agree_with_the_general_ones(
    weights: FixedWeights, alpha: np.ndarray, y: np.ndarray, x_test: np.ndarray, classes: int
) -> None:
    noises = [LabelFlips(q, classes) for q in (0.05, 0.3)]
    found = weights.certify(x_test, y, noises)
    for noise, smoothed in zip(noises, found.smoothed, strict=True):
        wanted = smooth_weights(alpha, y, noise)
        np.testing.assert_array_equal(smoothed.prediction, wanted.prediction)
        np.testing.assert_allclose(smoothed.log_eps, wanted.log_eps, rtol=1e-4, atol=1e-5)
    prediction, flips = greedy_flips(alpha, y, classes)
    np.testing.assert_array_equal(found.prediction, prediction)
    np.testing.assert_array_equal(found.flips, flips)
    assert found.flips.max() > 5 and found.smoothed[0].log_eps.min() < -1


def test_a_list_of_labels_is_certified_as_the_array() -> None:
    """For a list, ``y == 0`` is False. Each change then seemed to lower the margin by half as much as it can."""
    y, noise = [0] * 6 + [1], LabelFlips(0.01, 2)
    alpha = np.ones((1, len(y)))
    assert greedy_flips(alpha, y, 2) == greedy_flips(alpha, np.array(y), 2) == (0, 2)
    np.testing.assert_array_equal(smooth_weights(alpha, y, noise), smooth_weights(alpha, np.array(y), noise))
    x = np.random.default_rng(0).normal(size=(len(y), 2))
    np.testing.assert_array_equal(
        RidgeRegression(x, 1.0).certify(x, y, [noise])[1:], RidgeRegression(x, 1.0).certify(x, np.array(y), [noise])[1:]
    )


def test_without_training_labels_there_is_a_clear_error() -> None:
    alpha, y = np.zeros((2, 0)), np.zeros(0, int)
    for certify in (lambda: greedy_flips(alpha, y, 2), lambda: smooth_weights(alpha, y, LabelFlips(0.1, 2))):
        with pytest.raises(InputError, match=r"must be one or more integers from 0 to 1, got int64 of shape \(0,\)$"):
            certify()


@pytest.mark.parametrize("noises", [[], [LabelFlips(0.1, 2), LabelFlips(0.1, 3)]])
def test_all_noises_have_the_classes_of_the_exact_certificate(noises: list[LabelFlips]) -> None:
    """The exact certificate took its classes from the first noise, whatever the others said."""
    x, y, x_test = clusters(2)
    for weights in (RidgeRegression(x, 1.0), NearestNeighbours(x, 5)):
        with pytest.raises(InputError, match=f"noises have {len(noises)} different num_classes; give at least one"):
            weights.certify(x_test, y, noises)


def test_no_test_points_have_no_certificates() -> None:
    x, y, x_test = clusters(3)
    for weights in (RidgeRegression(x, 1.0), NearestNeighbours(x, 5), SignedVotes.of_distance(x, 5)):
        found = weights.certify(x_test[:0], y, [LabelFlips(0.1, 3)])
        assert found.flips.shape == found.prediction.shape == found.smoothed[0].log_eps.shape == (0,)


def test_weights_of_8_bits_are_certified_as_floats() -> None:
    """In int8 the absolute value of -128 is -128."""
    alpha, y = np.array([[100, -128, 127, -128]], np.int8), np.array([0, 1, 0, 1])
    assert greedy_flips(alpha, y, 2) == greedy_flips(alpha.astype(float), y, 2) == (0, 1)


def test_signed_votes_predict_as_the_neighbours_and_survive_twice_as_many_changes() -> None:
    """Where the classes are equally large; ties, which neither certifies, apart."""
    x, y, x_test = clusters(3)
    assert set(np.bincount(y)) == {30}
    plain = NearestNeighbours(x, 20).certify(x_test, y, [LabelFlips(0.1, 3)])
    signed = SignedVotes.of_distance(x, 20).certify(x_test, y, [LabelFlips(0.1, 3)])
    np.testing.assert_array_equal(signed.prediction, plain.prediction)
    won = plain.prediction != ABSTAIN
    assert np.isin(signed.flips[won] - 2 * plain.flips[won], (0, 1)).all() and plain.flips.max() > 8


def test_the_points_of_the_largest_weight_vote_for_their_labels() -> None:
    x, _, x_test = clusters(3)
    ridge = RidgeRegression(x, 1.0)
    weight, support = ridge(x_test), SignedVotes(ridge, 90, 30)(x_test) > 0
    assert (support.sum(axis=1) == 30).all()
    largest_against = np.where(support, -np.inf, weight).max(axis=1)
    assert (np.where(support, weight, np.inf).min(axis=1) >= largest_against).all()


def loses(alpha: np.ndarray, y: np.ndarray, prediction: int, changes: int) -> bool:
    """Whether some way to change so many labels, or as many as there are, lets one of three classes catch up."""
    for places in itertools.combinations(range(len(y)), min(changes, len(y))):
        for labels in itertools.product(range(3), repeat=len(places)):
            attacked = y.copy()
            attacked[list(places)] = labels
            after = alpha @ np.eye(3)[attacked]
            if np.delete(after, prediction).max() >= after[prediction]:
                return True
    return False


def test_signed_votes_survive_exactly_so_many_changes() -> None:
    """Every way to change a few labels of few points, scores as sums of the weights."""
    random = np.random.default_rng(0)
    reached = 0
    for _ in range(40):
        x, y = random.normal(size=(8, 1)), random.integers(0, 3, size=8)
        weights = SignedVotes.of_distance(x, int(random.integers(1, 8)))
        x_test = random.normal(size=(1, 1))
        alpha = np.sign(weights(x_test))[0]
        votes = weights.votes(x_test, y, 3)
        prediction, flips = (int(array[0]) for array in vote_flips(votes))
        unsigned = Votes(*(np.asarray(side).astype(np.uint8) for side in votes))
        assert [array.tolist() for array in vote_flips(unsigned)] == [[prediction], [flips]]
        of_both = (smooth_votes(one, LabelFlips(0.1, 3)).log_eps.tolist() for one in (votes, unsigned))
        assert next(of_both) == next(of_both)
        scores = alpha @ np.eye(3)[y]
        np.testing.assert_array_equal(votes.support[0] - votes.against[0], scores)
        if (scores == scores.max()).sum() > 1:
            assert (prediction, flips) == (ABSTAIN, 0)
            continue
        assert prediction == scores.argmax()
        assert not loses(alpha, y, prediction, flips) and loses(alpha, y, prediction, flips + 1)
        reached = max(reached, flips)
    assert reached >= 2


def test_counted_terms_are_repeated_terms() -> None:
    noise = LabelFlips(0.2, 4)
    own, rival, rest = np.array([12, 5]), np.array([3, 5]), np.array([4, 0])
    times = np.stack([own, rival], axis=1).astype(float)
    found = _log_chernoff(np.tile([1.0, -1.0], (2, 1)), np.ones((2, 1)), noise, times, rest[:, None].astype(float))
    for point in range(2):
        signed = np.repeat([1.0, -1.0], [own[point], rival[point]])[None]
        assert found[point] == pytest.approx(_log_chernoff(signed, np.ones((1, rest[point])), noise)[0], abs=1e-6)


def test_a_vote_survives_exactly_so_many_changes() -> None:
    """Every way to change labels: none of the certified number turns the vote or ties it, one more does."""
    for own, others in itertools.product(range(8), itertools.product(range(4), repeat=2)):
        counts = np.array([[own, *others]])
        if not own + sum(others):
            continue
        prediction, flips = (int(array[0]) for array in vote_flips(Votes(counts)))
        y = np.repeat(np.arange(3), counts[0])
        best = counts[0].max()
        if (counts[0] == best).sum() > 1:
            assert (prediction, flips) == (ABSTAIN, 0)
            continue
        assert prediction == counts[0].argmax()
        weights = np.ones(len(y))
        if flips <= 2:  # the exhaustive search is slow beyond
            assert not loses(weights, y, prediction, flips) and loses(weights, y, prediction, flips + 1)


def test_kernel_regression_is_its_formula() -> None:
    x, y, x_test = clusters(3)
    weights = KernelRegression(x, 0.3)
    scale = np.sqrt((cdist(x, x) ** 2).mean())
    wanted = np.exp(-(cdist(x_test, x) ** 2) / (2 * (0.3 * scale) ** 2))
    np.testing.assert_allclose(weights(x_test), wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-3, atol=1e-9)
    found = weights.certify(x_test, y, [LabelFlips(0.1, 3)])
    assert found.flips.max() > 2
    # A narrow kernel is the nearest neighbour, however far all points are.
    narrow = KernelRegression(x, 1e-3)(x_test)
    np.testing.assert_allclose(narrow.max(axis=1), 1, atol=1e-3)
    np.testing.assert_array_equal(narrow.argmax(axis=1), nearest(x_test, x, 1)[:, 0])


def test_settings_and_points_that_cannot_be() -> None:
    x = np.zeros((5, 2))
    for k in (0, 6):
        with pytest.raises(InputError, match=f"neighbours must lie between 1 and the 5 training points, got {k}"):
            NearestNeighbours(x, k)
    for features in (np.array([[np.nan, 0.0]]), np.array([[np.inf, 0.0]])):
        for learner in (NearestNeighbours(x, 2), SignedVotes.of_distance(x, 2)):
            with pytest.raises(InputError, match="features hold NaN or infinite values"):
                learner(features)
    for k in (0, 5):
        with pytest.raises(InputError, match=f"signed votes need from 1 to 4 neighbours of the 5 points, got {k}"):
            SignedVotes.of_distance(x, k)
    for count in (1, 6):
        with pytest.raises(InputError, match=f"clusters must lie between 2 and the 5 training points, got {count}"):
            SignedClusters(x, count)
    for bandwidth in (0.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"bandwidth must be positive, got {bandwidth}"):
            KernelRegression(x, bandwidth)
    for weight in (-1.0, 0.0, float("nan")):  # counts of votes know no sign, so that they would certify other weights
        with pytest.raises(InputError, match=f"weight must be positive, got {weight}"):
            VotingWeights(lambda x: np.ones((len(x), 5), bool), weight, against=False)
    with pytest.raises(InputError, match=r"test features have shape \(3, 4\), \(points, 2\) expected"):
        NearestNeighbours(x, 2)(np.zeros((3, 4)))
    with pytest.raises(InputError, match="all training points have the same features"):
        KernelRegression(x, 1.0)
    noise = [LabelFlips(0.1, 2)]
    x[:, 0] = range(5)
    for weights in (NearestNeighbours(x, 2), SignedVotes.of_distance(x, 2), SignedClusters(x, 2)):
        for label in (-1, 2):
            with pytest.raises(
                InputError, match=f"must be 5 integers from 0 to 1, got int64 .* from .*{label}|{label} to"
            ):
                weights.certify(x, np.array([0, 1, label, 0, 1]), noise)


def test_less_noise_certifies_more_flips_of_every_vote() -> None:
    """Whatever the margin, and up to q = 0.49: what is said of q in results/README.md."""
    counts = np.array([[k - rival - rest, rival, rest] for k in (30, 300, 3000) for rival, rest in _losers(k)])
    for bound in ("tight", "closed_form"):
        flips = []
        for q in (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.475, 0.49):
            noise = LabelFlips(q, 3, bound)  # type: ignore[arg-type]
            flips.append(smooth_votes(Votes(counts), noise).certified(noise, 3000))
        assert np.all(np.diff(flips, axis=0) <= 0) and flips[0].min() >= 0 and flips[0].max() > 100
        assert np.all(flips[0] <= vote_flips(Votes(counts))[1])  # smoothing costs some of the exact certificate


def _losers(k: int) -> list[tuple[int, int]]:
    """Neighbours of the second class and of the third, among k."""
    shares = (0.0, 0.05, 0.2, 0.35, 0.45)
    return [(int(a * k), int(b * k)) for a in shares for b in shares if b <= a and 2 * a + b < 0.95]


def test_signed_votes_of_a_cluster_are_exact_for_every_labeling() -> None:
    """All labelings of a small set, with ties, and clusters and classes of unequal size: enumeration agrees."""
    x = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [9.0]])
    learner, reached = SignedClusters(x, 3), 0
    x_test = np.array([[0.05], [5.05], [9.0]])
    alpha = learner(x_test)
    np.testing.assert_array_equal(np.sign(alpha[0]), [1, 1, 1, -1, -1, -1])
    for y in map(np.array, itertools.product(range(3), repeat=len(x))):
        found = learner.certify(x_test, y, [LabelFlips(0.1, 3)])
        np.testing.assert_allclose(np.subtract(*learner.votes(x_test, y, 3)), alpha @ np.eye(3)[y] * len(x), atol=1e-9)
        np.testing.assert_array_equal(found[1:], greedy_flips(alpha, y, 3))
        for place in range(len(x_test)):
            prediction, flips = int(found.prediction[place]), int(found.flips[place])
            if prediction != ABSTAIN and y[:3].sum() <= 1:  # the exhaustive search is slow
                assert not loses(alpha[place], y, prediction, flips) and loses(alpha[place], y, prediction, flips + 1)
                reached = max(reached, flips)
    assert reached == 1


def test_two_clusters_have_the_better_of_their_two_names() -> None:
    """The majority over both clusters of arXiv 2006.14768, appendix B: agreement beyond half of all points."""
    x = np.concatenate([np.full((7, 1), 0.0), np.full((9, 1), 1.0)])
    y = np.array([0] * 6 + [1] * 8 + [0] * 2)  # 1 of 7 and 2 of 9 are of the other class
    found = SignedClusters(x, 2).certify(np.array([[0.0], [1.0]]), y, [LabelFlips(0.1, 2)])
    agreeing = 6 + 7
    assert found.prediction.tolist() == [0, 1] and found.flips.tolist() == [(2 * agreeing - len(y) - 1) // 2] * 2


def test_a_class_beyond_twice_the_supporters_outvotes_them() -> None:
    """What SignedVotes' docstring says of unequal classes."""
    x, y = np.arange(11.0)[:, None], np.array([0] * 10 + [1])
    found = SignedVotes.of_distance(x, 4).certify(x[:1], y, [LabelFlips(0.1, 2)])
    assert found.prediction.tolist() == [1]
    enough = SignedVotes.of_distance(x, 6).certify(x[:1], y, [LabelFlips(0.1, 2)])
    assert enough.prediction.tolist() == [0]


def test_on_unequal_classes_signed_votes_do_not_survive_exactly_twice_as_many_changes() -> None:
    """The margin is twice that of the k alone, less the difference of the sizes of the two classes."""
    x, y = np.arange(9.0)[:, None], np.array([0, 0, 0, 1, 0, 1, 0, 1, 0])  # six points of class 0, three of class 1
    plain = NearestNeighbours(x, 5).certify(x, y, [LabelFlips(0.1, 2)])
    signed = SignedVotes.of_distance(x, 5)
    found = signed.certify(x, y, [LabelFlips(0.1, 2)])
    support = signed.votes(x, y, 2).support
    margin = 2 * (support[:, 0] - support[:, 1]) - (6 - 3)
    np.testing.assert_array_equal(found.prediction, np.where(margin > 0, 0, 1))
    np.testing.assert_array_equal(found.flips, (np.abs(margin) - 1) // 2)
    same = found.prediction == plain.prediction
    assert not same.all() and (found.flips < 2 * plain.flips)[same].any()


def test_signed_votes_have_the_largest_expected_margin_where_rivals_are_alike() -> None:
    """Of all signs of the weights, with k as the number of points whose probability of the class is above 1 / K."""
    random, classes = np.random.default_rng(0), 3
    signs = np.array(list(itertools.product([-1, 1], repeat=7)))
    for _ in range(20):
        p = random.random(7) * 0.7
        p[:2] = 0.2, 0.6
        of_classes = np.stack([p, (1 - p) / 2, (1 - p) / 2], axis=1)
        x = np.zeros((1, 1))
        alpha = 7 * SignedVotes(lambda _, p=p: p[None], 7, int((p > 1 / classes).sum()))(x)
        for rival in (1, 2):
            gain = of_classes[:, 0] - of_classes[:, rival]
            np.testing.assert_allclose(gain, (classes * p - 1) / (classes - 1))
            assert alpha[0] @ gain == pytest.approx((signs @ gain).max())


def test_where_rivals_differ_no_single_sign_is_best_against_all() -> None:
    """The class probabilities (.4, .6, 0) of the module's docstring: the rule takes +1, as .4 is above one third."""
    first, second, third = 0.4, 0.6, 0.0
    assert first > 1 / 3 and first - third > 0 > first - second


def test_no_certificate_is_beyond_the_ceiling_and_a_whole_class_reaches_it() -> None:
    y = np.repeat([0, 1, 2], [5, 3, 4])
    found = SignedClusters(y[:, None].astype(float), 3).certify(np.arange(3.0)[:, None], y, [LabelFlips(0.1, 3)])
    assert found.prediction.tolist() == [0, 1, 2] and found.flips.tolist() == [(5 + 3 - 1) // 2, (3 + 4 - 1) // 2, 3]


@pytest.mark.parametrize("power", [-1000, -600, 600])
def test_the_scale_of_the_weights_changes_no_smoothed_certificate(power: int) -> None:
    x, y, x_test = clusters(3)
    alpha = KernelRegression(x, 0.3)(x_test)
    wanted, found = (smooth_weights(a, y, LabelFlips(0.1, 3)) for a in (alpha, np.ldexp(alpha, power)))
    assert (wanted.prediction != ABSTAIN).any()
    np.testing.assert_array_equal(found.prediction, wanted.prediction)
    np.testing.assert_allclose(found.log_eps, wanted.log_eps, rtol=1e-12)
