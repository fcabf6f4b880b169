"""Clean data, controls and the optimised poison against MACER, on CIFAR10.

Reproduces the MACER rows of arXiv 2012.01274, section 4, with the controls beside them.

    python evaluation/CIFAR10/compare_macer.py --target-class 8
"""

from dataclasses import dataclass, field
from pathlib import Path

from attack_generation.macer.CIFAR10 import poison_radius_macer as poisoning
from data.runs import project_path, run_script
from evaluation.CIFAR10 import macer_training as training
from evaluation.comparison import ComparisonConfig, Method, compare


@dataclass(frozen=True, kw_only=True)
class Config(ComparisonConfig):
    target_class: int = 8
    sigma: float = 0.25  # smoothing noise, pixels in [0, 1]
    epsilons: tuple[float, ...] = (0.03,)  # l-infinity, pixels in [0, 1]
    runs: int = 3
    points: int = 500
    attack: poisoning.Config = field(default_factory=poisoning.Config)
    victim: training.Config = field(default_factory=training.Config)
    data_dir: Path = project_path("data/CIFAR10")


def main(config: Config) -> None:
    compare(config, Method("macer", poisoning.training_loss), Method("macer", training.training_loss))


if __name__ == "__main__":
    run_script(main, Config, __doc__)
