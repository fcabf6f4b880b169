"""Votes, CERTIFY and PREDICT on classifiers whose answers are known."""

from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from randomized_smoothing_certification import core, votes
from randomized_smoothing_certification.core import ABSTAIN, certificate_of_count, certify, predict
from randomized_smoothing_certification.sampling import NOISE_BLOCK, Sampling, votes_needed
from randomized_smoothing_certification.votes import VoteCounter
from runtime.files import InputError
from runtime.noise import Stream, fold_in, normal, seed_pair

SHAPE = (2, 2, 1)
IMAGE = np.array([0.1, 0.9, 0.4, 0.6], np.float32).reshape(SHAPE)
WEIGHTS = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
STREAM = seed_pair(0, 7, 1)


def five_classes(images: Any) -> Any:
    return ops.matmul(ops.reshape(images, (-1, 4)), WEIGHTS)


def halfspace(images: Any) -> Any:
    """Class 1 where w.x + b > 0, w = (1, 2, -1, 0.5), b = -0.9."""
    value = ops.matmul(ops.reshape(images, (-1, 4)), np.array([[1.0], [2.0], [-1.0], [0.5]], np.float32)) - 0.9
    return ops.concatenate([-value, value], axis=-1)


HALFSPACE_RADIUS = float((0.1 + 1.8 - 0.4 + 0.3 - 0.9) / np.sqrt(1 + 4 + 1 + 0.25))


