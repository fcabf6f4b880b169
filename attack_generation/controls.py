"""Perturbations that cost no optimisation: the controls of every table and the starts of the attack."""

import numpy as np

from data.files import InputError

CONTROLS = ("random", "constant")


def starting_poison(start: str, x: np.ndarray, epsilon: float, seed: int) -> np.ndarray:
    """Perturb images x (N, H, W, C), float32 in [0, 1], within epsilon and [0, 1]; returns float32.

    start: 'zero' returns x; 'random' adds epsilon times independent random signs; 'constant' adds epsilon to
    every pixel (a uniform brightness shift).
    """
    if start == "zero":
        return x.copy()
    if start == "random":
        signs = np.random.default_rng([seed, 0x5167]).choice(np.float32([-1, 1]), size=x.shape)
        return np.clip(x + np.float32(epsilon) * signs, 0, 1)
    if start == "constant":
        return np.clip(x + np.float32(epsilon), 0, 1)
    raise InputError(f"start must be 'zero', 'random' or 'constant', got {start!r}")
