"""EfficientNet-Lite0: its file of weights, and its features."""

import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.embeddings import fit_embedding
from models.imagenet import efficientnet_lite0, read_weights
from runtime.files import InputError

STAGES = (  # blocks, kernel, stride of the first, factor of expansion, channels
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
BLOCKS = [(k, s if n == 0 else 1, e, c) for count, k, s, e, c in STAGES for n in range(count)]


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    random, made = np.random.default_rng(0), {}

    def layer(name: str, norm: str, out: int, width: int, kernel: int = 1) -> None:
        fan = width * kernel**2
        made[f"{name}.weight"] = random.normal(0, fan**-0.5, (out, width, kernel, kernel))
        made[f"{norm}.weight"], made[f"{norm}.running_var"] = random.uniform(0.5, 1.5, (2, out))
        made[f"{norm}.bias"], made[f"{norm}.running_mean"] = random.normal(0, 0.3, (2, out))

    layer("_conv_stem", "_bn0", 32, 3, 3)
    width = 32
    for number, (kernel, _, expansion, out) in enumerate(BLOCKS):
        block, wide = f"_blocks.{number}.", width * expansion
        if expansion > 1:
            layer(f"{block}_expand_conv", f"{block}_bn0", wide, width)
        layer(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, kernel)
        layer(f"{block}_project_conv", f"{block}_bn2", out, wide)
        width = out
    layer("_conv_head", "_bn1", 1280, width)
    return {name: array.astype(np.float32) for name, array in made.items()}


def written(path: Path, arrays: dict[str, np.ndarray], more: Any = None) -> Path:
    """A file as PyTorch wrote it before version 1.6. Arrays of four dimensions lie in another order of dimensions."""
    names = {name: ModuleType(name) for name in ("torch", "torch._utils")}
    storage = type("FloatStorage", (), {"__module__": "torch"})

    def _rebuild_tensor_v2(*_: Any) -> None: ...

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    names["torch"].FloatStorage = storage  # type: ignore[attr-defined]
    names["torch._utils"]._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]

    class Tensor:
        def __init__(self, key: str, array: np.ndarray) -> None:
            self.array = array.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2) if array.ndim == 4 else array
            self.key = key

        def __reduce__(self) -> Any:
            strides = tuple(step // 4 for step in self.array.strides)
            kept = SimpleNamespace(pid=("storage", storage, self.key, "cpu", self.array.size, None))
            return _rebuild_tensor_v2, (kept, 0, self.array.shape, strides, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return value.pid if isinstance(value, SimpleNamespace) else None

    tensors = OrderedDict((name, Tensor(str(number), array)) for number, (name, array) in enumerate(arrays.items()))
    with pytest.MonkeyPatch.context() as patch, path.open("wb") as file:
        for name, module in names.items():
            patch.setitem(sys.modules, name, module)
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, more or tensors):
            Pickler(file, protocol=2).dump(value)
        Pickler(file, protocol=2).dump([tensor.key for tensor in tensors.values()])
        for tensor in tensors.values():
            order = tensor.array.transpose(0, 2, 3, 1) if tensor.array.ndim == 4 else tensor.array
            file.write(tensor.array.size.to_bytes(8, "little") + order.tobytes())
    return path


def reference(w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The features by NumPy, with BatchNorm as a step of its own; padding as TensorFlow's 'same'."""

    def conv(x: np.ndarray, name: str, norm: str, stride: int = 1) -> np.ndarray:
        kernel = w[f"{name}.weight"]
        size = kernel.shape[-1]
        pads = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[1:3]]
        x = np.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))
        seen = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
        rule, kernel = ("nhwcij,cij->nhwc", kernel[:, 0]) if "depthwise" in name else ("nhwcij,ocij->nhwo", kernel)
        y = np.einsum(rule, seen, kernel, optimize=True)
        y = (y - w[f"{norm}.running_mean"]) / np.sqrt(w[f"{norm}.running_var"] + 1e-3)
        return y * w[f"{norm}.weight"] + w[f"{norm}.bias"]

    def active(*of: Any) -> np.ndarray:
        return np.clip(conv(*of), 0, 6)

    x = active((255 * x.astype(np.float64) - 127) / 128, "_conv_stem", "_bn0", 2)
    for number, (_, stride, expansion, _) in enumerate(BLOCKS):
        block, y = f"_blocks.{number}.", x
        y = active(y, f"{block}_expand_conv", f"{block}_bn0") if expansion > 1 else y
        y = conv(active(y, f"{block}_depthwise_conv", f"{block}_bn1", stride), f"{block}_project_conv", f"{block}_bn2")
        x = y + x if y.shape == x.shape else y
    return np.asarray(active(x, "_conv_head", "_bn1").mean(axis=(1, 2)))


