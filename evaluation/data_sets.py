"""What a victim script needs: the data set's one-cycle schedule, model and folder, the training losses, the start."""

from pathlib import Path

from robust_training.methods import ConsistencyLoss, GaussianAugmentationLoss, MacerLoss, SmoothAdvLoss, StandardLoss
from robust_training.schedules import ONE_CYCLE, Schedule
from robust_training.training import TrainingConfig, train_victims
from runtime.command_line import run_script
from runtime.provenance import project_path

__all__ = [
    "ONE_CYCLE", "Cifar10Config", "ConsistencyLoss", "DigitsConfig", "GaussianAugmentationLoss", "MacerLoss",
    "MnistConfig", "Schedule", "SmoothAdvLoss", "StandardLoss", "run_training",
]  # fmt: skip


class MnistConfig(TrainingConfig):
    one_cycle = ONE_CYCLE["MNIST"]
    architecture: str = "mnist_cnn"
    data_dir: Path = project_path("data/MNIST")


class Cifar10Config(TrainingConfig):
    one_cycle = ONE_CYCLE["CIFAR10"]
    architecture: str = "resnet20v1"
    data_dir: Path = project_path("data/CIFAR10")


class DigitsConfig(TrainingConfig):
    one_cycle = ONE_CYCLE["DIGITS"]
    architecture: str = "digits_cnn"
    data_dir: Path = project_path("data/DIGITS")


def run_training(config_type: type[TrainingConfig], description: str | None) -> None:
    """Train victims as a script's constants and the command line say. description: the text of --help."""
    run_script(train_victims, config_type, description, TrainingConfig)
