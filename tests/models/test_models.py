"""Architectures: shapes, sizes, and initial weights by seed."""

import random

import keras
import numpy as np
import pytest
from keras import layers, ops

from models.registry import build_model, initial_weights
from models.stateless import in_batches
from runtime.files import InputError


def count(weights: list) -> int:
    """Number of scalars in a list of variables."""
    return sum(int(np.prod(weight.shape)) for weight in weights)


@pytest.mark.parametrize(
    ("architecture", "image_shape", "total", "trainable"),
    [
        ("mnist_cnn", (28, 28, 1), 431_080, 431_080),
        ("digits_cnn", (8, 8, 1), 13_706, 13_706),
        # The counts that Keras prints for the networks of its CIFAR10 ResNet example.
        ("resnet20v1", (32, 32, 3), 274_442, 273_066),
        ("resnet20v2", (32, 32, 3), 574_090, 570_602),
        # 269,824 of ResNet-20's weights join two of its layers of filters and grow with the square of the width.
        ("resnet20v1x2", (32, 32, 3), 4 * 269_824 + 2 * (3_232 + 1_376) + 10, 4 * 269_824 + 2 * 3_232 + 10),
    ],
)
def test_published_sizes(architecture: str, image_shape: tuple, total: int, trainable: int) -> None:
    model = build_model(architecture, image_shape, 10, seed=0)
    assert model.input_shape == (None, *image_shape)
    assert model.output_shape == (None, 10)
    assert (count(model.weights), count(model.trainable_weights)) == (total, trainable)


@pytest.mark.parametrize(
    ("architecture", "image_shape"),
    [
        ("mnist_cnn", (28, 28, 1)),
        ("digits_cnn", (8, 8, 1)),
        ("resnet8v1", (8, 8, 3)),
        ("resnet11v2", (8, 8, 3)),
        ("resnet11v2x3", (8, 8, 3)),
    ],
)
def test_models_give_logits(architecture: str, image_shape: tuple) -> None:
    model = build_model(architecture, image_shape, 7, seed=1)
    x = np.random.default_rng(0).random((3, *image_shape), dtype=np.float32)
    logits = ops.convert_to_numpy(model(x, training=False))
    assert logits.shape == (3, 7) and np.all(np.isfinite(logits))
    assert logits.min() < 0 < logits.max()


def convolutions(model: keras.Model) -> int:
    """Number of convolutions with a 3x3 or larger kernel."""
    return sum(isinstance(layer, layers.Conv2D) and layer.kernel_size > (1, 1) for layer in model.layers)


