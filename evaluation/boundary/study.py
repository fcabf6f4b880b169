"""What poison does to a decision boundary: points in the plane, a linear and a non-linear classifier.

The training points of one of two classes are poisoned by the bilevel attack on Gaussian data augmentation. Classifiers
trained from scratch on clean, control and poisoned points are certified.

Source: arXiv 2012.01274 (CVPR 2021), section 3 and the picture of the decision boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attack_generation.controls import starting_poison
from bilevel_optimizer.adam import adam_init
from bilevel_optimizer.approxgrad import ApproxGrad
from bilevel_optimizer.autodiff import jit
from bilevel_optimizer.linear_solvers import ConjugateGradient
from data.datasets import check_poison, split_target_class
from models.registry import initial_weights
from models.stateless import StatelessModel
from randomized_smoothing_certification.core import certify, require_radii_above_0
from randomized_smoothing_certification.sampling import ALPHA, N0, Sampling, require_vote_settings
from randomized_smoothing_certification.soft_radius import mean_soft_radius, repeat_images, smoothed_probabilities
from randomized_smoothing_certification.votes import VoteCounter
from robust_training.gaussian_augmentation import GaussianAugmentationLoss
from robust_training.loss import Randomness, accuracy
from runtime.checkpoints import require_finite
from runtime.files import InputError
from runtime.lazy import keras, layers, ndimage, ops
from runtime.long_run import require_not_negative, require_positive
from runtime.noise import Stream, fold_in, normal, seed_pair
from runtime.provenance import project_path

Weights = list[np.ndarray]
Classifier = Callable[[np.ndarray], np.ndarray]  # points (N, 2) float32 -> logits (N, 2)
Sampler = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class BoundaryConfig:
    """Constants of one picture; they hold for both classifiers."""

    target_class: int = 1
    """Class whose training points are poisoned and whose test points are certified, 0 or 1."""
    epsilon: float = 0.08
    """l-infinity bound on the change of each coordinate; coordinates are in [0, 1]."""
    sigma: float = 0.08
    """Standard deviation of the smoothing noise of attack, training and certificate; coordinates are in [0, 1]."""
    runs: int = 3
    """Victims per row of the table, with seeds seed, seed + 1, ...; the first one's boundary is drawn."""
    train_points: int = 100
    """Training points of each class."""
    validation_points: int = 100
    """Validation points of the target class, on which the attack measures its objective."""
    test_points: int = 100
    """Test points of each class; those of the target class are certified."""
    hidden: int = 16
    """Units in each of the two hidden layers of the non-linear classifier."""
    copies: int = 10
    """Noisy copies of each training point in one evaluation of the training loss."""
    victim_steps: int = 3000
    """Adam steps of victim training, on all points at once."""
    outer_steps: int = 100
    """Outer steps of the attack, on all points at once. Its weights start as those of a victim of clean points."""
    lower_steps: int = 20
    """Adam steps on the weights in an outer step (T1)."""
    solver_steps: int = 10
    """Iterations of conjugate gradient, the linear solver, in an outer step (T2)."""
    lr_u: float = 0.01
    """Adam learning rate of the poison."""
    lr_v: float = 0.01
    """Adam learning rate of the weights, in the attack and in victim training."""
    damping: float = 0.01
    """Multiple of the identity added to the lower level's Hessian."""
    radius_copies: int = 50
    """Noisy copies of each validation point in the soft radius (k)."""
    radius_beta: float = 16.0
    """Inverse temperature of the softmax in the soft radius (beta)."""
    n0: int = N0
    """Noisy votes that select the class."""
    n: int = 5000
    """Noisy votes that bound its probability."""
    alpha: float = ALPHA
    """Probability that a certificate is wrong, per point."""
    seed: int = 0
    """Seed of the points, of the attack and of the first victim."""
    out_dir: Path = project_path("runs/decision_boundary")
    """Folder of picture, table and store."""

    def check(self) -> None:
        """Raise InputError on a value that cannot work."""
        require_positive(
            self,
            "epsilon", "sigma", "runs", "train_points", "validation_points", "test_points", "hidden", "copies",
            "victim_steps", "outer_steps", "lower_steps", "solver_steps", "lr_u", "lr_v", "radius_copies",
            "radius_beta",
        )  # fmt: skip
        require_not_negative(self, "seed", "damping")
        for name, most in (("epsilon", 1), ("sigma", 0.5), ("target_class", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{name} must be at most {most}, got {getattr(self, name)}")
        require_vote_settings(self.n0, self.n, self.alpha)
        require_radii_above_0(self.n, self.alpha, self.sigma)


class Kind(NamedTuple):
    """A classifier and the points it is shown on."""

    name: str
    title: str
    sample: Sampler
    build: Callable[[BoundaryConfig], keras.Model]


class Row(NamedTuple):
    """Victims of one kind of training points."""

    radii: list[list[float]]  # per run, certified radii of the target class's test points; 0 where not certified
    accuracy: list[float]  # per run, of all test points without noise
    points: np.ndarray  # (N, 2), the target class's training points
    weights: Weights  # of the first run's victim

    @property
    def acr(self) -> list[float]:
        """Average certified radius, per run."""
        return [float(np.mean(radii)) for radii in self.radii]


class Plane(NamedTuple):
    """A classifier on the unit square: entry [i, j] of each grid belongs to the point (axis[j], axis[i]).

    margin: the base classifier's logit of the target class less that of the other. share: the probability that
    the base classifier gives a noisy point to the target class, so that the smoothed boundary is where it is 1/2.
    """

    axis: np.ndarray  # (cells,)
    margin: np.ndarray  # (cells, cells)
    share: np.ndarray  # (cells, cells)


def two_blobs(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` points of each of two round Gaussian blobs; x float32 (2 count, 2) in [0, 1], y one-hot float32.

    They lie across a falling diagonal, along which no change of both coordinates by the same amount leads.
    """
    centres = np.repeat([[0.36, 0.64], [0.64, 0.36]], count, axis=0)
    return _labelled(centres + random.normal(scale=0.1, size=centres.shape))


def two_moons(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` points of each of two interleaved half circles, those of scikit-learn's make_moons at noise 0.1.

    Scaled into the unit square; shapes as of two_blobs.
    """
    angle = random.uniform(0, np.pi, size=2 * count)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x[count:] = [1, 0.5] - x[count:]
    x += random.normal(scale=0.1, size=x.shape)
    return _labelled(0.5 + (x - [0.5, 0.25]) / [3.8, 2.4])


def _labelled(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points in [0, 1], the first half of class 0 and the second of class 1."""
    return np.clip(x, 0, 1).astype(np.float32), np.repeat(np.eye(2, dtype=np.float32), len(x) // 2, axis=0)


def linear_classifier(_config: BoundaryConfig) -> keras.Model:
    """From points (N, 2) to two logits, affine."""
    inputs = keras.Input((2,))
    return keras.Model(inputs, layers.Dense(2)(inputs), name="linear")


def small_network(config: BoundaryConfig) -> keras.Model:
    """From points (N, 2) to two logits, with two hidden layers of ``config.hidden`` tanh units."""
    x = inputs = keras.Input((2,))
    for _ in range(2):
        x = layers.Dense(config.hidden, activation="tanh")(x)
    return keras.Model(inputs, layers.Dense(2)(x), name="network")


KINDS = (
    Kind("linear", "Linear classifier", two_blobs, linear_classifier),
    Kind("network", "Small network", two_moons, small_network),
)


class Study:
    """The points of one kind of classifier, and the compiled attack, training and certificate over them.

    train, test: (x, y), x float32 (2 N, 2) in [0, 1], y one-hot. x_target: the target class's training points.
    """

    def __init__(self, config: BoundaryConfig, kind: Kind) -> None:
        self.config = config
        self.train, validation, self.test = (
            kind.sample(count, np.random.default_rng([config.seed, Stream.PLANE_POINTS, stream]))
            for stream, count in enumerate((config.train_points, config.validation_points, config.test_points))
        )
        target = split_target_class(*self.train, config.target_class)
        self.x_target, self._y_target, self._x_others, self._y_others = target
        self._x_val, self._y_val, _, _ = split_target_class(*validation, config.target_class)
        self._x_test, _, _, _ = split_target_class(*self.test, config.target_class)
        self._model = StatelessModel(kind.build(config))
        self._loss = GaussianAugmentationLoss()
        self._bilevel = ApproxGrad(
            f=self._upper_objective,
            g=self._lower_objective,
            lower_steps=config.lower_steps,
            lr_v=config.lr_v,
            lr_u=config.lr_u,
            damping=config.damping,
            solver=ConjugateGradient(config.solver_steps, minimum_curvature=config.damping),
            project=self._project,
        )
        self._outer_step = jit(self._bilevel.step)
        # Victims are trained on the same lower level by the same Adam, only longer.
        self._training = jit(replace(self._bilevel, lower_steps=config.victim_steps).minimise_lower)
        self._compiled_logits = jit(self._logits)
        self._counter = VoteCounter(self._model.model, 2, (2,), config.sigma)

    def optimised_poison(self) -> np.ndarray:
        """Poisoned training points of the target class, float32 (N, 2), within epsilon of the clean ones and [0, 1].

        Raises FloatingPointError where a quantity becomes NaN or infinite.
        """
        config = self.config
        u, v = ops.convert_to_tensor(self.x_target), self.trained(self.x_target, config.seed)
        lower, upper = self._bilevel.init_lower(v), adam_init(u)
        for number in range(config.outer_steps):
            seeds = {
                "f": seed_pair(config.seed, Stream.PLANE_UPPER_NOISE, number),
                "g": seed_pair(config.seed, Stream.PLANE_LOWER_NOISE, number),
            }
            u, v, lower, upper, metrics = self._outer_step(u, v, lower, upper, seeds)
        require_finite("the last outer step", f=float(metrics.f), g=float(metrics.g))
        poison = ops.convert_to_numpy(u)
        check_poison(poison, self.x_target, config.epsilon, Path("the optimised poison"))
        return poison

    def trained(self, target_points: np.ndarray, seed: int) -> Weights:
        """Weights of a victim trained from scratch, with ``target_points`` (N, 2) as the target class's."""
        weights = initial_weights(self._model.model, int(seed_pair(seed, Stream.PLANE_WEIGHTS)[0]))
        # The training loss draws from g alone; f is there so that both levels take data of one structure.
        seeds = dict.fromkeys("fg", seed_pair(seed, Stream.PLANE_VICTIM_NOISE))
        start = [ops.convert_to_tensor(value) for value in weights]
        weights, _ = self._training(ops.convert_to_tensor(target_points), start, adam_init(start), seeds)
        return [ops.convert_to_numpy(value) for value in weights]

    def measured(self, target_points: np.ndarray) -> Row:
        """Train and certify ``config.runs`` victims. Certificates of different victims share their noise."""
        config = self.config
        victims = [self.trained(target_points, config.seed + run) for run in range(config.runs)]
        radii = [self.certified_radii(weights).tolist() for weights in victims]
        accuracies = [float(accuracy(self.classifier(weights)(self.test[0]), self.test[1])) for weights in victims]
        return Row(radii, accuracies, target_points, victims[0])

    def certified_radii(self, weights: Weights) -> np.ndarray:
        """Certified radius of each test point of the target class, 0 where CERTIFY abstains or is wrong."""
        config = self.config
        sampling = Sampling(n0=config.n0, n=config.n, alpha=config.alpha)
        self._model.assign(weights, [])
        certificates = [
            certify(self._counter, x, index, sampling, seed=config.seed) for index, x in enumerate(self._x_test)
        ]
        return np.array([one.radius * (one.prediction == config.target_class) for one in certificates])

    def classifier(self, weights: Weights) -> Classifier:
        """The base classifier with these weights."""
        return lambda x: ops.convert_to_numpy(self._compiled_logits(weights, x))

    def _logits(self, v: Any, x: Any) -> Any:
        return self._model(v, [], x)[0]

    def _lower_objective(self, u: Any, v: Any, seeds: dict, draw: Any) -> Any:
        x = repeat_images(ops.concatenate([self._x_others, u]), self.config.copies)
        y = repeat_images(np.concatenate([self._y_others, self._y_target]), self.config.copies)
        seed = fold_in(seeds["g"], draw)
        randomness = Randomness(self.config.sigma, seed, seed, ops.arange(x.shape[0], dtype="int32"))
        return self._loss(partial(self._logits, v), x, y, randomness, 0.0)

    def _upper_objective(self, u: Any, v: Any, seeds: dict, draw: Any) -> Any:
        copies, sigma, beta = self.config.radius_copies, self.config.sigma, self.config.radius_beta
        x = ops.convert_to_tensor(self._x_val)
        noise = normal((len(self._x_val) * copies, 2), fold_in(seeds["f"], draw))
        probabilities = smoothed_probabilities(partial(self._logits, v), x, noise, sigma, copies, beta)
        return mean_soft_radius(probabilities, self._y_val, sigma)

    def _project(self, u: Any, _seeds: dict) -> Any:
        x, epsilon = self.x_target, self.config.epsilon
        return ops.clip(ops.clip(u, x - epsilon, x + epsilon), 0.0, 1.0)


def control_points(x: np.ndarray, epsilon: float, seed: int) -> dict[str, np.ndarray]:
    """The target class's points x (N, 2) changed by epsilon without optimisation, by name.

    The controls of attack_generation.controls; 'constant' is the uniform shift of both coordinates upwards, and the
    other three uniform shifts stand beside it, for in the plane an attacker can try all four.
    """
    controls = {name: starting_poison(name, x, epsilon, seed) for name in ("random", "contrast", "constant")}
    for name, signs in (("shift (+, -)", [1, -1]), ("shift (-, +)", [-1, 1]), ("shift (-, -)", [-1, -1])):
        controls[name] = np.clip(x + np.float32(epsilon) * np.array(signs, np.float32), 0, 1)
    return controls


def smoothed_plane(classifier: Classifier, sigma: float, target_class: int, cells: int = 200) -> Plane:
    """Evaluate a classifier and its smoothed version on the centres of ``cells`` by ``cells`` squares.

    The smoothed classifier is exact up to the grid: the decisions, also those outside the unit square, are averaged
    with Gaussian weights of standard deviation sigma. sigma should be several times 1 / cells.
    """
    outside = int(np.ceil(5 * sigma * cells))
    axis = (np.arange(-outside, cells + outside) + 0.5) / cells
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float32)
    logits = classifier(grid)
    margin = (logits[:, target_class] - logits[:, 1 - target_class]).reshape(len(axis), len(axis))
    votes = (margin > 0).astype(float) + 0.5 * (margin == 0)
    share = ndimage.gaussian_filter(votes, sigma * cells, mode="nearest", truncate=5)
    inside = slice(outside, outside + cells)
    share = np.clip(share[inside, inside], 0, 1)  # rounding goes past 1
    return Plane(axis[inside], margin[inside, inside], share)
