"""Gaussian data augmentation (Cohen, Rosenfeld and Kolter, ICML 2019, arXiv 1902.02918, section 3.3)."""

from dataclasses import dataclass
from typing import Any

from data.files import InputError
from data.noise import normal
from robust_training.loss import Logits, mean_cross_entropy


@dataclass(frozen=True)
class GaussianAugmentationLoss:
    """Mean cross entropy at x + sigma * noise, one noise draw per image (see loss.TrainingLoss for the call).

    sigma: standard deviation of the noise, in units of pixels in [0, 1].
    """

    sigma: float

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise InputError(
                f"sigma must be positive, got {self.sigma}; the standard loss is the one without noise"
            )

    def __call__(self, logits: Logits, x: Any, y: Any, seed: Any, epoch: Any) -> Any:
        return mean_cross_entropy(logits(x + self.sigma * normal(tuple(x.shape), seed)), y)