def test_depth_counts_the_layers() -> None:
    # Depth 6n + 2: the 3x3 convolutions and the dense layer. Depth 9n + 2: three convolutions a block.
    assert convolutions(build_model("resnet20v1", (32, 32, 3), 10, seed=0)) + 1 == 20
    resnet29v2 = build_model("resnet29v2", (32, 32, 3), 10, seed=0)
    v2 = [layer for layer in resnet29v2.layers if isinstance(layer, layers.Conv2D)]
    shortcuts = 3
    assert len(v2) - shortcuts + 1 == 29
    assert len(v2) - convolutions(resnet29v2) - shortcuts == 2 * 9


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("resnet21v1", r"resnet_v1 has no depth 21; choose 6n \+ 2: 8, 14, 20"),
        ("resnet2v1", "resnet_v1 has no depth 2;"),
        ("resnet32v2", r"resnet_v2 has no depth 32; choose 9n \+ 2: 11, 20, 29"),
        ("resnet20v3", "no architecture 'resnet20v3'; choose one of mnist_cnn, digits_cnn, mlp, cnn_3x3, resnet"),
        ("resnetv1", "no architecture 'resnetv1'"),
    ],
)
def test_unknown_models_are_refused(architecture: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(architecture, (32, 32, 3), 10, seed=0)


def test_images_too_small_for_the_model_are_refused() -> None:
    with pytest.raises(InputError, match=r"mnist_cnn does not fit images of shape \(8, 8, 1\)"):
        build_model("mnist_cnn", (8, 8, 1), 10, seed=0)


def test_the_seed_and_nothing_else_decides_the_weights() -> None:
    first = build_model("resnet8v1", (8, 8, 1), 10, seed=3)
    keras.utils.set_random_seed(99)
    again = build_model("resnet8v1", (8, 8, 1), 10, seed=3)
    other = build_model("resnet8v1", (8, 8, 1), 10, seed=4)
    kernels = 0
    for variable, a, b, c in zip(
        first.weights, first.get_weights(), again.get_weights(), other.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        if variable.name == "kernel":
            kernels += 1
            assert not np.array_equal(a, c)
    assert kernels == 7 + 2 + 1
    with pytest.raises(InputError, match="seed -1 is negative"):
        build_model("digits_cnn", (8, 8, 1), 10, seed=-1)


def test_initial_weights_are_those_of_the_layers_initialisers() -> None:
    model = build_model("resnet8v1", (8, 8, 1), 10, seed=0)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    random.seed(1)
    state = random.getstate()
    weights = initial_weights(model, seed=5)
    assert random.getstate() == state
    fresh = build_model("resnet8v1", (8, 8, 1), 10, seed=5).get_weights()
    for a, b in zip(weights, fresh, strict=True):
        np.testing.assert_array_equal(a, b)
    for variable, value in zip(model.weights, weights, strict=True):
        if variable.name in ("bias", "beta", "moving_mean"):
            assert np.all(value == 0)
        elif variable.name in ("gamma", "moving_variance"):
            assert np.all(value == 1)
        elif value.size > 5000:  # He-normal: variance 2 / fan-in
            assert np.var(value) * np.prod(value.shape[:-1]) == pytest.approx(2, rel=0.1)
    same_shape = [w for w in weights if w.shape == (3, 3, 16, 16)]
    assert len(same_shape) == 2 and not np.array_equal(*same_shape)  # no seed is used twice


def test_glorot_is_the_initialisation_of_the_mnist_model() -> None:
    kernels = [w for w in build_model("mnist_cnn", (28, 28, 1), 10, seed=0).get_weights() if w.ndim > 1]
    dense = kernels[2]
    assert dense.shape == (800, 500)
    limit = np.sqrt(6 / (800 + 500))
    assert 0.99 * limit < np.abs(dense).max() <= limit


def test_relu_after_pooling_is_the_published_function() -> None:
    model = build_model("mnist_cnn", (28, 28, 1), 10, seed=2)
    x = inputs = keras.Input((28, 28, 1))
    for filters in (20, 50):
        x = layers.MaxPooling2D(2)(layers.Conv2D(filters, 5, activation="relu")(x))
    x = layers.Dense(500, activation="relu")(layers.Flatten()(x))
    published = keras.Model(inputs, layers.Dense(10)(x))
    published.set_weights(model.get_weights())
    images = np.random.default_rng(0).normal(size=(4, 28, 28, 1)).astype(np.float32)
    np.testing.assert_allclose(ops.convert_to_numpy(model(images)), ops.convert_to_numpy(published(images)), atol=1e-6)


def test_untrained_statistics_make_batch_norm_an_affine_map() -> None:
    model = build_model("resnet8v1", (8, 8, 1), 10, seed=0)
    x = np.random.default_rng(0).random((4, 8, 8, 1), dtype=np.float32)
    norm = next(layer for layer in model.layers if isinstance(layer, layers.BatchNormalization))
    norm.gamma.assign(ops.full(norm.gamma.shape, 3.0))
    norm.beta.assign(ops.full(norm.beta.shape, 0.5))
    features = np.random.default_rng(1).normal(size=(4, 8, 8, 16)).astype(np.float32)
    np.testing.assert_allclose(
        ops.convert_to_numpy(norm(features, training=False)), 3 * features / np.sqrt(1.001) + 0.5, atol=1e-5
    )
    alone, together = model(x[:1], training=False), model(x, training=False)
    np.testing.assert_allclose(ops.convert_to_numpy(together)[:1], ops.convert_to_numpy(alone), atol=1e-4)


@pytest.mark.parametrize("points", [0, 1, 4, 5])
def test_values_in_batches_are_those_of_all_points_at_once(points: int) -> None:
    x = np.arange(3.0 * points).reshape(points, 3)
    np.testing.assert_array_equal(in_batches(lambda part: part @ np.ones((3, 2)), x, size=2), x @ np.ones((3, 2)))
