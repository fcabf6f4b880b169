"""Noise of single images: a function of image, seed and place alone, and normally distributed."""

import numpy as np
import pytest
from keras import ops
from scipy import stats

from bilevel_optimizer.autodiff import jit
from runtime.noise import SEED_WORDS, Stream, epoch_order, fold_in, integers, normal, normal_of_images, seed_pair

SHAPE, SEED = (2, 9, 5, 1), seed_pair(3, 4)


def noise(images: np.ndarray, seed: np.ndarray = SEED) -> np.ndarray:
    return ops.convert_to_numpy(normal_of_images(SHAPE, images.astype(np.int32), seed))


def test_an_image_has_its_noise_in_every_batch_and_compiled() -> None:
    whole = noise(np.arange(50))
    assert whole.shape == (50, *SHAPE) and whole.dtype == np.float32
    some = np.array([31, 7, 49])
    np.testing.assert_allclose(noise(some), whole[some], atol=1e-5)  # the same bits before log and cos
    compiled = ops.convert_to_numpy(jit(lambda i, s: normal_of_images(SHAPE, i, s))(some.astype(np.int32), SEED))
    np.testing.assert_allclose(compiled, whole[some], atol=1e-5)


def test_every_backend_has_the_values_of_the_formula() -> None:
    def mixed(x: int) -> int:
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = ((x ^ (x >> shift)) * factor) % 2**32
        return x ^ (x >> 16)

    def unit(image: int, place: int) -> float:
        first = mixed((image + int(SEED[0])) % 2**32)
        second = mixed((image * 0x9E3779B9 + int(SEED[1])) % 2**32)
        bits = mixed((mixed((place * 0x9E3779B9 + first) % 2**32) + second) % 2**32)
        return ((bits >> 8) + 0.5) / 2**24

    images = np.array([0, 12345, 54_999])
    found = noise(images).reshape(3, 90)
    for row, image in enumerate(images.tolist()):
        for pair in range(45):
            radius, angle = np.sqrt(-2 * np.log(unit(image, pair))), 2 * np.pi * unit(image, 45 + pair)
            assert found[row, pair] == pytest.approx(radius * np.cos(angle), abs=1e-4)
            assert found[row, 45 + pair] == pytest.approx(radius * np.sin(angle), abs=1e-4)


def test_it_is_standard_normal_and_independent_between_images_and_places() -> None:
    values = noise(np.arange(3000)).reshape(3000, 90).astype(np.float64)
    assert stats.kstest(values.ravel(), "norm").pvalue > 0.01
    assert values.mean() == pytest.approx(0, abs=0.01) and values.std() == pytest.approx(1, abs=0.01)
    assert stats.kurtosis(values.ravel()) == pytest.approx(0, abs=0.03)
    places = np.corrcoef(values.T) - np.eye(90)
    assert np.abs(places).max() < 5.5 / np.sqrt(3000)
    squares = np.corrcoef((values**2).T) - np.eye(90)
    assert np.abs(squares).max() < 8 / np.sqrt(3000)
    images = np.corrcoef(values[:500]) - np.eye(500)
    assert np.abs(images).max() < 6 / np.sqrt(90)
    assert len(np.unique(values[:, 0])) > 2990


def test_other_seeds_give_other_noise() -> None:
    first = noise(np.arange(200)).ravel()
    for seed in (SEED + np.array([1, 0]), SEED + np.array([0, 1]), seed_pair(3, 5)):
        other = noise(np.arange(200), seed.astype(np.int32)).ravel()
        assert abs(np.corrcoef(first, other)[0, 1]) < 5 / np.sqrt(len(first))


def test_counts_walk_through_the_wrap_without_meeting() -> None:
    """The seeds of a stream's draws, and the noise that the backend makes of them, all differ."""
    for second in (SEED_WORDS - 1, SEED_WORDS - 3, 0, 5):
        stream = np.array([7, second], np.int32)
        counts = [*range(12), 2**30, SEED_WORDS - 2, SEED_WORDS - 1]
        seeds = [tuple(ops.convert_to_numpy(fold_in(stream, np.int32(count))).tolist()) for count in counts]
        assert len(set(seeds)) == len(counts)
        assert all(first == 7 and 0 <= word < SEED_WORDS for first, word in seeds)
        compiled = jit(lambda count, stream=stream: normal((4,), fold_in(stream, count)))
        drawn = [
            tuple(ops.convert_to_numpy(compiled(ops.convert_to_tensor(np.int32(count)))).tolist()) for count in counts
        ]
        assert len(set(drawn)) == len(counts)


def test_seeds_of_different_words_differ() -> None:
    words = [
        (3, 1),
        (3, 1, 0),
        (3, 1, 0, 0),
        (1, 3),
        (31,),
        (3, 10),
        (0,),
        (0, 0),
        (2**32,),
        (0, 1),
        (2**40, 1),
        (2**31 - 4,),
    ]
    words += [(seed, stream, step) for seed in range(3) for stream in Stream for step in (0, 1, 2**31)]
    seeds = {tuple(seed_pair(*one).tolist()) for one in words}
    assert len(seeds) == len(words)
    assert all(0 <= word < SEED_WORDS for seed in seeds for word in seed)
    assert seed_pair(3, Stream.BOOTSTRAP).tolist() == seed_pair(3, int(Stream.BOOTSTRAP)).tolist()


def test_integers_are_uniform_below_a_power_of_two() -> None:
    drawn = ops.convert_to_numpy(integers(30, (100_000,), SEED))
    assert drawn.dtype == np.int32 and drawn.min() >= 0 and drawn.max() < 2**30
    for shift in (26, 0):  # upper and lower bits
        counts = np.bincount((drawn >> shift) & 15, minlength=16)
        assert stats.chisquare(counts).pvalue > 1e-3


def test_the_order_of_an_epoch_is_a_shuffle_of_its_own() -> None:
    orders = {
        (seed, stream, epoch): epoch_order(seed, stream, epoch, 100)
        for seed in (0, 1)
        for stream in (Stream.ATTACK_BATCHES, Stream.VICTIM_BATCHES)
        for epoch in (0, 1)
    }
    assert all(sorted(order) == list(range(100)) and order.dtype == np.int32 for order in orders.values())
    assert len({order.tobytes() for order in orders.values()}) == len(orders)
    epoch_order.cache_clear()
    assert all(np.array_equal(epoch_order(*words, 100), order) for words, order in orders.items())
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(0, Stream.VICTIM_BATCHES, 0, 100)[0] = 1
