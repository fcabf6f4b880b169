"""Constants that all victims of a data set share, for every training method: one-cycle schedule, model and folder."""

from pathlib import Path

from robust_training.schedules import ONE_CYCLE
from robust_training.training import TrainingConfig
from runtime.provenance import project_path


class MnistConfig(TrainingConfig):
    """A victim on MNIST."""

    one_cycle = ONE_CYCLE["MNIST"]
    architecture: str = "mnist_cnn"
    data_dir: Path = project_path("data/MNIST")


class Cifar10Config(TrainingConfig):
    """A victim on CIFAR10."""

    one_cycle = ONE_CYCLE["CIFAR10"]
    architecture: str = "resnet20v1"
    data_dir: Path = project_path("data/CIFAR10")


class DigitsConfig(TrainingConfig):
    """A victim on the 8 x 8 digits."""

    one_cycle = ONE_CYCLE["DIGITS"]
    architecture: str = "digits_cnn"
    data_dir: Path = project_path("data/DIGITS")
