"""Poison that ships with the project. With its name, a victim can be studied without running an attack.

data/poisons/<name>.npz     the images with 8-bit pixels, as in a PNG:
    X_poisoned  uint8 (N, height, width, channels), a pixel / 255 is the float image; one for each training image of
                the target class, in the order in which the class occurs in X_train
    index       int32 (N,), the place of each image in the published data set, which still holds the validation
                images: 0 to 59,999 in MNIST's training images, 0 to 1,796 in load_digits()
    target_class, epsilon, name, source   as data/poison_files.py says; poisons that were packed earlier lack them
data/poisons/<name>.json    the record of its attack, the effect of the rounding, and the arrays' SHA-256

No pixel is more than epsilon away from its clean pixel, and on 8-bit data no more than floor(255 epsilon) grey levels.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.checks import LONGEST_LABEL, shortened
from runtime.files import InputError, array_sha256, load_archive, read_record, save_archive, write_json
from runtime.provenance import ROOT

FOLDER = ROOT / "data/poisons"
KEY = "X_poisoned"
DTYPES = {KEY: np.uint8, "index": np.int32}
WHITE = 255  # grey level of a white pixel
EPSILON_TOLERANCE = 1e-6  # float32 rounding of clean image +- epsilon, in pixel units of [0, 1]


def as_unit_floats(x: np.ndarray) -> np.ndarray:
    """Images as float32 in [0, 1]. 8-bit images are divided by 255."""
    return x.astype(np.float32) / np.float32(WHITE) if x.dtype == np.uint8 else x.astype(np.float32)


@dataclass(frozen=True)
class ReadyPoison:
    """One poison with its record. Entry i of ``pixels`` replaces image ``index[i]`` of the data set as published."""

    pixels: np.ndarray  # (N, height, width, channels), uint8 where the poison ships with the project
    index: np.ndarray  # integers (N,)
    record: dict[str, Any]  # of the attack: settings (target_class, epsilon, x_train's hash), gradients, commit

    @property
    def images(self) -> np.ndarray:
        """The pixels as float32 in [0, 1]."""
        return as_unit_floats(self.pixels)


def ready_names() -> list[str]:
    """Names of all poisons in data/poisons/."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def ready_name(path: Path) -> str:
    """The name of a poison in data/poisons/, from the name alone or from the path of its file. '' for other paths."""
    is_name = path.name == str(path) and not path.suffix and not path.exists()
    is_there = path.suffix in (".npz", ".json") and path.resolve().parent == FOLDER
    return path.stem if is_name or is_there else ""


def poison_file(value: str, directory: Path = Path()) -> Path:
    """The file of a poison that a plan names: a name in data/poisons/, or else a path from ``directory``."""
    return FOLDER / f"{value}.npz" if value in ready_names() else directory / value


def ready_record(name: str) -> dict[str, Any]:
    """The record of a poison in data/poisons/. Raises InputError where there is none, or a damaged one."""
    if name not in (known := ready_names()):
        raise InputError(f"no ready poison {name!r}; choose from {', '.join(known) or 'none, there are none'}")
    return read_record(FOLDER / f"{name}.json", settings=dict, arrays_sha256=dict)


def load_ready_poison(name: str) -> ReadyPoison:
    """The poison of this name, as in ``load_ready_poison("mnist_published").pixels``. No data set is needed.

    Raises InputError where there is no poison of the name or its files are damaged.
    """
    record = ready_record(name)
    arrays = load_archive(FOLDER / f"{name}.npz", tuple(DTYPES))
    for key, array in arrays.items():
        if array.dtype != DTYPES[key] or array_sha256(array) != record["arrays_sha256"].get(key):
            raise InputError(f"{FOLDER / name}.npz: {key} is not the array that was packed; fetch the file again")
    return ReadyPoison(arrays[KEY], arrays["index"], record)


def read_ready_poison(name: str, x_train: np.ndarray, target_class: int) -> ReadyPoison:
    """The poison of this name, made from the training images x_train, as ``data.datasets.load_dataset`` gives them.

    Raises InputError as ``load_ready_poison`` does, and for poison of other training images or of another class.
    """
    poison = load_ready_poison(name)
    settings = poison.record["settings"]
    if (made_for := settings.get("target_class")) != target_class:
        mend = "choose the matching class"
        raise InputError(f"{name}: is poison of class {made_for}, the target class is {target_class}; {mend}")
    if settings.get("x_train") != array_sha256(x_train):
        made = poison.record.get("command", f"{name}.json")
        mend = "give the --data-dir of these images, or another poison"
        raise InputError(f"{name}: was made from other training images, by {made}; {mend}")
    return poison


def require_poison_name(what: str, name: str) -> None:
    """Raise InputError unless a poison may have this name. what: its name in the error."""
    if not re.fullmatch(r"[a-z0-9_]{1,60}", name):
        raise InputError(f"{what} is made of small letters, digits and _, at most 60, got {shortened(name)}")


def to_8_bit(images: np.ndarray, clean: np.ndarray, epsilon: float) -> np.ndarray:
    """The nearest images with whole grey levels within epsilon of the clean images, uint8 of the same shape.

    images, clean: floats in [0, 1] of one shape. epsilon has the same unit. Raises InputError where a pixel has no grey
    level within epsilon. That cannot happen where the clean images are 8-bit.
    """
    center, radius = WHITE * clean.astype(np.float64), WHITE * (epsilon + EPSILON_TOLERANCE)
    low = np.maximum(np.ceil(center - radius), 0)
    high = np.minimum(np.floor(center + radius), WHITE)
    if (low > high).any():
        raise InputError(f"epsilon {epsilon:g}: a pixel has no grey level of 8 bits within it; take 1/255 or more")
    return np.clip(np.round(WHITE * images.astype(np.float64)), low, high).astype(np.uint8)


def pack_poison(
    images: np.ndarray, clean: np.ndarray, index: np.ndarray, record: dict[str, Any], name: str, folder: Path = FOLDER
) -> list[Path]:
    """Round a poison to 8 bits and write it under a name. Returns the two files, the record last.

    images, clean: float32 (N, height, width, channels), the poison and its clean images. index: (N,), see the module.
    record: the attack's record, with settings.epsilon. Raises InputError where the name is not allowed, and as
    ``to_8_bit`` does.
    """
    require_poison_name("name", name)
    arrays = {KEY: to_8_bit(images, clean, record["settings"]["epsilon"]), "index": index.astype(np.int32)}
    rounded = arrays[KEY] / WHITE
    packed = {
        **record,
        "rounding": {
            "float_sha256": array_sha256(images),
            "largest_change": float(np.abs(rounded - images).max()),
            "largest_perturbation": float(np.abs(rounded - clean).max()),
        },
        "arrays_sha256": {key: array_sha256(array) for key, array in arrays.items()},
    }
    command = "".join(filter(str.isprintable, str(record.get("command", ""))))
    about = {"source": command[:LONGEST_LABEL] or "not named", "name": name}
    about |= {key: record["settings"][key] for key in ("target_class", "epsilon")}
    entry = {**arrays, **{key: np.array(value) for key, value in about.items()}}  # as data/poison_files.py reads it
    save_archive(folder / f"{name}.npz", entry, compressed=True)
    write_json(folder / f"{name}.json", packed)
    return [folder / f"{name}.npz", folder / f"{name}.json"]
