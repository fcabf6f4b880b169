"""Write a control in place of poison: the same epsilon, no optimisation.

The controls stand beside the optimised poison in every table: random signs of epsilon, a brightness shift of epsilon
(constant), and less contrast (dark pixels epsilon brighter, bright ones epsilon darker).

    python attack_generation/control_poison.py --kind constant --data-dir data/MNIST
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attack_generation.controls import write_control_poison
from data.datasets import load_dataset
from runtime.command_line import run_script
from runtime.files import InputError
from runtime.provenance import project_path, shown_path


@dataclass(frozen=True, kw_only=True)
class Config:
    target_class: int = 8
    """Class whose training images are changed."""
    kind: Literal["random", "constant", "contrast"] = "constant"
    """The change."""
    epsilon: float = 0.1
    """l-infinity bound on the change of each pixel; pixels are in [0, 1]."""
    sigma: float = 0.5
    """Noise level in the name of the file; the change does not depend on it."""
    seed: int = 0
    """Seed of the random signs."""
    data_dir: Path = project_path("data/MNIST")
    """Folder of the prepared arrays."""
    out_dir: Path | None = None
    """Folder of the poison files; data_dir when not given."""


def main(config: Config) -> None:
    if not 0 < config.epsilon <= 1:
        raise InputError(
            f"epsilon must be above 0 and at most 1 (pixels are in [0, 1]), got {config.epsilon}"
        )
    dataset = load_dataset(config.data_dir)
    path = write_control_poison(
        dataset, config.kind, config.sigma, config.target_class, config.epsilon, config.seed,
        config.out_dir or config.data_dir,
    )  # fmt: skip
    print(f"{shown_path(path)}: written")


if __name__ == "__main__":
    run_script(main, Config, __doc__)
