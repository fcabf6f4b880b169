"""Per-image standardisation as the first layer of a model, part of the classifier that is certified."""

from __future__ import annotations

from runtime.lazy import keras, layers


def image_input(
    image_shape: tuple[int, int, int], standardise: bool = False
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """(input of a model, what its first layer takes): images (N, *image_shape), as they are or standardised.

    standardise: subtract from each image the mean of all its pixels and divide by their standard deviation, so that
    its brightness and contrast tell nothing. The layer has no weights; 1e-5 is added to the variance.
    """
    inputs = keras.Input(image_shape)
    if not standardise:
        return inputs, inputs
    layer = layers.LayerNormalization(axis=(1, 2, 3), epsilon=1e-5, center=False, scale=False, name="standardise")
    return inputs, layer(inputs)
