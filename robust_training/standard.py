"""Standard training (empirical risk minimisation): cross entropy, no noise."""

from dataclasses import dataclass
from typing import Any, ClassVar

from robust_training.loss import Logits, Randomness, TrainingLoss, mean_cross_entropy


@dataclass(frozen=True)
class StandardLoss(TrainingLoss):
    """Mean cross entropy of the clean batch (see TrainingLoss.__call__ for the call)."""

    name: ClassVar[str] = "standard"

    def __call__(self, logits: Logits, x: Any, y: Any, randomness: Randomness, epoch: Any) -> Any:
        return mean_cross_entropy(logits(x), y)
