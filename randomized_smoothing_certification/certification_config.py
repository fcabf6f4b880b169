"""Settings of certificates, each declared here once: flags of the scripts, a plan's certification, and records."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from data.datasets import Sigma
from randomized_smoothing_certification.core import require_radii_above_0
from randomized_smoothing_certification.fixed_radii import required_probabilities
from randomized_smoothing_certification.sampling import Sampling
from runtime.bounds import Seed, at_least, between, require_bounds
from runtime.checks import shortened
from runtime.files import InputError
from runtime.long_run import RunOptions


@dataclass(frozen=True, kw_only=True)
class CertificateSettings(Sampling):
    """The settings that determine a run's certificates, with model and data. The defaults are the published values."""

    target_class: int | Literal["all"] = 8
    """Class whose test points are certified, or 'all'."""
    sigma: Sigma = 0.5
    """Standard deviation of the smoothing noise, in pixel units of [0, 1]. Normally the model was trained with it."""
    split: Literal["test", "val"] = "test"
    """Certify test images, or validation images. Choose attacks and settings by certificates of validation images."""
    points: Annotated[int, at_least(1)] = 500
    """Test points per class, drawn at random. A class with fewer points is certified whole."""
    seed: Seed = 0
    """Seed of the draw of points. Together with the images, it is also the seed of the noise, so that validation and
    test images never see the same noise."""
    shared_noise: bool = True
    """Use the same noise for every point, so that points and victims are compared on equal terms. Each certificate is
    as valid as with separate noise. --no-shared-noise draws separate noise for each point, as Cohen et al. do."""
    acr_only: bool = False
    """Draw no further votes for points whose selected class is wrong. They count 0 in the ACR in any case. The file
    says -1 (abstained). Certified accuracies stay the same, but the share of points that abstain is then unknown."""
    radii: tuple[float, ...] = ()
    """Certify accuracy at these radii instead of certified radii. Votes for a point end when it is known which radii
    hold, or after n votes. alpha covers all radii together. The file then gives no ACR."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic inside the model. bfloat16 is faster on GPUs and is another base classifier."""
    noise: Literal["float32", "grid"] = "float32"
    """float32: noise of the backend. grid: noise on the grid of pixel values, exact in floating point. Certificates
    with grid noise hold even for a classifier that reads the last bits of its input. See grid_noise.py."""
    shard: str | None = None
    """I/N: certify only part I (from 1) of N of the points. merge_shards.py joins the parts."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # such as a class of np.unique(y)
                object.__setattr__(self, name, value.item())

    def check_types(self) -> None:
        """Raise InputError that names the first setting of a wrong type. Flags and records are checked elsewhere."""
        if isinstance(self.radii, list):
            raise InputError("settings: radii is a list; give a tuple")
        try:
            msgspec.convert(vars(self), CertificateSettings)
        except msgspec.ValidationError as error:
            raise InputError(f"settings: {error}") from error

    def check(self) -> None:
        """Raise InputError naming the first setting that cannot work."""
        require_bounds(self)
        if self.radii and (self.acr_only or self.radius_loss):
            raise InputError("radii: there is no ACR at fixed radii; leave out acr_only and radius_loss")
        _, shards = shard_of(self.shard)
        if self.target_class != "all" and shards > self.points:
            raise InputError(f"shard is {self.shard}: some parts of {self.points} points are empty; use fewer shards")
        self.check_largest_radius()

    def check_largest_radius(self, failure_mass: float = 0.0) -> None:
        """Raise InputError if n votes cannot certify the requested radii. failure_mass: see GridNoise.failure_mass."""
        require_radii_above_0(self.n, self.alpha, self.sigma, self.radius_loss, failure_mass)
        if self.radii:
            required_probabilities(self.radii, self.sigma, self.n, self.alpha, failure_mass)


@dataclass(frozen=True, kw_only=True)
class CertificationConfig(CertificateSettings, RunOptions):
    """Settings of a certification run."""

    not_in_identity: ClassVar[frozenset[str]] = frozenset({"model", "out", "batch_size"})

    model: Path
    """Model to certify, a .keras file. It is the base classifier, in inference mode."""
    out: Path
    """Result file, .tsv. The files .settings.json and .summary.json are written beside it."""
    batch_size: Annotated[int, between(1, 100_000)] = 1_000  # the compiled loop grows with the batch
    """Noisy images per batch, rounded up to hundreds. It changes speed and memory, not the noise."""


def shard_of(text: Any) -> tuple[int, int]:
    """Part and number of parts that a shard I/N names, 1 and 1 for None. Raises InputError for other values."""
    if text is None:
        return 1, 1
    parts = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII) if isinstance(text, str) else None
    if not parts or not 1 <= int(parts[1]) <= int(parts[2]):
        raise InputError(f"shard must be I/N with 1 <= I <= N, got {shortened(text)}")
    return int(parts[1]), int(parts[2])
