"""The works that the benchmarks time: gradients, steps and votes, with the production code itself.

The images are random patterns in memory, of the data set's shape and number. No stage's time depends on their content.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import numpy as np

from attack_generation.attack import Attack
from attack_generation.config import PoisonConfig
from benchmarks.record import BenchmarkConfig
from bilevel_optimizer.approxgrad import ApproxGrad
from bilevel_optimizer.autodiff import grad, jit, second_derivatives
from bilevel_optimizer.trees import Tree, add_scaled
from data.datasets import Dataset
from models.registry import build_model
from models.stateless import StatelessModel
from randomized_smoothing_certification.votes import NOISE_BLOCK, Float32Noise, VoteCounter, noisy_copies
from robust_training.gaussian_augmentation import GaussianAugmentationLoss
from robust_training.loss import Randomness
from robust_training.training import Training, TrainingConfig
from runtime.bounds import POSITIVE
from runtime.command_line import config_of
from runtime.lazy import keras, ops, tree
from runtime.noise import seed_pair

SIGMA = 0.5
ROUNDS = 5  # each measurement has one turn in each
CHAIN = 10  # matrix products in one repeat

Work = Callable[[], Any]  # runs the timed work once and returns a small array, which the timer fetches


class Measured(NamedTuple):
    """The measured attack and victim, and shape and number of the images."""

    attack: PoisonConfig
    victim: TrainingConfig
    image_shape: tuple[int, int, int]
    train: int
    validation: int
    steps: int = 10  # T1 and T2
    training_steps: int = 50  # in one repeat. The training loop reads the loss as often
    votes: int = 100_000  # of one repeat at most

    @property
    def batch(self) -> int:
        """Images in a batch of the attack's lower level."""
        return self.attack.batch_clean + self.attack.batch_poison


def published(data: str, image_shape: tuple[int, int, int], train: int) -> Measured:
    """The attack and the victim of a data set's scripts for Gaussian augmentation. train: number of training images."""
    attack = config_of(f"attack_generation/gaussian_data_augmentation/{data}/poison_radius_gaussianaug.py", ())
    victim = config_of(f"evaluation/{data}/gaussian_augmented_training.py", ())
    return Measured(attack, victim, image_shape, train, validation=5_000)


