"""Gaussian data augmentation (Cohen, Rosenfeld and Kolter, ICML 2019, arXiv 1902.02918, section 3.3)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from robust_training.loss import Logits, Randomness, TrainingLoss, mean_cross_entropy, noise_of_copies


@dataclass(frozen=True)
class GaussianAugmentationLoss(TrainingLoss):
    """Mean cross entropy at x + noise, one noise draw per image (see TrainingLoss.__call__ for the call)."""

    name: ClassVar[str] = "gaussianaug"

    def __call__(self, logits: Logits, x: Any, y: Any, randomness: Randomness, epoch: Any) -> Any:
        return mean_cross_entropy(logits(x + noise_of_copies(x, 1, randomness, fixed=False)), y)
