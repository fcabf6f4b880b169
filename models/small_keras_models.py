"""Small models for the published MNIST experiments and for the 8 x 8 digits, and two of other families.

In the first two, ReLU comes after each max-pooling instead of before it. ReLU is monotone, so the function is the same.
The ReLU then runs on a quarter of the values, and a training step takes a fifth less time. The last two measure the
transfer of poison from one architecture to victims of another (arXiv 2012.01274, section 4). All take images x
(N, height, width, channels) and return logits. The initialisation is Keras's default.
"""

from __future__ import annotations

from runtime.lazy import keras, layers


def mnist_cnn(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """The published CNN, for images of at least 16 x 16 pixels.

    Convolution 5x5x20, max-pooling, convolution 5x5x50, max-pooling, dense 500, dense num_classes. Valid padding.
    """
    for filters in (20, 50):
        x = layers.ReLU()(layers.MaxPooling2D(2)(layers.Conv2D(filters, 5)(x)))
    return _dense(layers.Flatten()(x), 500, num_classes)


def digits_cnn(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """A small CNN, for images of at least 4 x 4 pixels.

    Convolution 3x3x16, max-pooling, convolution 3x3x32, max-pooling, dense 64, dense num_classes. Same padding.
    """
    for filters in (16, 32):
        x = layers.ReLU()(layers.MaxPooling2D(2)(layers.Conv2D(filters, 3, padding="same")(x)))
    return _dense(layers.Flatten()(x), 64, num_classes)


def mlp(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """A network without convolutions, for images of any size: dense 256, dense 256, dense num_classes."""
    return _dense(layers.Dense(256, activation="relu")(layers.Flatten()(x)), 256, num_classes)


def cnn_3x3(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Four convolutions 3x3 (32, 32, 64, 64 filters, each second one of stride 2), dense 128, dense num_classes.

    For images of any size. Same padding, no pooling.
    """
    for filters in (32, 64):
        for strides in (1, 2):
            x = layers.Conv2D(filters, 3, strides, padding="same", activation="relu")(x)
    return _dense(layers.Flatten()(x), 128, num_classes)


def _dense(x: keras.KerasTensor, hidden: int, num_classes: int) -> keras.KerasTensor:
    """Logits from two dense layers. The first has ``hidden`` units."""
    x = layers.Dense(hidden, activation="relu")(x)
    return layers.Dense(num_classes)(x)
