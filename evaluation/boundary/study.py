"""Effect of poison on a decision boundary of points in the plane, for a linear and a non-linear classifier.

The training points of one of two classes are poisoned by the bilevel attack on Gaussian data augmentation. Classifiers
trained from scratch on clean, control and poisoned points are certified. A point is an image of 1 x 1 pixel and two
channels.

Source: arXiv 2012.01274 (CVPR 2021), section 3 and the picture of the decision boundary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np

from attack_generation.attack import Attack, Indices, Seeds
from attack_generation.config import Optimiser, PoisonConfig, flat_settings
from attack_generation.controls import starting_poison
from bilevel_optimizer.adam import adam_init
from bilevel_optimizer.approxgrad import ApproxGrad
from bilevel_optimizer.autodiff import jit
from bilevel_optimizer.bilevel import minimise_lower
from bilevel_optimizer.optimisers import OPTIMISERS
from data.datasets import SPLITS, Dataset
from models.registry import initial_weights
from models.stateless import StatelessModel
from randomized_smoothing_certification.core import certify, require_radii_above_0
from randomized_smoothing_certification.sampling import Sampling, Votes
from randomized_smoothing_certification.votes import VoteCounter
from robust_training.consistency import ConsistencyLoss
from robust_training.loss import accuracy
from runtime.bounds import NOT_NEGATIVE, POSITIVE, Seed, at_most, require_bounds
from runtime.checkpoints import require_finite
from runtime.lazy import keras, layers, ndimage, ops
from runtime.noise import Stream, seed_pair
from runtime.provenance import project_path

CELLS = 200  # of ``Plane``, along each side
Weights = list[np.ndarray]
Classifier = Callable[[np.ndarray], np.ndarray]  # points (N, 2) float32 -> logits (N, 2)


@dataclass(frozen=True, kw_only=True)
class BoundaryConfig(Sampling):
    """Settings of one picture. They hold for both classifiers."""

    choice: ClassVar[tuple[str, Mapping[str, type]]] = ("optimiser", OPTIMISERS)

    target_class: Annotated[int, NOT_NEGATIVE, at_most(1)] = 1
    """Class whose training points are poisoned and whose test points are certified, 0 or 1."""
    epsilon: Annotated[float, POSITIVE, at_most(1)] = 0.08
    """l-infinity bound on the change of each coordinate. Coordinates are in [0, 1]."""
    sigma: Annotated[float, POSITIVE, at_most(0.5)] = 0.08
    """Standard deviation of the smoothing noise of attack, training and certificate. Coordinates are in [0, 1]."""
    runs: Annotated[int, POSITIVE] = 3
    """Victims per row of the table, with seeds seed, seed + 1, ... The first victim's boundary is drawn."""
    train_points: Annotated[int, POSITIVE] = 100
    """Training points of each class."""
    validation_points: Annotated[int, POSITIVE] = 100
    """Validation points of each class. The attack's objective uses only the target class's points."""
    test_points: Annotated[int, POSITIVE] = 100
    """Test points of each class. Only the target class's points are certified."""
    hidden: Annotated[int, POSITIVE] = 16
    """Units in each of the two hidden layers of the non-linear classifier."""
    copies: Annotated[int, POSITIVE] = 10
    """Noisy copies of each training point in one evaluation of the training loss."""
    victim_steps: Annotated[int, POSITIVE] = 3000
    """Adam steps of victim training, on all points at once."""
    outer_steps: Annotated[int, POSITIVE] = 100
    """Outer steps of the attack, on all points at once. It starts with the weights of a clean victim."""
    optimiser: Optimiser = ApproxGrad(
        lower_steps=20, solver="cg", solver_steps=10, redraw_noise="none", damping=0.01, lr_u=0.01, lr_v=0.01
    )
    """Optimiser of the attack, with its settings. Its lr_v is also the learning rate of victim training."""
    radius_copies: Annotated[int, POSITIVE] = 50
    """Noisy copies of each validation point in the soft radius (k)."""
    radius_beta: Annotated[float, POSITIVE] = 16.0
    """Inverse temperature of the softmax in the soft radius (beta)."""
    n: Votes = 5000
    """Noisy votes that bound the class's probability."""
    seed: Seed = 0
    """Seed of the points, of the attack and of the first victim."""
    out_dir: Path = project_path("runs/decision_boundary")
    """Folder of picture, table and store."""

    recorded = flat_settings

    def check(self) -> None:
        """Raise InputError on a value that cannot work."""
        require_bounds(self)
        require_radii_above_0(self.n, self.alpha, self.sigma, self.radius_loss)


