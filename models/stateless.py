"""A Keras model as a pure function of its parameters, and functions of images evaluated batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np

from models.registry import all_layers
from runtime.files import InputError
from runtime.lazy import keras, ops, tree


class StatelessModel:
    """Logits as a function of (weights, statistics, x). statistics: the model's non-trainable variables.

    batch_norm: 'fixed_affine' always calls the model in inference mode. BatchNorm is then an affine map with its
    initial statistics (mean 0, variance 1), as in the published code. 'proper' uses batch statistics in
    training and moving averages in inference. Raises InputError for another batch_norm.

    On JAX the max-pooling layers of the given model are changed.
    """

    def __init__(self, model: keras.Model, batch_norm: str = "fixed_affine") -> None:
        if batch_norm not in ("fixed_affine", "proper"):
            raise InputError(f"batch_norm must be 'fixed_affine' or 'proper', got {batch_norm!r}")
        self.model = model
        self.batch_norm = batch_norm
        pools = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.MaxPooling2D)]
        for layer in pools if keras.backend.backend() == "jax" else ():
            if layer.pool_size == layer.strides and (layer.padding, layer.data_format) == ("valid", "channels_last"):
                layer.call = partial(_max_pooled, layer.pool_size)

    def initial(self) -> tuple[list[Any], list[Any]]:
        """The model's present variables as (weights, statistics), NumPy arrays."""
        variables = self.model.trainable_variables, self.model.non_trainable_variables
        return tree.map_structure(ops.convert_to_numpy, variables)

    def assign(self, weights: list[Any], statistics: list[Any]) -> keras.Model:
        """Put values into the model's variables and return the model."""
        variables = (*self.model.trainable_variables, *self.model.non_trainable_variables)
        for variable, value in zip(variables, (*weights, *statistics), strict=True):
            variable.assign(value)
        return self.model

    def __call__(self, weights: list[Any], statistics: list[Any], x: Any, training: bool = False) -> tuple[Any, Any]:
        """Logits (B, K) of images x (B, H, W, C), and the statistics after the call."""
        return self.model.stateless_call(weights, statistics, x, training=training and self.batch_norm == "proper")


def in_batches(function: Callable[[Any], Any], x: np.ndarray, size: int = 1000) -> np.ndarray:
    """The values, (N, ...), of a function of points x (N, ...), evaluated for ``size`` points at a time. N may be 0."""
    return np.concatenate([np.asarray(function(x[i : i + size])) for i in range(0, max(len(x), 1), size)])


def _max_pooled(size: tuple[int, int], x: Any) -> Any:
    """Max-pooling with windows of ``size`` = (rows, columns) side by side. Incomplete windows are left out.

    The values equal those of the layer. XLA's gradient of the layer sorts all windows if a GPU must be deterministic,
    which took most of the time of a victim's training step. Here, equal maxima share the gradient.
    """
    rows, columns = size
    height, width = x.shape[1] // rows * rows, x.shape[2] // columns * columns
    parts = [x[:, i:height:rows, j:width:columns] for i in range(rows) for j in range(columns)]
    return reduce(ops.maximum, parts)
