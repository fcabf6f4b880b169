"""MACER's loss and gradient against float64 NumPy and SciPy, image by image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keras import ops
from scipy import special, stats

from bilevel_optimizer.autodiff import grad, jit, value_and_grad
from robust_training.loss import Randomness
from robust_training.macer import MacerLoss
from runtime.files import InputError
from runtime.noise import seed_pair
from tests.bilevel_optimizer.problems import hessian_vector_product

COPIES, CLASSES, SIGMA, LAM, BETA = 3, 4, 0.5, 2.0, 4.0
# a and gamma: MACER's own margin and the published one, each below and above the saturated margin of the latter (6.18).
CASES = [(0.0, 3.0), (0.0, 8.0), (1e-3, 3.0), (1e-3, 8.0)]
RIGHT, WRONG, BEYOND_GAMMA, INFINITE = range(4)
LABELS = np.array([2, 0, 1, 3])
Y = np.eye(CLASSES)[LABELS]
_RANDOM = np.random.default_rng(5)
SCORES = 0.3 * _RANDOM.normal(size=(4, COPIES, CLASSES))
SCORES[RIGHT, :, 2] += 0.4
SCORES[WRONG, :, 1] += 0.5
SCORES[BEYOND_GAMMA, :, 1] += 1.5  # Phi^-1(z1) - Phi^-1(z2) is about 5: finite, and more than a gamma of 3
SCORES[INFINITE, :, 3] += 100.0


def margins(scores: np.ndarray, a: float) -> np.ndarray:
    """Of every image; infinite where the softmax is saturated and a is 0."""
    z = special.softmax(BETA * scores, axis=-1).mean(axis=1)
    second, first = np.sort(z, axis=1)[:, -2:].T
    return stats.norm.ppf(a + first - 2 * a * first) - stats.norm.ppf(a + second - 2 * a * second)


def reference(scores: np.ndarray, a: float, gamma: float) -> float:
    """arXiv 2001.02378, eq. 12, written as a loop over images."""
    total = 0.0
    margin = margins(scores, a)
    for i, label in enumerate(LABELS):
        total -= np.log(special.softmax(scores[i], axis=-1).mean(axis=0)[label])
        top = special.softmax(BETA * scores[i], axis=-1).mean(axis=0).argmax()
        # Float32 holds no probability between 1 - 6e-8 and 1: there the margin is infinite.
        if top == label and margin[i] <= gamma:
            total += LAM * SIGMA / 2 * (gamma - margin[i])
    return total / len(LABELS)


def loss_with(a: float, gamma: float, lam: float = LAM) -> MacerLoss:
    return MacerLoss(copies=COPIES, lam=lam, beta=BETA, gamma=gamma, margin_clip=a)


def found(a: float, gamma: float, lam: float = LAM) -> Callable[[Any], Any]:
    """The loss as a function of the noisy copies' logits."""
    x, draws = np.zeros((4, 1, 1, 1), "float32"), Randomness(SIGMA, seed_pair(1), seed_pair(2), np.arange(4))
    loss = loss_with(a, gamma, lam)
    return lambda scores: loss(lambda _: scores, x, Y.astype("float32"), draws, np.float32(0))


def tensor(scores: np.ndarray) -> Any:
    return ops.convert_to_tensor(scores.reshape(-1, CLASSES).astype("float32"))


def test_the_cases_are_what_their_names_say() -> None:
    margin = margins(SCORES, 0.0)
    assert 0 < margin[RIGHT] < 3 < margin[BEYOND_GAMMA] < 7 and np.isposinf(margin[INFINITE])
    assert margins(SCORES, 1e-3)[INFINITE] == pytest.approx(2 * stats.norm.ppf(0.999)) == pytest.approx(6.18, abs=0.01)
    z = special.softmax(BETA * SCORES, axis=-1).mean(axis=1)
    assert (z.argmax(axis=1) == LABELS).tolist() == [True, False, True, True]


@pytest.mark.parametrize(("a", "gamma"), CASES)
def test_equals_the_formula_with_images_left_out(a: float, gamma: float) -> None:
    value = float(found(a, gamma)(tensor(SCORES)))
    assert value == pytest.approx(reference(SCORES, a, gamma), rel=1e-5)
    counted = {(0.0, 3.0): [RIGHT], (1e-3, 3.0): [RIGHT], (0.0, 8.0): [RIGHT, BEYOND_GAMMA]}
    rows = counted.get((a, gamma), [RIGHT, BEYOND_GAMMA, INFINITE])
    hinge = LAM * SIGMA / 2 * np.sum(gamma - margins(SCORES, a)[rows]) / 4
    assert value - float(found(a, gamma, lam=0.0)(tensor(SCORES))) == pytest.approx(hinge, rel=1e-4)