def test_features_are_those_of_a_reference(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    read = read_weights(written(tmp_path / "weights.pth", weights))
    assert read.keys() == weights.keys() and all(np.array_equal(read[name], weights[name]) for name in weights)
    x = np.random.default_rng(1).uniform(size=(2, 40, 40, 3)).astype(np.float32)
    found = efficientnet_lite0(read, 40).predict_on_batch(x)
    np.testing.assert_allclose(found, reference(weights, x), atol=1e-3)
    assert found.shape == (2, 1280) and found.std() > 0.1


def test_a_file_that_names_anything_else_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    with pytest.raises(
        InputError, match=r"not a PyTorch file of weights \(it names posix\.mkdir\); give the .pth file in"
    ):
        read_weights(written(tmp_path / "evil.pth", {}, Evil()))
    assert not (tmp_path / "made").exists()


def test_other_files_and_weights_get_one_line(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = written(tmp_path / "weights.pth", weights)
    damaged = tmp_path / "damaged.pth"
    for length in (0, 100, path.stat().st_size // 2):
        damaged.write_bytes(path.read_bytes()[:length])
        with pytest.raises(InputError, match=r"damaged\.pth: not a PyTorch file of weights"):
            read_weights(damaged)
    with pytest.raises(InputError, match=r"need a file of weights, got .*nowhere\.pth; give the \.pth file in effi"):
        read_weights(tmp_path / "nowhere.pth")
    other = {name: array for name, array in weights.items() if name != "_bn1.bias"}
    with pytest.raises(InputError, match=r"do not fit EfficientNet-Lite0 \('_bn1\.bias'\); give those in effi"):
        efficientnet_lite0(other, 32)
    with pytest.raises(InputError, match="do not fit EfficientNet-Lite0"):
        efficientnet_lite0({**weights, "_conv_head.weight": weights["_conv_stem.weight"]}, 32)


def test_the_embedding_is_components_of_the_roots(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Of images of one channel as of three alike. Inner products are those of the standardised roots."""
    x = np.random.default_rng(2).uniform(size=(40, 20, 20, 1)).astype(np.float32)
    path = written(tmp_path / "weights.pth", weights)
    found, embed = fit_embedding("imagenet", x, weights=path)
    network = efficientnet_lite0(weights)
    roots = np.sqrt(network.predict_on_batch(np.repeat(x, 3, axis=3)))
    roots = (roots - roots.mean(axis=0)) / (roots.std(axis=0) + 1e-6)
    np.testing.assert_allclose(found[:, :-1] @ found[:, :-1].T, roots @ roots.T, atol=0.5)
    np.testing.assert_allclose(embed(np.repeat(x, 3, axis=3)), found, atol=1e-2)
    with pytest.raises(
        InputError, match=r"features need a file of weights, got None; give the \.pth file in effi.*==0\.1\.0"
    ):
        fit_embedding("imagenet", x)
    with pytest.raises(InputError, match="imagenet needs images of 1 or 3 channels, these have 2"):
        fit_embedding("imagenet", np.repeat(x, 2, axis=3), weights=path)
