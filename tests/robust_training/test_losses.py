"""Training losses against Keras's cross entropy and a NumPy model."""

import keras
import numpy as np
import pytest
from keras import ops

from bilevel_optimizer.autodiff import jit
from robust_training.gaussian_augmentation import GaussianAugmentationLoss
from robust_training.loss import Randomness, accuracy, mean_cross_entropy
from robust_training.standard import StandardLoss
from runtime.noise import normal, seed_pair

RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(size=(7, 4, 3, 2)).astype("float32")
Y = np.eye(5, dtype="float32")[RANDOM.integers(0, 5, 7)]
WEIGHTS = RANDOM.normal(size=(24, 5)).astype("float32")
SEED, EPOCH = seed_pair(3, 1), np.float32(0)
DRAWS = Randomness(0.5, SEED, seed_pair(4), np.arange(7, dtype=np.int32))


def logits(x: keras.KerasTensor) -> keras.KerasTensor:
    return ops.matmul(ops.reshape(x, (-1, 24)), WEIGHTS)


def cross_entropy(x: np.ndarray) -> float:
    return float(keras.losses.CategoricalCrossentropy(from_logits=True)(Y, logits(ops.convert_to_tensor(x))))


def test_standard_loss_is_the_cross_entropy_of_keras() -> None:
    assert float(StandardLoss()(logits, X, Y, DRAWS, EPOCH)) == pytest.approx(cross_entropy(X), rel=1e-5)


def test_gaussian_augmentation_is_cross_entropy_at_noisy_images() -> None:
    noise = ops.convert_to_numpy(normal(X.shape, SEED))
    found = float(GaussianAugmentationLoss()(logits, X, Y, DRAWS, EPOCH))
    assert found == pytest.approx(cross_entropy(X + 0.5 * noise), rel=1e-5)
    assert found != pytest.approx(cross_entropy(X), rel=1e-3)


def test_noise_is_a_pure_function_of_the_seed() -> None:
    loss = GaussianAugmentationLoss()
    first = float(loss(logits, X, Y, DRAWS, EPOCH))
    assert float(loss(logits, X, Y, DRAWS, EPOCH)) == first
    compiled = jit(lambda x, seed: loss(logits, x, Y, DRAWS._replace(seed=seed), EPOCH))
    assert float(compiled(X, SEED)) == pytest.approx(first, rel=1e-5)
    assert float(loss(logits, X, Y, DRAWS._replace(seed=seed_pair(3, 2)), EPOCH)) != pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_noise_has_the_standard_deviation_asked_for(sigma: float) -> None:
    seen = []

    def remember(x: keras.KerasTensor) -> keras.KerasTensor:
        seen.append(ops.convert_to_numpy(x))
        return logits(x)

    x, y = np.tile(X, (200, 1, 1, 1)), np.tile(Y, (200, 1))
    GaussianAugmentationLoss()(remember, x, y, DRAWS._replace(sigma=sigma), EPOCH)
    noise = seen[0] - x  # 33,600 values, not clipped to [0, 1]
    assert noise.std() == pytest.approx(sigma, rel=0.02)
    assert abs(noise.mean()) < 0.03 * sigma
    images = noise.reshape(1400, -1)
    assert len(np.unique(images[:, 0])) == 1400  # every image has its own


def test_cross_entropy_of_extreme_logits_is_finite() -> None:
    scores = np.float32([[1000, -1000], [1000, -1000]])
    assert float(mean_cross_entropy(scores, np.eye(2, dtype="float32"))) == pytest.approx(1000)


def test_accuracy_is_the_share_of_hits() -> None:
    scores = np.float32([[1, 2], [3, 1], [0, 5], [4, 0]])
    labels = np.eye(2, dtype="float32")[[1, 0, 0, 0]]
    assert float(accuracy(scores, labels)) == 0.75
