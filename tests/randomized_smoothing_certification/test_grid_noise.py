"""Noise on the grid of pixel values: its exact distribution, and certificates that no classifier can escape."""

import itertools
import math
from decimal import Decimal, getcontext, localcontext
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from bilevel_optimizer.autodiff import jit
from randomized_smoothing_certification import core
from randomized_smoothing_certification.core import certify
from randomized_smoothing_certification.grid_noise import GridNoise, grid_of
from randomized_smoothing_certification.sampling import Sampling
from randomized_smoothing_certification.votes import VoteCounter
from runtime.files import InputError
from runtime.noise import integers, seed_pair

Q = 2**60
GRIDS = [GridNoise(0.25, 255), GridNoise(0.25, 256), GridNoise(0.5, 255), GridNoise(1.0, 255), GridNoise(0.02, 255)]


def normal_cdf(x: Decimal) -> Decimal:
    """Phi by its Taylor series (Marsaglia, 2004), in the context's precision."""
    term = total = x
    n = 1
    while abs(term) > Decimal(10) ** -(getcontext().prec + 5):
        n += 2
        term = term * x * x / n
        total += term
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
    return Decimal("0.5") + total * (-x * x / 2).exp() / (2 * pi).sqrt()


def exact_pmf(grid: GridNoise) -> list[Decimal]:
    """Of the rounded Gaussian with its tails lumped, from the definition."""
    edges = [Decimal(2 * i + 1) / (2 * grid.levels * Decimal(grid.sigma)) for i in range(-grid.reach, grid.reach)]
    below = [Decimal(0), *map(normal_cdf, edges), Decimal(1)]
    return [above - under for under, above in itertools.pairwise(below)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_weights_are_the_exact_probabilities_to_the_last_bit(grid: GridNoise) -> None:
    weights = grid.weights
    assert len(weights) == 2 * grid.reach + 1 and sum(weights.tolist()) == Q and weights.min() >= 0
    np.testing.assert_array_equal(weights, weights[::-1])
    with localcontext() as context:
        context.prec = 60
        exact = exact_pmf(grid)
        off = [abs(Decimal(w) - Q * p) for w, p in zip(weights.tolist(), exact, strict=True)]
        assert max(off) < 1  # each is a difference of two thresholds, rounded to the nearest integer
        # What is taken off a certificate covers all that is not exact: tails, and the rounding of the thresholds.
        pixels = 784
        missing = pixels * (
            sum(off) / 2 / Q + 2 * normal_cdf(Decimal(-grid.reach - 1) / grid.levels / Decimal(grid.sigma))
        )
        assert missing < Decimal(grid.failure_mass(pixels))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_columns_of_the_alias_table_add_up_to_the_weights(grid: GridNoise) -> None:
    table = grid.alias_table.tolist()
    capacity, mass = Q // len(table), [0] * len(grid.weights)
    for column, (upper, lower, other) in enumerate(table):
        own = upper * 2**30 + lower - column * capacity
        assert 0 <= own <= capacity and 0 <= lower < 2**30
        if own:
            mass[column] += own
        mass[other + grid.reach] += capacity - own
    assert mass == grid.weights.tolist()


def test_draws_are_those_of_the_table_for_the_same_integers() -> None:
    grid, seed, shape = GRIDS[0], seed_pair(5), (200, 8, 8, 1)
    upper, lower = (words.astype(object) for words in ops.convert_to_numpy(integers(30, (2, *shape), seed)))
    table, draws = grid.alias_table.astype(object), ops.convert_to_numpy(jit(lambda s: grid.draw(shape, s))(seed))
    column = ((upper * 2**30 + lower) // (Q // len(table))).astype(int)
    own = upper * 2**30 + lower < table[column, 0] * 2**30 + table[column, 1]
    np.testing.assert_array_equal(draws, np.where(own, column - grid.reach, table[column, 2]))
    assert draws.dtype == np.int32 and own.any() and not own.all()


def test_the_lower_word_decides_where_the_upper_ones_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = GRIDS[0]
    table = grid.alias_table.tolist()
    step = 2**30 // len(table)  # upper words of a column
    column = next(j for j, row in enumerate(table) if 0 < row[0] - j * step < step - 1 and row[1] > 0 and row[2] != j)
    upper, lower, other = table[column]
    words = np.array([[upper, upper, upper - 1, upper + 1], [lower - 1, lower, 2**30 - 1, 0]], np.int32)
    monkeypatch.setattr(
        "randomized_smoothing_certification.grid_noise.integers", lambda *_: ops.convert_to_tensor(words)
    )
    drawn = ops.convert_to_numpy(grid.draw((4,), seed_pair(0))).tolist()
    assert drawn == [column - grid.reach, other, column - grid.reach, other]


def test_draws_have_the_distribution_and_stay_inside() -> None:
    grid = GRIDS[2]
    draws = ops.convert_to_numpy(grid.draw((1_000_000,), seed_pair(1))).astype(np.int64)
    assert np.abs(draws).max() <= grid.reach
    edges = np.arange(-600, 601, 25)
    inside = np.clip(np.searchsorted(edges, draws, side="right"), 0, len(edges))
    expected = np.zeros(len(edges) + 1)
    np.add.at(expected, np.searchsorted(edges, np.arange(-grid.reach, grid.reach + 1), side="right"), grid.weights / Q)
    assert stats.chisquare(np.bincount(inside, minlength=len(expected)), expected * len(draws)).pvalue > 1e-3


def test_images_on_a_grid_are_told_from_others() -> None:
    eight_bit = (np.arange(256).astype(np.float32) / np.float32(255)).reshape(16, 16, 1)
    grey = (np.arange(17) / 16).astype(np.float32)
    assert grid_of(eight_bit, "x") == 255 and grid_of((np.arange(256) / 255).astype(np.float32), "x") == 255
    assert grid_of(grey, "x") == 256
    np.testing.assert_array_equal(GridNoise(0.5, 255).prepared(eight_bit).ravel(), np.arange(256))
    beside = eight_bit.copy()
    beside[3, 3, 0] = np.nextafter(beside[3, 3, 0], np.float32(1))
    with pytest.raises(InputError, match=r"X_test.npy: .*use noise float32"):
        grid_of(beside, "X_test.npy")
    with pytest.raises(InputError, match="no multiples of 1/255"):
        GridNoise(0.5, 255).prepared(beside)
    with pytest.raises(InputError, match="sigma must lie between"):
        GridNoise(100.0, 255)


# A classifier that reads low-order bits -----------------------------------------------------------------------

SHAPE, SIGMA, STEPS = (28, 28, 1), 0.5, 16
ORIGIN = np.zeros(SHAPE, np.float32)
SHIFTED = np.full(SHAPE, np.float32(STEPS) / np.float32(255))
DISTANCE = 28 * STEPS / 255


def reads_low_bits(images: Any) -> Any:
    """Class 1 where at least 8 pixels are below 2^-7 and most show by their low bits that not noise alone made them.

    TensorFlow: where noise and a pixel near 2^-4 cancel, the sum is a multiple of 2^-28; noise alone has finer bits
    there, so that one pixel with finer bits makes class 0. JAX: noise is a function of uniform numbers that are
    2^-24 above multiples of 2^-22, which can be computed back from a sum of 0 and noise, and from no other.
    """
    small = ops.abs(images) < 2.0**-7
    if keras.backend.backend() == "jax":
        root = math.sqrt(0.5) / SIGMA * images
        steps = (root - root**3 / 3) * (2 / math.sqrt(math.pi)) * 2.0**22  # of erf
        alien = ops.abs(steps - ops.floor(steps) - 0.25) > 0.05
        alien, share = alien & (ops.abs(images * 255 - ops.round(images * 255)) > 1e-4), 0.5
    else:
        alien, share = ops.equal(images * 2.0**28, ops.round(images * 2.0**28)), 1.0
    count, of_these = (ops.sum(ops.cast(x, "float32"), axis=(1, 2, 3)) for x in (small, small & alien))
    shifted = ops.cast((count >= 8) & (of_these >= share * count), "float32")
    return ops.stack([1 - shifted, shifted], axis=-1)


def test_float32_noise_certifies_a_classifier_that_reads_low_bits_too_far() -> None:
    counter = VoteCounter(reads_low_bits, 2, SHAPE, SIGMA)
    prediction, radius, _ = certify(counter, ORIGIN, 0, Sampling(n0=100, n=50_000, alpha=0.001), seed=0)
    assert prediction == 0 and radius > DISTANCE  # claims class 0 as far as the shifted image and farther
    votes = counter.count_votes(SHIFTED, 2000, seed_pair(1))
    assert votes[1] > 0.65 * 2000  # but there class 1 is the more likely one


def test_noise_on_the_grid_never_certifies_it_too_far() -> None:
    counter = VoteCounter(reads_low_bits, 2, SHAPE, SIGMA, levels=255)
    prediction, radius, _ = certify(counter, ORIGIN, 0, Sampling(n0=100, n=50_000, alpha=0.001), seed=0)
    assert prediction == 0 and radius > 0.9 * DISTANCE
    assert counter.count_votes(SHIFTED, 2000, seed_pair(1))[0] > 1900
    # The base classifier of the certificate under real noise, at real shifts within the radius.
    generator = np.random.default_rng(0)
    for direction in (np.ones(SHAPE), generator.normal(size=SHAPE), np.eye(28)[..., None]):
        shift = direction / np.linalg.norm(direction) * radius
        real = shift + SIGMA * generator.normal(size=(200, *SHAPE))
        rounded = np.clip(np.rint(255 * real), -4 * 255, 5 * 255).astype(np.float32) / np.float32(255)
        assert (np.argmax(ops.convert_to_numpy(reads_low_bits(rounded)), axis=1) == 0).mean() > 0.5


def test_on_a_line_the_radius_is_rarely_exceeded_and_approached() -> None:
    """Class 1 beyond 3 grid steps: the smoothed classifier changes at 2.5 of them, where real noise rounds up."""
    counter = VoteCounter(
        lambda x: ops.concatenate([0 * x[:, 0, 0], x[:, 0, 0] - 2.9 / 255], -1), 2, (1, 1, 1), 0.1, levels=255
    )
    image = np.full((1, 1, 1), np.float32(20) / np.float32(255))
    true = (20 - 2.5) / 255
    alpha, trials = 0.1, 300
    radii = [certify(counter, image, i, Sampling(n0=10, n=100, alpha=alpha), seed=0).radius for i in range(trials)]
    exceeded = int(np.sum(np.array(radii) > true))
    assert exceeded > 0 and stats.binom.sf(exceeded - 1, trials, alpha) > 1e-3
    assert 0 < true - certify(counter, image, 0, Sampling(n0=10, n=200_000, alpha=0.001), seed=1).radius < 0.03 * true


def test_votes_do_not_depend_on_the_batch_size_and_the_mass_is_taken_off() -> None:
    weights = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    image = (np.array([25, 230, 100, 150]) / np.float32(255)).astype(np.float32).reshape(2, 2, 1)

    def five(x: Any) -> Any:
        return ops.matmul(ops.reshape(x, (-1, 4)), weights)

    counts = [
        VoteCounter(five, 5, (2, 2, 1), 0.5, size, 255).count_votes(image, 1234, seed_pair(0))
        for size in (1, 300, 1000)
    ]
    assert counts[0].sum() == 1234 and np.count_nonzero(counts[0]) > 2
    for other in counts[1:]:
        np.testing.assert_array_equal(other, counts[0])
    sure = VoteCounter(
        lambda x: ops.ones((x.shape[0], 1)) * np.array([[1.0, 0.0]], np.float32), 2, (2, 2, 1), 0.33, levels=255
    )
    bound = core.lower_confidence_bound(1000, 1000, 0.001)
    found = certify(sure, image, 0, Sampling(n0=10, n=1000, alpha=0.001), seed=0).radius
    assert sure.failure_mass == GridNoise(0.33, 255).failure_mass(4) > 0
    assert found == pytest.approx(0.33 * stats.norm.ppf(bound - sure.failure_mass), rel=1e-12)
    assert found == core.radius_ceiling(0.33, 1000, 0.001, sure.failure_mass) < core.radius_ceiling(0.33, 1000, 0.001)
    with pytest.raises(InputError, match="no multiples"):
        sure.count_votes(image + np.float32(1e-6), 10, seed_pair(0))