MNIST = published("MNIST", (28, 28, 1), train=55_000)
CIFAR10 = published("CIFAR10", (32, 32, 3), train=45_000)
TOY_ATTACK: dict[str, Any] = {
    "architecture": "digits_cnn", "batch_clean": 18, "batch_poison": 2, "batch_validation": 4, "radius_copies": 2,
}  # fmt: skip
TOY = Measured(
    replace(MNIST.attack, **TOY_ATTACK), replace(MNIST.victim, architecture="digits_cnn", batch_size=8), (8, 8, 1),
    train=400, validation=100, steps=3, training_steps=3, votes=1_000,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TimedConfig(BenchmarkConfig):
    seconds: Annotated[float, POSITIVE] = 10.0
    """Seconds for each measurement, without compilation. A slower measurement still has five repeats."""
    batch_size: Annotated[int, POSITIVE] = 1_000
    """Votes that are evaluated together. Fewer where a batch takes longer than the time (bfloat16 on most CPUs)."""

    @property
    def measured(self) -> Measured:
        """What is measured."""
        return TOY if self.quick else MNIST


def random_dataset(measured: Measured) -> Dataset:
    """A random pattern per class plus uniform noise, in [0, 1]. A model can learn it, so no gradient is zero."""
    generator = np.random.default_rng(0)
    patterns = generator.random((10, *measured.image_shape), np.float32)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        classes = np.arange(count) % 10
        x = 0.5 * patterns[classes] + 0.5 * generator.random((count, *measured.image_shape), np.float32)
        return x, np.eye(10, dtype=np.float32)[classes]

    x_train, y_train = split(measured.train)
    x_val, y_val = split(measured.validation)
    return Dataset("random", x_train, y_train, x_val, y_val, x_val[:10], y_val[:10])


def median_seconds(works: Mapping[str, Work], seconds: float) -> dict[str, float]:
    """Median seconds of one call of each work. The works take turns, each about ``seconds`` in total."""
    samples: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        for _ in range(2):
            timed(work)
    for _ in range(ROUNDS):
        for name, work in works.items():
            end = time.perf_counter() + seconds / ROUNDS
            samples[name].append(timed(work))
            while time.perf_counter() < end:
                samples[name].append(timed(work))
    return {name: float(np.median(values)) for name, values in samples.items()}


def timed(work: Work) -> float:
    start = time.perf_counter()
    ops.convert_to_numpy(work())
    return time.perf_counter() - start


def _lower_level(measured: Measured, dataset: Dataset) -> tuple[Callable[[Tree, Tree], Any], Tree, Tree]:
    """The attack's training loss g(weights, batch), weights and a batch.

    The batch is an argument of the compiled function, because JAX computes a constant's noise while compiling.
    """
    model = StatelessModel(build_model(measured.attack.architecture, measured.image_shape, 10, seed=0))
    weights, statistics = tree.map_structure(ops.convert_to_tensor, model.initial())
    loss = GaussianAugmentationLoss()
    randomness = Randomness(SIGMA, seed_pair(0), seed_pair(0), np.arange(measured.batch, dtype=np.int32))
    batch = dataset.x_train[: measured.batch], dataset.y_train[: measured.batch], randomness

    def objective(weights: Tree, batch: Tree) -> Any:
        x, y, randomness = batch
        return loss(lambda x: model(weights, statistics, x)[0], x, y, randomness, 0.0)

    return objective, weights, tree.map_structure(ops.convert_to_tensor, batch)


def gradient_work(measured: Measured, dataset: Dataset) -> Work:
    """One gradient of the Gaussian-augmentation loss, with newly drawn noise."""
    objective, weights, batch = _lower_level(measured, dataset)
    compiled = jit(lambda weights, batch: grad(lambda v: objective(v, batch))(weights))
    return lambda: compiled(weights, batch)[-1]


def system_work(measured: Measured, dataset: Dataset, products: int) -> Work:
    """``products`` Hessian-vector products, each applied to the last result. They share one first-order evaluation."""
    objective, weights, batch = _lower_level(measured, dataset)

    def system(weights: Tree, p: Tree, batch: Tree) -> Tree:
        product = second_derivatives(lambda _, v: objective(v, batch), (), weights).matvec
        return ops.fori_loop(0, products, lambda _, p: add_scaled(p, 1e-3, product(p)), p)

    compiled = jit(system)
    return lambda: compiled(weights, weights, batch)[-1]


def attack(measured: Measured, dataset: Dataset, solver: str) -> Attack:
    """The published attack ('adam'), or the same with conjugate gradient and fixed noise ('cg')."""
    optimiser = ApproxGrad(
        lower_steps=measured.steps, solver_steps=measured.steps, solver=solver,
        redraw_noise="none" if solver == "cg" else "training_and_validation",
    )  # fmt: skip
    return Attack(replace(measured.attack, optimiser=optimiser), dataset)


def outer_step_work(attack: Attack) -> Work:
    """The attack's next outer step. The numbers of the steps stay before the first re-initialisation."""
    return _steps_work(attack.outer_step, attack.initial_state(0), 1, attack.steps_per_epoch, "f")


def training_work(training: Training, steps: int) -> Work:
    """The next ``steps`` training steps. The loss is fetched after the last step, as in the training loop."""
    return _steps_work(training.step, training.initial_state(), steps, training.total_steps, "training_loss")


def _steps_work(step: Callable[..., Any], state: Any, count: int, total: int, shown: str) -> Work:
    """The next ``count`` steps, number 0 again after ``total``. Returns the last step's scalar ``shown``."""
    number = 0

    def work() -> Any:
        nonlocal state, number
        for _ in range(count):
            state, scalars = step(state, number)
            number = (number + 1) % total
        return scalars[shown]

    return work


def votes_work(
    model: keras.Model, image: np.ndarray, batch_size: int, votes: int, levels: int | None = None, shared: bool = False
) -> Work:
    """The vote loop of certification. shared: with noise drawn beforehand, as for all points but the first."""
    counter = VoteCounter(model, 10, image.shape, SIGMA, batch_size, levels)
    seed = seed_pair(0)
    if shared:
        counter.keep_noise(seed, votes)
    return lambda: counter.count_votes(image, votes, seed)


def model_work(model: keras.Model, image: np.ndarray, batch_size: int, batches: int) -> Work:
    """The model on ``batches`` batches of existing images."""

    def loop(weights: Tree, images: Any, zero: Any, batches: Any) -> Any:
        def body(batch: Any, total: Any) -> Any:
            # The images depend on the batch's number. Otherwise a compiler may evaluate the model only once.
            shift = zero * ops.cast(batch, "float32")
            logits = model.stateless_call(*weights, images + shift, training=False)[0]
            return total + ops.sum(ops.cast(logits, "float32"))

        return ops.fori_loop(0, batches, body, ops.zeros(()))

    noisy = image + SIGMA * np.random.default_rng(0).standard_normal((batch_size, *image.shape), np.float32)
    groups = model.trainable_variables, model.non_trainable_variables
    weights = [[variable.value for variable in group] for group in groups]
    arguments = tree.map_structure(ops.convert_to_tensor, (noisy, np.float32(0), np.int32(batches)))
    return partial(jit(loop), weights, *arguments)


def noise_work(image: np.ndarray, batch_size: int, batches: int) -> Work:
    """``batches`` batches of noisy images, drawn as in certification."""

    def loop(image: Any, sigma: Any, seed: Any, batches: Any) -> Any:
        blocks = batch_size // NOISE_BLOCK

        def body(batch: Any, _: Any) -> Any:
            return noisy_copies(Float32Noise(), image, sigma, seed, batch * blocks, blocks)

        return ops.fori_loop(0, batches, body, ops.zeros((batch_size, *image.shape)))

    compiled = jit(loop)
    arguments = tree.map_structure(ops.convert_to_tensor, (image, np.float32(SIGMA), seed_pair(0), np.int32(batches)))
    return lambda: compiled(*arguments)[0, 0, 0]


def matmul_work(dtype: str, size: int) -> Work:
    """CHAIN products of size x size matrices, each with the last result."""
    x = np.random.default_rng(0).standard_normal((size, size), np.float32)
    x = ops.cast(x / np.float32(size**0.5), dtype)  # keeps the norm
    compiled = jit(lambda x, y: ops.fori_loop(0, CHAIN, lambda _, x: ops.matmul(x, y), x))
    return lambda: ops.cast(compiled(x, x)[0, :1], "float32")
