"""Write the images of a poison in data/poisons/, or of a file as data/entries.py says, for victims; and their record.

    python attack_generation/ready_poison.py --name mnist_published --out runs/X_mnist_published.npy
    python attack_generation/ready_poison.py --name mine.npz --out runs/X_mine.npy

The victim scripts take the name itself: --training-data poisoned_radius --poison mnist_published.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.datasets import Dataset, Epsilon, Share, check_poison, load_dataset, partly_poisoned, split_target_class
from data.entries import checks, read_entry
from data.ready_poisons import is_ready_name, read_ready_poison
from runtime.checks import require_usable
from runtime.command_line import run_script
from runtime.files import InputError, array_sha256, file_sha256, save_array, write_json
from runtime.provenance import printed_path, project_path


@dataclass(frozen=True, kw_only=True)
class Config:
    name: str
    """Name of the poison, or its file, .npz."""
    out: Path
    """File for its images, .npy. The record is written beside it as .json."""
    target_class: int = 8
    """Class of the poison."""
    epsilon: Epsilon = 0.1
    """l-infinity bound that the poison must keep. Pixels are in [0, 1]."""
    share: Share = 1.0
    """Share of the poisoned images that are used. They are the same in every run. The rest of the class stays clean."""
    data_dir: Path = project_path("data/MNIST")
    """Folder of the prepared arrays that the poison was made from."""


def main(config: Config) -> None:
    """Copy as the config says. Raises InputError if the poison was made from other images or exceeds epsilon."""
    require_usable(config)
    dataset = load_dataset(config.data_dir)
    images, record = _images_of_class(config, dataset)
    clean = split_target_class(dataset.x_train, dataset.y_train, config.target_class).x_target
    check_poison(images, clean, config.epsilon, Path(config.name))
    save_array(config.out, partly_poisoned(images, clean, config.share))
    write_json(config.out.with_suffix(".json"), {**record, "share": config.share, "sha256": file_sha256(config.out)})
    print(f"{printed_path(config.out)}: {len(images)} images, written")


def _images_of_class(config: Config, dataset: Dataset) -> tuple[np.ndarray, dict[str, Any]]:
    """The class's training images with the poison, float32 (N, H, W, C), and what is known of how it was made."""
    if is_ready_name(path := Path(config.name)):
        ready = read_ready_poison(config.name, dataset.x_train, config.target_class)
        return ready.images, ready.record
    entry = read_entry(path)
    if entry.target_class != config.target_class:
        raise InputError(f"{path}: is poison of class {entry.target_class}; give it as --target-class")
    found, images, _ = checks(entry, dataset, config.data_dir)
    for name, (holds, text) in found.items():
        if not holds:
            raise InputError(f"{path}: {name}: {text}; mend the file")
    settings = {"target_class": entry.target_class, "epsilon": config.epsilon, "x_train": array_sha256(dataset.x_train)}
    return images, {"settings": settings, "entry": {"source": entry.source, "file_sha256": file_sha256(path)}}


if __name__ == "__main__":
    run_script(main, Config, __doc__)
