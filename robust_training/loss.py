"""What every training loss looks like: one signature for the attack's lower level and for the victim."""

from collections.abc import Callable
from typing import Any, Protocol

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
