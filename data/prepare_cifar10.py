"""Prepare CIFAR10: 45,000 training, 5,000 validation and 10,000 test images (paper, section 5).

Without --source this fetches the standard download:

    python data/prepare_cifar10.py
    python data/prepare_cifar10.py --source cifar10.npz

--help names the other sources. data/prepare.py prepares data sets of other shapes.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.preparation import SourceConfig, prepare_from_source
from runtime.command_line import run_script
from runtime.provenance import project_path


@dataclass(frozen=True, kw_only=True)
class Config(SourceConfig):
    out_dir: Path = project_path("data/CIFAR10")


main = partial(prepare_from_source, download="cifar10", image_shape=(32, 32, 3), num_classes=10)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
