"""Gradient and Hessian-vector product of the ResNets against finite differences, in float64."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from bilevel_optimizer.autodiff import grad
from models.registry import build_model
from models.stateless import StatelessModel
from tests.bilevel_optimizer.problems import hessian_vector_product


@pytest.fixture
def double_layers(float64: None) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


computed_in_float64 = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="Keras's normalisation computes in float32 on JAX, whatever its inputs are"
)


@computed_in_float64
@pytest.mark.parametrize("batch_norm", ["fixed_affine", "proper"])
@pytest.mark.parametrize("architecture", ["resnet8v1", "resnet11v2"])
def test_resnet_derivatives_are_those_of_finite_differences(
    architecture: str, batch_norm: str, double_layers: None
) -> None:
    check_derivatives(StatelessModel(build_model(architecture, (8, 8, 3), 4, seed=3), batch_norm))


@computed_in_float64
@pytest.mark.parametrize("name", ["GroupNormalization", "LayerNormalization"])
def test_normalisation_of_each_image_is_differentiated_twice(name: str, double_layers: None) -> None:
    layers = keras.layers
    norm = getattr(layers, name)(**({"groups": 4} if name == "GroupNormalization" else {"axis": (1, 2, 3)}))
    parts = [layers.Conv2D(8, 3), norm, layers.Activation("softplus"), layers.Flatten(), layers.Dense(4)]
    check_derivatives(StatelessModel(keras.Sequential([keras.Input((8, 8, 3)), *parts])))


def check_derivatives(model: StatelessModel) -> None:
    weights, state = model.initial()
    assert all(w.dtype == np.float64 for w in weights)
    random = np.random.default_rng(0)
    x, y = random.uniform(size=(6, 8, 8, 3)), np.eye(4)[[0, 1, 2, 3, 0, 1]]

    def loss(v: list[Any]) -> Any:
        return -ops.mean(ops.sum(y * ops.log_softmax(model(v, state, x, training=True)[0]), axis=-1))

    def numpy(values: list[Any]) -> list[np.ndarray]:
        return [ops.convert_to_numpy(value) for value in values]

    def moved(step: float) -> list[np.ndarray]:
        return [w + step * p for w, p in zip(weights, direction, strict=True)]

    direction = [random.normal(size=w.shape) for w in weights]
    step = 1e-8  # so small that hardly any ReLU changes its side
    slope = sum(np.sum(g * p) for g, p in zip(numpy(grad(loss)(weights)), direction, strict=True))
    expected = (float(loss(moved(step))) - float(loss(moved(-step)))) / (2 * step)
    assert slope == pytest.approx(expected, rel=1e-5)

    product = numpy(hessian_vector_product(loss, weights, direction))
    ahead, behind = numpy(grad(loss)(moved(step))), numpy(grad(loss)(moved(-step)))
    for found, a, b in zip(product, ahead, behind, strict=True):
        difference = (a - b) / (2 * step)
        assert np.abs(found - difference).max() < 1e-4 * max(1.0, np.abs(difference).max())
    assert max(np.abs(found).max() for found in product) > 1e-2


def test_proper_batch_norm_uses_the_batch_and_the_fixed_affine_map_does_not() -> None:
    network = build_model("resnet8v1", (8, 8, 3), 4, seed=3)
    x = np.random.default_rng(1).uniform(size=(6, 8, 8, 3)).astype("float32")
    alone = {}
    for batch_norm in ("fixed_affine", "proper"):
        model = StatelessModel(network, batch_norm)
        weights, state = model.initial()
        together = ops.convert_to_numpy(model(weights, state, x, training=True)[0])
        first = ops.convert_to_numpy(model(weights, state, x[:1], training=True)[0])
        alone[batch_norm] = np.allclose(together[:1], first, atol=1e-4)
    assert alone == {"fixed_affine": True, "proper": False}