def noise_of(seed: np.ndarray, n: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """The first n votes' noise, as core documents it."""
    blocks = [
        ops.convert_to_numpy(normal((NOISE_BLOCK, *shape), fold_in(seed, b))) for b in range(-(-n // NOISE_BLOCK))
    ]
    return np.concatenate(blocks)[:n]


class FixedCounter:
    """Stands in for a VoteCounter: returns given counts and records what was asked for."""

    sigma, failure_mass = 0.5, 0.0

    def __init__(self, *counts: list[int]) -> None:
        self.counts = list(counts)
        self.asked: list[tuple[int, tuple[int, ...]]] = []

    def count_votes(self, image: np.ndarray, n: int, seed: np.ndarray, first: int = 0) -> np.ndarray:
        self.asked.append((n, tuple(seed.tolist())))
        return np.array(self.counts[len(self.asked) - 1])


@pytest.mark.parametrize("n", [1, 99, 100, 101, 300, 1234])
def test_votes_are_those_of_the_documented_noise_whatever_the_batch_size(n: int) -> None:
    images = IMAGE + 0.5 * noise_of(STREAM, n)
    expected = np.bincount(np.argmax(images.reshape(n, 4) @ WEIGHTS, axis=1), minlength=5)
    for batch_size in (1, 300, 1000):
        counts = VoteCounter(five_classes, 5, SHAPE, 0.5, batch_size).count_votes(IMAGE, n, STREAM)
        assert counts.sum() == n
        np.testing.assert_array_equal(counts, expected)


def test_the_hundred_selection_votes_evaluate_a_hundred_images() -> None:
    evaluated = []

    def classifier(images: Any) -> Any:
        evaluated.append(images.shape[0])
        return five_classes(images)

    VoteCounter(classifier, 5, SHAPE, 0.5, 1000).count_votes(IMAGE, 100, STREAM)
    assert set(evaluated) == {100}


def test_selection_and_estimation_have_their_own_votes() -> None:
    counter = FixedCounter([10, 90], [5, 995])
    certificate = certify(counter, IMAGE, 3, Sampling(n0=100, n=1000, alpha=0.001), seed=0)  # type: ignore[arg-type]
    (n0, selection), (n, estimation) = counter.asked
    assert (n0, n) == (100, 1000) and selection != estimation
    assert certificate.prediction == 1
    bound = core.lower_confidence_bound(995, 1000, 0.001)
    assert certificate.radius == pytest.approx(0.5 * stats.norm.ppf(bound), rel=1e-12)


def test_estimation_counts_the_selected_class_not_the_most_frequent() -> None:
    counter = FixedCounter([60, 40], [100, 900])
    found = certify(counter, IMAGE, 0, Sampling(n0=100, n=1000, alpha=0.001), seed=0)  # type: ignore[arg-type]
    assert found == (ABSTAIN, 0.0, 1000)


def test_noise_differs_between_points_stages_and_run_seeds() -> None:
    streams = {
        (seed, index, stage): noise_of(seed_pair(seed, index, stage), 200).ravel()
        for seed in (0, 1)
        for index in (0, 1)
        for stage in (Stream.VOTES_THAT_SELECT, Stream.VOTES_THAT_BOUND, Stream.VOTES_THAT_PREDICT)
    }
    values = np.concatenate(list(streams.values()))
    assert len(np.unique(values)) > 0.99 * len(values)
    correlation = np.corrcoef(list(streams.values())) - np.eye(len(streams))
    assert np.abs(correlation).max() < 0.15


def test_images_share_noise_where_none_is_named() -> None:
    for stage in (Stream.VOTES_THAT_SELECT, Stream.VOTES_THAT_BOUND):
        assert seed_pair(3, None, stage).tolist() not in [seed_pair(3, i, stage).tolist() for i in range(99)]
    counter = VoteCounter(five_classes, 5, SHAPE, 0.5)
    found = certify(counter, IMAGE, None, Sampling(n0=100, n=1000, alpha=0.001), seed=3)
    selection, estimation = (
        np.argmax((IMAGE + 0.5 * noise_of(seed_pair(3, stage), n)).reshape(n, 4) @ WEIGHTS, axis=1)
        for stage, n in ((Stream.VOTES_THAT_SELECT, 100), (Stream.VOTES_THAT_BOUND, 1000))
    )
    selected = int(np.bincount(selection).argmax())
    bound = core.lower_confidence_bound(int(np.sum(estimation == selected)), 1000, 0.001)
    radius = core.radius_of_probability(bound, 0.5)
    assert found == ((selected, radius, 1000) if bound >= 0.5 else (ABSTAIN, 0.0, 1000))


@pytest.mark.parametrize("batch_size", [100, 300, 1000])
def test_votes_that_are_counted_part_by_part_are_the_same(batch_size: int) -> None:
    counter = VoteCounter(five_classes, 5, SHAPE, 0.5, batch_size)
    parts = [(0, 100), (100, 1500), (1500, 1600), (1600, 2345)]
    counts = [counter.count_votes(IMAGE, until, STREAM, first) for first, until in parts]
    assert [count.sum() for count in counts] == [until - first for first, until in parts]
    np.testing.assert_array_equal(np.sum(counts, axis=0), counter.count_votes(IMAGE, 2345, STREAM))
    for first in (-100, 50, 2400):
        with pytest.raises(InputError, match="first vote"):
            counter.count_votes(IMAGE, 2345, STREAM, first)


@pytest.mark.parametrize("levels", [None, 256])
@pytest.mark.parametrize("batch_size", [100, 300, 1000])
def test_noise_that_is_kept_is_the_same_noise(
    batch_size: int, levels: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(1).integers(0, 257, (3, *SHAPE)).astype(np.float32) / np.float32(256)
    drawing, keeping = (VoteCounter(five_classes, 5, SHAPE, 0.5, batch_size, levels) for _ in range(2))
    monkeypatch.setattr(votes, "KEPT_BYTES", 4 * 4 * 1_700)  # more are drawn
    keeping.keep_noise(STREAM, 2_000)
    for image in images:
        for first, n in ((0, 50), (0, 1_234), (100, 1_700), (1_200, 2_345), (1_800, 2_000)):
            found, expected = (one.count_votes(image, n, STREAM, first) for one in (keeping, drawing))
            np.testing.assert_array_equal(found, expected)
    assert [len(noise) for noise in keeping._kept.values()] == [17]
    other = seed_pair(5)
    np.testing.assert_array_equal(*(one.count_votes(images[0], 900, other) for one in (keeping, drawing)))


def test_kept_noise_is_drawn_once() -> None:
    """Whoever changes what is kept changes the votes: they are not drawn anew."""
    counter = VoteCounter(five_classes, 5, SHAPE, 0.5)
    counter.keep_noise(STREAM, 1_000)
    counter.count_votes(IMAGE, 1_000, STREAM)
    for stream, noise in counter._kept.items():
        counter._kept[stream] = ops.zeros_like(noise)
    votes = counter.count_votes(IMAGE, 1_000, STREAM)
    assert votes.max() == 1_000 and votes.argmax() == np.argmax(IMAGE.reshape(4) @ WEIGHTS)


def test_a_class_that_is_not_wanted_gets_no_more_votes() -> None:
    counter = FixedCounter([10, 90])
    sampling = Sampling(n0=100, n=1000, alpha=0.001)
    assert certify(counter, IMAGE, 0, sampling, seed=0, only_class=0) == (ABSTAIN, 0.0, 0)  # type: ignore[arg-type]
    assert len(counter.asked) == 1
    counter = FixedCounter([10, 90], [5, 995])
    assert certify(counter, IMAGE, 0, sampling, seed=0, only_class=1)[::2] == (1, 1000)  # type: ignore[arg-type]


def needed(successes: int, n0: int, n: int, alpha: float = 0.001, radius_loss: float = 0.02) -> int:
    return votes_needed(successes, Sampling(n0=n0, n=n, alpha=alpha, radius_loss=radius_loss), 0.5)


def test_the_votes_of_a_point_are_the_fewest_whose_expected_radius_is_near_that_of_n() -> None:
    for successes, n in ((700, 10_000), (700, 100_000), (990, 100_000)):
        few = needed(successes, 1000, n)
        # Expected radii by drawing probability and votes, which is not how they were computed.
        generator = np.random.default_rng(0)
        drawn = generator.beta(successes + 0.5, 1000.5 - successes, size=20_000)

        def expected(votes: int, drawn: np.ndarray = drawn, generator: np.random.Generator = generator) -> float:
            counts = generator.binomial(votes, drawn)
            return float(np.maximum(0, 0.5 * stats.norm.ppf(stats.beta.ppf(0.001, counts, votes - counts + 1))).mean())

        assert 0 < expected(n) - expected(few) < 0.021
        assert expected(n) - expected(few * 2 // 3) > 0.02
    assert needed(1000, 1000, 100_000) > 10 * needed(700, 1000, 100_000)
    assert needed(700, 1000, 10_000, radius_loss=1e-9) == needed(400, 1000, 10_000, radius_loss=0) == 10_000
    assert needed(400, 1000, 10_000) == needed(500, 1000, 10_000) == 0
    assert needed(9, 10, 7) in (0, 7)


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("radius_loss", [0.005, 0.02, 0.2])
def test_a_number_of_votes_that_others_chose_leaves_the_coverage_by_enumeration(
    alpha: float, radius_loss: float
) -> None:
    n0, n = 100, 1000
    chosen = np.array([needed(k, n0, n, alpha, radius_loss) for k in range(n0 + 1)])
    assert len(set(chosen)) > 2
    for p in (0.5, 0.51, 0.6, 0.77, 0.9, 0.97, 0.99, 0.999):
        wrong = 0.0
        for drawn in set(chosen) - {0}:
            counts = np.arange(1, drawn + 1)
            bounds = np.concatenate([[0], stats.beta.ppf(alpha, counts, drawn - counts + 1)])
            of_votes = stats.binom.pmf(np.arange(drawn + 1), drawn, p)[bounds > p].sum()
            wrong += stats.binom.pmf(np.flatnonzero(chosen == drawn), n0, p).sum() * of_votes
        assert wrong <= alpha + 1e-12


class DrawnCounter(FixedCounter):
    """Draws the votes of three classes from known probabilities."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.generator, self.probabilities = np.random.default_rng(2), probabilities

    def count_votes(self, image: np.ndarray, n: int, seed: np.ndarray, first: int = 0) -> np.ndarray:
        self.asked.append((n, tuple(seed.tolist())))
        return self.generator.multinomial(n, self.probabilities)


@pytest.mark.parametrize("p", [0.51, 0.6, 0.9, 0.995])
def test_certificates_with_votes_of_their_own_number_are_wrong_no_more_often_than_alpha(p: float) -> None:
    """Votes that had been used to choose would not do: they are high where few are drawn."""
    counter, runs, alpha = DrawnCounter(p, 0.8 * (1 - p), 0.2 * (1 - p)), 4_000, 0.05
    true, wrong, drawn = float(0.5 * stats.norm.ppf(p)), 0, set()
    for index in range(runs):
        found = certify(counter, IMAGE, index, Sampling(n0=100, n=2000, alpha=alpha, radius_loss=0.05), seed=0)  # type: ignore[arg-type]
        wrong += found.prediction not in (0, ABSTAIN) or found.radius > true
        drawn.add(found.votes)
    assert stats.binom.sf(wrong - 1, runs, alpha) > 1e-4, wrong
    assert len(drawn) > 2 and max(drawn) <= 2000
    assert len({seed for _, seed in counter.asked}) == len(counter.asked)  # fresh noise


def test_abstains_where_the_bound_is_no_number() -> None:
    assert certificate_of_count(0, 9, n=10, alpha=1e-300, sigma=0.5) == (ABSTAIN, 0.0, 10)


def test_abstains_below_one_half() -> None:
    counter = FixedCounter([50, 50], [510, 490])
    found = certify(counter, IMAGE, 0, Sampling(n0=100, n=1000, alpha=0.001), seed=0)  # type: ignore[arg-type]
    assert found == (ABSTAIN, 0.0, 1000)


def test_ties_go_to_the_lowest_class_also_between_zero_and_minus_zero() -> None:
    for row in ([1.0, 1.0, 1.0], [-0.0, 0.0, 0.0]):
        scores = np.array([row], np.float32)

        def classifier(images: Any, scores: np.ndarray = scores) -> Any:
            return ops.ones((images.shape[0], 1)) * scores

        counter = VoteCounter(classifier, 3, SHAPE, 0.5)
        assert counter.count_votes(IMAGE, 150, STREAM).tolist() == [150, 0, 0]


def test_linear_radius_is_rarely_exceeded_and_approached() -> None:
    counter = VoteCounter(halfspace, 2, SHAPE, 0.5)
    alpha, trials = 0.1, 300
    radii = [certify(counter, IMAGE, i, Sampling(n0=20, n=100, alpha=alpha), seed=0).radius for i in range(trials)]
    exceeded = int(np.sum(np.array(radii) > HALFSPACE_RADIUS))
    assert stats.binom.sf(exceeded - 1, trials, alpha) > 1e-3, f"{exceeded} of {trials}"
    assert exceeded > 0  # the bound is tight enough to fail sometimes: it is not trivially 0
    gaps = [
        HALFSPACE_RADIUS - certify(counter, IMAGE, 0, Sampling(n0=100, n=n, alpha=0.001), seed=1).radius
        for n in (100, 10_000, 200_000)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.02 * HALFSPACE_RADIUS


def test_dropout_and_batch_normalization_are_in_inference_mode() -> None:
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Flatten(),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential([keras.Input(SHAPE), *layers])
    layers[1].set_weights([np.full(4, v, np.float32) for v in (1.5, 0.1, 0.4, 2.0)])
    counter = VoteCounter(model, 3, SHAPE, 0.5, 200)
    before = [weights.copy() for weights in model.get_weights()]
    counts = counter.count_votes(IMAGE, 300, STREAM)
    np.testing.assert_array_equal(counts, counter.count_votes(IMAGE, 300, STREAM))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # Groups of 25 images in place of 200: neighbours in the batch do not matter.
    images = (IMAGE + 0.5 * noise_of(STREAM, 300)).reshape(12, 25, *SHAPE)
    logits = np.concatenate([ops.convert_to_numpy(model(group, training=False)) for group in images])
    np.testing.assert_array_equal(counts, np.bincount(np.argmax(logits, axis=1), minlength=3))
    assert np.count_nonzero(counts) > 1


def test_new_weights_count_in_the_next_vote() -> None:
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(2)])
    counter = VoteCounter(model, 2, SHAPE, 0.5)
    for winner in (0, 1):
        bias = np.eye(2, dtype=np.float32)[winner]
        model.set_weights([np.zeros((4, 2), np.float32), bias])
        assert counter.count_votes(IMAGE, 100, STREAM)[winner] == 100


@pytest.mark.parametrize("batch_size", [100, 1000])
def test_the_largest_number_of_votes_is_counted_exactly(batch_size: int) -> None:
    """The last batches of 2^31 - 1 votes, whose numbers go past what int32 holds."""
    n, last = 2**31 - 1, 7
    blocks = batch_size // NOISE_BLOCK
    first = (-(-n // batch_size) - last) * blocks
    noisy = partial(votes.noisy_copies, votes.Float32Noise())
    loop = votes._compiled_loop(lambda _, x: ops.stack([x[:, 0, 0, 0], -x[:, 0, 0, 0]], -1), 2, noisy, batch_size)
    numbers = ops.convert_to_tensor(np.array([first, last, n], np.int32))
    counts, invalid = loop(([], []), ops.convert_to_tensor(IMAGE), np.float32(0.5), STREAM, numbers)
    assert int(ops.sum(counts)) == n - first * NOISE_BLOCK and int(invalid) == 0


@pytest.mark.parametrize("counts", [[60, 40, 0], [61, 39, 0], [70, 10, 20], [0, 0, 100], [5, 0, 0], [34, 33, 33]])
def test_predict_is_the_binomial_test_of_the_top_two(counts: list[int]) -> None:
    first, second = sorted(counts, reverse=True)[:2]
    settled = stats.binomtest(first, first + second, 0.5).pvalue <= 0.05
    found = predict(FixedCounter(counts), IMAGE, 0, n=sum(counts), alpha=0.05, seed=0)  # type: ignore[arg-type]
    assert found == (int(np.argmax(counts)) if settled else ABSTAIN)


def test_predict_on_a_linear_classifier() -> None:
    counter = VoteCounter(halfspace, 2, SHAPE, 0.5)
    assert predict(counter, IMAGE, 0, n=1000, alpha=0.001, seed=0) == 1


def test_scores_that_are_not_numbers_are_refused_not_counted() -> None:
    def some_nan(images: Any) -> Any:
        scores = five_classes(images)
        return ops.where(scores[:, :1] > 0, scores, np.float32(np.nan))

    for classifier in (some_nan, lambda x: five_classes(x) + np.float32(np.inf), lambda x: five_classes(x) - np.inf):
        with pytest.raises(InputError, match="of 150 noisy images"):
            VoteCounter(classifier, 5, SHAPE, 0.5).count_votes(IMAGE, 150, STREAM)


def test_log_probability_of_zero_is_a_score() -> None:
    counter = VoteCounter(lambda x: ops.ones((x.shape[0], 1)) * np.array([[-np.inf, 0.0]], np.float32), 2, SHAPE, 0.5)
    assert counter.count_votes(IMAGE, 100, STREAM).tolist() == [0, 100]


def test_bad_input_is_refused() -> None:
    model = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    for arguments in (
        (halfspace, 2, SHAPE, 0.0),
        (halfspace, 2, SHAPE, -1.0),
        (halfspace, 2, SHAPE, float("nan")),
        (halfspace, 2, SHAPE, 0.5, 0),
        (halfspace, 1, SHAPE, 0.5),
        (model, 2, SHAPE, 0.5),
        (model, 3, (3, 3, 1), 0.5),
    ):
        with pytest.raises(InputError):
            VoteCounter(*arguments)
    counter = VoteCounter(halfspace, 2, SHAPE, 0.5)
    nan = IMAGE.copy()
    nan[0] = np.nan
    for image in (IMAGE * 255, IMAGE - 0.2, nan, IMAGE[:1]):
        with pytest.raises(InputError):
            counter.count_votes(image, 100, STREAM)
    for n in (0, 2**31):
        with pytest.raises(InputError):
            counter.count_votes(IMAGE, n, STREAM)
    for n0, n, alpha in ((0, 100, 0.001), (100, 0, 0.001), (100, 100, 0.0), (100, 100, 1.0)):
        with pytest.raises(InputError):
            certify(counter, IMAGE, 0, Sampling(n0=n0, n=n, alpha=alpha), seed=0)


def test_a_sigma_whose_radii_would_be_rounded_to_almost_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"sigma is 1e-06: 300 votes certify radii up to 2e-06, and a radius has 6"):
        core.require_radii_above_0(300, 0.001, 1e-6)
    core.require_radii_above_0(300, 0.001, 1e-3)
