"""Noise that is exact in floating point: Gaussian noise rounded to the grid of pixel values, drawn from integers.

The proof of the certified radius needs exact Gaussian noise on real numbers. The low bits of float32 noise can tell a
classifier which image the noise was added to (Voracek and Hein, "Sound Randomized Smoothing in Floating-Point
Arithmetics", ICLR 2023, arXiv 2207.07209). Here the base classifier is h(v) = model(clip(round(v), -k, k + 1)), a
function of integers: ``round`` goes to the nearest multiple of 1/levels, and k = int(6 sigma) + 1. For an image x on
the grid, round(x + sigma Z) is x plus the rounded noise. The exact distribution of the rounded noise is

    P[bin i] = Phi((2i + 1) / (2 levels sigma)) - Phi((2i - 1) / (2 levels sigma)),

so votes on x + bin / levels estimate the probability in the theorem, for real Z and real shifts of x. The remaining
error has a bound, which certificates take off the probability: see GridNoise.failure_mass.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import mpmath
import numpy as np

from runtime.files import InputError
from runtime.lazy import ops
from runtime.noise import integers

_BITS, _WORD = 60, 30  # a draw takes two words of 30 bits, because some devices have integers of 32 bits only
LEVELS = (255, 256)  # grids of 8-bit images, and of grey levels that divide 256
LARGEST_SIGMA = 8.0  # the table of the draws grows with sigma


def grid_of(images: np.ndarray, what: object) -> int:
    """The number of grid steps per unit, one of LEVELS, of images whose pixels are float32(i) / float32(levels).

    Raises InputError, which names ``what``, if they lie on neither grid.
    """
    for levels in LEVELS:
        if _steps(images, levels) is not None:
            return levels
    raise InputError(
        f"{what}: pixels that are no multiples of 1/{LEVELS[0]} or 1/{LEVELS[1]}, which noise grid needs; "
        "prepare the data from 8-bit images or use noise float32"
    )


def _steps(images: np.ndarray, levels: int) -> np.ndarray | None:
    """The images in grid steps, int32. None: a pixel is not on the grid."""
    steps = np.rint(images.astype(np.float64) * levels)
    is_on_grid = np.all(steps.astype(np.float32) / np.float32(levels) == images)
    return steps.astype(np.int32) if is_on_grid else None


@dataclass(frozen=True)
class GridNoise:
    """Rounded Gaussian noise of standard deviation sigma (pixel units of [0, 1]), cut off at k = int(6 sigma) + 1.

    levels: grid steps per unit. Raises InputError for sigma that is not in (0, LARGEST_SIGMA].
    """

    sigma: float
    levels: int
    dtype: ClassVar = np.int32

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= LARGEST_SIGMA:
            raise InputError(f"sigma must lie between 0 and {LARGEST_SIGMA:g} for noise grid, got {self.sigma}")

    def prepared(self, image: np.ndarray) -> np.ndarray:
        """An image on the grid, in grid steps, int32. Raises InputError where it is not on the grid."""
        if (steps := _steps(image, self.levels)) is None:
            raise InputError(
                f"the image has pixels that are no multiples of 1/{self.levels}; use another grid or float32 noise"
            )
        return steps

    def added(self, steps: Any, _: Any, noise: Any) -> Any:
        """Noisy copies, float32 (B, *shape), of an image in grid steps (*shape). noise: from ``draw``, (B, *shape)."""
        return ops.cast(steps + noise, "float32") / np.float32(self.levels)

    def record(self, pixels: int) -> dict[str, Any]:
        """The entry on noise in a certificate's record. pixels: number of values of an image."""
        cut_off, mass = self.reach / self.levels / self.sigma, self.failure_mass(pixels)
        return {"mode": "grid", "cut_off": cut_off, "levels": self.levels, "failure_mass": mass}

    @property
    def reach(self) -> int:
        """The largest draw in grid steps. The smallest draw is -reach."""
        return self.levels * (int(6 * self.sigma) + 1)

    @cached_property
    def weights(self) -> np.ndarray:
        """Probabilities of the draws -reach, ..., reach, symmetric: int64 multiples of 2^-60 that add up to 1.

        The two extreme draws hold the mass beyond them. Each probability is a difference of thresholds 2^60 Phi(x),
        computed with 30 digits and rounded to integers.
        """
        with mpmath.workdps(30):
            steps = 2 * self.levels * mpmath.mpf(self.sigma)
            edges = ((2 * i + 1) / steps for i in range(-self.reach, 0))  # between two draws, in units of sigma
            below = [int(mpmath.nint(mpmath.ldexp(mpmath.ncdf(edge), _BITS))) for edge in edges]
        half = np.diff(np.array([0, *below], np.int64))
        return np.concatenate([half, [2**_BITS - 2 * int(half.sum())], half[::-1]])

    def failure_mass(self, pixels: int) -> float:
        """The largest error of an event's probability, for an image of ``pixels`` values.

        A certificate subtracts it from the bound of the class's probability. Each pixel adds the mass of the two
        extreme draws, which hold all values beyond the cut-off, and 2^-61 for the rounding of each threshold.
        """
        return float(pixels * (2 * int(self.weights[0]) + self.reach + 1)) * 2.0**-_BITS * (1 + 1e-9)

    @cached_property
    def alias_table(self) -> np.ndarray:
        """Walker's alias method in integers: int32 (columns, 3), rows (upper word, lower word, draw).

        The leading bits of a uniform 60-bit integer choose the column j. If the integer is below the row's 60-bit
        threshold (two words of 30 bits), the draw is j - reach. Otherwise it is the draw in the row. The columns'
        masses add up to ``weights`` exactly.
        """
        columns = 1 << (len(self.weights) - 1).bit_length()  # a power of two, so that leading bits choose a column
        capacity = 2**_BITS // columns
        own = [*self.weights.tolist(), *[0] * (columns - len(self.weights))]  # mass of a draw in its own column
        other = list(range(columns))  # the draw that fills up the column
        small = [column for column in range(columns) if own[column] < capacity]
        large = [column for column in range(columns) if own[column] > capacity]
        while small:
            column = small.pop()
            donor = large[-1]
            other[column] = donor
            own[donor] -= capacity - own[column]
            if own[donor] <= capacity:
                large.pop()
            if own[donor] < capacity:
                small.append(donor)
        thresholds = np.arange(columns, dtype=np.int64) * capacity + np.array(own, np.int64)
        return np.stack([*np.divmod(thresholds, 2**_WORD), np.array(other) - self.reach], axis=1).astype(np.int32)

    def draw(self, shape: tuple[int, ...], seed: Any) -> Any:
        """Noise in grid steps, int32 of ``shape``, a pure function of ``seed`` (int32 (2,), may be traced)."""
        table = self.alias_table
        upper, lower = ops.unstack(integers(_WORD, (2, *shape), seed))
        column = ops.right_shift(upper, np.int32(_WORD - (len(table) - 1).bit_length()))
        row = ops.take(table, column, axis=0)
        # The 60-bit comparison: the upper words decide, and where they are equal, the lower words.
        below = upper < row[..., 0] + ops.cast(lower < row[..., 1], "int32")
        return ops.where(below, column - np.int32(self.reach), row[..., 2])
