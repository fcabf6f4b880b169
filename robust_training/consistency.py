"""Consistency regularisation (Jeong and Shin, NeurIPS 2020, arXiv 2006.04062, section 3)."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from randomized_smoothing_certification.soft_radius import log_mean_softmax
from robust_training.loss import Logits, Randomness, TrainingLoss, mean_cross_entropy, with_noise
from runtime.bounds import NOT_NEGATIVE, Bound
from runtime.lazy import ops


@dataclass(frozen=True, kw_only=True)
class ConsistencyLoss(TrainingLoss):
    """Cross entropy under noise, plus the disagreement of an image's noisy copies (arXiv 2006.04062, eq. 8).

    Let p_i = softmax(logits) of noisy copy i of an image, and p the mean over i. The loss is the mean over the batch of

        mean_i (-log p_i,y)  +  lam * mean_i KL(p || p_i)  +  eta * H(p).
    """

    name: ClassVar[str] = "consistency"

    copies: Annotated[int, Bound("be at least 2, which can disagree", lambda value: value >= 2)] = 2
    """Noisy copies per image (m)."""
    lam: Annotated[float, NOT_NEGATIVE] = 5.0
    """Weight of the disagreement (lambda). Published for MNIST: 10 at sigma 0.25, 5 above."""
    eta: Annotated[float, NOT_NEGATIVE] = 0.5
    """Weight of the mean prediction's entropy."""

    @property
    def noisy_copies(self) -> int:
        return self.copies

    def __call__(self, logits: Logits, x: Any, y: Any, randomness: Randomness, epoch: Any) -> Any:
        scores = logits(with_noise(x, self.copies, randomness, fixed=False))
        penalty = disagreement(scores, self.copies, self.lam, self.eta)
        return mean_cross_entropy(scores, ops.repeat(y, self.copies, axis=0)) + penalty


def disagreement(scores: Any, copies: int, lam: float, eta: float) -> Any:
    """lam * mean KL(p || p_i) + eta * H(p) over the batch, float32 ().

    scores: logits (B * copies, K), the copies of one image in a row.
    """
    log_each = ops.log_softmax(ops.cast(scores, "float32"), axis=-1)
    log_each = ops.reshape(log_each, (-1, copies, scores.shape[-1]))
    # On the log scale throughout: the second derivative of log p overflows where p nearly vanishes.
    log_mean = log_mean_softmax(scores, copies)
    mean = ops.exp(log_mean)
    entropy = -ops.sum(mean * log_mean, axis=-1)
    cross = -ops.sum(mean * ops.mean(log_each, axis=1), axis=-1)  # mean over i of H(p, p_i) = H(p) + KL(p || p_i)
    return ops.mean(lam * (cross - entropy) + eta * entropy)
