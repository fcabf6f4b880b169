"""Published attacks on availability without a network: each has the property that its paper states."""

import numpy as np
import pytest

from attack_generation.availability import autoregressive, one_pixel, separable_patches
from attack_generation.controls import control_poison

KINDS = "one_pixel", "separable_patches", "autoregressive"
EPSILON = 0.1


def images(channels: int, count: int = 40, side: int = 8) -> np.ndarray:
    """Images far enough from black and white that no change by epsilon is clipped."""
    return np.random.default_rng(channels).uniform(0.2, 0.8, size=(count, side, side + 1, channels)).astype("float32")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_shortcut_is_inside_epsilon_and_a_function_of_the_seed(kind: str, channels: int) -> None:
    x = np.clip(2 * images(channels) - 0.5, 0, 1)  # with black and white pixels
    poison = control_poison(kind, x, EPSILON, 0.25, seed=1)
    assert poison.dtype == np.float32 and poison.min() >= 0 and poison.max() <= 1
    assert 0.99 * EPSILON < np.abs(poison - x).max() <= EPSILON + 1e-6
    np.testing.assert_array_equal(control_poison(kind, x, EPSILON, 0.25, seed=1), poison)
    if kind != "one_pixel":  # which draws nothing
        assert not np.array_equal(control_poison(kind, x, EPSILON, 0.25, seed=2), poison)


def test_the_pixel_is_the_place_and_value_of_the_largest_mean_distance_over_its_variance() -> None:
    """Against all places and values, counted one by one; arXiv 2205.12141, algorithm 1."""
    x = images(3, side=4)
    x[:, 0, 0] = 0.5 + 0.0095 * (x[:, 2, 3] - 0.5)  # varies least, but is no further than 1.5 from any value
    x[:, 2, 3] = [0.3, 0.6, 0.7] + 0.01 * (x[:, 2, 3] - 0.5)
    changed = one_pixel(x)
    where = np.argwhere(np.any(changed != x, axis=(0, 3)))
    np.testing.assert_array_equal(where, [[2, 3]])
    np.testing.assert_array_equal(changed[:, 2, 3], np.broadcast_to([1, 0, 0], (len(x), 3)))

    def score(row: int, column: int, value: tuple[int, ...]) -> float:
        distances = [sum(abs(float(one) - v) for one, v in zip(image[row, column], value, strict=True)) for image in x]
        return float(np.mean(distances) / np.var(distances))

    found = score(2, 3, (1, 0, 0))
    assert found == max(score(row, column, v) for row in range(4) for column in range(5) for v in np.ndindex(2, 2, 2))
    x[:, 1, 1] = 0.5  # does not vary at all, as the border of a digit
    assert np.all(one_pixel(x)[:, 1, 1] != 0.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_linear_classifier_separates_patches_of_classes_and_of_no_change(channels: int) -> None:
    """Fitted to a half of each class's noise, right for the other half; arXiv 2111.00898."""
    x = images(channels, count=200)
    noises = [separable_patches(x, EPSILON, seed) - x for seed in range(4)]
    np.testing.assert_allclose(np.sqrt(np.square(noises[0]).mean(axis=(1, 2, 3))), EPSILON, rtol=1e-4)
    changes = [control_poison("separable_patches", x, EPSILON, 0.25, seed) - x for seed in range(4)]
    for several in (noises, changes):
        points = np.stack([*several, 0 * several[0]]).reshape(5, len(x), -1)
        points = np.concatenate([points, np.full_like(points[..., :1], EPSILON)], axis=-1)
        labels = np.repeat(np.eye(5), len(x) // 2, axis=0)
        linear = np.linalg.lstsq(points[:, ::2].reshape(len(labels), -1), labels, rcond=1e-6)[0]
        seen = np.argmax(points[:, 1::2].reshape(len(labels), -1) @ linear, axis=1)
        np.testing.assert_array_equal(seen, labels.argmax(axis=1))
    for side, patches in ((8, 4), (9, 4)):  # each of one colour, and all of a size where the side divides by 4
        axis = 1 if side == 8 else 2
        jumps = np.abs(np.diff(noises[0], axis=axis)).max(axis=(0, 3 - axis, 3)) > 1e-6
        assert np.sum(jumps) == patches - 1


def predicted(noise: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Weights (8,) of each pixel's 8 pixels before it, fitted when not given, and what is left of noise (N, H, W)."""
    windows = np.lib.stride_tricks.sliding_window_view(noise.astype(np.float64), (3, 3), axis=(1, 2)).reshape(-1, 9)
    if weights is None:
        weights = np.linalg.lstsq(windows[:, :8], windows[:, 8], rcond=None)[0]
    return weights, windows[:, :8] @ weights - windows[:, 8]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_filter_of_the_class_answers_zero_to_its_autoregressive_noise(channels: int) -> None:
    """One filter for all images of the class and another for every channel; arXiv 2206.03693."""
    x = images(channels)
    noise = control_poison("autoregressive", x, EPSILON, 0.25, seed=1) - x
    np.testing.assert_allclose(np.abs(noise).max(axis=(1, 2, 3)), EPSILON, atol=1e-6)
    other = autoregressive(x, EPSILON, seed=2) - x
    filters = []
    for channel in range(channels):
        weights, rest = predicted(noise[..., channel])
        assert np.abs(rest).max() < 1e-5 and weights.sum() == pytest.approx(1, abs=1e-3)
        assert np.abs(predicted(other[..., channel], weights)[1]).mean() > 1e-3
        filters.append(weights)
    assert all(np.abs(one - filters[0]).max() > 0.1 for one in filters[1:])
    assert np.abs(noise[0] - noise[1]).max() > 0.01  # each image has its own start
