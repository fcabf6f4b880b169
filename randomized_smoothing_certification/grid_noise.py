"""Noise that is exact in floating point: Gaussian noise rounded to the grid of pixel values, drawn from integers.

The proof of the certified radius needs exact Gaussian noise on real numbers; with float32 noise a classifier can tell
by the low bits which image the noise was added to (Voracek and Hein, "Sound Randomized Smoothing in Floating-Point
Arithmetics", ICLR 2023, arXiv 2207.07209). Here the base classifier is h(v) = model(clip(round(v), -k, k + 1)), where
``round`` goes to the nearest multiple of 1/levels and k = int(6 sigma) + 1: a function of integers. For an image x on
the grid, round(x + sigma Z) is x plus the rounded noise, whose exact distribution is

    P[bin i] = Phi((2i + 1) / (2 levels sigma)) - Phi((2i - 1) / (2 levels sigma)),

so that votes on x + bin / levels estimate the probability that the theorem is about, for real Z and real shifts of x.
What is not exact is bounded and taken off it: see GridNoise.failure_mass.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mpmath
import numpy as np

from runtime.files import InputError
from runtime.lazy import ops
from runtime.noise import integers

_BITS = 60  # of one draw: two words of 30, for devices whose integers are 32 bits wide
_WORD = 30
LEVELS = (255, 256)  # grids that 8-bit images, and grey levels that divide 256, lie on
LARGEST_SIGMA = 8.0  # the table of the draws grows with sigma


def grid_of(images: np.ndarray, what: object) -> int:
    """The number of grid steps per unit, one of LEVELS, of images whose pixels are float32(i) / float32(levels).

    Raises InputError, naming ``what``, where they lie on neither grid.
    """
    for levels in LEVELS:
        if _on_grid(images, levels):
            return levels
    raise InputError(
        f"{what}: pixels that are no multiples of 1/{LEVELS[0]} or 1/{LEVELS[1]}, which noise grid needs; "
        "prepare the data from 8-bit images or use noise float32"
    )


def as_steps(image: np.ndarray, levels: int) -> np.ndarray:
    """An image on the grid in grid steps, int32. Raises InputError for one that is not."""
    if not _on_grid(image, levels):
        raise InputError(f"the image has pixels that are no multiples of 1/{levels}; use another grid or float32 noise")
    return _steps(image, levels).astype(np.int32)


def _steps(images: np.ndarray, levels: int) -> np.ndarray:
    return np.rint(images.astype(np.float64) * levels)


def _on_grid(images: np.ndarray, levels: int) -> bool:
    return bool(np.all(_steps(images, levels).astype(np.float32) / np.float32(levels) == images))


@dataclass(frozen=True)
class GridNoise:
    """Rounded Gaussian noise of standard deviation sigma (pixel units of [0, 1]), cut off at k = int(6 sigma) + 1.

    levels: grid steps per unit. Raises InputError for sigma that is not in (0, LARGEST_SIGMA].
    """

    sigma: float
    levels: int

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= LARGEST_SIGMA:
            raise InputError(f"sigma must lie between 0 and {LARGEST_SIGMA:g} for noise grid, got {self.sigma}")

    @property
    def reach(self) -> int:
        """The largest draw in grid steps; the most negative one is -reach."""
        return self.levels * (int(6 * self.sigma) + 1)

    @cached_property
    def weights(self) -> np.ndarray:
        """Probabilities of the draws -reach, ..., reach as int64 multiples of 2^-60, symmetric, adding up to 1.

        The two extreme ones hold everything beyond them. Each is a difference of thresholds 2^60 Phi(x) that were
        rounded to integers from 30-digit arithmetic.
        """
        with mpmath.workdps(30):
            steps = 2 * self.levels * mpmath.mpf(self.sigma)
            below = [
                int(mpmath.nint(mpmath.ldexp(mpmath.ncdf((2 * i + 1) / steps), _BITS))) for i in range(-self.reach, 0)
            ]
        half = np.diff(np.array([0, *below], np.int64))
        return np.concatenate([half, [2**_BITS - 2 * int(half.sum())], half[::-1]])

    def failure_mass(self, pixels: int) -> float:
        """By how much the probability of any event of an image of ``pixels`` values may differ from the exact one.

        It is taken off the bound of a vote's probability: the mass of the two extreme draws, where what is beyond
        the cut-off is lumped, and half of 2^-60 for the rounding of each threshold.
        """
        return float(pixels * (2 * int(self.weights[0]) + self.reach + 1)) * 2.0**-_BITS * (1 + 1e-9)

    @cached_property
    def alias_table(self) -> np.ndarray:
        """Walker's alias method in integers: int32 (columns, 3), rows (upper word, lower word, draw).

        A draw is a uniform 60-bit integer whose leading bits choose the column j. Below the row's 60-bit threshold, in
        two words of 30, it stands for draw j - reach, from there on for the row's own draw. The columns' masses add
        up to ``weights`` exactly.
        """
        columns = 1 << (len(self.weights) - 1).bit_length()
        capacity = 2**_BITS // columns
        left = [*self.weights.tolist(), *[0] * (columns - len(self.weights))]
        own, other = [capacity] * columns, list(range(columns))
        small = [j for j in range(columns) if left[j] < capacity]
        large = [j for j in range(columns) if left[j] > capacity]
        while small:
            j, donor = small.pop(), large[-1]
            own[j], other[j] = left[j], donor
            left[donor] -= capacity - left[j]
            if left[donor] <= capacity:
                large.pop()
                if left[donor] < capacity:
                    small.append(donor)
        thresholds = [j * capacity + own[j] for j in range(columns)]
        rows = [
            (threshold >> _WORD, threshold % 2**_WORD, draw - self.reach)
            for threshold, draw in zip(thresholds, other, strict=True)
        ]
        return np.array(rows, np.int32)

    def draw(self, shape: tuple[int, ...], seed: Any) -> Any:
        """Noise in grid steps, int32 of ``shape``, a pure function of ``seed`` (int32 (2,), may be traced)."""
        table = self.alias_table
        words = integers(_WORD, (2, *shape), seed)
        upper, lower = words[0], words[1]
        column = ops.right_shift(upper, np.int32(_WORD - (len(table) - 1).bit_length()))
        row = ops.take(table, column, axis=0)
        # upper < t where the lower words say no, upper <= t where they say yes: the 60-bit comparison.
        below = upper < row[..., 0] + ops.cast(lower < row[..., 1], "int32")
        return ops.where(below, column - np.int32(self.reach), row[..., 2])
