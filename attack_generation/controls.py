"""Perturbations made without a network: the controls of the tables, and the starts of the attack."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from attack_generation.availability import autoregressive, class_filter, one_pixel, separable_patches
from data.datasets import (
    Epsilon,
    Share,
    Sigma,
    load_dataset,
    partly_poisoned,
    poison_paths,
    require_within_epsilon,
    save_labels,
    target_mask,
)
from runtime.bounds import Seed, require_within
from runtime.checks import chosen, require_usable
from runtime.files import InputError, save_array
from runtime.lazy import linalg
from runtime.long_run import CheckpointOptions, LongRun, identity
from runtime.noise import Stream
from runtime.provenance import printed_path, project_path
from runtime.stop import Stop


def _random_signs(shape: tuple[int, ...], *seed: int) -> np.ndarray:
    return np.random.default_rng([*seed, Stream.CONTROL_SIGNS]).choice(np.array([-1, 1], np.float32), size=shape)


def _halves(x: np.ndarray, seed: int) -> np.ndarray:
    return np.where(np.arange(x.shape[2])[:, None] < x.shape[2] / 2, np.float32(1), np.float32(-1))


def _tint(x: np.ndarray, seed: int) -> np.ndarray:
    if x.shape[-1] != 3:
        raise InputError(f"'tint' needs images of three channels, these have {x.shape[-1]}: leave it out")
    return np.array([1, -1, 1], np.float32)


def detectable_signs(x: np.ndarray, epsilon: float, sigma: float, seed: int) -> np.ndarray:
    """Signs s (H, W, C), float32, whose shift epsilon s of a class is easiest to see for a linear test under noise.

    Clipped to [0, 1], the shift has the mean m over the images. The best linear test sees it with the squared
    signal-to-noise ratio m^T S^-1 m, where S is the covariance of the images x (N, H, W, C) plus sigma^2 I. From
    all ones, all minus ones and 14 draws of random signs, the sign with the largest gain is flipped until no flip
    gains. The best of these results is returned.
    """
    flat = x.reshape(len(x), -1).astype(np.float64)
    size = flat.shape[1]
    spread = np.cov(flat, rowvar=False) if len(flat) > 1 else 0.0
    inverse = linalg.inv(np.atleast_2d(spread) + sigma**2 * np.eye(size))
    up, down = ((np.clip(flat + change, 0, 1) - flat).mean(axis=0) for change in (epsilon, -epsilon))

    def climbed(signs: np.ndarray) -> tuple[float, np.ndarray]:
        signs = signs.astype(np.float64)
        shift = np.where(signs > 0, up, down)
        direction = inverse @ shift
        while True:
            change = np.where(signs > 0, down - up, up - down)
            gain = 2 * change * direction + np.square(change) * np.diag(inverse)
            best = int(np.argmax(gain))
            if gain[best] <= 1e-9 * (shift @ direction):
                return float(shift @ direction), signs
            signs[best] *= -1
            shift[best] += change[best]
            direction += change[best] * inverse[:, best]

    uniform = [np.ones(size), -np.ones(size)]
    ends = [climbed(signs) for signs in (*uniform, *(_random_signs((size,), seed, i) for i in range(14)))]
    return max(ends, key=lambda end: end[0])[1].reshape(x.shape[1:]).astype(np.float32)


Control = Callable[[np.ndarray, float, float, int], np.ndarray]  # images x, epsilon, sigma, seed -> changed images


def _adding(signs: Callable[[np.ndarray, int], np.ndarray]) -> Control:
    """The control that adds epsilon times the signs. signs(x, seed) broadcasts over the images x (N, H, W, C)."""
    return lambda x, epsilon, sigma, seed: x + np.float32(epsilon) * signs(x, seed)


CONTROLS: dict[str, Control] = {
    "random": _adding(lambda x, seed: _random_signs(x.shape, seed)),
    "constant": _adding(lambda x, seed: np.ones((), np.float32)),
    "contrast": _adding(lambda x, seed: np.where(x <= 0.5, np.float32(1), np.float32(-1))),
    "darker": _adding(lambda x, seed: -np.ones((), np.float32)),
    "halves": _adding(_halves),
    "tint": _adding(_tint),
    "class_signs": _adding(lambda x, seed: _random_signs(x.shape[1:], seed)),
    "detectable": lambda x, epsilon, sigma, seed: x + np.float32(epsilon) * detectable_signs(x, epsilon, sigma, seed),
    "class_filter": lambda x, epsilon, sigma, seed: class_filter(x, seed),
    "one_pixel": lambda x, epsilon, sigma, seed: one_pixel(x),
    "separable_patches": lambda x, epsilon, sigma, seed: separable_patches(x, epsilon, seed),
    "autoregressive": lambda x, epsilon, sigma, seed: autoregressive(x, epsilon, seed),
}
"""Controls: images before they are brought back within epsilon and [0, 1]. See ``ControlConfig.kind``.

