"""Check a poison that is to be ranked (data/entries.py says what its file holds), and measure how visible it is.

    python attack_generation/check_poison.py mine.npz --data-dir data/MNIST

A line for each check: the pixels are 8-bit, every place stands once, every image is of the class that the file names,
no pixel changes by more than epsilon. The exit status is 0 where all hold, and 2 otherwise. With --png-dir the images
are then written as PNG files.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from data.datasets import SPLITS, load_dataset, split_target_class
from data.entries import Entry, checks, read_entry, write_pngs
from robust_training.detectors import areas, distances
from runtime.command_line import run_script
from runtime.files import InputError
from runtime.provenance import project_path

FEWEST = 10  # images that detectors are trained on


@dataclass(frozen=True, kw_only=True)
class Config:
    poison: tyro.conf.Positional[Path]
    """File of the poison, .npz, or the name of a poison in data/poisons."""
    data_dir: Path = project_path("data/MNIST")
    """Folder of the prepared arrays of its data set."""
    png_dir: Path | None = None
    """Folder to write its images to as PNG files, each named by its place in the data set as published."""


def main(config: Config) -> Entry:
    """Print the checks, and return the poison. Raises InputError where one fails or the file cannot be read."""
    entry, dataset = read_entry(config.poison), load_dataset(config.data_dir)
    found, images, changed = checks(entry, dataset, config.data_dir)
    for name, (holds, text) in found.items():
        print(f"{'ok  ' if holds else 'FAIL'}  {name:<12} {text}")
    if failed := [name for name, (holds, _) in found.items() if not holds]:
        raise InputError(f"{config.poison}: fails {', '.join(failed)} on {dataset.label}, class {entry.target_class}")
    clean, reference, held_out = (
        split_target_class(getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}"), entry.target_class).x_target
        for part in SPLITS
    )
    far = distances(images[changed], clean[changed], sigma=1.0)
    seen = areas(images[changed], clean[changed], reference, held_out, seed=0) if changed.sum() >= FEWEST else {}
    text = ", ".join(f"{name} {value:.3f}" for name, value in seen.items()) or f"fewer than {FEWEST} images"
    print(f"      {'visible':<12} l2 {far['l2']:.3f}, beyond jitter {far['beyond_jitter_over_sigma']:.3f}; detectors "
          f"(area under the curve, 0.5 sees nothing): {text}")  # fmt: skip
    if config.png_dir:
        write_pngs(config.png_dir, entry)
    return entry


if __name__ == "__main__":
    run_script(main, Config, __doc__)
