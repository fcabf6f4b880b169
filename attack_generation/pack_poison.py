"""Pack a poison to ship with the project: images rounded to 8 bits within epsilon, and a record, in data/poisons/.

python attack_generation/pack_poison.py --data-dir data/DIGITS --name digits \\
    --poison data/DIGITS/X_poisoned_radius_gaussianaug_0.25_8.npy
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from data.datasets import (
    MANIFEST,
    Dataset,
    Epsilon,
    check_poison,
    labels,
    load_dataset,
    load_poison,
    split_target_class,
)
from data.preparation import as_unit_floats, split_at_random
from data.prepare_digits import SOURCE, digits, split_digits
from data.ready_poisons import FOLDER, pack_poison
from data.sources import read_source
from runtime.bounds import require_within
from runtime.checks import shortened
from runtime.command_line import run_script
from runtime.files import InputError, array_sha256, file_sha256, read_record
from runtime.provenance import is_clean_commit, printed_path, project_path

SETTINGS = {"target_class": int, "epsilon": float, "x_train": str}  # settings of the attack that a record must hold


@dataclass(frozen=True, kw_only=True)
class Config:
    poison: Path
    """File of the images, .npy, with its record, .json, beside it."""
    name: str
    """Name of the packed poison."""
    data_dir: Path = project_path("data/MNIST")
    """Folder of the prepared arrays that the poison was made from."""
    source: Path | None = None
    """Published data set that these arrays were prepared from. The place of each image in it is checked. For the
    digits no source is needed."""
    out_dir: Path = FOLDER
    """Folder of the archive and the record."""


def main(config: Config) -> None:
    """Pack as the config says. Raises InputError if the record has another file, other data or no clean commit."""
    record = _read_record(config.poison)
    dataset = load_dataset(config.data_dir)
    settings = record["settings"]
    target_class, epsilon = settings["target_class"], settings["epsilon"]
    if settings["x_train"] != array_sha256(dataset.x_train):
        raise InputError(
            f"{config.poison}: was made from other training images than {config.data_dir} has; give its --data-dir"
        )
    require_within("epsilon", epsilon, *get_args(Epsilon)[1:])
    images = load_poison(config.poison, dataset, target_class)
    clean = split_target_class(dataset.x_train, dataset.y_train, target_class).x_target
    if (there := config.out_dir / f"{config.name}.json").exists():
        raise InputError(f"{there}: a poison of this name is there; choose another name, or delete it first")
    check_poison(images, clean, epsilon, config.poison)
    index = _index_as_published(config, dataset)[labels(dataset.y_train) == target_class]
    for path in pack_poison(images, clean, index, record, config.name, config.out_dir):
        print(f"{printed_path(path)}: {path.stat().st_size:,} bytes")


def _read_record(poison: Path) -> dict[str, Any]:
    """The record of a poison's file, without the file's hash."""
    path = poison.with_suffix(".json")
    record = read_record(path, settings=dict, sha256=str, commit=str)
    if not is_clean_commit(record["commit"]):
        raise InputError(
            f"{path}: made at {record['commit']}, which is no commit that others can check out; commit, and make it "
            "again"
        )
    for name, kind in SETTINGS.items():
        if not isinstance(value := record["settings"].get(name), kind):
            raise InputError(f"{path}: its settings have {name} {shortened(value)}; make the poison again")
    if not poison.is_file() or record.pop("sha256") != file_sha256(poison):
        raise InputError(f"{poison}: is not the file that {path.name} describes; make it again")
    return record


def _index_as_published(config: Config, dataset: Dataset) -> np.ndarray:
    """The place of each training image in the published data set, int (N,), which follows from the split's seed.

    Raises InputError if the source has another image at one of these places.
    """
    path = config.data_dir / MANIFEST
    manifest = read_record(path, source=dict, seed=int)
    published: np.ndarray | None = None
    if manifest["source"].get("file") == SOURCE:
        index = split_digits(manifest["seed"])["train"]
        published = digits()[0]
    else:
        count, validation = len(dataset.x_train) + len(dataset.x_val), len(dataset.x_val)
        index = split_at_random(count, validation, manifest["seed"], str(config.data_dir))[0]
        if config.source:
            published = as_unit_floats(read_source(config.source)[0]["x_train"])
            if manifest.get("provenance", {}).get("config", {}).get("transpose"):
                published = np.swapaxes(published, 1, 2)
    if published is None:
        print("note: the place of each image in the published data set follows from the manifest's seed and was not "
              "checked. To check it, give the data set as --source")  # fmt: skip
        return index
    size = (len(published), *dataset.image_shape)
    if published.size != np.prod(size) or len(published) <= index.max() or not np.array_equal(
        published.reshape(size)[index], dataset.x_train
    ):  # fmt: skip
        raise InputError(
            f"{path}: {config.source or SOURCE} has other images at the places that seed {manifest['seed']} gives to "
            "the training images; prepare the data again, or give the --source that they are from"
        )
    return index


if __name__ == "__main__":
    run_script(main, Config, __doc__)
