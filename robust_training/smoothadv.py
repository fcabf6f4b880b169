"""SmoothAdv: adversarial training of the smoothed classifier (Salman et al., NeurIPS 2019, arXiv 1906.04584)."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from bilevel_optimizer.adam import adam_init, adam_step
from bilevel_optimizer.autodiff import grad
from randomized_smoothing_certification.soft_radius import log_mean_softmax
from robust_training.loss import Logits, LossState, Randomness, TrainingLoss, noise_of_copies, noisy_cross_entropy
from runtime.bounds import NOT_NEGATIVE, POSITIVE
from runtime.files import InputError
from runtime.lazy import ops
from runtime.noise import normal_of_images

_SMALLEST = 2.0**-126  # some processors round smaller numbers to 0


@dataclass(frozen=True, kw_only=True)
class SmoothAdvLoss(TrainingLoss):
    """Mean cross entropy at noisy copies of adversarial images (arXiv 1906.04584, section 2.3).

    The adversarial images raise the smoothed classifier's loss -log(mean over the copies of softmax(logits)_y)
    (eq. 6) within an l2 ball around each image, and do not leave [0, 1]. The inner attack and the training share the
    noise. Without fixed noise, only the first evaluation of g in an outer step of the poisoning attack shares it.
    """

    name: ClassVar[str] = "smoothadv"

    eps_adv: Annotated[float, POSITIVE] = 1.0
    """l2 radius of the inner attack's ball. Pixels are in [0, 1]."""
    attack_steps: Annotated[int, POSITIVE] = 2
    """Ascent steps of the inner attack."""
    step_size: Annotated[float, POSITIVE] | None = None
    """Size of an ascent step, the same at every epoch. When not given, it is 2 / attack_steps times the ball's radius
    at the epoch (published code), so that it ramps up with the radius."""
    samples: Annotated[int, POSITIVE] = 1
    """Noisy copies per image (m), shared by inner attack and training."""
    inner_attack: Literal["adam", "pgd"] = "adam"
    """adam: ascent with Adam (published code of arXiv 2012.01274, with one copy). pgd: ascent by step_size times the
    normalised gradient (arXiv 1906.04584, with several copies), where a random direction replaces a gradient of 0."""
    fixed_noise: bool = True
    """Each image keeps its noise throughout the run, instead of new noise at every step."""
    persistent_moments: bool = True
    """Whether Adam's moments of the inner attack carry over from batch to batch (published code) or start at 0."""
    ramp_epochs: Annotated[int, NOT_NEGATIVE] | None = 10
    """Epochs in which the inner attack's radius grows linearly from 0 to eps_adv. 0: no ramp. None: the length that
    the victim's schedule gives."""
    plain_epochs: Annotated[int, NOT_NEGATIVE] = 0
    """Number of first epochs without an inner attack."""

    @property
    def noisy_copies(self) -> int:
        return self.samples

    def gradients_before(self, epoch: int) -> int:
        return self.attack_steps * bool(self.radius(epoch) > 0)

    def ramped(self, epochs: int) -> "SmoothAdvLoss":
        return replace(self, ramp_epochs=epochs) if self.ramp_epochs is None else self

    def initial_state(self, batch_shape: tuple[int, int, int, int]) -> LossState:
        """Adam's moments, shaped as a batch of perturbations."""
        if self.inner_attack == "adam" and self.persistent_moments:
            return adam_init(ops.zeros(batch_shape))
        return ()

    def radius(self, epoch: Any) -> Any:
        """l2 radius of the inner attack at an epoch, float32 (). Raises InputError if ramp_epochs is None."""
        if self.ramp_epochs is None:
            raise InputError("ramp_epochs of smoothadv is None, which only a victim's schedule fills in; give a number")
        ramp = ops.minimum(epoch / self.ramp_epochs, 1.0) if self.ramp_epochs else 1.0
        return ops.where(epoch < self.plain_epochs, 0.0, self.eps_adv * ramp)

    def note(self, epochs: int) -> str:
        first = max(self.plain_epochs, 1 if self.ramp_epochs else 0)  # the ramp starts at radius 0
        if epochs > first:
            return ""
        return (
            f"note: smoothadv has no inner attack here. It begins after {first} epochs of a network (loss.plain_epochs,"
            f" loss.ramp_epochs), and networks train for {epochs}; train longer, or restart an attack's networks later"
        )

    def perturbed(
        self, logits: Logits, x: Any, y: Any, randomness: Randomness, epoch: Any, state: LossState
    ) -> tuple[Any, LossState]:
        radius = self.radius(epoch)
        noise = noise_of_copies(x, self.samples, randomness, self.fixed_noise)
        step_size = 2 * radius / self.attack_steps if self.step_size is None else self.step_size
        start = ops.zeros_like(x)

        def smoothed_loss(delta: Any) -> Any:
            """Sum over the images of -log z_y, z = mean over an image's copies of softmax(logits)."""
            scores = logits(ops.repeat(x + delta, self.samples, axis=0) + noise)
            return -ops.sum(y * log_mean_softmax(scores, self.samples))

        gradient = grad(smoothed_loss)

        def adam() -> tuple[Any, LossState]:
            def step(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
                delta, moments = carry
                delta, moments = adam_step(delta, -gradient(delta), moments, step_size)
                return into_ball(delta, x, radius), moments

            moments = state if self.persistent_moments else adam_init(start)
            delta, moments = ops.fori_loop(0, self.attack_steps, step, (start, moments))
            return delta, moments if self.persistent_moments else state

        def pgd() -> tuple[Any, LossState]:
            # Fresh noise comes from another generator. So both can use the same seed.
            directions = normal_of_images((self.attack_steps, *x.shape[1:]), randomness.numbers, randomness.seed)

            def step(number: Any, delta: Any) -> Any:
                direction = to_unit(gradient(delta), ops.take(directions, number, axis=1))
                return into_ball(delta + step_size * direction, x, radius)

            return ops.fori_loop(0, self.attack_steps, step, start), state

        delta, state_after = ops.cond(radius > 0, adam if self.inner_attack == "adam" else pgd, lambda: (start, state))
        return ops.stop_gradient(x + delta), state_after

    def __call__(self, logits: Logits, x: Any, y: Any, randomness: Randomness, epoch: Any) -> Any:
        return noisy_cross_entropy(logits, x, y, self.samples, randomness, self.fixed_noise)


def into_ball(delta: Any, x: Any, radius: Any) -> Any:
    """Bring images x + delta (B, H, W, C) into [0, 1] and then delta to l2 norms of at most radius.

    In this order both bounds hold: an image that lies in [0, 1] stays there when delta shrinks. A pixel that jitter
    took outside [0, 1] goes no further out. It is not pulled back, which would spend the radius.
    """
    delta = ops.clip(x + delta, ops.minimum(x, 0.0), ops.maximum(x, 1.0)) - x
    return delta * ops.minimum(1.0, radius / ops.maximum(_norms(delta), 1e-12))


def to_unit(gradient: Any, otherwise: Any) -> Any:
    """Each image's gradient (B, H, W, C) scaled to l2 norm 1. ``otherwise`` replaces a gradient of 0."""
    # Scaled first, because the squares of a saturated softmax's small gradients would underflow.
    largest = ops.max(ops.abs(gradient), axis=(1, 2, 3), keepdims=True)
    zero = largest < _SMALLEST
    direction = ops.where(zero, otherwise, gradient / ops.where(zero, 1.0, largest))
    return direction / _norms(direction)


def _norms(delta: Any) -> Any:
    """l2 norm of each image of (B, H, W, C), shaped (B, 1, 1, 1)."""
    return ops.sqrt(ops.sum(ops.square(delta), axis=(1, 2, 3), keepdims=True))
