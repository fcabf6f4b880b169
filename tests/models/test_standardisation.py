"""Per-image standardisation as a model's first layer: what it computes, and that it is saved with the model."""

from pathlib import Path

import numpy as np
import pytest
from keras import ops

from bilevel_optimizer.autodiff import grad
from models.registry import build_model
from models.saving import load_model, save_model, with_precision

ARCHITECTURES = ("digits_cnn", "mnist_cnn", "mlp", "cnn_3x3", "resnet8v1", "resnet11v2")
X = np.random.default_rng(0).uniform(size=(4, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_brightness_and_contrast_change_no_logit(architecture: str) -> None:
    model, plain = (build_model(architecture, (16, 16, 3), 10, 1, standardise) for standardise in (True, False))
    assert [w.tobytes() for w in model.get_weights()] == [w.tobytes() for w in plain.get_weights()]
    changed = (0.6 * X + 0.3 * np.arange(4)[:, None, None, None]).astype(np.float32)
    np.testing.assert_allclose(model(changed), model(X), atol=2e-3)
    assert np.abs(ops.convert_to_numpy(plain(changed)) - ops.convert_to_numpy(plain(X))).max() > 0.02
    mean, std = X.mean(axis=(1, 2, 3), keepdims=True), X.std(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(model(X), plain((X - mean) / std), atol=2e-3)


def test_it_is_saved_and_copied_with_the_model(tmp_path: Path) -> None:
    model = build_model("digits_cnn", (16, 16, 3), 10, 1, standardise=True)
    save_model(model, tmp_path / "m.keras")
    np.testing.assert_allclose(load_model(tmp_path / "m.keras")(X), model(X), atol=1e-5)
    found = ops.convert_to_numpy(ops.cast(with_precision(model, "bfloat16")(X), "float32"))
    np.testing.assert_allclose(found, model(X), atol=0.05)


def test_the_gradient_goes_through_mean_and_deviation() -> None:
    model = build_model("mlp", (16, 16, 3), 10, 1, standardise=True)
    gradient = ops.convert_to_numpy(grad(lambda x: ops.sum(model(x)[:, 0]))(ops.convert_to_tensor(X)))
    # Moving all pixels alike, or away from their mean, changes nothing.
    assert np.abs(gradient.sum(axis=(1, 2, 3))).max() < 1e-3 * np.abs(gradient).sum(axis=(1, 2, 3)).min()
    centred = X - X.mean(axis=(1, 2, 3), keepdims=True)
    assert np.abs((gradient * centred).sum(axis=(1, 2, 3))).max() < 1e-3 * np.abs(gradient).sum(axis=(1, 2, 3)).min()
