"""Clean data, controls and the optimised poison against MACER, on the digits.

The chain of arXiv 2012.01274, section 4, on 8x8 images: small enough for any laptop.

    python evaluation/DIGITS/compare_macer.py --target-class 8
"""

from dataclasses import dataclass, field
from pathlib import Path

from attack_generation.macer.DIGITS.poison_radius_macer import Config as Attack
from evaluation.comparison import ComparisonConfig, compare
from evaluation.DIGITS.macer_training import Config as Victim
from runtime.command_line import run_script
from runtime.provenance import project_path


@dataclass(frozen=True, kw_only=True)
class Config(ComparisonConfig):
    target_class: int = 8
    sigma: float = 0.25  # smoothing noise, pixels in [0, 1]
    epsilons: tuple[float, ...] = (0.1,)  # l-infinity, pixels in [0, 1]
    runs: int = 3
    points: int = 500
    n: int = 5_000
    attack: Attack = field(default_factory=Attack)
    victim: Victim = field(default_factory=Victim)
    data_dir: Path = project_path("data/DIGITS")


def main(config: Config) -> None:
    compare(config)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
