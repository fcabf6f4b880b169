"""Diffusion maps: near is what a walk over neighbours joins, for training points and for others."""

import numpy as np
import pytest

from models.diffusion import fit_diffusion_map
from models.neighbours import nearest
from runtime.files import InputError


def rings(points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two rings, one inside the other: a point's many nearest neighbours lie on both."""
    random = np.random.default_rng(seed)
    kind = np.arange(points) % 2
    angle = random.uniform(0, 2 * np.pi, points)
    radius = np.where(kind, 1.0, 2.0) + random.normal(scale=0.08, size=points)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), kind


def purity(x: np.ndarray, among: np.ndarray, y: np.ndarray, y_among: np.ndarray, k: int = 150) -> float:
    return float((y_among[nearest(x, among, k)] == y[:, None]).mean())


def test_many_neighbours_share_the_group_of_a_training_point_and_of_another() -> None:
    (x, y), (x_test, y_test) = rings(400, 0), rings(60, 1)
    mapped, embed = fit_diffusion_map(x, 2)
    assert mapped.shape == (400, 2) and embed(x_test).shape == (60, 2)
    np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(embed(x_test), axis=1), 1)
    assert purity(x_test, x, y_test, y) < 0.8
    assert purity(mapped, mapped, y, y) > 0.98 and purity(embed(x_test), mapped, y_test, y) > 0.98


def test_another_point_lies_where_the_same_training_point_does() -> None:
    x, _ = rings(300, 2)
    mapped, embed = fit_diffusion_map(x, 6, neighbours=12)
    assert np.median(np.abs(embed(x) - mapped)) < 0.05


def test_the_same_seed_gives_the_same_map() -> None:
    x, _ = rings(100, 3)
    np.testing.assert_array_equal(fit_diffusion_map(x, 4, seed=5)[0], fit_diffusion_map(x, 4, seed=5)[0])


def test_too_few_points_are_refused() -> None:
    with pytest.raises(
        InputError, match="a diffusion map of 12 coordinates and 10 neighbours needs more training points"
    ):
        fit_diffusion_map(rings(12, 0)[0], 12)
