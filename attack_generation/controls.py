"""Perturbations that cost no optimisation: the controls of every table and the starts of the attack."""

from pathlib import Path

import numpy as np

from data.datasets import Dataset, check_poison, poison_paths, split_target_class
from runtime.files import InputError, save_array

CONTROLS = ("random", "constant", "contrast")


def starting_poison(start: str, x: np.ndarray, epsilon: float, seed: int) -> np.ndarray:
    """Perturb images x (N, H, W, C), float32 in [0, 1], within epsilon and [0, 1]; returns float32.

    start: 'zero' returns x; 'random' adds epsilon times independent random signs; 'constant' adds epsilon to
    every pixel (a uniform brightness shift); 'contrast' moves dark pixels (at most 1/2) up
    and bright ones down by epsilon: with epsilon at most 1/2 none is clipped, so no poison is larger in l2.
    """
    if start == "zero":
        return x.copy()
    if start == "random":
        signs = np.random.default_rng([seed, 0x5167]).choice(np.array([-1, 1], np.float32), size=x.shape)
        return np.clip(x + np.float32(epsilon) * signs, 0, 1)
    if start == "constant":
        return np.clip(x + np.float32(epsilon), 0, 1)
    if start == "contrast":
        return np.clip(np.where(x <= 0.5, x + np.float32(epsilon), x - np.float32(epsilon)), 0, 1)
    raise InputError(f"start must be 'zero', 'random', 'constant' or 'contrast', got {start!r}")


def write_control_poison(
    dataset: Dataset, kind: str, sigma: float, target_class: int, epsilon: float, seed: int, out_dir: Path
) -> Path:
    """Write a control in place of poison, under the names that poison has; returns the path of its images.

    kind: one of CONTROLS. sigma: only part of the name, for a control does not depend on it.
    """
    target = split_target_class(dataset.x_train, dataset.y_train, target_class)
    x_path, y_path = poison_paths(out_dir, kind, sigma, target_class)
    poison = starting_poison(kind, target.x_target, epsilon, seed)
    check_poison(poison, target.x_target, epsilon, x_path)
    save_array(y_path, target.y_target)
    save_array(x_path, poison)
    return x_path
