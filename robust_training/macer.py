"""MACER: maximise the certified radius directly (Zhai et al., ICLR 2020, arXiv 2001.02378, section 4)."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from randomized_smoothing_certification.soft_radius import gaussian_margin, log_mean_softmax, mean_softmax
from robust_training.loss import Logits, Randomness, TrainingLoss, with_noise
from runtime.bounds import NOT_NEGATIVE, POSITIVE, Bound
from runtime.lazy import ops


@dataclass(frozen=True, kw_only=True)
class MacerLoss(TrainingLoss):
    """Cross entropy of the smoothed classifier, plus a hinge on its soft radius (arXiv 2001.02378, eq. 12).

    z is the mean over an image's noisy copies of softmax(logits). z1 >= z2 are the two largest entries of the mean of
    softmax(beta * logits). m = Phi^-1(s z1 + a) - Phi^-1(s z2 + a), s = 1 - 2a, is the margin. The loss is the mean
    over the batch of (in public code with log(z_y + 1e-10))

        -log z_y  +  lam * sigma/2 * (gamma - m)    where z1 belongs to the label, m <= gamma and m is finite,
        -log z_y                                    elsewhere.
    """

    name: ClassVar[str] = "macer"

    copies: Annotated[int, POSITIVE] = 16
    """Noisy copies per image (k)."""
    lam: Annotated[float, NOT_NEGATIVE] = 16.0
    """Weight of the robustness term (lambda). Published for CIFAR10: 12 at sigma 0.25, 4 at larger sigma."""
    beta: Annotated[float, POSITIVE] = 16.0
    """Inverse temperature of the softmax in the robustness term."""
    gamma: Annotated[float, POSITIVE] = 8.0
    """Margin beyond which an image adds nothing to the robustness term."""
    margin_clip: Annotated[float, Bound("be at least 0 and below 0.5", lambda value: 0 <= value < 0.5)] = 1e-3
    """Bound a: probabilities are mapped into [a, 1 - a] before the margin is computed. The code of arXiv 2012.01274 has
    1e-3, so that no margin is infinite. The code of arXiv 2001.02378 has 0 and leaves out images of infinite margin."""
    fixed_noise: bool = False
    """Each image keeps its noise throughout the run (the published attack's lower level), instead of new noise at every
    step (the published victims, and arXiv 2001.02378)."""

    @property
    def noisy_copies(self) -> int:
        return self.copies

    def __call__(self, logits: Logits, x: Any, y: Any, randomness: Randomness, epoch: Any) -> Any:
        scores = logits(with_noise(x, self.copies, randomness, self.fixed_noise))
        cross_entropy = -ops.sum(y * log_mean_softmax(scores, self.copies), axis=-1)
        z = mean_softmax(scores, self.copies, self.beta)
        margin = gaussian_margin(ops.stop_gradient(z), self.margin_clip)
        correct = ops.equal(ops.argmax(z, axis=-1), ops.argmax(y, axis=-1))
        # NaN compares false. So NaN margins are left out, as infinite margins and margins beyond gamma are.
        counted = ops.logical_and(correct, margin <= self.gamma)
        hinge = ops.where(counted, self.gamma - gaussian_margin(z, self.margin_clip, keep=counted), 0.0)
        return ops.mean(cross_entropy + self.lam * randomness.sigma / 2 * hinge)
