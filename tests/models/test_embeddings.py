"""Embeddings: shapes, centring, determinism, and what each is for."""

import numpy as np
import pytest

from models.embeddings import _patches, deskewed, fit_embedding
from runtime.files import InputError


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """Two kinds of images that differ in the direction of their stripes, at random phases."""
    random = np.random.default_rng(0)
    kind = np.arange(120) % 2
    rows = np.arange(8)
    x = np.empty((120, 8, 8, 1), np.float32)
    for i in range(120):
        wave = 0.5 + 0.4 * np.sin(rows * 1.5 + random.uniform(0, 6))
        x[i, ..., 0] = wave[:, None] if kind[i] else wave[None]
    return np.clip(x + random.normal(scale=0.03, size=x.shape), 0, 1).astype(np.float32), kind


@pytest.mark.parametrize("name", ["raw", "pca", "random", "patches", "deskewed", "root_patches"])
def test_features_are_centred_end_with_one_and_repeat(name: str, images: tuple[np.ndarray, np.ndarray]) -> None:
    x, _ = images
    features, _ = fit_embedding(name, x, seed=1)  # type: ignore[arg-type]
    assert features.ndim == 2 and features.dtype == np.float64 and np.all(np.isfinite(features))
    np.testing.assert_array_equal(features[:, -1], 1)
    np.testing.assert_allclose(features[:, :-1].mean(axis=0), 0, atol=1e-6)
    assert features[:, :-1].std() > 0.05
    again, embed = fit_embedding(name, x, seed=1)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again, features)
    np.testing.assert_allclose(embed(x), features, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(embed(x[:7]), features[:7], rtol=1e-6, atol=1e-6)  # alone as among others


def test_raw_pixels_and_whitening() -> None:
    x = np.random.default_rng(0).uniform(size=(50, 4, 4, 1)).astype(np.float32)
    x[:, 0, 0] = 0.25  # constant: no principal direction
    raw, _ = fit_embedding("raw", x)
    np.testing.assert_allclose(raw[:, :-1], x.reshape(50, -1) - x.reshape(50, -1).mean(axis=0), atol=1e-6)
    whitened = fit_embedding("pca", x)[0][:, :-1]
    assert whitened.shape[1] == 15
    np.testing.assert_allclose(np.cov(whitened, rowvar=False), np.eye(15), atol=1e-6)


def test_random_features_approximate_the_gaussian_kernel() -> None:
    x = np.random.default_rng(0).uniform(size=(40, 5, 5, 1)).astype(np.float32)
    features = fit_embedding("random", x)[0][:, :-1]
    flat = x.reshape(40, -1).astype(np.float64)
    squares = np.square(flat[:, None] - flat).sum(axis=-1)
    kernel = np.exp(-squares / (25 * flat.var()))
    centring = np.eye(40) - 1 / 40
    np.testing.assert_allclose(features @ features.T / 1000, centring @ kernel @ centring, atol=0.15)


def test_root_patches_have_the_inner_products_of_standardised_roots(images: tuple[np.ndarray, np.ndarray]) -> None:
    x, _ = images
    roots = np.sqrt(_patches(x, 0, 20)(x))
    roots = (roots - roots.mean(axis=0)) / roots.std(axis=0)
    found = fit_embedding("root_patches", x, centroids=20)[0][:, :-1]
    np.testing.assert_allclose(found @ found.T, roots @ roots.T, atol=1e-3)


def test_patches_tell_directions_apart_that_pixels_do_not(images: tuple[np.ndarray, np.ndarray]) -> None:
    x, kind = images

    def held_out_accuracy(name: str) -> float:
        features = fit_embedding(name, x[:80])[1](x)  # type: ignore[arg-type]
        target = 2.0 * kind - 1
        weights = np.linalg.solve(
            features[:80].T @ features[:80] + np.eye(features.shape[1]), features[:80].T @ target[:80]
        )
        return float(np.mean(np.sign(features[80:] @ weights) == target[80:]))

    assert held_out_accuracy("patches") > 0.95
    assert held_out_accuracy("patches") > held_out_accuracy("raw") + 0.2


def test_wrong_arguments_get_one_clear_line() -> None:
    x = np.zeros((3, 8, 8, 1), np.float32)
    with pytest.raises(
        InputError, match="one of raw, pca, random, patches, deskewed, root_patches, imagenet, got 'deep'"
    ):
        fit_embedding("deep", x)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 2 training images, got 1"):
        fit_embedding("raw", x[:1])


def test_deskewing_makes_a_slanted_stroke_upright_and_central() -> None:
    upright, slanted = np.zeros((2, 21, 21, 1), np.float32)
    for row in range(4, 17):
        upright[row, 9:12] = 1
        column = 7 + (row - 10) // 2
        slanted[row, column : column + 3] = 1
    found = deskewed(np.stack([upright, slanted, np.zeros_like(upright)]))
    np.testing.assert_allclose(found[0], upright, atol=1e-6)
    assert np.abs(found[1] - upright).sum() < 0.3 * np.abs(slanted - upright).sum()
    rows, columns = np.mgrid[:21, :21]
    weight = found[1, ..., 0] / found[1].sum()
    middle = np.array([(weight * rows).sum(), (weight * columns).sum()])
    np.testing.assert_allclose(middle, 10, atol=1e-3)
    assert abs((weight * (rows - middle[0]) * (columns - middle[1])).sum()) < 0.3  # 6.3 before
    assert not found[2].any()
