"""Train victims on CIFAR10 with SmoothAdv, on clean or poisoned data.

Paper: arXiv 2012.01274, section 4 (victims), and arXiv 1906.04584, section 2 (the loss).

    python evaluation/CIFAR10/smoothadv_training.py --dataset clean --runs 3
    python evaluation/CIFAR10/smoothadv_training.py --dataset poisoned_radius --runs 3
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaluation.training import TrainingConfig, train_victims
from robust_training.smoothadv import SmoothAdvLoss
from runtime.command_line import run_script
from runtime.provenance import project_path


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    target_class: int = 8
    sigma: float = 0.25  # training noise, pixels in [0, 1]
    eps_adv: float = 1.0  # l2 radius of the inner attack, pixels in [0, 1]
    attack_steps: int = 2  # of the inner attack
    step_size: float | None = None  # of the inner attack; 2 eps_adv / attack_steps when None
    samples: int = 1  # noisy copies per image, shared by inner attack and training
    inner_attack: Literal["adam", "pgd"] = "adam"  # Adam (published code), or normalised gradient
    fixed_noise: bool = True  # each image keeps its noise throughout, or new noise at every step
    persistent_moments: bool = True  # Adam's moments of the inner attack carry over to the next batch, or not
    ramp_epochs: int = 10  # eps_adv grows from 0 over this many epochs of the weights
    epochs: int = 101
    batch_size: int = 100
    learning_rate: float = 1e-3
    architecture: str = "resnet20v1"
    data_dir: Path = project_path("data/CIFAR10")


def main(config: Config) -> None:
    train_victims(config, "smoothadv", SmoothAdvLoss.of(config))


if __name__ == "__main__":
    run_script(main, Config, __doc__)
