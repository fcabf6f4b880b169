"""The soft radius against float64 SciPy, its derivatives against finite differences."""

from typing import Any

import numpy as np
import pytest
from keras import ops
from scipy import special, stats

from bilevel_optimizer.autodiff import grad, jit
from randomized_smoothing_certification.soft_radius import gaussian_margin, log_mean_softmax, mean_softmax, soft_radius
from robust_training.loss import Randomness, noise_of_copies, with_noise
from runtime.noise import normal, seed_pair
from tests.bilevel_optimizer.problems import hessian_vector_product

SIGMA, A, BETA, COPIES = 0.5, 1e-3, 4.0, 3
GENERATOR = np.random.default_rng(3)
LOGITS = GENERATOR.normal(size=(4 * COPIES, 5))  # 4 images
MEAN = special.softmax(BETA * LOGITS, axis=-1).reshape(4, COPIES, 5).mean(axis=1)
LABELS = np.eye(5)[np.argmax(MEAN, axis=1)]
LABELS[1] = np.roll(LABELS[1], 1)  # image 1 is misclassified


def reference(logits: np.ndarray) -> np.ndarray:
    """The formula of the method, in float64."""
    z = special.softmax(BETA * logits, axis=-1).reshape(4, COPIES, 5).mean(axis=1)
    ordered = np.sort(z, axis=1)
    z1, z2 = ordered[:, -1], ordered[:, -2]
    s = 1 - 2 * A
    radius = SIGMA / 2 * (stats.norm.ppf(s * z1 + A) - stats.norm.ppf(s * z2 + A))
    return np.where(np.argmax(z, axis=1) == np.argmax(LABELS, axis=1), radius, 0.0)


def objective(logits: Any) -> Any:
    return ops.mean(soft_radius(mean_softmax(logits, COPIES, BETA), LABELS.astype(np.float32), SIGMA, A))


def tensor(values: np.ndarray) -> Any:
    return ops.convert_to_tensor(values.astype(np.float32))


def test_equals_the_formula_and_is_zero_where_misclassified() -> None:
    z = mean_softmax(tensor(LOGITS), COPIES, BETA)
    np.testing.assert_allclose(ops.convert_to_numpy(z), MEAN, rtol=1e-5)
    found = ops.convert_to_numpy(soft_radius(z, tensor(LABELS), SIGMA, A))
    np.testing.assert_allclose(found, reference(LOGITS), rtol=1e-4, atol=1e-6)
    assert found[1] == 0 and np.all(found[[0, 2, 3]] > 0)
    assert float(objective(tensor(LOGITS))) == pytest.approx(reference(LOGITS).mean(), rel=1e-4)


def test_probabilities_of_zero_and_one_give_the_largest_radius() -> None:
    z = tensor(np.eye(3)[[2]])
    assert float(soft_radius(z, z, SIGMA, A)[0]) == pytest.approx(SIGMA * stats.norm.ppf(1 - A), rel=1e-4)


def test_gradient_matches_finite_differences_of_the_formula() -> None:
    found = ops.convert_to_numpy(jit(grad(objective))(tensor(LOGITS)))
    step = 1e-6
    for row, column in np.ndindex(*LOGITS.shape):
        shift = np.zeros_like(LOGITS)
        shift[row, column] = step
        expected = (reference(LOGITS + shift).mean() - reference(LOGITS - shift).mean()) / (2 * step)
        assert found[row, column] == pytest.approx(expected, rel=2e-3, abs=2e-6)
    assert np.all(found[COPIES : 2 * COPIES] == 0)  # the misclassified image


def test_second_derivative_matches_finite_differences_of_the_gradient() -> None:
    direction = GENERATOR.normal(size=LOGITS.shape)
    found = ops.convert_to_numpy(hessian_vector_product(objective, tensor(LOGITS), tensor(direction)))
    step = 1e-2
    ahead = ops.convert_to_numpy(grad(objective)(tensor(LOGITS + step * direction)))
    behind = ops.convert_to_numpy(grad(objective)(tensor(LOGITS - step * direction)))
    np.testing.assert_allclose(found, (ahead - behind) / (2 * step), rtol=0.05, atol=2e-3)
    assert np.abs(found).max() > 0.01


def test_left_out_images_put_no_nan_into_the_gradient() -> None:
    z = tensor(np.array([[1.0, 0.0, 0.0], [0.6, 0.3, 0.1]]))
    keep = ops.convert_to_tensor(np.array([False, True]))
    assert not np.isfinite(ops.convert_to_numpy(gaussian_margin(z)))[0]
    gradient = ops.convert_to_numpy(grad(lambda p: ops.sum(gaussian_margin(p, keep=keep)))(z))
    assert np.all(gradient[0] == 0)
    expected = [1 / stats.norm.pdf(stats.norm.ppf(0.6)), -1 / stats.norm.pdf(stats.norm.ppf(0.3)), 0]
    np.testing.assert_allclose(gradient[1], expected, rtol=1e-4)


def test_copies_equal_their_own_image_before_the_noise() -> None:
    images = GENERATOR.uniform(size=(3, 4, 5, 2)).astype(np.float32)
    about = ops.convert_to_tensor(images), 4, Randomness(SIGMA, seed_pair(1), seed_pair(2), np.arange(3)), False
    copies = ops.convert_to_numpy(with_noise(*about) - noise_of_copies(*about)).reshape(3, 4, 4, 5, 2)
    for group, image in zip(copies, images, strict=True):
        for copy in group:
            np.testing.assert_allclose(copy, image, atol=1e-6)


def test_log_mean_softmax_stays_finite_where_the_mean_underflows() -> None:
    found = ops.convert_to_numpy(log_mean_softmax(tensor(LOGITS), COPIES))
    np.testing.assert_allclose(found, np.log(special.softmax(LOGITS, axis=-1).reshape(4, 3, 5).mean(1)), rtol=1e-5)
    far = tensor(np.array([[0.0, 200.0], [0.0, 150.0]]))
    np.testing.assert_allclose(ops.convert_to_numpy(log_mean_softmax(far, 2))[0, 0], -150 - np.log(2), rtol=1e-6)


def test_class_probabilities_average_each_images_own_noisy_copies() -> None:
    images = GENERATOR.uniform(size=(3, 2, 2, 1)).astype(np.float32)
    weights = GENERATOR.normal(size=(4, 3)).astype(np.float32)
    noise = ops.convert_to_numpy(normal((9, 2, 2, 1), seed_pair(0, 1)))
    seen = []

    def logits_fn(x: Any) -> Any:
        seen.append(ops.convert_to_numpy(x))
        return ops.matmul(ops.reshape(x, (-1, 4)), weights)

    copies = ops.repeat(ops.convert_to_tensor(images), COPIES, axis=0)
    z = mean_softmax(logits_fn(copies + SIGMA * noise), COPIES, BETA)
    np.testing.assert_allclose(seen[0] - SIGMA * noise, np.repeat(images, 3, axis=0), atol=1e-6)
    for i, row in enumerate(ops.convert_to_numpy(z)):
        noisy = images[i] + SIGMA * noise[3 * i : 3 * i + 3]
        np.testing.assert_allclose(
            row, special.softmax(BETA * noisy.reshape(3, 4) @ weights, axis=-1).mean(0), rtol=1e-4
        )
