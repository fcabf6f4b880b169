"""Poison that ships with the project, by name, so that a victim can be studied without running an attack.

data/poisons/<name>.json          the record of the attack that made it, and the SHA-256 of its images' bytes
data/poisons/<name>_1_of_3.npz    X_poisoned, float32: the images, to the bit, in parts that a repository takes
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.files import InputError, array_sha256, load_archive, read_record, save_archive, write_json
from runtime.provenance import project_path

FOLDER = project_path("data/poisons")
KEY = "X_poisoned"
PART_BYTES = 6_000_000  # of float32 poison, which shrink to a third


class ReadyPoison(NamedTuple):
    """One poison with its record."""

    images: np.ndarray  # float32 (N, height, width, channels), one for each training image of the class
    record: dict[str, Any]  # of the attack: settings (target_class, epsilon, x_train's hash), gradients, commit


def ready_names(folder: Path | None = None) -> list[str]:
    """Names of all that are there."""
    return sorted(path.stem for path in (folder or FOLDER).glob("*.json"))


def is_ready_name(path: Path) -> bool:
    """Whether what was given in place of a poison's file is a name: no folder, no ending, no file of that name."""
    return path.name == str(path) and not path.suffix and not path.exists()


def read_ready_poison(name: str, x_train: np.ndarray, target_class: int, folder: Path | None = None) -> ReadyPoison:
    """The poison of this name. x_train: the training images, as ``data.datasets.load_dataset`` gives them.

    Raises InputError where there is none of the name, its files are damaged, or it is of other training images or of
    another class.
    """
    folder = folder or FOLDER
    if name not in (known := ready_names(folder)):
        raise InputError(f"no ready poison {name!r}; choose from {', '.join(known) or 'none, there are none'}")
    record_path = folder / f"{name}.json"
    record = read_record(record_path, settings=dict, images_sha256=str, parts=int)
    settings = record["settings"]
    if settings.get("target_class") != target_class:
        raise InputError(
            f"{name}: is poison of class {settings.get('target_class')}, the target class is {target_class}; "
            "choose the matching one"
        )
    if settings.get("x_train") != array_sha256(x_train):
        raise InputError(
            f"{name}: was made from other training images; prepare the dataset that its record names "
            f"({record.get('command', record_path)})"
        )
    parts = [load_archive(path, (KEY,))[KEY] for path in _part_paths(folder, name, record["parts"])]
    if len({part.shape[1:] for part in parts}) != 1 or (images := np.concatenate(parts)).dtype != np.float32:
        raise InputError(f"{record_path}: its parts are not those that were packed; fetch them again")
    if array_sha256(images) != record["images_sha256"]:
        raise InputError(f"{record_path}: the images in its parts are others than were packed; fetch them again")
    return ReadyPoison(images, record)


def pack_poison(images: np.ndarray, record: dict[str, Any], name: str, folder: Path = FOLDER) -> list[Path]:
    """Write a poison and its record under a name; returns the files, the record last.

    images: float32 (N, height, width, channels). Raises InputError where the name cannot be one.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise InputError(f"name is made of small letters, digits and _, got {name!r}")
    count = -(-images.nbytes // PART_BYTES)
    paths = _part_paths(folder, name, count)
    for path, part in zip(paths, np.array_split(images, count), strict=True):
        save_archive(path, {KEY: part}, compressed=True)
    packed = {**record, "images_sha256": array_sha256(images), "parts": count}
    write_json(folder / f"{name}.json", packed)
    return [*paths, folder / f"{name}.json"]


def _part_paths(folder: Path, name: str, count: int) -> list[Path]:
    return [folder / f"{name}_{part}_of_{count}.npz" for part in range(1, count + 1)]
