"""Write a control in place of poison: the same epsilon, no optimisation.

The controls stand beside the optimised poison in every table: random signs of epsilon, a brightness shift of epsilon
(constant, darker), less contrast (dark pixels epsilon brighter, bright ones epsilon darker), one pattern for the class
(halves: the left half brighter and the right one darker; tint: red and blue up, green down; class_signs: random;
detectable: what a linear classifier sees best under noise), and one random filter for the class whose effect is kept
within epsilon (class_filter).

    python attack_generation/control_poison.py --kind constant --data-dir data/MNIST
"""

from dataclasses import dataclass
from pathlib import Path

from attack_generation.controls import ControlConfig, write_control_poison
from runtime.command_line import run_script
from runtime.provenance import project_path


@dataclass(frozen=True, kw_only=True)
class Config(ControlConfig):
    target_class: int = 8
    epsilon: float = 0.1  # l-infinity, pixels in [0, 1]
    data_dir: Path = project_path("data/MNIST")


if __name__ == "__main__":
    run_script(write_control_poison, Config, __doc__)