With epsilon at most 1/2, 'contrast' clips no pixel, so that no poison is larger in l2.
"""

ControlName: TypeAlias = Literal[tuple(CONTROLS)]  # type: ignore[valid-type]
StartName: TypeAlias = Literal["zero", "random", "constant", "contrast", "halves"]
"""Starts of the attack: the clean images, or a control. See ``PoisonConfig.start``."""


def control_poison(kind: str, x: np.ndarray, epsilon: float, sigma: float, seed: int) -> np.ndarray:
    """Images x (N, H, W, C) of one class, float32 in [0, 1], changed within epsilon and [0, 1] without optimisation.

    kind: a name of CONTROLS. sigma: standard deviation of the noise. Only 'detectable' uses it. Raises InputError on
    another name and on a tint of grey images.
    """
    size = np.float32(epsilon)
    changed = chosen("kind", CONTROLS, kind)(x, epsilon, sigma, seed)
    return np.clip(np.clip(changed, x - size, x + size), 0, 1)


def starting_poison(start: str, x: np.ndarray, epsilon: float, seed: int) -> np.ndarray:
    """Start of the attack on images x (N, H, W, C), float32 in [0, 1], within epsilon and [0, 1]; float32.

    start: a StartName. Raises InputError on another name.
    """
    require_within("start", start, StartName)
    return x.copy() if start == "zero" else control_poison(start, x, epsilon, 0.0, seed)


@dataclass(frozen=True, kw_only=True)
class ControlConfig(CheckpointOptions):
    """Settings of a control. It is made at once, so run_dir, checkpoint_minutes and max_minutes have no effect."""

    target_class: int = 8
    """Class whose training images are changed."""
    kind: ControlName = "constant"
    """The change: random signs, brighter, less contrast, darker, left half brighter and right half darker, a tint
    (colour images: red and blue up, green down), one pattern of random signs for the class, the signs that a linear
    classifier sees best under noise, one random filter for the class (CUDA, arXiv 2303.04278), one pixel (OPS, arXiv
    2205.12141), linearly separable patches (LSP, arXiv 2111.00898), or autoregressive noise (AR, arXiv 2206.03693)."""
    epsilon: Epsilon = 0.1
    """l-infinity bound on the change of each pixel; pixels are in [0, 1]."""
    share: Share = 1.0
    """Share of the class's training images that are changed. They are the same in every run."""
    sigma: Sigma = 0.5
    """Noise level in the name of the file. Only the control 'detectable' depends on it."""
    seed: Seed = 0
    """Seed of random signs, filters, patches and noise."""
    data_dir: Path = project_path("data/MNIST")


def write_control_poison(config: ControlConfig) -> Path:
    """Write a control in place of poison, with its record, under the file names of poison; returns the images' path.

    Raises InputError on bad settings, and where the file exists with other settings.
    """
    require_usable(config)
    dataset = load_dataset(config.data_dir)
    in_class = target_mask(dataset.y_train, config.target_class)
    clean = dataset.x_train[in_class]
    x_path, y_path = poison_paths(config.out_dir or config.data_dir, config.kind, config.sigma, config.target_class)
    settings = identity(config, **dataset.hashes("x_train", "y_train"))
    with LongRun(x_path, settings, config, x_path.with_suffix(""), Stop(config.max_minutes), y_path) as run:
        if not run.is_finished():
            poison = control_poison(config.kind, clean, config.epsilon, config.sigma, config.seed)
            poison = partly_poisoned(poison, clean, config.share)
            require_within_epsilon(poison, clean, config.epsilon, x_path)
            run.finish(lambda path: save_array(path, poison))
            print(f"{printed_path(x_path)}: {len(poison)} images, written")
        save_labels(y_path, dataset.y_train[in_class])
    return x_path
