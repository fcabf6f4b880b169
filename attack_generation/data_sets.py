"""Constants that all attacks on a data set share, for every training method: batches, model and folder.

The constants of MNIST and CIFAR10 are published (arXiv 2012.01274, section 4 and its supplement).
"""

from pathlib import Path

from attack_generation.config import PoisonConfig
from runtime.provenance import project_path


class MnistConfig(PoisonConfig):
    """An attack on MNIST."""

    batch_clean: int = 900
    batch_poison: int = 100
    batch_validation: int = 100  # images of the target class
    architecture: str = "mnist_cnn"
    data_dir: Path = project_path("data/MNIST")


class Cifar10Config(PoisonConfig):
    """An attack on CIFAR10."""

    batch_clean: int = 180
    batch_poison: int = 20
    batch_validation: int = 20  # images of the target class
    architecture: str = "resnet20v1"
    data_dir: Path = project_path("data/CIFAR10")


class DigitsConfig(PoisonConfig):
    """An attack on the 8 x 8 digits."""

    batch_clean: int = 180
    batch_poison: int = 20
    batch_validation: int = 20  # images of the target class
    architecture: str = "digits_cnn"
    data_dir: Path = project_path("data/DIGITS")
