"""Gaussian noise as a pure function of a seed, inside and outside compiled code, on every backend."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

_GENERATOR = keras.random.SeedGenerator(seed=0)


def seed_pair(*words: int) -> np.ndarray:
    """Hash non-negative integers (run seed, stream, step, ...) into one seed, int32 of shape (2,).

    Different words give independent streams (NumPy's SeedSequence); the same words, the same seed on
    every machine.
    """
    return (np.random.SeedSequence(words).generate_state(2) >> 1).astype(np.int32)


def fold_in(seed: Any, count: Any) -> Any:
    """Seed of draw number ``count`` (int scalar, may be traced) of the stream ``seed`` (int32, (2,))."""
    return ops.stack([seed[0], seed[1] + count])


def normal(shape: tuple[int, ...], seed: Any) -> Any:
    """Standard normal float32 tensor of ``shape``, a pure function of ``seed`` (int32 (2,), also traced)."""
    return _draw(keras.random.normal, shape, seed)


def uniform(shape: tuple[int, ...], seed: Any) -> Any:
    """Uniform float32 tensor of ``shape`` in [0, 1), a pure function of ``seed`` as in normal."""
    return _draw(keras.random.uniform, shape, seed)


def _draw(distribution: Callable[..., Any], shape: tuple[int, ...], seed: Any) -> Any:
    state = ops.cast(seed, _GENERATOR.state.dtype)
    with keras.StatelessScope(state_mapping=[(_GENERATOR.state, state)]):
        return distribution(shape, seed=_GENERATOR)
