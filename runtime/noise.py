"""Gaussian noise as a pure function of a seed, inside and outside compiled code, on every backend."""

import hashlib
from collections.abc import Callable
from enum import IntEnum
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from runtime.lazy import keras, ops


class Stream(IntEnum):
    """The uses of a run's seed. Each use draws its own random numbers, see seed_pair."""

    ATTACK_WEIGHTS, ATTACK_BATCHES, ATTACK_UPPER_NOISE, ATTACK_LOWER_NOISE, ATTACK_AUGMENTATION = range(5)
    ATTACK_FIXED_UPPER_NOISE, ATTACK_FIXED_LOWER_NOISE = 5, 6
    VICTIM_WEIGHTS, VICTIM_BATCHES, VICTIM_NOISE, VICTIM_AUGMENTATION, VICTIM_FIXED_NOISE = range(100, 105)
    LABEL_FLIPS, LABEL_POINTS, LABEL_HELD_OUT, LABEL_NETWORK = range(200, 204)
    TRAININGS_THAT_SELECT, TRAININGS_THAT_BOUND = 210, 211
    CONTRASTIVE_WEIGHTS, CONTRASTIVE_BATCHES, CONTRASTIVE_VIEWS = 220, 221, 222
    PLANE_POINTS, PLANE_WEIGHTS, PLANE_VICTIM_NOISE = 300, 301, 304
    CONTROL_SIGNS, POISONED_PLACES = 0x5167, 0x5168
    CERTIFIED_POINTS, BOOTSTRAP = 0x901275, 0xB0075
    # A certificate needs noise that is independent of the classifier, which may be trained from the same seed.
    VOTES_THAT_SELECT, VOTES_THAT_BOUND, VOTES_THAT_PREDICT = 0x5E1EC70, 0x5E1EC71, 0x5E1EC72
    VOTES_TAKEN = 0x5E1EC73


SEED_WORDS = 2**31 - 2  # words of a seed lie below this number: on TensorFlow, Keras takes them modulo it


def seed_pair(*words: int | None) -> np.ndarray:
    """Hash integers (run seed, stream, step, ...) into one seed, int32 of shape (2,), each word below SEED_WORDS.

    Different words, or another number of words, give independent streams. The same words give the same seed on every
    machine. None is left out.
    """
    text = " ".join(str(int(word)) for word in words if word is not None)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return (np.frombuffer(digest, "<u8") % SEED_WORDS).astype(np.int32)


def noise_seed(seed: int, content: str) -> int:
    """Seed of a run's noise. content: a hash of the images and labels. Other sets see other noise.

    Certificates of validation images choose classifiers and settings. If test images saw the same noise, the choice
    would depend on it, and their certificates would be wrong more often than stated: with 50 classifiers to choose
    from and alpha = .01, in 35 % of the cases.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed} {content}".encode(), digest_size=8).digest(), "little")


@lru_cache(maxsize=4)
def epoch_order(seed: int, stream: Stream, epoch: int, count: int) -> np.ndarray:
    """The numbers 0 to count - 1 in the shuffled order of one epoch, int32 (count,), read-only.

    Every step of an epoch calls this pure function, so the last four orders are cached.
    """
    order = np.random.default_rng([seed, stream, epoch]).permutation(count).astype(np.int32)
    order.flags.writeable = False
    return order


def fold_in(seed: Any, count: Any) -> Any:
    """Seed of draw number ``count`` (int scalar from 0 to SEED_WORDS, may be traced) of the stream ``seed``.

    seed: int32 (2,), from seed_pair. No two counts below SEED_WORDS give the same seed. Nested folds add up:
    fold_in(fold_in(s, a), b) is fold_in(s, a + b). So the numbers that nested functions fold in must lie apart.
    """
    past_the_end = seed[1] - (SEED_WORDS - count)  # the sum itself may not fit into int32
    return ops.stack([seed[0], past_the_end + SEED_WORDS * ops.cast(past_the_end < 0, "int32")])


def normal(shape: tuple[int, ...], seed: Any) -> Any:
    """Standard normal float32 tensor of ``shape``, a pure function of ``seed`` (int32 (2,), also traced)."""
    return _draw(keras.random.normal, shape, seed)


def uniform(shape: tuple[int, ...], seed: Any) -> Any:
    """Uniform float32 tensor of ``shape`` in [0, 1), a pure function of ``seed`` as in normal."""
    return _draw(keras.random.uniform, shape, seed)


def integers(bits: int, shape: tuple[int, ...], seed: Any) -> Any:
    """Uniform int32 tensor of ``shape`` in [0, 2^bits), bits at most 30, a pure function of ``seed`` as in normal.

    Exactly uniform: both backends reduce random bits modulo the range, which has no bias for a power of two.
    """
    return _draw(partial(keras.random.randint, minval=0, maxval=2**bits, dtype="int32"), shape, seed)


def normal_of_images(shape: tuple[int, ...], images: Any, seed: Any) -> Any:
    """Standard normal float32 tensor (B, *shape): each image's own noise, the same whenever it is asked for.

    images: int32 (B,), the images' numbers, not negative. seed: int32 (2,). All may be traced. An image's noise depends
    only on the image's number, the seed and the place in ``shape``. The batch does not change it. The backend changes
    only the rounding of log, cos and sin. So the noise of a data set need not be stored.

    A counter-based generator: two rounds of a 32-bit hash of place, number and seed, then Box and Muller's
    transform. No value is larger than 5.9 in size.
    """
    size = int(np.prod(shape))
    pairs = (size + 1) // 2
    words = ops.cast(seed, "uint32")
    number = ops.cast(images, "uint32")[:, None]
    first = _mixed(number + words[0])
    second = _mixed(number * np.uint32(0x9E3779B9) + words[1])
    place = ops.convert_to_tensor(np.arange(2 * pairs, dtype=np.uint32))[None]
    bits = _mixed(_mixed(place * np.uint32(0x9E3779B9) + first) + second)
    # The upper 24 bits plus 1/2, scaled to (0, 1]. They are never 0, whose logarithm is infinite.
    units = (ops.cast(ops.right_shift(bits, np.uint32(8)), "float32") + 0.5) * 2.0**-24
    radius = ops.sqrt(-2 * ops.log(units[:, :pairs]))
    angle = 2 * np.pi * units[:, pairs:]
    values = ops.concatenate([radius * ops.cos(angle), radius * ops.sin(angle)], axis=1)
    return ops.reshape(values[:, :size], (-1, *shape))


def _mixed(x: Any) -> Any:
    """A bijection of uint32. A flip of any bit of x flips about half of the result's bits.

    Two rounds of multiplication and shift, with constants from a search for the least bias:
    https://nullprogram.com/blog/2018/07/31/.
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ops.bitwise_xor(x, ops.right_shift(x, np.uint32(shift))) * np.uint32(factor)
    return ops.bitwise_xor(x, ops.right_shift(x, np.uint32(16)))


def _draw(distribution: Callable[..., Any], shape: tuple[int, ...], seed: Any) -> Any:
    generator = _generator()
    state = ops.cast(seed, generator.state.dtype)
    with keras.StatelessScope(state_mapping=[(generator.state, state)]):
        return distribution(shape, seed=generator)


@cache
def _generator() -> Any:
    """The generator through which Keras draws from a given seed. Its own state is never read."""
    return keras.random.SeedGenerator(seed=0)