class Row(NamedTuple):
    """Victims of one kind of training points."""

    radii: list[list[float]]  # per run, certified radii of the target class's test points, 0 where not certified
    accuracy: list[float]  # per run, of all test points without noise
    points: np.ndarray  # (N, 1, 1, 2), the target class's training points
    weights: Weights  # of the first run's victim

    @property
    def acr(self) -> list[float]:
        """Average certified radius, per run."""
        return [float(np.mean(radii)) for radii in self.radii]


class Plane(NamedTuple):
    """A classifier on the unit square: entry [i, j] of each grid belongs to the point (axis[j], axis[i]).

    margin: the base classifier's logit of the target class minus the other class's logit. share: the probability that
    the base classifier assigns a noisy point to the target class. The smoothed boundary is where share is 1/2.
    """

    axis: np.ndarray  # (CELLS,)
    margin: np.ndarray  # (CELLS, CELLS)
    share: np.ndarray  # (CELLS, CELLS)


def two_blobs(count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` points of each of two round Gaussian blobs, float (2 count, 2), the first class first.

    Their centres lie on a falling diagonal. A shift of both coordinates by the same amount is perpendicular to it.
    """
    return random.normal(np.repeat([[0.36, 0.64], [0.64, 0.36]], count, axis=0), 0.1)


def two_moons(count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` points of each of two interleaved half circles, with the shape and order of two_blobs.

    scikit-learn's make_moons with noise 0.1 at random angles, scaled into the unit square.
    """
    angle = random.uniform(0, np.pi, size=2 * count)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x[count:] = [1, 0.5] - x[count:]
    return 0.5 + (x + random.normal(scale=0.1, size=x.shape) - [0.5, 0.25]) / [3.8, 2.4]


class Kind(NamedTuple):
    """A classifier and the points that it is trained on."""

    name: str
    title: str
    sample: Callable[[int, np.random.Generator], np.ndarray]
    hidden_layers: int


KINDS = (Kind("linear", "Linear classifier", two_blobs, 0), Kind("network", "Small network", two_moons, 2))


class Study(Attack):
    """The attack on one kind of classifier, and training and certificates of its victims."""

    def __init__(self, config: BoundaryConfig, kind: Kind) -> None:
        self.boundary_config, self.kind = config, kind
        points, counts = {}, (config.train_points, config.validation_points, config.test_points)
        for stream, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
            x = kind.sample(count, np.random.default_rng([config.seed, Stream.PLANE_POINTS, stream]))
            points[f"x_{split}"] = np.clip(x, 0, 1).astype(np.float32).reshape(-1, 1, 1, 2)
            points[f"y_{split}"] = np.repeat(np.eye(2, dtype=np.float32), count, axis=0)
        dataset = Dataset(name="plane", **points)
        attack = PoisonConfig(
            target_class=config.target_class, epsilon=config.epsilon, sigma=config.sigma, seed=config.seed,
            # Without penalties this loss is Gaussian augmentation with several copies of each point.
            loss=ConsistencyLoss(copies=config.copies, lam=0.0, eta=0.0),
            batch_clean=config.train_points, batch_poison=config.train_points,
            batch_validation=config.validation_points,
            radius_copies=config.radius_copies, radius_beta=config.radius_beta,
            epochs=config.outer_steps, reinitialise_every=config.outer_steps, optimiser=config.optimiser,
            data_dir=config.out_dir,
        )  # fmt: skip
        super().__init__(attack, dataset)
        self.x_others = dataset.x_train[dataset.y_train[:, config.target_class] == 0]
        self._x_test = dataset.x_test[dataset.y_test[:, config.target_class] == 1]
        self._training = jit(self._train)
        self._counter = VoteCounter(self._model.model, 2, (1, 1, 2), config.sigma)

    def fresh_model(self, restart: int, network: int) -> StatelessModel:
        """A network of tanh units from points to two logits, in place of a model of images. See Attack.

        Its weights are of no use: ``optimised_poison`` starts at a trained network.
        """
        inputs = keras.Input((1, 1, 2))
        x = layers.Flatten()(inputs)
        for _ in range(self.kind.hidden_layers):
            x = layers.Dense(self.boundary_config.hidden, activation="tanh")(x)
        return StatelessModel(keras.Model(inputs, layers.Dense(2)(x)))

    def draw_indices(self, epoch: int, step: int) -> Indices:
        """All points in their order, so that each point keeps its own Adam moments. See Attack."""
        return Indices(*(np.arange(len(x), dtype=np.int32) for x in self._images[::2]))

    def optimised_poison(self) -> np.ndarray:
        """Poisoned training points of the target class, float32 (N, 1, 1, 2), within epsilon of the clean ones.

        Raises FloatingPointError where a quantity becomes NaN or infinite.
        """
        weights = self.trained(self.x_to_poison, self.boundary_config.seed)
        lower_states = (self.config.optimiser.init_lower(weights),)
        state = self.initial_state()._replace(weights=(weights,), lower_states=lower_states)
        for number in range(self.total_steps):
            state, metrics = self.outer_step(state, number)
        require_finite("the last outer step", f=float(metrics["f"]), g=float(metrics["g"]))
        return self.poison(state, Path("the optimised poison"))

    def trained(self, target_points: np.ndarray, seed: int) -> Weights:
        """Weights of a victim trained from scratch, with ``target_points`` (N, 1, 1, 2) as the target class's."""
        weights = initial_weights(self._model.model, int(seed_pair(seed, Stream.PLANE_WEIGHTS)[0]))
        trained = self._training(target_points, weights, seed_pair(seed, Stream.PLANE_VICTIM_NOISE))
        return [ops.convert_to_numpy(value) for value in trained]

    def _train(self, points: Any, weights: Any, seed: Any) -> Any:
        """Adam steps on the attack's own training loss, at all points at once."""
        batch = self._gather(self._images, self.draw_indices(0, 0), Seeds(seed, seed, seed), 0.0)
        steps, lr_v = self.boundary_config.victim_steps, self.config.optimiser.lr_v
        return minimise_lower(self._problem, points, weights, adam_init(weights), batch, steps, lr_v)[0]

    def measured(self, target_points: np.ndarray) -> Row:
        """Train and certify ``runs`` victims. Certificates of different victims share their noise."""
        x, y, config = self.dataset.x_test, self.dataset.y_test, self.boundary_config
        victims = [self.trained(target_points, config.seed + run) for run in range(config.runs)]
        accuracies = [float(accuracy(self.classifier(weights)(x), y)) for weights in victims]
        radii = [self.certified_radii(weights).tolist() for weights in victims]
        return Row(radii, accuracies, target_points, victims[0])

    def certified_radii(self, weights: Weights) -> np.ndarray:
        """Certified radius of each test point of the target class, 0 where CERTIFY abstains or is wrong."""
        config = self.boundary_config
        self._model.assign(weights, [])
        found = [certify(self._counter, x, index, config, seed=config.seed) for index, x in enumerate(self._x_test)]
        return np.array([one.radius * (one.prediction == config.target_class) for one in found])

    def classifier(self, weights: Weights) -> Classifier:
        """The base classifier with these weights."""
        return lambda x: ops.convert_to_numpy(self._compiled_logits(weights, x.reshape(-1, 1, 1, 2)))


def control_points(x: np.ndarray, epsilon: float, seed: int) -> dict[str, np.ndarray]:
    """The target class's points x (N, 1, 1, 2) changed by epsilon without optimisation, by name.

    The controls of attack_generation.controls. 'constant' shifts both coordinates upwards. The other three uniform
    shifts are added, because in the plane an attacker can try all four.
    """
    controls = {name: starting_poison(name, x, epsilon, seed) for name in ("random", "contrast", "constant")}
    for name, signs in (("shift (+, -)", [1, -1]), ("shift (-, +)", [-1, 1]), ("shift (-, -)", [-1, -1])):
        controls[name] = np.clip(x + np.float32(epsilon) * np.array(signs, np.float32), 0, 1)
    return controls


def smoothed_plane(classifier: Classifier, sigma: float, target_class: int) -> Plane:
    """Evaluate a classifier and its smoothed version at the centres of CELLS x CELLS squares.

    The smoothed classifier is exact up to the grid: decisions inside and outside the unit square are averaged with
    Gaussian weights of standard deviation sigma. sigma should be several times 1 / CELLS.
    """
    outside = int(np.ceil(5 * sigma * CELLS))
    axis = (np.arange(-outside, CELLS + outside) + 0.5) / CELLS
    logits = classifier(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float32))
    margin = (logits[:, target_class] - logits[:, 1 - target_class]).reshape(len(axis), len(axis))
    votes = (margin > 0).astype(float) + 0.5 * (margin == 0)
    share = ndimage.gaussian_filter(votes, sigma * CELLS, mode="nearest", truncate=5)
    inside = slice(outside, outside + CELLS)
    share = np.clip(share[inside, inside], 0, 1)  # rounding can exceed 1
    return Plane(axis[inside], margin[inside, inside], share)
