"""Poison one MNIST class against SmoothAdv.

Paper: arXiv 2012.01274, section 4 and its supplement; the constants are those of the published code.

    python attack_generation/smoothadv/MNIST/poison_radius_smoothadv.py --target-class 8
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attack_generation.poisoning import PoisonConfig, poison_radius
from robust_training.smoothadv import SmoothAdvLoss
from runtime.command_line import run_script
from runtime.provenance import project_path


@dataclass(frozen=True, kw_only=True)
class Config(PoisonConfig):
    target_class: int = 8
    epsilon: float = 0.1  # l-infinity, pixels in [0, 1]
    sigma: float = 0.75  # smoothing noise, pixels in [0, 1]
    eps_adv: float = 1.0  # l2 radius of the inner attack, pixels in [0, 1]
    attack_steps: int = 2  # of the inner attack
    step_size: float | None = None  # of the inner attack; 2 eps_adv / attack_steps when None
    samples: int = 1  # noisy copies per image, shared by inner attack and training
    inner_attack: Literal["adam", "pgd"] = "adam"  # Adam (published code), or normalised gradient
    fixed_noise: bool = True  # each image keeps its noise throughout, or new noise at every step
    persistent_moments: bool = True  # Adam's moments of the inner attack carry over to the next batch, or not
    ramp_epochs: int = 5  # eps_adv grows from 0 over this many epochs of the weights
    plain_epochs: int = 2  # epochs without the inner attack after each re-initialisation
    batch_clean: int = 900
    batch_poison: int = 100
    batch_validation: int = 100  # images of the target class
    radius_copies: int = 20
    radius_beta: float = 16.0
    radius_margin: float = 1e-4
    epochs: int = 100
    reinitialise_every: int = 20  # epochs
    lower_steps: int = 1  # T1
    solver_steps: int = 10  # T2
    lr_u: float = 0.1
    lr_v: float = 1e-3
    lr_p: float = 1e-3
    damping: float = 1e-3
    redraw_noise: bool = False  # the noise is fixed per image
    architecture: str = "mnist_cnn"
    data_dir: Path = project_path("data/MNIST")


def main(config: Config) -> None:
    poison_radius(config, "smoothadv", SmoothAdvLoss.of(config))


if __name__ == "__main__":
    run_script(main, Config, __doc__)
