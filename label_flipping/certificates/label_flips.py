"""Random label flips as noise, and the number of changed labels that a probability under this noise certifies.

Source: Rosenfeld, Winston, Ravikumar, Kolter (ICML 2020, arXiv 2002.03018), sections 3 and 4. Probabilities can be
below the smallest float64, so all are logarithms.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from label_flipping.certificates.training_set_smoothing import TrainingSet, TrainingSetNoise
from runtime.bounds import Bound, at_least, require_bounds
from runtime.files import InputError

BoundName = Literal["tight", "closed_form"]

EPSILON = float(np.finfo(np.float64).eps)
_ROUNDING = 1e-9  # more than the rounding error of a Chernoff bound. It is added to each log eps
# Below 1e-6 the rounding error of a Chernoff bound may be larger than _ROUNDING.
FlipProbability = Annotated[float, Bound("be at least 1e-6 and below 1/2", lambda q: 1e-6 <= q < 0.5)]


@dataclass(frozen=True)
class LabelFlips(TrainingSetNoise):
    """Each training label becomes another class with probability q. Every other class is equally likely.

    num_classes: K, at least 2. bound: 'closed_form' certifies r flips while r * d < KL(1/2 || P), with d the divergence
    of one flip (arXiv 2002.03018, theorem 1 and its multi-class version). 'tight' certifies the largest number of flips
    that the probability alone can show (Neyman-Pearson lemma).

    Raises InputError unless 1e-6 <= q < 1/2.
    """

    q: FlipProbability
    num_classes: Annotated[int, at_least(2)]
    bound: BoundName = "tight"

    def __post_init__(self) -> None:
        require_bounds(self)
        object.__setattr__(self, "q", float(self.q))  # with NumPy's float32, thresholds would be rounded to float32

    @property
    def to_each(self) -> float:
        """Probability that a label becomes one particular other class."""
        return self.q / (self.num_classes - 1)

    def sample(self, training_set: TrainingSet, generator: np.random.Generator) -> TrainingSet:
        """The training set with flipped labels. Raises InputError for a label that is no class."""
        y = training_set.y
        checked_classes(y.ravel(), y.size, self.num_classes)
        shift = generator.integers(1, self.num_classes, size=y.shape)
        flipped = generator.random(y.shape) < self.q
        return TrainingSet(training_set.x, np.where(flipped, (y + shift) % self.num_classes, y))

    def certified(self, log_eps: np.ndarray, size: int) -> np.ndarray:
        """Largest number of changed labels, int64 (m,), at most ``size`` (see TrainingSetNoise.certified)."""
        log_eps = np.asarray(log_eps, np.float64) + _ROUNDING
        return (self._closed_form if self.bound == "closed_form" else self._tight)(log_eps, size)

    def _closed_form(self, log_eps: np.ndarray, size: int) -> np.ndarray:
        # KL of one label's noise before and after it is changed: only its old and its new class differ.
        divergence = (1 - self.q - self.to_each) * np.log((1 - self.q) / self.to_each)
        log_eps = np.minimum(log_eps, np.log(0.5))
        rounding = 4 * EPSILON * (1 - log_eps)  # of the sum, whose terms cancel near log(1/2)
        limit = -(np.log(4) + log_eps + np.log1p(-np.exp(log_eps)) + rounding) / (2 * divergence)
        return np.clip(np.ceil(limit) - 1, 0, size).astype(np.int64)  # strictly below the limit

    def _tight(self, log_eps: np.ndarray, size: int) -> np.ndarray:
        smallest = np.min(log_eps, initial=0.0)
        needed = itertools.takewhile(lambda threshold: threshold > smallest, self._thresholds())
        thresholds = list(itertools.islice(needed, size))
        # Descending thresholds: r flips are certified where log eps lies below the r-th.
        return np.searchsorted(-np.array(thresholds), -log_eps, side="left").astype(np.int64)

    def _thresholds(self) -> Iterator[float]:
        """For r = 1, 2, ...: the largest log eps that r changed labels can raise to at most a probability of one half.

        The noisy value of a changed label is the old class, the new class or a third class. The likelihood ratio of the
        two noisy training sets depends only on the number of old classes minus the number of new classes. The best
        event for the adversary takes the outcomes in the order of this difference, until they hold half of the attacked
        mass. Each threshold is lowered by more than its rounding error, which grows with r.
        """
        third = self.q - self.to_each
        steps = np.log([self.to_each, third, 1 - self.q] if self.num_classes > 2 else [self.q, 1 - self.q])
        clean = np.zeros(1)  # log probability of each difference, in ascending order
        for flips in itertools.count(1):
            longer = np.full(len(clean) + len(steps) - 1, -np.inf)
            for shift, step in enumerate(steps):
                part = longer[shift : shift + len(clean)]
                np.logaddexp(part, clean + step, out=part)
            clean = longer
            attacked = np.exp(clean[::-1])  # a changed label exchanges the old and the new class
            mass_before = np.cumsum(np.append(0.0, attacked))  # each outcome
            last = int(np.searchsorted(mass_before, 0.5)) - 1  # only a part of this outcome is needed
            part_of_last = np.log((0.5 - mass_before[last]) / attacked[last]) + clean[last]
            threshold = float(np.logaddexp.reduce(np.append(clean[:last], part_of_last)))
            # Each convolution rounds logarithms that are at most about this large by a few units in the last place.
            yield threshold - 4 * EPSILON * flips * (1 - threshold)


def checked_classes(y: np.ndarray, points: int, num_classes: int) -> np.ndarray:
    """Training classes y, int (points,). Raises InputError for no labels, and for others than 0 to num_classes - 1."""
    y = np.asarray(y)
    if not y.size or y.shape != (points,) or y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= num_classes:
        raise InputError(
            f"training labels must be {points or 'one or more'} integers from 0 to {num_classes - 1}, got {y.dtype} "
            f"of shape {y.shape}" + (f" from {y.min()} to {y.max()}" if y.size and y.dtype.kind in "iuf" else "")
        )
    return y


def certified_accuracy(flips: np.ndarray, correct: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Share of test points that are right and certified for at least a given number of flips. at: these numbers."""
    robust = np.sort(flips[correct])
    return (len(robust) - np.searchsorted(robust, at, side="left")) / len(flips)
