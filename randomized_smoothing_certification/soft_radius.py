"""The differentiable certified radius, which the attack lowers and MACER raises.

With k noisy copies of each image, z = mean_k softmax(beta * logits), and z1 >= z2 the two largest entries,

    soft radius = sigma/2 * (Phi^-1(s z1 + a) - Phi^-1(s z2 + a)),   s = 1 - 2a,

where the top class is the label, and 0 elsewhere. The map z -> s z + a keeps Phi^-1 finite at z = 0 and 1.

Sources: Mehra et al., "How Robust are Randomized Smoothing based Defenses to Data Poisoning?" (CVPR 2021),
section 3, and Zhai et al., "MACER" (ICLR 2020), section 4. All functions here can be differentiated twice.
"""

import math
from typing import Any

from runtime.lazy import ops

Tensor = Any


def mean_softmax(logits: Tensor, copies: int, beta: float) -> Tensor:
    """Mean over each image's copies of softmax(beta * logits): (B * copies, K) to (B, K), float32.

    The copies of image b begin at row b * copies. beta is the softmax's inverse temperature.
    """
    probabilities = ops.softmax(beta * ops.cast(logits, "float32"), axis=-1)
    return ops.mean(ops.reshape(probabilities, (-1, copies, logits.shape[-1])), axis=1)


def log_mean_softmax(logits: Tensor, copies: int) -> Tensor:
    """Logarithm of ``mean_softmax`` with beta = 1, float32 (B, K).

    It never leaves the log scale: a mean that underflows keeps its value and its gradient.
    """
    log_softmax = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    return ops.logsumexp(ops.reshape(log_softmax, (-1, copies, logits.shape[-1])), axis=1) - math.log(copies)


def gaussian_margin(mean_probabilities: Tensor, a: float = 0.0, keep: Tensor | None = None) -> Tensor:
    """Phi^-1(s z1 + a) - Phi^-1(s z2 + a) per image, float32 (B,), z1 >= z2 the two largest of z.

    mean_probabilities: z, (B, K). a: in [0, 1/2). With a = 0 the margin is infinite at z1 = 1 or z2 = 0.
    keep: bool (B,), images whose margin counts. The others get margin 0 and gradient 0, even if theirs would be
        infinite or NaN. To leave out infinite margins, a caller evaluates this function twice: on
        ``stop_gradient(z)`` to find them, and then with ``keep``.
    """
    classes = mean_probabilities.shape[-1]
    # Selecting by one-hot products, not by max or top_k, keeps every derivative a plain product.
    first = ops.one_hot(ops.argmax(mean_probabilities, axis=-1), classes, dtype="float32")
    second = ops.one_hot(ops.argmax(mean_probabilities - 2 * first, axis=-1), classes, dtype="float32")
    z1 = ops.sum(mean_probabilities * first, axis=-1)
    z2 = ops.sum(mean_probabilities * second, axis=-1)
    if keep is not None:
        # Before Phi^-1, not after it: 0 times an infinite derivative would be NaN.
        z1, z2 = ops.where(keep, z1, 0.5), ops.where(keep, z2, 0.5)
    return normal_quantile((1 - 2 * a) * z1 + a) - normal_quantile((1 - 2 * a) * z2 + a)


def normal_quantile(p: Tensor) -> Tensor:
    """Phi^-1(p), the standard normal quantile."""
    return 2**0.5 * ops.erfinv(2 * p - 1)


def soft_radius(mean_probabilities: Tensor, labels_onehot: Tensor, sigma: float, a: float) -> Tensor:
    """Soft radius per image in pixel units (l2), float32 (B,). It and its gradient are 0 for misclassified images.

    mean_probabilities: z, (B, K). labels_onehot: (B, K). sigma: noise standard deviation in pixel units.
    a: keeps Phi^-1 finite. The largest soft radius is sigma * Phi^-1(1 - a).
    """
    correct = ops.equal(ops.argmax(mean_probabilities, axis=-1), ops.argmax(labels_onehot, axis=-1))
    return sigma / 2 * gaussian_margin(mean_probabilities, a, keep=correct)
