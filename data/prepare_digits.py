"""Prepare the small demonstration dataset: scikit-learn's 8 x 8 handwritten digits, without a download.

    python data/prepare_digits.py

Writes 1,097 training, 340 validation and 360 test images, stratified by class. Images are float32 (8, 8, 1) in [0, 1],
labels one-hot. manifest.json holds the arrays' hashes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.preparation import PreparationConfig, write_dataset
from runtime.command_line import run_script
from runtime.files import InputError
from runtime.provenance import project_path

SOURCE = "sklearn.datasets.load_digits"  # as the manifest names it
VALIDATION, TEST = 340, 360  # of 1,797 images


@dataclass(frozen=True, kw_only=True)
class Config(PreparationConfig):
    out_dir: Path = project_path("data/DIGITS")


def main(config: Config) -> None:
    """Prepare the digits as the config says."""
    x, y = digits()
    splits = {name: (x[index], y[index]) for name, index in split_digits(config.seed).items()}
    write_dataset(config, splits, {"file": SOURCE}, num_classes=10)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images of ``load_digits()``, float32 (1797, 8, 8, 1) in [0, 1], and their classes, int64 (1797,)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)  # grey levels 0 to 16
    return (x / 16).astype(np.float32).reshape(-1, 8, 8, 1), y


def split_digits(seed: int) -> dict[str, np.ndarray]:
    """Indices into ``load_digits()`` of the training, validation and test images, a pure function of the seed.

    Raises InputError where the seed is out of range.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed} is out of range; choose 0 to {2**32 - 1}")
    from sklearn.model_selection import train_test_split

    y = digits()[1]
    rest, test = train_test_split(np.arange(len(y)), test_size=TEST, stratify=y, random_state=seed)
    train, val = train_test_split(rest, test_size=VALIDATION, stratify=y[rest], random_state=seed)
    return {"train": train, "val": val, "test": test}


if __name__ == "__main__":
    run_script(main, Config, __doc__)
