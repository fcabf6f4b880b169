"""Views for contrastive learning: what changes, what stays, and that each image has its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from keras import ops

from bilevel_optimizer import autodiff
from robust_training.views import VIEWS, random_affine, random_grey, random_resized_crop
from runtime.noise import seed_pair


def images(count: int, size: int) -> np.ndarray:
    """Images whose pixels all differ and are not 0, so that a place can be read from a value."""
    values = np.arange(1, count * size * size * 2 + 1, dtype=np.float32)
    return values.reshape(count, size, size, 2)


@pytest.mark.parametrize("name", list(VIEWS))
def test_views_are_other_images_of_the_same_thing(name: str) -> None:
    x = np.zeros((4, 16, 16, 3), np.float32)
    x[:, 5:11, 5:11] = 0.8
    views = [ops.convert_to_numpy(VIEWS[name](ops.convert_to_tensor(x), seed_pair(k))) for k in (0, 1)]
    assert np.abs(views[0] - views[1]).max(axis=(1, 2, 3)).min() > 0.05
    assert views[0].shape == x.shape and np.isfinite(views[0]).all()


def test_some_views_lose_their_colours() -> None:
    x = ops.convert_to_tensor(np.random.default_rng(0).uniform(size=(400, 8, 8, 3)).astype(np.float32))
    seen = ops.convert_to_numpy(random_grey(x, seed_pair(0), share=0.25))
    grey = np.ptp(seen, axis=3).max(axis=(1, 2)) < 1e-6
    assert 0.18 < grey.mean() < 0.32
    np.testing.assert_allclose(seen[~grey], ops.convert_to_numpy(x)[~grey], atol=1e-5)


def turned(x: np.ndarray, monkeypatch: pytest.MonkeyPatch, *draws: float, **settings: float) -> np.ndarray:
    """Images after random_affine whose draws (angle, height, width, down, right) are all the given ones."""
    none = {"rotation": 0.0, "scale": 0.0, "shift": 0.0}
    return with_draws(partial(random_affine, **{**none, **settings}), x, monkeypatch, *draws)


def with_draws(view: Callable[..., Any], x: np.ndarray, monkeypatch: pytest.MonkeyPatch, *draws: float) -> np.ndarray:
    """Images after a view all of whose draws are the given ones."""
    drawn = np.tile(np.float32(draws), (len(x), 1))
    with monkeypatch.context() as patch:
        patch.setattr("robust_training.views.uniform", lambda *_: ops.convert_to_tensor(drawn))
        return ops.convert_to_numpy(view(ops.convert_to_tensor(x), seed_pair(0)))


def test_affine_views_turn_move_and_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(2, 8)
    np.testing.assert_allclose(turned(x, monkeypatch, 1, 1, 1, 1, 1), x, rtol=1e-5)
    quarter = turned(x, monkeypatch, 1, 0.5, 0.5, 0.5, 0.5, rotation=90)
    np.testing.assert_allclose(quarter, np.rot90(x, axes=(1, 2)), rtol=1e-4)
    moved = turned(x, monkeypatch, 0.5, 0.5, 0.5, 1, 0.5, shift=2)
    np.testing.assert_allclose(moved[:, :-2], x[:, 2:], rtol=1e-5)
    np.testing.assert_allclose(moved[:, -2:], 0, atol=1e-5)
    tall = turned(x, monkeypatch, 0.5, 1, 0.5, 0.5, 0.5, scale=1)  # twice as high: a row is between two old ones
    np.testing.assert_allclose(tall[:, 4], 0.75 * x[:, 4] + 0.25 * x[:, 3], rtol=1e-4)


def test_resized_crops_show_a_part_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws: area, aspect, mirror, place down and right."""
    x = images(2, 8)
    crop = partial(random_resized_crop, smallest=0.25)
    np.testing.assert_allclose(with_draws(crop, x, monkeypatch, 1, 0.5, 1, 0.3, 0.9), x, rtol=1e-5)
    np.testing.assert_allclose(with_draws(crop, x, monkeypatch, 1, 0.5, 0, 0.3, 0.9), x[:, :, ::-1], rtol=1e-5)
    corners = {(0.0, 0.0): (0, 0), (1.0, 0.0): (-1, 0), (0.0, 1.0): (0, -1)}  # of a quarter of the area
    for place, (row, column) in corners.items():
        part = with_draws(crop, x, monkeypatch, 0, 0.5, 1, *place)
        np.testing.assert_allclose(part[:, row, column], x[:, row, column], rtol=1e-4)
        middle = part[:, -1 - row, -1 - column]  # in the middle of the image, between four pixels
        np.testing.assert_allclose(middle, x[:, 3:5, 3:5].mean(axis=(1, 2)), rtol=1e-4)
    wide = with_draws(crop, x, monkeypatch, 0.9, 1, 1, 0.5, 0.5)  # no wider than the image, but less high
    np.testing.assert_allclose(wide[:, :, 0].std(axis=1) > 0, True)
    np.testing.assert_allclose(wide[:, 3:5].mean(axis=1), x[:, 3:5].mean(axis=1), rtol=1e-4)


@pytest.mark.parametrize(
    "view",
    [partial(random_affine, rotation=30.0, scale=0.2, shift=2.0), partial(random_resized_crop, smallest=0.2)],
    ids=["affine", "crop"],
)
def test_views_are_each_images_own_compiled_and_of_the_seed(view: Callable[..., Any]) -> None:
    x = ops.convert_to_tensor(np.repeat(images(1, 8) / 200, 50, axis=0))
    seen = ops.convert_to_numpy(view(x, seed_pair(1)))
    assert len(np.unique(seen.reshape(50, -1).round(4), axis=0)) == 50
    compiled = autodiff.jit(view)
    np.testing.assert_allclose(compiled(x, seed_pair(1)), seen, atol=1e-5)
    assert np.abs(ops.convert_to_numpy(compiled(x, seed_pair(2))) - seen).max() > 0.05
