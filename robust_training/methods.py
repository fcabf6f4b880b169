"""The only table of the training methods. The attack, the victims and the plans of experiments read it."""

from typing import NamedTuple

from robust_training.consistency import ConsistencyLoss
from robust_training.gaussian_augmentation import GaussianAugmentationLoss
from robust_training.loss import TrainingLoss
from robust_training.macer import MacerLoss
from robust_training.smoothadv import SmoothAdvLoss
from robust_training.standard import StandardLoss


class Method(NamedTuple):
    """A training method and where its thin scripts lie."""

    label: str  # in figures
    loss: type[TrainingLoss]
    attack_folder: str  # in attack_generation/, with poison_radius_<name>.py for every kind of data
    victim_script: str  # in evaluation/<data>/, without .py


METHODS = {method.loss.name: method for method in (
    Method("Gaussian augmentation", GaussianAugmentationLoss, "gaussian_data_augmentation",
           "gaussian_augmented_training"),
    Method("MACER", MacerLoss, "macer", "macer_training"),
    Method("SmoothAdv", SmoothAdvLoss, "smoothadv", "smoothadv_training"),
    Method("Consistency", ConsistencyLoss, "consistency", "consistency_training"),
    Method("standard training", StandardLoss, "standard", "standard_training"),
)}  # fmt: skip
