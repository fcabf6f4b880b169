"""Models for the 8 x 8 digits of the demonstration; logits out, ReLU after pooling as in the MNIST models."""

from __future__ import annotations

from models.standardisation import image_input
from runtime.lazy import keras, layers


def digits_cnn(
    image_shape: tuple[int, int, int] = (8, 8, 1), num_classes: int = 10, standardise: bool = False
) -> keras.Model:
    """A small CNN from images (N, *image_shape) to logits (N, num_classes).

    Convolution 3x3x16, max-pooling, convolution 3x3x32, max-pooling, dense 64, dense num_classes; same
    padding, Keras's default initialisation.
    """
    inputs, x = image_input(image_shape, standardise)
    for filters in (16, 32):
        x = layers.Conv2D(filters, 3, padding="same")(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.ReLU()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(num_classes)(x), name="digits_cnn")
