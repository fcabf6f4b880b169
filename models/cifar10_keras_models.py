"""ResNet v1 and v2 for CIFAR10, as in the Keras documentation's CIFAR10 ResNet example.

The example adds an L2 penalty of 1e-4 on the convolution kernels to its own training loss. This project leaves it out:
the losses are those of the papers. The published poisoning experiments never switch the training phase on. BatchNorm is
then the fixed affine map gamma * x / sqrt(1 + 1e-3) + beta, with trainable gamma and beta: see stateless.py.
The initialisation is He-normal.
"""

from __future__ import annotations

from runtime.lazy import keras, layers


def resnet_v1(x: keras.KerasTensor, num_classes: int, depth: int, width: int = 1) -> keras.KerasTensor:
    """ResNet v1 of depth 6n + 2 (arXiv 1512.03385) from images x (N, height, width, channels) to logits.

    Three stages of n blocks with 16, 32 and 64 filters, times ``width``. Stages 2 and 3 halve the resolution.
    """
    x = _activate(_convolution(x, 16 * width))
    for stage, filters in enumerate((16 * width, 32 * width, 64 * width)):
        for block in range((depth - 2) // 6):
            halves = stage > 0 and block == 0
            strides = 2 if halves else 1
            y = _activate(_convolution(x, filters, strides=strides))
            y = layers.BatchNormalization()(_convolution(y, filters))
            shortcut = _convolution(x, filters, kernel_size=1, strides=2) if halves else x
            x = layers.ReLU()(layers.Add()([shortcut, y]))
    return _classify(x, num_classes)


def resnet_v2(x: keras.KerasTensor, num_classes: int, depth: int, width: int = 1) -> keras.KerasTensor:
    """ResNet v2 of depth 9n + 2 (arXiv 1603.05027) from images x (N, height, width, channels) to logits.

    Three stages of n bottleneck blocks (1x1, 3x3, 1x1) with normalisation and ReLU before each convolution,
    64, 128 and 256 output filters, times ``width``. Stages 2 and 3 halve the resolution.
    """
    x = _activate(_convolution(x, 16 * width))
    filters_in = 16 * width
    for stage, filters_out in enumerate((64 * width, 128 * width, 256 * width)):
        for block in range((depth - 2) // 9):
            strides = 2 if stage > 0 and block == 0 else 1
            # The first block of the network follows an activation already.
            y = x if stage == 0 and block == 0 else _activate(x)
            y = _convolution(y, filters_in, kernel_size=1, strides=strides)
            y = _convolution(_activate(y), filters_in)
            y = _convolution(_activate(y), filters_out, kernel_size=1)
            shortcut = _convolution(x, filters_out, kernel_size=1, strides=strides) if block == 0 else x
            x = layers.Add()([shortcut, y])
        filters_in = filters_out
    return _classify(_activate(x), num_classes)


def _convolution(x: keras.KerasTensor, filters: int, kernel_size: int = 3, strides: int = 1) -> keras.KerasTensor:
    return layers.Conv2D(filters, kernel_size, strides=strides, padding="same", kernel_initializer="he_normal")(x)


def _activate(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.ReLU()(layers.BatchNormalization()(x))


def _classify(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    # For 32 x 32 pixels this equals the example's 8 x 8 average pooling. It also serves other sizes.
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dense(num_classes, kernel_initializer="he_normal")(x)
