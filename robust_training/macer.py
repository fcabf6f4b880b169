"""MACER: maximise the certified radius directly (Zhai et al., ICLR 2020, arXiv 2001.02378, section 4)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from keras import ops

from randomized_smoothing_certification.soft_radius import (
    gaussian_margin,
    log_mean_softmax,
    mean_softmax,
    repeat_images,
    top_class,
)
from robust_training.loss import Logits, Randomness, TrainingLoss, noise_of_copies
from runtime.files import InputError


@dataclass(frozen=True, kw_only=True)
class MacerLoss(TrainingLoss):
    """Cross entropy of the smoothed classifier, plus a hinge on its soft radius (arXiv 2001.02378, eq. 12).

    With z = mean over an image's noisy copies of softmax(logits), and m the margin Phi^-1(z1) - Phi^-1(z2) of
    the same mean taken at softmax(beta * logits), the mean over the batch of

        -log z_y  +  lam * sigma/2 * (gamma - m)    where z_y is the largest, m <= gamma and m is finite,
        -log z_y                                    elsewhere.

    """

    name: ClassVar[str] = "macer"

    copies: int = 16
    """Noisy copies per image (k)."""
    lam: float = 16.0
    """Weight of the robustness term (lambda)."""
    beta: float = 16.0
    """Inverse temperature of the softmax in the robustness term."""
    gamma: float = 8.0
    """Margin beyond which an image adds nothing to the robustness term."""
    fixed_noise: bool = True
    """Each image keeps its noise throughout the run, instead of new noise at every step (arXiv 2001.02378)."""

    def __post_init__(self) -> None:
        for name in ("copies", "beta", "gamma"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} of MACER must be positive, got {getattr(self, name)}")
        if not self.lam >= 0:
            raise InputError(f"lam of MACER must not be negative, got {self.lam}")

    def __call__(self, logits: Logits, x: Any, y: Any, randomness: Randomness, epoch: Any) -> Any:
        noise = noise_of_copies(x, self.copies, randomness, self.fixed_noise)
        scores = logits(repeat_images(x, self.copies) + noise)
        return macer_loss(scores, y, randomness.sigma, self.copies, self.lam, self.beta, self.gamma)


def macer_loss(scores: Any, y: Any, sigma: float, copies: int, lam: float, beta: float, gamma: float) -> Any:
    """The loss as a function of the noisy copies' logits, float32 ().

    scores: (B * copies, K), the copies of one image in a row. y: (B, K) one-hot. The rest as in MacerLoss.
    """
    cross_entropy = -ops.sum(y * log_mean_softmax(scores, copies), axis=-1)
    z = mean_softmax(scores, copies, beta)
    margin = gaussian_margin(ops.stop_gradient(z))
    correct = ops.equal(top_class(z), ops.argmax(y, axis=-1))
    # A NaN compares false, so this leaves it out together with infinity and margins beyond gamma.
    counted = ops.logical_and(correct, margin <= gamma)
    hinge = ops.where(counted, gamma - gaussian_margin(z, keep=counted), 0.0)
    return ops.mean(cross_entropy + lam * sigma / 2 * hinge)
