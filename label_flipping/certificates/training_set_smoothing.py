"""Randomized smoothing over the training set: predictions certified against changed training data.

Source: Rosenfeld, Winston, Ravikumar, Kolter, "Certified Robustness to Label-Flipping Attacks via Randomized
Smoothing" (ICML 2020, arXiv 2002.03018), section 3. Smoothing applies to any function, also to the map from a training
set and a test input to a class. The smoothed classifier predicts the class that the base learner predicts most often
when it is trained on noisy versions of the training set. An adversary whose training set has nearly the same noisy
versions cannot change this class.

A noise distribution is a subclass of ``TrainingSetNoise``. The paper's distribution is LabelFlips in label_flips.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from randomized_smoothing_certification.core import ABSTAIN, lower_confidence_bound, require_radii_above_0
from randomized_smoothing_certification.sampling import ALPHA, N0, Sampling
from runtime.bounds import require_bounds
from runtime.files import InputError, array_sha256
from runtime.noise import Stream, noise_seed
from runtime.progress import progress


class TrainingSet(NamedTuple):
    """Training inputs (n, ...) and their classes, int (n,)."""

    x: np.ndarray
    y: np.ndarray


# Training set and test inputs (m, ...) -> classes, int (m,). It must be deterministic.
Learner = Callable[[TrainingSet, np.ndarray], np.ndarray]


class TrainingSetNoise(ABC):
    """A distribution of noisy training sets around each training set."""

    @abstractmethod
    def sample(self, training_set: TrainingSet, generator: np.random.Generator) -> TrainingSet:
        """One noisy training set."""

    @abstractmethod
    def certified(self, log_eps: np.ndarray, size: int) -> np.ndarray:
        """How far an adversary may change the training set, for each of several events.

        log_eps: float64 (m,), upper bounds on log(1 - P[event]) under noise around the given training set, at most
        log(1/2). size: number of training points. Returns, in this noise's own unit, the largest change after which
        the event's probability is still above one half.
        """


class Smoothed(NamedTuple):
    """Predictions of a smoothed classifier at m test points."""

    prediction: np.ndarray  # int64 (m,), ABSTAIN where no class is known to win with a probability above one half
    # float64 (m,), 0 at abstentions. From sampling: upper bound on log(1 - P[base learner predicts the class]). From
    # fixed weights: upper bound on log(1 - P[the class beats its rival]), for the rival that beats it most often
    log_eps: np.ndarray

    def certified(self, noise: TrainingSetNoise, size: int) -> np.ndarray:
        """How far an adversary may change the training set of ``size`` points, 0 for points that abstained."""
        radii = noise.certified(np.minimum(self.log_eps, np.log(0.5)), size)
        return np.where(self.prediction == ABSTAIN, 0, radii)


def answers(prediction: np.ndarray, log_eps: np.ndarray) -> Smoothed:
    """Predictions with their bounds, ABSTAIN where the bound does not show a probability above one half."""
    sure = log_eps < np.log(0.5)
    return Smoothed(np.where(sure, prediction, ABSTAIN), np.where(sure, log_eps, 0.0))


def smooth_by_sampling(
    learner: Learner, noise: TrainingSetNoise, training_set: TrainingSet, x_test: np.ndarray, num_classes: int,
    *, n0: int = N0, n: int = 1000, alpha: float = ALPHA, seed: int = 0,
) -> Smoothed:  # fmt: skip
    """The smoothed classifier for any base learner: train it on n0 + n noisy training sets and count its answers.

    x_test: (m, ...). n0: trainings that select each point's class. n: fresh trainings that bound its probability from
    below (Clopper-Pearson). alpha: probability, per test point, that this bound is wrong. seed: it and x_test determine
    the noisy training sets, so that choices on validation points never depend on the noise of the test points.

    Raises InputError for votes or alpha out of range, too few votes to certify anything, or a learner that does not
    return m classes from 0 to num_classes - 1.
    """
    require_bounds(Sampling(n0=n0, n=n, alpha=alpha))
    require_radii_above_0(n, alpha, sigma=1.0)
    seed = noise_seed(seed, array_sha256(x_test))
    points = np.arange(len(x_test))
    streams = {Stream.TRAININGS_THAT_SELECT: n0, Stream.TRAININGS_THAT_BOUND: n}
    votes = {stream: np.zeros((len(x_test), num_classes), np.int64) for stream in streams}
    trainings = [(stream, number) for stream, count in streams.items() for number in range(count)]
    for stream, number in progress(trainings, desc="noisy training sets", unit="training"):
        generator = np.random.default_rng([seed, stream, number])
        classes = np.asarray(learner(noise.sample(training_set, generator), x_test))
        if classes.shape != points.shape or classes.dtype.kind not in "iu":
            raise InputError(
                f"the learner returned {classes.dtype} of shape {classes.shape}, int of shape {points.shape} "
                "expected; return a class for each test point"
            )
        if wrong := classes[(classes < 0) | (classes >= num_classes)].tolist():
            raise InputError(f"the learner returned class {wrong[0]}; classes are 0 to {num_classes - 1}")
        votes[stream][points, classes] += 1
    prediction = np.argmax(votes[Stream.TRAININGS_THAT_SELECT], axis=1)
    hits = votes[Stream.TRAININGS_THAT_BOUND][points, prediction]
    bounds = np.array([lower_confidence_bound(int(count), n, alpha) for count in hits])
    return answers(prediction, np.log1p(-bounds))
