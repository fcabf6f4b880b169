"""Settings of an attack."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from attack_generation import optimisers
from attack_generation.controls import StartName
from attack_generation.objectives import CrossEntropy, SoftRadius, UpperObjective
from attack_generation.parametrisation import PARAMETRISATIONS, Parametrisation
from data.augmentation import Augmentation
from data.datasets import require_epsilon, require_sigma
from models.registry import require_architecture
from robust_training.loss import TrainingLoss
from runtime.files import InputError
from runtime.long_run import CheckpointControls, require_not_negative, require_positive

RedrawNoise = Literal["training_and_validation", "validation", "none"]


@dataclass(frozen=True, kw_only=True)
class PoisonConfig(Augmentation, CheckpointControls):
    """Constants of an attack that do not depend on the training method it is made against."""

    published: ClassVar[dict[str, Any]] = {}
    # Settings of the published ApproxGrad that are others than in optimisers.SETTINGS; ``in_force`` fills them in.

    target_class: int = 8
    """Class whose training images are poisoned."""
    loss: TrainingLoss
    """Settings of the training method that the poison is made against."""
    epsilon: float = 0.1
    """l-infinity bound on the change of each pixel; pixels are in [0, 1]."""
    sigma: float = 0.5
    """Standard deviation of the smoothing noise; pixels are in [0, 1]."""
    batch_clean: int = 900
    """Images of the other classes in a batch."""
    batch_poison: int = 100
    """Poisoned images in a batch, drawn at random for each outer step."""
    batch_validation: int = 100
    """Clean validation images of the target class on which the objective is measured."""
    objective: Literal["soft_radius", "cross_entropy", "noisy_cross_entropy"] = "soft_radius"
    """What the poison lowers on the target class's validation images: their mean soft radius, or minus their cross
    entropy, without noise (the attack on standard training) or of noisy copies."""
    parametrisation: Literal["per_image", "class_pattern"] = "per_image"
    """What is moved: every image by itself (published), or one pattern for the whole class."""
    radius_copies: int = 20
    """Noisy copies of each validation image in the objective (k)."""
    radius_beta: float = 16.0
    """Inverse temperature of the softmax in the soft radius (beta)."""
    radius_clip: float = 1e-3
    """Keeps the soft radius finite: probabilities are mapped into [a, 1 - a] (a)."""
    epochs: int = 50
    """Epochs of outer steps; an epoch visits every image of the other classes once."""
    reinitialise_every: int = 10
    """Epochs after which the weights, p and all Adam moments start afresh. In the published code the first of these
    segments is one epoch shorter, so that the last epoch begins with fresh weights; here all have the same length."""
    networks: int = 1
    """Networks of the lower level, whose hypergradients are averaged. They are re-initialised in turn, so that they
    differ in age."""
    optimiser: Literal["approxgrad", "few_steps", "soba", "f2sa", "error_minimising"] = "approxgrad"
    """Of the bilevel problem: ApproxGrad (published); the same with few steps, warm-started; SOBA, a single loop; F2SA,
    a single loop of first derivatives. 'error_minimising' lowers the training loss itself, not the objective: it makes
    the class easy to learn (arXiv 2101.04898), with a noisy training method in its stable form (SEM, arXiv 2311.13091).
    See bilevel_optimizer/."""
    lower_steps: int | None = None
    """Adam steps on the weights in an outer step of approxgrad, few_steps and error_minimising (T1)."""
    solver: Literal["adam", "cg", "neumann"] | None = None
    """Solver of their linear system: Adam on the residual (published), conjugate gradient, Neumann series."""
    solver_steps: int | None = None
    """Iterations of the linear solver in an outer step (T2)."""
    redraw_noise: RedrawNoise = "training_and_validation"
    """Which noise each iteration of approxgrad's linear solver draws anew: that of the training images (g_vv) and of
    the validation images (f_v), published for Gaussian augmentation; of the validation images alone, published for
    SmoothAdv, whose training noise is fixed per image; or none, published for MACER, where both are fixed. 'none'
    holds one draw for the whole system. It saves a forward pass and a gradient of the objective in each iteration,
    and conjugate gradient needs it. The other optimisers draw nothing anew."""
    lr_u: float = 0.1
    """Adam learning rate of the poison. At epsilon or above a step is close to a sign step and a projection."""
    lr_v: float = 1e-3
    """Adam learning rate of the weights."""
    lr_p: float | None = None
    """Adam learning rate of the linear system's solution; the scale of the Neumann series; SOBA's step."""
    damping: float | None = None
    """Multiple of the identity added to the lower level's Hessian, where there is one."""
    multiplier: float | None = None
    """F2SA's multiplier of the training loss at the start (lambda)."""
    growth: float | None = None
    """By how much F2SA's multiplier grows at each outer step."""
    separate_crops: bool = False
    """With 'augment': whether the clean and the poisoned images of a batch are cropped at a place each (published for
    Gaussian augmentation) or all at one place."""
    fixed_validation_noise: bool = False
    """Whether each validation image keeps its noisy copies throughout the attack (published for MACER)."""
    start: StartName = "zero"
    """Where the poison starts: the clean images, random signs of epsilon, a brightness shift of epsilon, less
    contrast (dark pixels epsilon brighter, bright ones epsilon darker), or the left half brighter and the right one
    darker."""
    architecture: str = "mnist_cnn"
    """Model of the lower level, see models/registry.py."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic inside the lower level's model; weights and losses are float32 in either. bfloat16 is faster where the
    processor has units for it, which the record says."""
    seed: int = 0
    """Seed of weights, batches and noise."""

    def check(self) -> None:
        """Raise InputError on a value that cannot work."""
        self.check_augmentation()
        require_epsilon(self.epsilon)
        require_sigma(self.sigma)
        require_positive(
            self,
            "batch_clean", "batch_poison", "batch_validation", "radius_copies", "radius_beta",
            "epochs", "reinitialise_every", "networks", "lr_u", "lr_v",
        )  # fmt: skip
        if self.reinitialise_every % self.networks:
            raise InputError(
                f"reinitialise_every is {self.reinitialise_every} epochs, which {self.networks} networks cannot take "
                "in equal turns; give a multiple of networks"
            )
        filled = self.in_force()
        own = [name for name in optimisers.NAMES if type(getattr(filled, name)) in (int, float)]
        require_positive(filled, *(name for name in own if name not in ("damping", "growth")))
        require_not_negative(filled, *(name for name in own if name in ("damping", "growth")))
        if self.separate_crops > max(self.augment, type(self).separate_crops):
            raise InputError("separate_crops: without augment nothing is cropped; add --augment or leave it out")
        if not 0 < self.radius_clip < 0.5:
            raise InputError(f"radius_clip must lie between 0 and 0.5, got {self.radius_clip}")
        require_architecture(self.architecture)
        require_not_negative(self, "seed")
        if filled.solver == "cg" and filled.redraw_noise != "none":
            raise InputError("solver cg needs one fixed linear system; add --redraw-noise none")

    def in_force(self) -> "PoisonConfig":
        """The same with the optimiser's value of every setting that is not given.

        Raises InputError where one is given that the optimiser does not have.
        """
        given = {name: value for name in optimisers.NAMES if (value := getattr(self, name)) is not None}
        values = optimisers.in_force(self.optimiser, self.published, given)
        is_published = self.optimiser == optimisers.APPROXGRAD
        if not is_published and self.redraw_noise not in ("none", type(self).redraw_noise):
            raise InputError(
                f"redraw_noise is {self.redraw_noise}, but optimiser {self.optimiser} redraws nothing; leave it out"
            )
        return replace(self, **values, redraw_noise=self.redraw_noise if is_published else "none")

    def upper_objective(self) -> UpperObjective:
        """What ``objective`` names, with its settings."""
        if self.objective == "soft_radius":
            return SoftRadius(self.radius_copies, self.radius_beta, self.radius_clip, self.fixed_validation_noise)
        noisy = self.objective == "noisy_cross_entropy"
        return CrossEntropy(self.radius_copies if noisy else 0, self.fixed_validation_noise)

    def poison_parametrisation(self) -> Parametrisation:
        """What ``parametrisation`` names."""
        return PARAMETRISATIONS[self.parametrisation](self.epsilon)
