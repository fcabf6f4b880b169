"""Check a poison from elsewhere (data/poison_files.py says what its file holds), and measure how visible it is.

    python attack_generation/check_poison.py mine.npz --data-dir data/MNIST

A line for each check: the pixels are 8-bit, every place occurs once, every image is of the class that the file names,
no pixel changes by more than epsilon. The exit status is 0 where all hold, and 2 otherwise. With --png-dir the images
are then written as PNG files.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from attack_generation.visibility import largest_beyond_jitter, visibility
from data.datasets import Dataset, changed_images, load_dataset, target_mask
from data.poison_files import checks, read_poison_file, require_sound, write_pngs
from data.ready_poisons import ReadyPoison
from runtime.command_line import run_script
from runtime.provenance import printed_path, project_path


@dataclass(frozen=True, kw_only=True)
class Config:
    poison: tyro.conf.Positional[Path]
    """File of the poison, .npz, or the name of a poison in data/poisons."""
    data_dir: Path = project_path("data/MNIST")
    """Folder of the prepared arrays of its data set."""
    png_dir: Path | None = None
    """Folder to write its images to as PNG files, each named by its place in the data set as published."""


def main(config: Config) -> tuple[ReadyPoison, np.ndarray, Dataset]:
    """Print the checks. Returns poison, the class's images with it, and data set. Raises InputError where one fails."""
    poison, dataset = read_poison_file(config.poison), load_dataset(config.data_dir)
    found, images = checks(poison, dataset, config.data_dir)
    for name, (holds, text) in found.items():
        print(f"{'ok  ' if holds else 'FAIL'}  {name:<12} {text}")
    require_sound(config.poison, poison, dataset, found)
    target_class = poison.record["settings"]["target_class"]
    seen = visibility(dataset, images, target_class, sigma=1.0, seed=0)
    areas = ", ".join(f"{name} {value:.3f}" for name, value in seen["auc"].items())
    clean = dataset.x_train[target_mask(dataset.y_train, target_class)]
    differs = changed_images(images, clean)
    if not differs.any():
        print("note: no image is changed")
    most = largest_beyond_jitter(clean[differs] if differs.any() else clean, poison.record["settings"]["epsilon"])
    far = f"l2 {seen['l2']:.3f}, beyond jitter {seen['beyond_jitter_over_sigma']:.3f} of at most {most:.3f}"
    print(f"      {'visible':<12} {far}; area under the curve of detectors: {areas}")
    if config.png_dir:
        write_pngs(config.png_dir, poison)
        print(f"{printed_path(config.png_dir)}: {len(poison.pixels)} PNG files")
    return poison, images, dataset


if __name__ == "__main__":
    run_script(main, Config, __doc__)
