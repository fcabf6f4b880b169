"""A model for the 8 x 8 digits of the demonstration; ReLU after pooling as in the MNIST models."""

from __future__ import annotations

from runtime.lazy import keras, layers


def digits_cnn(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """A small CNN from images x (N, height, width, channels) to logits; images have at least 4 x 4 pixels.

    Convolution 3x3x16, max-pooling, convolution 3x3x32, max-pooling, dense 64, dense num_classes; same
    padding, Keras's default initialisation.
    """
    for filters in (16, 32):
        x = layers.Conv2D(filters, 3, padding="same")(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.ReLU()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="relu")(x)
    return layers.Dense(num_classes)(x)
