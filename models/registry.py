"""Models by name, with initial weights that are a pure function of a seed."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from models.cifar10_keras_models import resnet_v1, resnet_v2
from models.digits_keras_models import digits_cnn
from models.mnist_keras_models import mnist_cnn
from models.transfer_keras_models import cnn_3x3, mlp
from runtime.checks import shortened
from runtime.files import InputError
from runtime.lazy import keras
from runtime.noise import seed_pair

_BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "mnist_cnn": mnist_cnn,
    "digits_cnn": digits_cnn,
    "mlp": mlp,
    "cnn_3x3": cnn_3x3,
}
_RESNET = re.compile(r"resnet(\d{1,3})(v1|v2)(?:x([2-9]|1\d))?")
_RESNETS: dict[str, Callable[..., keras.Model]] = {"v1": resnet_v1, "v2": resnet_v2}
KNOWN = (
    *_BUILDERS, "resnet<depth>v1 (resnet20v1, ...)", "resnet<depth>v2 (resnet20v2, resnet29v2, ...)",
    "the same of more filters (resnet20v1x4)",
)  # fmt: skip


def require_architecture(architecture: str) -> None:
    """Raise InputError unless build_model knows the name."""
    if architecture not in _BUILDERS and not _RESNET.fullmatch(architecture):
        raise InputError(f"no architecture {shortened(architecture)}; choose one of {', '.join(KNOWN)}")


def build_model(
    architecture: str, image_shape: tuple[int, int, int], num_classes: int, seed: int, standardise: bool = False
) -> keras.Model:
    """A freshly initialised model from images (N, *image_shape) to logits (N, num_classes).

    architecture: mnist_cnn, digits_cnn, mlp, cnn_3x3, or resnet<depth>v1, resnet<depth>v2 with a valid depth, and with
    x<times> behind it so many times the filters.
    standardise: begin with each image's own standardisation, see models.standardisation.
    The same seed gives the same weights on the same backend.
    Raises InputError for an unknown name, a depth that does not exist, and images too small for the model.
    """
    require_architecture(architecture)
    resnet = _RESNET.fullmatch(architecture)
    try:
        if resnet:
            model = _RESNETS[resnet[2]](int(resnet[1]), image_shape, num_classes, standardise, int(resnet[3] or 1))
        else:
            model = _BUILDERS[architecture](image_shape, num_classes, standardise)
    except InputError:
        raise
    except ValueError as error:  # Keras's complaint about a layer that would have no output
        raise InputError(f"{architecture} does not fit images of shape {image_shape}; choose another") from error
    model.set_weights(initial_weights(model, seed))
    return model


def initial_weights(model: keras.Model, seed: int) -> list[np.ndarray]:
    """Fresh initial weights in the order of model.get_weights(), a pure function of the seed.

    Each weight is drawn with its layer's own initialiser; neither the model nor any global random state
    changes. Raises InputError for a negative seed.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative; choose 0 or more")
    weights: list[np.ndarray] = []
    for layer in model.layers:
        for variable in layer.weights:
            initializer = getattr(layer, f"{variable.name}_initializer")
            config = initializer.get_config()
            if "seed" in config:
                config["seed"] = int(seed_pair(seed, len(weights))[0])
            value = type(initializer).from_config(config)(variable.shape, dtype=variable.dtype)
            weights.append(keras.ops.convert_to_numpy(value))
    return weights
