"""Settings of an attack."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import tyro

from attack_generation.controls import StartName
from attack_generation.objectives import CrossEntropy, SoftRadius, UpperObjective
from attack_generation.parametrisation import ParametrisationName
from bilevel_optimizer.approxgrad import ApproxGrad
from bilevel_optimizer.bilevel import BilevelOptimizer
from bilevel_optimizer.error_minimising import ErrorMinimising
from bilevel_optimizer.optimisers import OPTIMISERS
from data.augmentation import Augmentation
from data.datasets import Epsilon, Share, Sigma
from models.registry import require_architecture
from robust_training.loss import TrainingLoss
from runtime.bounds import POSITIVE, Bound, Seed
from runtime.checks import require_usable
from runtime.files import InputError
from runtime.long_run import CheckpointOptions

Optimiser = Annotated[BilevelOptimizer, tyro.conf.arg(name="")]  # its settings are flags without a prefix

OBJECTIVES: dict[str, Callable[["PoisonConfig"], UpperObjective]] = {
    "soft_radius": lambda c: SoftRadius(c.radius_copies, c.radius_beta, c.radius_clip, c.fixed_validation_noise),
    "cross_entropy": lambda _: CrossEntropy(),
    "noisy_cross_entropy": lambda c: CrossEntropy(c.radius_copies, c.fixed_validation_noise),
}
"""Constructors of the upper objectives by name, called with the settings of the attack."""

UNUSED = {
    "noisy_cross_entropy": ("radius_beta", "radius_clip"),
    "cross_entropy": ("radius_beta", "radius_clip", "radius_copies", "fixed_validation_noise"),
    ErrorMinimising.name: ("objective", "batch_validation", "radius_beta", "radius_clip", "radius_copies",
                           "fixed_validation_noise"),
}  # fmt: skip
"""Settings of the attack that have no effect with an objective, or with an optimiser that evaluates none."""

ObjectiveName: TypeAlias = Literal[tuple(OBJECTIVES)]  # type: ignore[valid-type]


def flat_settings(config: Any) -> dict[str, Any]:
    """Settings of a config with a nested ``optimiser``: the optimiser's name, and its settings beside the others.

    Records of optimisers without redraw_noise say "none", as they did when every optimiser had the setting.
    """
    values = asdict(config)
    return {"redraw_noise": "none", **values, **values["optimiser"], "optimiser": config.optimiser.name}


@dataclass(frozen=True, kw_only=True)
class PoisonConfig(Augmentation, CheckpointOptions):
    """Constants of an attack that do not depend on the training method it is made against."""

    choice: ClassVar[tuple[str, Mapping[str, type]]] = ("optimiser", OPTIMISERS)
    """Nested settings whose class a flag of the same name chooses: see runtime.command_line."""

    target_class: int = 8
    """Class whose training images are poisoned."""
    loss: TrainingLoss
    """Settings of the training method that the poison is made against."""
    epsilon: Epsilon = 0.1
    """l-infinity bound on the change of an image. Pixels are in [0, 1]."""
    share: Share = 1.0
    """Share of the class's training images that are poisoned. They are the same in every run. The other images of the
    class are drawn with the clean images. Lower batch_poison with the share, to keep the victim's mixture."""
    sigma: Sigma = 0.5
    """Standard deviation of the smoothing noise. Pixels are in [0, 1]."""
    batch_clean: Annotated[int, POSITIVE] = 900
    """Images in a batch that are not poisoned."""
    batch_poison: Annotated[int, POSITIVE] = 100
    """Poisoned images in a batch, drawn at random for each outer step."""
    batch_validation: Annotated[int, POSITIVE] = 100
    """Clean validation images of the target class in each value of the objective, or all if there are fewer."""
    objective: ObjectiveName = "soft_radius"
    """Goal of the poison on the target class's validation images: a smaller mean soft_radius, a larger cross_entropy
    without noise (the attack on standard training), or a larger noisy_cross_entropy, that of noisy copies."""
    parametrisation: ParametrisationName = "per_image"
    """Variables: each image (published), each image with Adam moments of its own, or one pattern for the class."""
    radius_copies: Annotated[int, POSITIVE] = 20
    """Noisy copies of each validation image in the objective (k)."""
    radius_beta: Annotated[float, POSITIVE] = 16.0
    """Inverse temperature of the softmax in the soft radius (beta)."""
    radius_clip: Annotated[float, Bound("lie strictly between 0 and 0.5", lambda clip: 0 < clip < 0.5)] = 1e-3
    """Bound a that keeps the soft radius finite: probabilities are mapped into [a, 1 - a]."""
    epochs: Annotated[int, POSITIVE] = 50
    """Epochs of outer steps. An epoch visits each clean image once, except those of a last partial batch."""
    reinitialise_every: Annotated[int, POSITIVE] = 10
    """Epochs between two restarts. A restart draws fresh weights and resets the linear system's solution p and all Adam
    moments. The published code's first restart is one epoch earlier, so its last epoch begins with fresh weights."""
    networks: Annotated[int, POSITIVE] = 1
    """Networks of the lower level. Their hypergradients are averaged. They are re-initialised in turn, so that they
    differ in age, and the poison keeps its Adam moments."""
    optimiser: Optimiser = ApproxGrad()
    """Optimiser of the bilevel problem, with its settings. See bilevel_optimizer/."""
    separate_crops: bool = False
    """With 'augment': draw one crop for the clean and another for the poisoned images of a batch (published), instead
    of one crop for the whole batch."""
    fixed_validation_noise: bool = False
    """Whether each validation image keeps its noisy copies throughout the attack (published for MACER)."""
    start: StartName = "zero"
    """Start of the poison: the clean images, random signs of epsilon, a brightness shift of epsilon, less contrast
    (dark pixels epsilon brighter, bright ones darker), or the left half brighter and the right half darker."""
    architecture: str = "mnist_cnn"
    """Model of the lower level, see models/registry.py. BatchNorm is a fixed affine map, as in the published code."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic inside the lower level's model. Weights and losses are float32 in both cases. bfloat16 is faster on
    processors with bfloat16 units. The record says whether the processor of the run has them."""
    seed: Seed = 0
    """Seed of weights, batches and noise."""

    def check(self) -> None:
        """Raise InputError on a value that cannot work."""
        require_usable(self)
        if self.reinitialise_every % self.networks:
            raise InputError(
                f"reinitialise_every is {self.reinitialise_every} epochs, which {self.networks} networks cannot take "
                "in equal turns; give a multiple of networks"
            )
        if self.separate_crops and not (self.augment or type(self).separate_crops):  # a script's own value is allowed
            raise InputError("separate_crops: without augment nothing is cropped; add --augment or drop separate_crops")
        require_architecture(self.architecture)

    recorded = flat_settings
