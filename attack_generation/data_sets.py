"""What an attack script needs: the constants of its data set, the training losses, the optimiser and the start.

A data set's constants are batches, model and folder, for every training method. Those of MNIST and CIFAR10 are
published (arXiv 2012.01274, section 4 and its supplement).
"""

from pathlib import Path

from attack_generation.config import ObjectiveName, Optimiser, PoisonConfig
from attack_generation.poisoning import poison_radius
from bilevel_optimizer.approxgrad import ApproxGrad
from robust_training.methods import ConsistencyLoss, GaussianAugmentationLoss, MacerLoss, SmoothAdvLoss, StandardLoss
from runtime.command_line import run_script
from runtime.provenance import project_path

__all__ = [
    "ApproxGrad", "Cifar10Config", "ConsistencyLoss", "DigitsConfig", "GaussianAugmentationLoss", "MacerLoss",
    "MnistConfig", "ObjectiveName", "Optimiser", "SmoothAdvLoss", "StandardLoss", "run_attack",
]  # fmt: skip


class MnistConfig(PoisonConfig):
    batch_clean: int = 900
    batch_poison: int = 100
    batch_validation: int = 100  # images of the target class
    architecture: str = "mnist_cnn"
    data_dir: Path = project_path("data/MNIST")


class Cifar10Config(PoisonConfig):
    batch_clean: int = 180
    batch_poison: int = 20
    batch_validation: int = 20  # images of the target class
    architecture: str = "resnet20v1"
    data_dir: Path = project_path("data/CIFAR10")


class DigitsConfig(PoisonConfig):
    batch_clean: int = 180
    batch_poison: int = 20
    batch_validation: int = 20  # images of the target class
    architecture: str = "digits_cnn"
    data_dir: Path = project_path("data/DIGITS")


def run_attack(config_type: type[PoisonConfig], description: str | None) -> None:
    """Make poison as a script's constants and the command line say. description: the text of --help."""
    run_script(poison_radius, config_type, description, PoisonConfig)
