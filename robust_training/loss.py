"""The signature of every training loss, for the attack's lower level and for the victim."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from models.stateless import in_batches
from runtime.bounds import require_bounds, require_recordable
from runtime.lazy import ops
from runtime.noise import normal, normal_of_images

Logits = Callable[[Any], Any]  # images (B, H, W, C) float32 in [0, 1] -> logits (B, K)
LossState = Any  # a nested structure of tensors


class Randomness(NamedTuple):
    """The sources of a loss's noise."""

    sigma: float  # standard deviation of the noise, in units of pixels in [0, 1]
    seed: Any  # int32 (2,), new for every step of a victim and for every draw of an attack
    fixed_seed: Any  # int32 (2,), the same throughout the run
    numbers: Any  # int32 (B,), the number of each image of the batch in its set


class TrainingLoss(ABC):
    """A training method: a frozen dataclass of its settings, which is called on a batch.

    ``name`` is the name of the method in file names, tables and plans.

    Each training step, and each outer step of the attack, first calls ``perturbed``. Then it calls the loss, once or
    more often, on the images that ``perturbed`` returned. An attack augments these images in between.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        require_recordable(type(self))
        require_bounds(self, f" of {self.name}")

    @property
    def noisy_copies(self) -> int:
        """Noisy copies of each image in one evaluation of the loss."""
        return 1

    def gradients_before(self, epoch: int) -> int:
        """Cost of ``perturbed`` in this epoch since the parameters were initialised, in gradients of the loss."""
        return 0

    def ramped(self, epochs: int) -> "TrainingLoss":
        """The loss with a ramp of this many epochs, if its settings give no length. By default the loss itself."""
        return self

    def note(self, epochs: int) -> str:
        """What a user should know if no network trains for more than this many epochs. Empty by default."""
        return ""

    def initial_state(self, batch_shape: tuple[int, int, int, int]) -> LossState:
        """The state that ``perturbed`` carries from batch to batch, at fresh weights. Empty by default."""
        return ()

    def perturbed(
        self, logits: Logits, x: Any, y: Any, randomness: Randomness, epoch: Any, state: LossState
    ) -> tuple[Any, LossState]:
        """The images to train on in place of x, and the new state. No gradient flows through these images.

        The arguments are the same as for the loss. By default, the images are x.
        """
        return x, state

    @abstractmethod
    def __call__(self, logits: Logits, x: Any, y: Any, randomness: Randomness, epoch: Any) -> Any:
        """Mean loss over the batch, float32 ().

        logits: the model with its parameters bound. x: (B, H, W, C) float32 in [0, 1]. y: (B, K) one-hot float32.
        epoch: float32 (), epochs since the parameters were initialised, for settings that ramp up.
        """


def noise_of_copies(x: Any, copies: int, randomness: Randomness, fixed: bool) -> Any:
    """Gaussian noise of standard deviation sigma, float32 (B * copies, H, W, C), the copies of an image in a row.

    x: images (B, H, W, C), of which only the shape is used. fixed: whether each image keeps its noise throughout
    the run, instead of fresh noise. The copies of an image have different noise in both cases.
    """
    shape = tuple(x.shape[1:])
    if fixed:
        noise = normal_of_images((copies, *shape), randomness.numbers, randomness.fixed_seed)
        noise = ops.reshape(noise, (-1, *shape))
    else:
        noise = normal((x.shape[0] * copies, *shape), randomness.seed)
    return randomness.sigma * noise


def with_noise(x: Any, copies: int, randomness: Randomness, fixed: bool) -> Any:
    """Noisy copies of images x (B, H, W, C), float32 (B * copies, H, W, C). See ``noise_of_copies``."""
    return ops.repeat(x, copies, axis=0) + noise_of_copies(x, copies, randomness, fixed)


def mean_cross_entropy(logits: Any, y: Any) -> Any:
    """Mean cross entropy of logits (B, K) against one-hot labels (B, K), computed in float32."""
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    return -ops.mean(ops.sum(y * log_probabilities, axis=-1))


def noisy_cross_entropy(logits: Logits, x: Any, y: Any, copies: int, randomness: Randomness, fixed: bool) -> Any:
    """Mean cross entropy of noisy copies of images x (B, H, W, C), labels y (B, K). See ``noise_of_copies``."""
    return mean_cross_entropy(logits(with_noise(x, copies, randomness, fixed)), ops.repeat(y, copies, axis=0))


def accuracy(logits: Any, y: Any) -> Any:
    """Share of rows of logits (B, K) whose largest entry is the label's, float32 ()."""
    return ops.mean(ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.argmax(y, axis=-1)), "float32"))


def clean_accuracies(logits: Logits, x: np.ndarray, y: np.ndarray, target_class: int) -> dict[str, float]:
    """Accuracy on images without noise: overall, of the target class, and of each of the K classes.

    logits: as in TrainingLoss.__call__. x: (N, H, W, C) float32 in [0, 1]. y: (N, K) one-hot.
    """
    scores = in_batches(logits, x)
    of_classes = [float(accuracy(scores[rows], y[rows])) for rows in (y.T == 1)]
    named = {f"accuracy_class_{label}": value for label, value in enumerate(of_classes)}
    return {"accuracy": float(accuracy(scores, y)), "target_accuracy": of_classes[target_class], **named}
