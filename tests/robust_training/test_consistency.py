"""Consistency regularisation against its formula, and where it must be zero."""

import numpy as np
import pytest
from keras import ops
from scipy import stats

from robust_training.consistency import ConsistencyLoss, disagreement
from robust_training.loss import Randomness
from runtime.files import InputError
from runtime.noise import seed_pair
from tests.bilevel_optimizer.problems import hessian_vector_product

BATCH, COPIES, CLASSES = 4, 3, 5
SCORES = np.random.default_rng(0).normal(scale=2, size=(BATCH * COPIES, CLASSES)).astype(np.float32)


def reference(lam: float, eta: float) -> float:
    """The penalty written out with SciPy's entropies, in float64."""
    p = np.exp(SCORES.astype(np.float64))
    p = (p / p.sum(axis=1, keepdims=True)).reshape(BATCH, COPIES, CLASSES)
    values = []
    for copies in p:
        mean = copies.mean(axis=0)
        divergence = np.mean([stats.entropy(mean, one) for one in copies])
        values.append(lam * divergence + eta * stats.entropy(mean))
    return float(np.mean(values))


@pytest.mark.parametrize(("lam", "eta"), [(10.0, 0.5), (1.0, 0.0), (0.0, 1.0)])
def test_the_penalty_is_that_of_the_paper(lam: float, eta: float) -> None:
    assert float(disagreement(SCORES, COPIES, lam, eta)) == pytest.approx(reference(lam, eta), rel=1e-5)


def test_copies_that_agree_cost_nothing_and_sure_ones_are_finite() -> None:
    same = np.repeat(SCORES[:BATCH], COPIES, axis=0)
    assert float(disagreement(same, COPIES, 10.0, 0.0)) == pytest.approx(0.0, abs=1e-5)
    sure = np.array([[200.0, 0.0], [200.0, 0.0]], np.float32)
    assert float(disagreement(sure, 2, 5.0, 0.5)) == pytest.approx(0.0, abs=1e-5)


def test_second_derivatives_are_finite_where_a_class_nearly_vanishes() -> None:
    gaps = np.linspace(0, 200, 41, dtype=np.float32)
    scores = np.stack([gaps, 0.9 * gaps, np.zeros_like(gaps)], axis=1)
    scores = ops.convert_to_tensor(np.repeat(scores, 2, axis=0))
    direction = ops.convert_to_tensor(np.random.default_rng(0).normal(size=scores.shape).astype(np.float32))
    product = hessian_vector_product(lambda s: disagreement(s, 2, 5.0, 0.5), scores, direction)
    assert np.all(np.isfinite(ops.convert_to_numpy(product))) and np.abs(product).max() > 1e-4


def test_the_loss_is_cross_entropy_under_noise_plus_the_penalty() -> None:
    x = np.random.default_rng(1).uniform(size=(BATCH, 2, 2, 1)).astype(np.float32)
    y = np.eye(CLASSES, dtype=np.float32)[np.arange(BATCH)]
    weights = np.random.default_rng(2).normal(size=(4, CLASSES)).astype(np.float32)
    seen = []

    def logits(x: np.ndarray) -> np.ndarray:
        seen.append(ops.convert_to_numpy(x))
        return ops.reshape(x, (-1, 4)) @ weights

    draws = Randomness(0.25, seed_pair(1), seed_pair(2), np.arange(BATCH, dtype=np.int32))
    loss = float(ConsistencyLoss(copies=COPIES, lam=3.0, eta=0.5)(logits, x, y, draws, 0.0))
    noisy = seen[0].reshape(BATCH, COPIES, 2, 2, 1)
    assert np.abs(noisy - x[:, None]).std() > 0.1 and not np.allclose(noisy[:, 0], noisy[:, 1])
    scores = seen[0].reshape(-1, 4) @ weights
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    cross_entropy = -np.mean(log_p[np.arange(len(log_p)), np.repeat(np.arange(BATCH), COPIES)])
    assert loss == pytest.approx(cross_entropy + float(disagreement(scores, COPIES, 3.0, 0.5)), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"), [({"copies": 1}, "copies"), ({"lam": -1.0}, "lam"), ({"eta": -1.0}, "eta")]
)
def test_bad_settings_are_one_line(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"{message} of consistency must"):
        ConsistencyLoss(**changes)
