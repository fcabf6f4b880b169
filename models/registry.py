"""Models by name, with initial weights that are a pure function of a seed.

To add a model, write one function in a file of models/ and one line in BUILDERS. The function takes images, a Keras
tensor (N, height, width, channels), and the number of classes. It returns logits (N, classes). It may call a subclassed
keras.Model. Register that class with @keras.saving.register_keras_serializable(), so that saved victims load.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import numpy as np

from models.cifar10_keras_models import resnet_v1, resnet_v2
from runtime.checks import shortened
from runtime.files import InputError
from runtime.lazy import keras, layers
from runtime.noise import seed_pair

# The name of each model, which is also its function's name, and the module of the function.
BUILDERS = {
    "mnist_cnn": "models.small_keras_models",
    "digits_cnn": "models.small_keras_models",
    "mlp": "models.small_keras_models",
    "cnn_3x3": "models.small_keras_models",
}
_RESNET = re.compile(r"resnet(\d{1,3})(v1|v2)(?:x([2-9]|1\d))?")
_RESNETS = {"v1": (resnet_v1, 6), "v2": (resnet_v2, 9)}  # function, and the step between valid depths


def require_architecture(architecture: str) -> None:
    """Raise InputError unless build_model knows the name and, for a ResNet, the depth."""
    resnet = _RESNET.fullmatch(architecture)
    if resnet:
        depth, (family, period) = int(resnet[1]), _RESNETS[resnet[2]]
        if depth < period + 2 or (depth - 2) % period:
            valid = ", ".join(str(period * n + 2) for n in range(1, 7))
            raise InputError(f"{family.__name__} has no depth {depth}; choose {period}n + 2: {valid}, ...")
    elif architecture not in BUILDERS:
        raise InputError(
            f"no architecture {shortened(architecture)}; choose one of {', '.join(BUILDERS)}, resnet<depth>v1 "
            "(resnet20v1, ...), resnet<depth>v2 (resnet20v2, resnet29v2, ...), with more filters (resnet20v1x4)"
        )


def build_model(
    architecture: str, image_shape: tuple[int, int, int], num_classes: int, seed: int, standardise: bool = False
) -> keras.Model:
    """A freshly initialised model from images (N, *image_shape) to logits (N, num_classes).

    architecture: a name in BUILDERS, or resnet<depth>v1 or resnet<depth>v2 with a valid depth. The suffix x<times>
    multiplies the number of filters of a ResNet.
    standardise: whether the model begins with a layer, without weights, that subtracts the mean of each image's pixels
    and divides by their standard deviation. Then brightness and contrast do not matter. 1e-5 is added to the variance.
    The same seed gives the same weights, and the same random numbers of layers such as Dropout, on the same backend.
    Raises InputError for an unknown name, an invalid depth, images too small for the model, and a function that does
    not return logits.
    """
    require_architecture(architecture)
    inputs = x = keras.Input(image_shape)
    if standardise:
        x = layers.LayerNormalization(axis=(1, 2, 3), epsilon=1e-5, center=False, scale=False, name="standardise")(x)
    try:
        if resnet := _RESNET.fullmatch(architecture):
            logits = _RESNETS[resnet[2]][0](x, num_classes, int(resnet[1]), int(resnet[3] or 1))
        else:
            logits = getattr(import_module(BUILDERS[architecture]), architecture)(x, num_classes)
    except ValueError as error:  # Keras's complaint about a layer that would have no output
        raise InputError(f"{architecture} does not fit images of shape {image_shape}; choose another") from error
    if (shape := getattr(logits, "shape", None)) != (None, num_classes):
        raise InputError(f"{architecture} goes to {shape}, not to logits {(None, num_classes)}; mend its function")
    model = keras.Model(inputs, logits, name=architecture)
    model.set_weights(initial_weights(model, seed))
    drawing = [one for one in model.non_trainable_variables if one.name == "seed_generator_state"]
    for number, state in enumerate(drawing):  # of Dropout and other layers that draw random numbers
        state.assign(seed_pair(seed, number, 0))
    return model


def initial_weights(model: keras.Model, seed: int) -> list[np.ndarray]:
    """Fresh initial weights in the order of model.get_weights(), a pure function of the seed.

    Each weight is drawn with its layer's own initialiser: the attribute <weight>_initializer, as Keras's layers have
    it. Neither the model nor any global random state changes.
    Raises InputError for a negative seed and for a weight whose layer has no initialiser.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative; choose 0 or more")
    layer_of = {
        id(weight): layer
        for layer in all_layers(model)
        for weight in (*layer._trainable_variables, *layer._non_trainable_variables)  # without sublayers
    }
    weights: list[np.ndarray] = []
    for variable in model.weights:
        initializer: Any = getattr(layer_of[id(variable)], f"{variable.name}_initializer", None)
        if initializer is None:
            raise InputError(
                f"{model.name}: the layer of {variable.path} has no {variable.name}_initializer, which draws "
                "weights from the seed; add that attribute to the layer"
            )
        config = initializer.get_config()
        if "seed" in config:
            config["seed"] = int(seed_pair(seed, len(weights))[0])
        value = type(initializer).from_config(config)(variable.shape, dtype=variable.dtype)
        weights.append(keras.ops.convert_to_numpy(value))
    return weights


def all_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model at any depth, also within subclassed models."""
    return list(model._flatten_layers(include_self=False))
