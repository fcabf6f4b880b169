"""Clean data, controls and the optimised poison against MACER, on CIFAR10.

Reproduces the MACER rows of arXiv 2012.01274, section 4, with the controls beside them.

    python evaluation/CIFAR10/compare_macer.py --target-class 8
"""

from dataclasses import dataclass, field
from pathlib import Path

from attack_generation.macer.CIFAR10.poison_radius_macer import Config as Attack
from evaluation.CIFAR10.macer_training import Config as Victim
from evaluation.comparison import ComparisonConfig, compare
from runtime.command_line import run_script
from runtime.provenance import project_path


@dataclass(frozen=True, kw_only=True)
class Config(ComparisonConfig):
    target_class: int = 8
    sigma: float = 0.25  # smoothing noise, pixels in [0, 1]
    epsilons: tuple[float, ...] = (0.03,)  # l-infinity, pixels in [0, 1]
    runs: int = 3
    points: int = 500
    attack: Attack = field(default_factory=Attack)
    victim: Victim = field(default_factory=Victim)
    data_dir: Path = project_path("data/CIFAR10")


def main(config: Config) -> None:
    compare(config)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
