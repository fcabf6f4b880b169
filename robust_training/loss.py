"""What every training loss looks like: one signature for the attack's lower level and for the victim."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from keras import ops

Logits = Callable[[Any], Any]  # images (B, H, W, C) float32 in [0, 1] -> logits (B, K)


class TrainingLoss(Protocol):
    """A frozen dataclass of settings that is called on a batch.

    logits: the model with its parameters bound. x: (B, H, W, C) float32 in [0, 1]. y: (B, K) one-hot float32.
    seed: int32 (2,), all the randomness the loss may use. epoch: float32 (), epochs since the parameters were
    initialised, for settings that ramp up. Returns the mean loss over the batch, float32 ().
    """

    def __call__(self, logits: Logits, x: Any, y: Any, seed: Any, epoch: Any) -> Any: ...


def mean_cross_entropy(logits: Any, y: Any) -> Any:
    """Mean cross entropy of logits (B, K) against one-hot labels (B, K), computed in float32."""
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    return -ops.mean(ops.sum(y * log_probabilities, axis=-1))


def accuracy(logits: Any, y: Any) -> Any:
    """Share of rows of logits (B, K) whose largest entry is the label's, float32 ()."""
    hits = ops.equal(ops.argmax(logits, axis=-1), ops.argmax(y, axis=-1))
    return ops.mean(ops.cast(hits, "float32"))


def clean_accuracies(
    logits: Logits, x: np.ndarray, y: np.ndarray, target_class: int, batch_size: int = 1000
) -> tuple[float, float]:
    """Accuracy on images without noise, overall and of the target class, evaluated batch by batch.

    logits: as in TrainingLoss. x: (N, H, W, C) float32 in [0, 1]. y: (N, K) one-hot.
    """
    scores = np.concatenate(
        [ops.convert_to_numpy(logits(x[i : i + batch_size])) for i in range(0, len(x), batch_size)]
    )
    target = y[:, target_class] == 1
    return float(accuracy(scores, y)), float(accuracy(scores[target], y[target]))
