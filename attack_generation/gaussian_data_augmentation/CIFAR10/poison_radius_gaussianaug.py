"""Poison one CIFAR10 class against Gaussian data augmentation.

Paper: arXiv 2012.01274, section 4 and its supplement; the constants are those of the published code.

    python attack_generation/gaussian_data_augmentation/CIFAR10/poison_radius_gaussianaug.py --target-class 8
"""

from pathlib import Path

from attack_generation.config import Optimiser, PoisonConfig
from attack_generation.poisoning import poison_radius
from bilevel_optimizer.approxgrad import ApproxGrad
from robust_training.gaussian_augmentation import GaussianAugmentationLoss
from runtime.command_line import run_script
from runtime.provenance import project_path


class Config(PoisonConfig):  # the other published constants: attack_generation/config.py
    target_class: int = 8
    epsilon: float = 0.03  # l-infinity, pixels in [0, 1]
    sigma: float = 0.5  # smoothing noise, pixels in [0, 1]
    loss: GaussianAugmentationLoss = GaussianAugmentationLoss()
    batch_clean: int = 180
    batch_poison: int = 20
    batch_validation: int = 20  # images of the target class
    radius_copies: int = 5
    epochs: int = 51
    # T1, T2, learning rates of the poison and of the linear system
    optimiser: Optimiser = ApproxGrad(lower_steps=10, solver_steps=10, lr_u=0.1, lr_p=1e-3)
    augment: bool = True  # random crop and flip
    separate_crops: bool = True  # clean and poisoned images have a place each
    architecture: str = "resnet20v1"
    data_dir: Path = project_path("data/CIFAR10")


if __name__ == "__main__":
    run_script(poison_radius, Config, __doc__)