@pytest.mark.parametrize(("a", "gamma"), CASES)
def test_gradient_equals_finite_differences_of_the_formula(a: float, gamma: float) -> None:
    gradient = ops.convert_to_numpy(jit(grad(found(a, gamma)))(tensor(SCORES))).reshape(SCORES.shape)
    step = 1e-6
    for place in np.ndindex(*SCORES.shape):
        shift = np.zeros_like(SCORES)
        shift[place] = step
        expected = (reference(SCORES + shift, a, gamma) - reference(SCORES - shift, a, gamma)) / (2 * step)
        assert gradient[place] == pytest.approx(expected, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize(("a", "gamma"), CASES)
def test_second_derivative_is_finite_beside_images_left_out(a: float, gamma: float) -> None:
    direction, loss = tensor(_RANDOM.normal(size=SCORES.shape)), found(a, gamma)
    product = ops.convert_to_numpy(hessian_vector_product(loss, tensor(SCORES), direction))
    step = 1e-2
    ahead = ops.convert_to_numpy(grad(loss)(tensor(SCORES) + step * direction))
    behind = ops.convert_to_numpy(grad(loss)(tensor(SCORES) - step * direction))
    np.testing.assert_allclose(product, (ahead - behind) / (2 * step), rtol=0.05, atol=2e-3)


def test_a_saturated_softmax_counts_with_the_published_margin_and_is_left_out_with_macers_own() -> None:
    """Images that are their own logits, all right; those of every other one are far apart."""
    labels = np.arange(12) % CLASSES
    y = np.eye(CLASSES, dtype="float32")[labels]
    x = (y * np.where(np.arange(12) % 2, 100.0, 0.05)[:, None]).astype("float32").reshape(12, 1, 1, CLASSES)
    saturated = np.arange(12) % 2 == 1

    def with_margin(a: float, lam: float, rows: Any) -> float:
        loss = MacerLoss(copies=2, lam=lam, margin_clip=a)
        draws = Randomness(1e-3, seed_pair(1), seed_pair(2), np.arange(12, dtype=np.int32)[rows])

        def objective(x: Any) -> Any:
            return loss(lambda x: ops.reshape(x, (-1, CLASSES)), x, y[rows], draws, np.float32(0))

        value, gradient = value_and_grad(objective)(x[rows])
        assert np.isfinite(float(value)) and np.isfinite(ops.convert_to_numpy(gradient)).all()
        return float(value)

    for a in (1e-3, 0.0):
        adds = [with_margin(a, 1e4, [i]) - with_margin(a, 0.0, [i]) for i in range(12)]
        assert [one > 0 for one in adds] == [a > 0 or not of_it for of_it in saturated]
    assert with_margin(1e-3, 1e4, saturated) > with_margin(0.0, 1e4, saturated) == with_margin(0.0, 0.0, saturated)
    assert MacerLoss().margin_clip == 1e-3


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
    moved = Randomness(0.5, seed_pair(99), draws.fixed_seed, draws.numbers[order])
    loss(logits, x[order], y[order], moved, np.float32(0))
    again = (seen[2].reshape(3, 2, 36) - x[order].reshape(3, 1, 36)) / 0.5
    assert np.allclose(again, noise[order], atol=1e-5) == fixed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"copies": 0}, "copies of macer must be positive, got 0"),
        ({"gamma": float("nan")}, "gamma of macer must be positive, got nan"),
        ({"gamma": float("inf")}, "gamma of macer must be positive, got inf"),
        ({"lam": -1.0}, "lam of macer must not be negative, got -1.0"),
        ({"margin_clip": 0.5}, "margin_clip of macer must be at least 0 and below 0.5, got 0.5"),
        ({"margin_clip": -1e-9}, "margin_clip of macer must be at least 0 and below 0.5, got -1e-09"),
        ({"margin_clip": float("nan")}, "margin_clip of macer must be at least 0 and below 0.5, got nan"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MacerLoss(**changes)
