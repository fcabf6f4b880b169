"""Perturbations that cost no optimisation: the controls of every table and the starts of the attack."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data.datasets import check_poison, load_dataset, poison_paths, require_epsilon, require_sigma, split_target_class
from runtime.files import InputError, array_sha256, load_array, save_array
from runtime.long_run import CheckpointControls, LongRun, identity, require_not_negative
from runtime.noise import Stream
from runtime.provenance import shown_path
from runtime.stop import Stop

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
        signs = np.random.default_rng([seed, Stream.CONTROL_SIGNS]).choice(np.array([-1, 1], np.float32), size=x.shape)
        return np.clip(x + np.float32(epsilon) * signs, 0, 1)
    if start == "constant":
        return np.clip(x + np.float32(epsilon), 0, 1)
    if start == "contrast":
        return np.clip(np.where(x <= 0.5, x + np.float32(epsilon), x - np.float32(epsilon)), 0, 1)
    raise InputError(f"start must be 'zero', 'random', 'constant' or 'contrast', got {start!r}")


@dataclass(frozen=True, kw_only=True)
class ControlConfig(CheckpointControls):
    """Settings of a control."""

    target_class: int = 8
    """Class whose training images are changed."""
    kind: Literal["random", "constant", "contrast"] = "constant"
    """The change."""
    epsilon: float = 0.1
    """l-infinity bound on the change of each pixel; pixels are in [0, 1]."""
    sigma: float = 0.5
    """Noise level in the name of the file; the change does not depend on it."""
    seed: int = 0
    """Seed of the random signs."""


def write_control_poison(config: ControlConfig) -> Path:
    """Write a control in place of poison, with its record, under the names that poison has; returns its images' path.

    Raises InputError on bad settings, and where the file is there with other ones.
    """
    require_epsilon(config.epsilon)
    require_sigma(config.sigma)
    require_not_negative(config, "seed")
    dataset = load_dataset(config.data_dir)
    target = split_target_class(dataset.x_train, dataset.y_train, config.target_class)
    x_path, y_path = poison_paths(config.out_dir or config.data_dir, config.kind, config.sigma, config.target_class)
    hashes = {name: array_sha256(getattr(dataset, name)) for name in ("x_train", "y_train")}
    with LongRun(
        x_path, identity(config, **hashes), config, x_path.with_suffix(""), Stop(config.max_minutes), more=(y_path,)
    ) as run:
        finished = run.is_finished()
        save_labels(y_path, target.y_target)
        if not finished:
            poison = starting_poison(config.kind, target.x_target, config.epsilon, config.seed)
            check_poison(poison, target.x_target, config.epsilon, x_path)
            run.finish(lambda path: save_array(path, poison), config)
            print(f"{shown_path(x_path)}: {len(poison)} images, written")
    return x_path


def save_labels(path: Path, y: np.ndarray) -> None:
    """Write a poison's labels, one-hot (N, K), where they are not there whole: a kill may have come before them."""
    try:
        if np.array_equal(load_array(path), y):
            return
    except InputError:
        pass  # missing or damaged
    save_array(path, y)
