"""Small models of other families, for poison made with one architecture and victims with another; logits out.

Protocol: arXiv 2012.01274, section 4 (transfer over architectures). They take any image of 8 x 8 pixels or more.
"""

from __future__ import annotations

from models.standardisation import image_input
from runtime.lazy import keras, layers


def mlp(image_shape: tuple[int, int, int], num_classes: int = 10, standardise: bool = False) -> keras.Model:
    """A network without convolutions: dense 256, dense 256, dense num_classes; from (N, *image_shape) to logits."""
    inputs, x = image_input(image_shape, standardise)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dense(256, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(num_classes)(x), name="mlp")


def cnn_3x3(image_shape: tuple[int, int, int], num_classes: int = 10, standardise: bool = False) -> keras.Model:
    """Four convolutions 3x3 (32, 32, 64, 64 filters, each second one of stride 2), dense 128, dense num_classes.

    Same padding, no pooling, Keras's default initialisation; from images (N, *image_shape) to logits.
    """
    inputs, x = image_input(image_shape, standardise)
    for filters in (32, 64):
        for strides in (1, 2):
            x = layers.Conv2D(filters, 3, strides, padding="same", activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(num_classes)(x), name="cnn_3x3")
