"""Small models of other families, for poison made with one architecture and victims with another.

Protocol: arXiv 2012.01274, section 4 (transfer over architectures). They take images of any size.
"""

from __future__ import annotations

from runtime.lazy import keras, layers


def mlp(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """A network without convolutions from images x to logits: dense 256, dense 256, dense num_classes."""
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dense(256, activation="relu")(x)
    return layers.Dense(num_classes)(x)


def cnn_3x3(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Four convolutions 3x3 (32, 32, 64, 64 filters, each second one of stride 2), dense 128, dense num_classes.

    Same padding, no pooling, Keras's default initialisation; from images x (N, height, width, channels) to logits.
    """
    for filters in (32, 64):
        for strides in (1, 2):
            x = layers.Conv2D(filters, 3, strides, padding="same", activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    return layers.Dense(num_classes)(x)
