"""MACER's loss and gradient against float64 SciPy, image by image."""

from typing import Any

import numpy as np
import pytest
from keras import ops
from scipy import special, stats

from bilevel_optimizer.autodiff import grad, hessian_vector_product, jit
from robust_training.loss import Randomness
from robust_training.macer import MacerLoss, macer_loss
from runtime.files import InputError
from runtime.noise import seed_pair

COPIES, CLASSES, SIGMA, LAM, BETA, GAMMA = 3, 4, 0.5, 2.0, 4.0, 3.0
RIGHT, WRONG, BEYOND_GAMMA, INFINITE = range(4)
LABELS = np.array([2, 0, 1, 3])
Y = np.eye(CLASSES)[LABELS]
_RANDOM = np.random.default_rng(5)
SCORES = 0.3 * _RANDOM.normal(size=(4, COPIES, CLASSES))
SCORES[RIGHT, :, 2] += 0.4
SCORES[WRONG, :, 1] += 0.5
SCORES[BEYOND_GAMMA, :, 1] += 1.5  # Phi^-1(z1) - Phi^-1(z2) is about 5: finite, and more than gamma
SCORES[INFINITE, :, 3] += 100.0


def margins(scores: np.ndarray) -> np.ndarray:
    z = special.softmax(BETA * scores, axis=-1).mean(axis=1)
    ordered = np.sort(z, axis=1)
    return stats.norm.ppf(ordered[:, -1]) - stats.norm.ppf(ordered[:, -2])


def reference(scores: np.ndarray) -> float:
    """arXiv 2001.02378, eq. 12, written as a loop over images."""
    total = 0.0
    margin = margins(scores)
    for i, label in enumerate(LABELS):
        total -= np.log(special.softmax(scores[i], axis=-1).mean(axis=0)[label])
        top = special.softmax(BETA * scores[i], axis=-1).mean(axis=0).argmax()
        # Float32 holds no probability between 1 - 6e-8 and 1: there the margin is infinite.
        if top == label and margin[i] <= GAMMA:
            total += LAM * SIGMA / 2 * (GAMMA - margin[i])
    return total / len(LABELS)


def found(scores: Any) -> Any:
    return macer_loss(scores, Y.astype("float32"), SIGMA, COPIES, LAM, BETA, GAMMA)


def tensor(scores: np.ndarray) -> Any:
    return ops.convert_to_tensor(scores.reshape(-1, CLASSES).astype("float32"))


def test_the_cases_are_what_their_names_say() -> None:
    margin = margins(SCORES)
    assert 0 < margin[RIGHT] < GAMMA and GAMMA < margin[BEYOND_GAMMA] < 7 and margin[INFINITE] > 8
    z = special.softmax(BETA * SCORES, axis=-1).mean(axis=1)
    assert (z.argmax(axis=1) == LABELS).tolist() == [True, False, True, True]


def test_equals_the_formula_with_images_left_out() -> None:
    assert float(found(tensor(SCORES))) == pytest.approx(reference(SCORES), rel=1e-5)
    only_cross_entropy = macer_loss(tensor(SCORES), Y.astype("float32"), SIGMA, COPIES, 0.0, BETA, GAMMA)
    hinge = LAM * SIGMA / 2 * (GAMMA - margins(SCORES)[RIGHT]) / 4  # of the one image that counts
    assert float(found(tensor(SCORES)) - only_cross_entropy) == pytest.approx(hinge, rel=1e-4)


def test_gradient_equals_finite_differences_of_the_formula() -> None:
    gradient = ops.convert_to_numpy(jit(grad(found))(tensor(SCORES))).reshape(SCORES.shape)
    step = 1e-6
    for place in np.ndindex(*SCORES.shape):
        shift = np.zeros_like(SCORES)
        shift[place] = step
        expected = (reference(SCORES + shift) - reference(SCORES - shift)) / (2 * step)
        assert gradient[place] == pytest.approx(expected, rel=2e-3, abs=1e-5)


def test_second_derivative_is_finite_beside_images_left_out() -> None:
    direction = tensor(_RANDOM.normal(size=SCORES.shape))
    product = ops.convert_to_numpy(hessian_vector_product(found, tensor(SCORES), direction))
    step = 1e-2
    ahead = ops.convert_to_numpy(grad(found)(tensor(SCORES) + step * direction))
    behind = ops.convert_to_numpy(grad(found)(tensor(SCORES) - step * direction))
    np.testing.assert_allclose(product, (ahead - behind) / (2 * step), rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("fixed", [True, False])
def test_noisy_copies_equal_their_image_before_the_noise(fixed: bool) -> None:
    x = _RANDOM.uniform(size=(5, 6, 6, 1)).astype("float32")
    seen = []

    def logits(images: Any) -> Any:
        seen.append(ops.convert_to_numpy(images))
        return ops.reshape(images, (-1, 36))[:, :CLASSES]

    y = np.eye(CLASSES, dtype="float32")[[0, 1, 2, 3, 0]]
    draws = Randomness(1e-6, seed_pair(1), seed_pair(2), np.array([4, 9, 7, 0, 3], np.int32))
    tiny = MacerLoss(copies=2, fixed_noise=fixed)
    tiny(logits, x, y, draws, np.float32(0))
    np.testing.assert_allclose(seen[0].reshape(5, 2, 6, 6, 1), np.repeat(x[:, None], 2, axis=1), atol=1e-5)

    draws = draws._replace(sigma=0.5)
    loss = MacerLoss(copies=2, fixed_noise=fixed)
    loss(logits, x, y, draws, np.float32(0))
    noise = (seen[1].reshape(5, 2, 36) - x.reshape(5, 1, 36)) / 0.5
    assert np.abs(np.corrcoef(noise.reshape(10, 36)) - np.eye(10)).max() < 0.7  # ten different draws
    # Another batch at another step: the same images keep their noise if it is fixed, and only then.
    order = [3, 0, 4]
    moved = Randomness(0.5, seed_pair(99), draws.fixed_seed, draws.images[order])
    loss(logits, x[order], y[order], moved, np.float32(0))
    again = (seen[2].reshape(3, 2, 36) - x[order].reshape(3, 1, 36)) / 0.5
    assert np.allclose(again, noise[order], atol=1e-5) == fixed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"copies": 0}, "copies of MACER must be positive, got 0"),
        ({"gamma": float("nan")}, "gamma of MACER must be positive, got nan"),
        ({"lam": -1.0}, "lam of MACER must not be negative, got -1.0"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MacerLoss(**changes)
