"""Saving and loading models, and copies that compute in another precision.

Models are .keras files of standard layers only: they load on every backend, without code from this project
and with Keras's safe mode on.
"""

import zipfile
from pathlib import Path

import keras

from runtime.files import InputError, atomic_path

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def victim_name(method: str, sigma: float, trained_on: str, seed: int) -> str:
    """File name of a victim; trained_on: 'clean', or its poison's name without 'X_'."""
    return f"{method}_{sigma}_{trained_on}_seed{seed}.keras"


def save_model(model: keras.Model, path: Path) -> None:
    """Write the model as a .keras file, whole or not at all.

    Raises InputError for another suffix and when the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise InputError(f"{path}: the name of a saved model ends in .keras; rename it")
    with atomic_path(path) as temporary:
        model.save(temporary)


def load_model(path: Path, image_shape: tuple[int, int, int] | None = None) -> keras.Model:
    """Read a .keras file in safe mode: no code stored in the file is run.

    image_shape: the (height, width, channels) that the model must take, when given.
    Raises InputError when the file is missing, damaged, no .keras file, or takes images of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; train the model first or mend the path")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a whole .keras file; give a model saved by this project")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        found = tuple(model.input_shape[1:])
    except Exception as error:  # zipfile, h5py, json and Keras each raise their own kinds on a damaged file
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be loaded as a model ({reason}); train it again") from error
    if image_shape is not None and found != tuple(image_shape):
        raise InputError(
            f"{path}: the model takes images of shape {found}, the data have {tuple(image_shape)}; "
            "choose the model and the data of the same dataset"
        )
    return model


def with_precision(model: keras.Model, dtype: str) -> keras.Model:
    """A copy of the model with the same weights (float32) whose layers compute in ``dtype``.

    dtype: 'float32', or 'bfloat16' for faster certification on a GPU.  The logits come out in that dtype;
    callers cast them.  Raises InputError for another dtype.
    """
    if dtype not in _POLICIES:
        raise InputError(f"no precision {dtype!r}; choose one of {', '.join(_POLICIES)}")

    def copy_layer(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": _POLICIES[dtype]})

    copy = keras.models.clone_model(model, clone_function=copy_layer)
    copy.set_weights(model.get_weights())
    return copy
