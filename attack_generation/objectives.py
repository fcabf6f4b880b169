"""Upper objectives of the bilevel attack: quantities on validation images of the class that the poison lowers."""

from dataclasses import dataclass
from typing import Any, Protocol

from randomized_smoothing_certification.soft_radius import mean_softmax, soft_radius
from robust_training.loss import Logits, Randomness, mean_cross_entropy, noisy_cross_entropy, with_noise
from runtime.lazy import ops


class UpperObjective(Protocol):
    """Called as objective(logits, x, y, randomness) -> float32 (). Lower values are worse for the smoothed classifier.

    logits: the lower level's model as a function of images. x: clean images (B, H, W, C) of the target class, float32
    in [0, 1]. y: one-hot (B, K). randomness: numbers of the images and the seeds of their noise.
    """

    @property
    def copies(self) -> int:
        """Noisy copies of each image, 0 for the image itself."""

    def __call__(self, logits: Logits, x: Any, y: Any, randomness: Randomness) -> Any: ...


@dataclass(frozen=True)
class SoftRadius:
    """Mean soft radius, 0 for a misclassified image (arXiv 2012.01274, eq. 3). See soft_radius.py.

    copies: noisy copies per image (k). beta: inverse temperature of the softmax. clip: probabilities are mapped into
    [clip, 1 - clip] (a). fixed_noise: whether an image keeps its noise throughout the attack.
    """

    copies: int
    beta: float
    clip: float
    fixed_noise: bool

    def __call__(self, logits: Logits, x: Any, y: Any, randomness: Randomness) -> Any:
        scores = logits(with_noise(x, self.copies, randomness, self.fixed_noise))
        probabilities = mean_softmax(scores, self.copies, self.beta)
        return ops.mean(soft_radius(probabilities, y, randomness.sigma, self.clip))


@dataclass(frozen=True)
class CrossEntropy:
    """Minus the mean cross entropy of noisy copies, or of the images themselves where copies is 0.

    Its gradient does not vanish where the soft radius is saturated or 0.
    """

    copies: int = 0
    fixed_noise: bool = False

    def __call__(self, logits: Logits, x: Any, y: Any, randomness: Randomness) -> Any:
        if not self.copies:
            return -mean_cross_entropy(logits(x), y)
        return -noisy_cross_entropy(logits, x, y, self.copies, randomness, self.fixed_noise)
