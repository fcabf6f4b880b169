"""Prepare any data set of 8-bit images: any height, width, channels and number of classes, without a download.

    python data/prepare.py --source /usr/share/datasets/fashion-mnist --name FASHION --label FashionMNIST
    python data/prepare.py --source images.npz --name TRAFFIC --validation 1000
    python data/prepare.py --source emnist-letters-train-images-idx3-ubyte.gz --name LETTERS --first-label 1 --transpose

Writes X_train.npy, Y_train.npy, ... Y_test.npy (images float32 NHWC in [0, 1], labels one-hot) and manifest.json with
their hashes to data/<name>. Every attack, victim and certificate script then takes --data-dir data/<name>.
"""

from dataclasses import dataclass, field
from pathlib import Path

from data.preparation import SourceConfig, prepare_from_source
from runtime.command_line import run_script


@dataclass(frozen=True, kw_only=True)
class Config(SourceConfig):
    name: str
    """Name of the data set, in tables, figures and file names."""
    source: Path = field()  # required, unlike in the scripts that can download


def main(config: Config) -> None:
    """Prepare the data set as the config says."""
    prepare_from_source(config, config.name)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
