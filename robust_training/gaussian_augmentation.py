"""Gaussian data augmentation (Cohen, Rosenfeld and Kolter, ICML 2019, arXiv 1902.02918, section 3.3)."""

from dataclasses import dataclass
from typing import Any

from robust_training.loss import Logits, Randomness, TrainingLoss, mean_cross_entropy, noise_of_copies
from runtime.files import InputError


@dataclass(frozen=True)
class GaussianAugmentationLoss(TrainingLoss):
    """Mean cross entropy at x + sigma * noise, one noise draw per image (see TrainingLoss.__call__ for the call).

    sigma: standard deviation of the noise, in units of pixels in [0, 1].
    """

    sigma: float

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise InputError(
                f"sigma must be positive, got {self.sigma}; the standard loss is the one without noise"
            )

    def __call__(self, logits: Logits, x: Any, y: Any, randomness: Randomness, epoch: Any) -> Any:
        noise = noise_of_copies(x, 1, randomness, fixed=False)
        return mean_cross_entropy(logits(x + self.sigma * noise), y)
