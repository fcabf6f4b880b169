"""Saving and loading models, and copies that compute in another precision.

Models are .keras files, which load on every backend in Keras's safe mode. This project's architectures have only
standard layers, so their files load without code from this project. Other classes come from the modules that
models.registry.BUILDERS names.
"""

from __future__ import annotations

import re
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from models.registry import BUILDERS, all_layers
from models.voting import VOTE
from runtime import backend_lines_hidden
from runtime.files import InputError, atomic_path, one_line
from runtime.lazy import keras, ops

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def victim_name(method: str, sigma: float, trained_on: str, seed: int) -> str:
    """File name of a victim. trained_on: 'clean', or the poison's name without 'X_'."""
    return f"{method}_{float(sigma)}_{trained_on}_seed{seed}.keras"


@backend_lines_hidden()  # Keras imports TensorFlow when it saves settings, also on JAX
def save_model(model: keras.Model, path: Path) -> None:
    """Write the model as a .keras file, whole or not at all.

    Raises InputError for another suffix and if the file cannot be written.
    """
    if (path := Path(path)).suffix != ".keras":
        raise InputError(f"{path}: the name of a saved model ends in .keras; rename it")
    with atomic_path(path) as temporary:
        model.save(temporary)


@backend_lines_hidden()
def load_model(path: Path, image_shape: tuple[int, int, int] | None = None, classes: int = 0) -> keras.Model:
    """Read a .keras file in safe mode: no code stored in the file is run.

    image_shape, classes: the (height, width, channels) that the model must take, and their classes, if given.
    Raises InputError if the file is missing, damaged or not a .keras file, if the model does not map each image to one
    row of scores, if a weight is not finite, and if the model takes images of another shape or has other classes.
    """
    if not (path := Path(path)).is_file():
        raise InputError(f"{path}: no such file; train the model first or mend the path")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a whole .keras file; give a model saved by this project")
    for module in dict.fromkeys(BUILDERS.values()):  # each module registers its classes
        import_module(module)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        taken, scores = _shapes(model)
        weights = [(variable.path, keras.ops.convert_to_numpy(variable)) for variable in model.variables]
    except Exception as error:  # zipfile, h5py, json and Keras each raise their own kinds on a damaged file
        if missing := re.search(r"Could not locate (?:class|function) '([^']{1,80})'", str(error)):
            raise InputError(
                f"{path}: {missing[1]} is code of the program that saved the model and is not run here; register the "
                "class in a module that models/registry.py names, or certify the model from Python (README)"
            ) from error
        raise InputError(
            f"{path}: cannot be loaded as a model by Keras {keras.__version__} ({one_line(error)}); train it again"
        ) from error
    is_flat = _is_one_tensor(taken, 2) and image_shape is not None and taken[1] == np.prod(image_shape)
    if is_flat or _is_one_tensor(taken, 3):
        images = image_shape if is_flat else (*taken[1:], 1)
        raise InputError(
            f"{path}: the model takes images {taken[1:]} without an axis of channels; put keras.Input"
            f"({images}) and keras.layers.Reshape({taken[1:]}) in front of it and save it again"
        )
    if not _is_one_tensor(scores, 2):
        raise InputError(
            f"{path}: the model maps {taken} to {scores}, not images (None, height, width, channels) to scores "
            "(None, classes); choose a classifier"
        )
    require_float_inputs(model, f"{path}: the model")
    for name, value in weights:
        if value.dtype.kind not in "biu" and not np.isfinite(value.astype(np.float32)).all():
            raise InputError(f"{path}: {name} holds infinite or NaN weights; train it again with a lower learning rate")
    mend = "choose the model and the data of the same dataset"
    # A model that takes any size has None in its place.
    if any(size not in (None, given) for size, given in zip(taken[1:], image_shape or taken[1:], strict=True)):
        raise InputError(f"{path}: the model takes images of shape {taken[1:]}, the data have {image_shape}; {mend}")
    if classes and scores[1] not in (None, classes):
        raise InputError(f"{path}: the model has {scores[1]} classes, the data {classes}; {mend}")
    return model


def _shapes(model: keras.Model) -> tuple[Any, Any]:
    """Shapes of a model's input and of its output for images. In place of the latter, words where it has none."""
    taken = getattr(model, "input_shape", None)  # a subclassed model has none
    if not _is_one_tensor(taken, 4):
        return taken, "anything"
    # The type that a call returns. Keras's output_shape hides a mapping around one tensor.
    output = model.compute_output_spec(keras.KerasTensor(taken))
    return taken, output.shape if isinstance(output, keras.KerasTensor) else type(output).__name__


def require_float_inputs(model: keras.Model, what: str) -> None:
    """Raise InputError where a model takes integers: the cast would destroy an image in [0, 1] and its noise.

    what: name of the model in the error.
    """
    for tensor in getattr(model, "inputs", None) or ():  # a subclassed model has none
        if not keras.backend.is_float_dtype(tensor.dtype):
            raise InputError(
                f"{what} takes {tensor.dtype} pixels, this project has floats in [0, 1]; build it with a float32 "
                "Input, followed by keras.layers.Rescaling(255) if it was made for pixels 0 to 255"
            )


def _is_one_tensor(shape: Any, rank: int) -> bool:
    """Whether a model's input or output is one tensor of this rank: no list, mapping or unknown shape."""
    return type(shape) is tuple and len(shape) == rank and all(size is None or type(size) is int for size in shape)


@backend_lines_hidden()
def with_precision(model: keras.Model, dtype: str) -> keras.Model:
    """The model itself where all its layers compute in ``dtype``, else a copy that does, with the same float32 weights.

    dtype: 'float32', or 'bfloat16' for faster certification on a GPU. The logits have that dtype, and callers cast
    them. The parts of a majority vote compute in ``dtype``, and the vote itself in float32.
    Raises InputError for another dtype, for a model that cannot be copied layer by layer or compute in ``dtype``, and
    where a plain copy has other scores, because a layer holds more than its configuration and its weights.
    """
    if dtype not in _POLICIES:
        raise InputError(f"no precision {dtype!r}; choose one of {', '.join(_POLICIES)}")
    if all(layer.dtype_policy.name == _POLICIES[dtype] for layer in all_layers(model)):
        return model
    try:
        copy = keras.models.clone_model(model, recursive=True)
        copy.set_weights(model.get_weights())
        for layer in all_layers(copy):
            getattr(layer, "finalize_state", lambda: None)()  # Normalization computes with numbers made of its weights
        x = np.random.default_rng(0).random((2, *(size or 32 for size in model.input_shape[1:])), dtype=np.float32)
        scores, again = (ops.convert_to_numpy(ops.cast(one(x, training=False), "float32")) for one in (model, copy))
        if not np.allclose(scores, again, rtol=1e-3, atol=1e-3 * np.abs(scores).max(), equal_nan=True):
            raise ValueError("a copy has other scores: a layer holds more than its configuration and weights")
        votes = [part for part in (copy, *all_layers(copy)) if part.name == VOTE]
        for layer in all_layers(copy):
            if not any(layer in vote.layers for vote in votes):
                layer.dtype_policy = _POLICIES[dtype]
            getattr(layer, "finalize_state", lambda: None)()  # these numbers have the layer's dtype
        copy(x, training=False)
    except Exception as error:  # a user's own layers may raise any error
        raise InputError(
            f"the model {model.name} cannot compute in {dtype} ({one_line(error)}); choose another model"
        ) from error
    return copy
