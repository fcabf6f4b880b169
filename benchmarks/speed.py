"""Measure every stage on this machine, in one run, beside the bars that the project sets itself.

    python benchmarks/speed.py
    python benchmarks/speed.py --batch-size 10000 --out speed.json    (on a GPU)

The images are made in memory, random patterns of MNIST's shape and number: no stage's time depends on what
the images show. The outer step, the training step and the vote loop are the production code itself.

Each measurement is compiled and run twice, then repeated; the median counts. Every repeat ends by fetching a
result to the host, so that asynchronous devices are timed honestly. Measurements that are compared with each
other take turns, so that another load on the machine slows all of them alike.
"""

from __future__ import annotations

import runtime  # noqa: F401  (before Keras: it sets what the backend reads)

# isort: split
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attack_generation.attack import Attack
from attack_generation.config import PoisonConfig
from benchmarks.record import BenchmarkConfig, finish, machine
from bilevel_optimizer.autodiff import grad, jit, second_derivatives
from bilevel_optimizer.trees import Tree, add_scaled, tree_map
from data.datasets import Dataset
from evaluation.training import Training, TrainingConfig
from models.registry import build_model
from models.saving import with_precision
from models.stateless import StatelessModel
from randomized_smoothing_certification.votes import NOISE_BLOCK, VoteCounter
from robust_training.gaussian_augmentation import GaussianAugmentationLoss
from robust_training.loss import Randomness
from runtime.command_line import run_script
from runtime.files import InputError
from runtime.lazy import keras, ops
from runtime.lazy import pandas as pd
from runtime.noise import fold_in, normal, seed_pair

SIGMA = 0.5
ADAM_BAR = 70.0  # outer step with the Adam residual solver, in gradients
CG_BAR = 45.0  # outer step with conjugate gradient, in gradients
TRAINING_BAR = 19 / 89  # training step of 200, in gradients of 1,000: 19 ms where a gradient takes 89 ms
GRID_BAR = 120.0  # per cent of the vote loop's time that it takes with exact noise, both shared by the points
LOSS_BAR = 10.0  # per cent of the vote loop that is neither model nor noise
ROUNDS = 5  # each measurement has one turn in each
SMALLEST_MATMUL, LARGEST_MATMUL = 256, 8192

Work = Callable[[], Any]  # runs the thing to time once and returns a small array, which the timer fetches


@dataclass(frozen=True, kw_only=True)
class Config(BenchmarkConfig):
    """Settings of the measurement."""

    seconds: float = 10.0
    """Time for each measurement, compilation not counted; one that is slower still has five repeats."""
    batch_size: int = 1_000
    """Votes evaluated together; smaller where a batch would not fit into the time (bfloat16 on most CPUs)."""


class Sizes(NamedTuple):
    """What is measured; the published MNIST attack and victim by default."""

    architecture: str = "mnist_cnn"
    image_shape: tuple[int, int, int] = (28, 28, 1)
    train: int = 55_000
    validation: int = 5_000
    batch_clean: int = 900
    batch_poison: int = 100
    batch_validation: int = 100
    radius_copies: int = 20
    steps: int = 10  # T1 and T2
    training_batch: int = 200
    training_steps: int = 50  # in one repeat; the training loop looks at the loss as often
    votes: int = 100_000  # of one repeat at most


TOY = Sizes("digits_cnn", (8, 8, 1), 400, 100, 18, 2, 4, 2, 3, 8, 3, 1_000)


class Row(NamedTuple):
    """One line of the table. ``gradients``: value in gradients of the training loss at the attack's batch.

    bar: the largest value wanted, of ``gradients`` where given and otherwise of ``value``.
    """

    name: str
    value: float
    unit: str
    gradients: float | None = None
    bar: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met, None where there is none."""
        if self.bar is None:
            return None
        return (self.value if self.gradients is None else self.gradients) <= self.bar


def main(config: Config) -> list[Row]:
    """Measure, print the table, write it as JSON where asked; returns the rows.

    Raises InputError for settings that cannot work.
    """
    require_measurable(config.seconds, config.batch_size)
    sizes = TOY if config.quick else Sizes()
    about = machine()
    print("measuring gradients and steps", file=sys.stderr)
    rows = measure_gradients_and_steps(sizes, config.seconds)
    for dtype in ("float32", "bfloat16"):
        print(f"measuring votes in {dtype}", file=sys.stderr)
        rows += measure_certification(sizes, dtype, config.batch_size, config.seconds)
    print(table(rows))
    finish(config, about, [row._asdict() | {"met": row.met} for row in rows])
    return rows


def require_measurable(seconds: float, batch_size: int) -> None:
    """Raise InputError for a time or a number of votes that nothing can be measured with."""
    if seconds <= 0:
        raise InputError(f"seconds must be positive, got {seconds}")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")


def random_dataset(sizes: Sizes) -> Dataset:
    """A random pattern per class plus uniform noise, in [0, 1]: learnable, so that no gradient is zero."""
    generator = np.random.default_rng(0)
    patterns = generator.random((10, *sizes.image_shape), np.float32)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        classes = np.arange(count) % 10
        x = 0.5 * patterns[classes] + 0.5 * generator.random((count, *sizes.image_shape), np.float32)
        return x, np.eye(10, dtype=np.float32)[classes]

    x_train, y_train = split(sizes.train)
    x_val, y_val = split(sizes.validation)
    return Dataset("random", x_train, y_train, x_val, y_val, x_val[:10], y_val[:10])


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of the convolutions and dense layers for one image, from the layers' shapes.

    Raises InputError for a layer type with a kernel that is neither.
    """
    total = 0
    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        if not isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            raise InputError(f"{layer.name}: how many multiply-adds a {type(layer).__name__} takes is not known")
        total += prod(layer.output.shape[1:]) * prod(layer.kernel.shape[:-1])
    return total


def median_seconds(works: Mapping[str, Work], seconds: float) -> dict[str, float]:
    """Median seconds of one call of each work. They take turns, each about ``seconds`` in all."""
    samples: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        for _ in range(2):
            _timed(work)
    for _ in range(ROUNDS):
        for name, work in works.items():
            end = time.perf_counter() + seconds / ROUNDS
            samples[name].append(_timed(work))
            while time.perf_counter() < end:
                samples[name].append(_timed(work))
    return {name: statistics.median(values) for name, values in samples.items()}


def _timed(work: Work) -> float:
    start = time.perf_counter()
    ops.convert_to_numpy(work())
    return time.perf_counter() - start


def measure_gradients_and_steps(sizes: Sizes, seconds: float) -> list[Row]:
    """Seconds of a gradient, a Hessian-vector product, an outer step and a training step, taking turns.

    The marginal product is what one more costs in a linear system whose first-order evaluation is shared.
    Raises InputError where another load made the longer system the faster one.
    """
    dataset = random_dataset(sizes)
    batch = sizes.batch_clean + sizes.batch_poison
    training = Training(
        TrainingConfig(
            loss=GaussianAugmentationLoss(), sigma=SIGMA, batch_size=sizes.training_batch,
            architecture=sizes.architecture, data_dir=Path(),
        ),
        dataset,
    )  # fmt: skip
    took = median_seconds(
        {
            "gradient": gradient_work(sizes, dataset),
            "system 1": system_work(sizes, dataset, 1),
            "system n": system_work(sizes, dataset, 1 + sizes.steps),
            "adam": outer_step_work(attack(sizes, dataset, "adam")),
            "cg": outer_step_work(attack(sizes, dataset, "cg")),
            "training": training_work(training, sizes.training_steps),
        },
        seconds,
    )
    marginal = (took["system n"] - took["system 1"]) / sizes.steps
    if marginal <= 0:
        raise InputError("another load disturbs the measurement; stop it or raise --seconds")
    step = took["training"] / sizes.training_steps
    gradient = took["gradient"]

    def row(name: str, value: float, bar: float | None = None) -> Row:
        return Row(name, 1e3 * value, "ms", value / gradient, bar)

    return [
        row(f"gradient, batch {batch}", gradient),
        row("Hessian-vector product, marginal", marginal),
        row("outer step, Adam on the residual, redrawn noise", took["adam"], ADAM_BAR),
        row("outer step, conjugate gradient, fixed noise", took["cg"], CG_BAR),
        row(f"training step, batch {sizes.training_batch}", step, TRAINING_BAR),
        Row("training", sizes.training_batch / step, "images/s"),
    ]


def _lower_level(sizes: Sizes, dataset: Dataset) -> tuple[Callable[[Tree, Tree], Any], Tree, Tree]:
    """The attack's training loss g(weights, batch), weights and a batch.

    The batch is an argument of what is compiled, never a constant in it, for else JAX computes the noise
    while compiling.
    """
    model = StatelessModel(build_model(sizes.architecture, sizes.image_shape, dataset.num_classes, seed=0))
    weights, statistics = tree_map(ops.convert_to_tensor, model.initial())
    loss = GaussianAugmentationLoss()
    size = sizes.batch_clean + sizes.batch_poison
    batch = {
        "x": dataset.x_train[:size],
        "y": dataset.y_train[:size],
        "seed": seed_pair(0),
        "images": np.arange(size, dtype=np.int32),
    }

    def objective(weights: Tree, batch: Tree) -> Any:
        def logits(x: Any) -> Any:
            return model(weights, statistics, x)[0]

        randomness = Randomness(SIGMA, batch["seed"], batch["seed"], batch["images"])
        return loss(logits, batch["x"], batch["y"], randomness, 0.0)

    return objective, weights, tree_map(ops.convert_to_tensor, batch)


def gradient_work(sizes: Sizes, dataset: Dataset) -> Work:
    """One gradient of the Gaussian-augmentation loss, noise drawn anew inside."""
    objective, weights, batch = _lower_level(sizes, dataset)
    compiled = jit(lambda weights, batch: grad(lambda v: objective(v, batch))(weights))
    return lambda: compiled(weights, batch)[-1]


def system_work(sizes: Sizes, dataset: Dataset, products: int) -> Work:
    """``products`` Hessian-vector products, each of the one before, sharing one first-order evaluation."""
    objective, weights, batch = _lower_level(sizes, dataset)

    def system(weights: Tree, p: Tree, batch: Tree) -> Tree:
        product = second_derivatives(lambda _, v: objective(v, batch), (), weights).matvec
        return ops.fori_loop(0, products, lambda _, p: add_scaled(p, 1e-3, product(p)), p)

    compiled = jit(system)
    return lambda: compiled(weights, weights, batch)[-1]


def attack(sizes: Sizes, dataset: Dataset, solver: str) -> Attack:
    """The published MNIST attack ('adam'), or the one with conjugate gradient and fixed noise ('cg')."""
    config = PoisonConfig(
        loss=GaussianAugmentationLoss(),
        data_dir=Path(),
        sigma=SIGMA,
        batch_clean=sizes.batch_clean,
        batch_poison=sizes.batch_poison,
        batch_validation=sizes.batch_validation,
        radius_copies=sizes.radius_copies,
        lower_steps=sizes.steps,
        solver_steps=sizes.steps,
        solver="cg" if solver == "cg" else "adam",
        redraw_noise="none" if solver == "cg" else "training_and_validation",
        architecture=sizes.architecture,
    )
    config.check()
    return Attack(config, dataset)


def outer_step_work(attack: Attack) -> Work:
    """The attack's next outer step."""
    state, number = attack.initial_state(0), 0

    def work() -> Any:
        nonlocal state, number
        state, metrics = attack.outer_step(state, number)
        number = (number + 1) % attack.steps_per_epoch  # never as far as a re-initialisation
        return metrics.f

    return work


def training_work(training: Training, steps: int) -> Work:
    """The next ``steps`` training steps; the loss is fetched after the last, as the training loop does."""
    state, number = training.initial_state(), 0

    def work() -> Any:
        nonlocal state, number
        for _ in range(steps):
            state, value = training.step(state, number)
            number = (number + 1) % training.total_steps
        return value

    return work


def measure_certification(sizes: Sizes, dtype: str, batch_size: int, seconds: float) -> list[Row]:
    """Votes per second in one precision, where their time goes, and how far from the matmul limit they are.

    The limit is the votes per second if every multiply-add of the model ran at the rate of one large matrix
    product in the same dtype. The loss is the share of the vote loop that is neither the model's nor the
    noise's time when each runs alone, 0 where they overlap.
    """
    model = build_model(sizes.architecture, sizes.image_shape, 10, seed=0)
    model = with_precision(model, dtype)
    image = np.rint(255 * random_dataset(sizes._replace(train=10, validation=10)).x_val[0]) / np.float32(255)
    batch_size, batches = _fitting_votes(model, image, batch_size, sizes.votes, seconds)
    votes = batch_size * batches
    matmul, in_products = _best_matmul(dtype, seconds / ROUNDS)
    took = median_seconds(
        {
            "votes": votes_work(model, image, batch_size, votes),
            "shared": votes_work(model, image, batch_size, votes, shared=True),
            "grid": votes_work(model, image, batch_size, votes, levels=255, shared=True),
            "model": model_work(model, image, batch_size, batches),
            "noise": noise_work(image, batch_size, batches),
            "matmul": matmul,
        },
        seconds,
    )
    rate = in_products / took["matmul"]
    limit = rate / multiply_adds(model)
    per_second = votes / took["votes"]
    shared = votes / took["shared"]
    lost = max(0.0, 1 - (took["model"] + took["noise"]) / took["votes"])
    return [
        Row(f"{dtype} votes, {batch_size} together", per_second, "votes/s"),
        Row(f"{dtype} votes with noise that points share", shared, "votes/s"),
        Row(
            f"{dtype} votes with exact noise, in the time of others",
            100 * took["grid"] / took["shared"],
            "%",
            bar=GRID_BAR,
        ),
        Row(f"{dtype} model alone", 1e6 * took["model"] / votes, "us/vote"),
        Row(f"{dtype} noise alone", 1e6 * took["noise"] / votes, "us/vote"),
        Row(f"{dtype} vote loop, neither model nor noise", 100 * lost, "%", bar=LOSS_BAR),
        Row(f"{dtype} matrix product", 2e-12 * rate, "TFLOP/s"),
        Row(f"{dtype} votes at the matrix product's rate", limit, "votes/s"),
        Row(f"{dtype} share of that limit reached", 100 * per_second / limit, "%"),
        Row(f"{dtype} share reached with shared noise", 100 * shared / limit, "%"),
    ]


def _fitting_votes(
    model: keras.Model, image: np.ndarray, batch_size: int, most: int, seconds: float
) -> tuple[int, int]:
    """(batch size, batches) of a vote loop that fits one turn.

    One batch may take ``seconds``; where it would take longer, the smallest batch.
    """
    probe = votes_work(model, image, NOISE_BLOCK, NOISE_BLOCK)
    _timed(probe)
    per_vote = _timed(probe) / NOISE_BLOCK
    batch_size = VoteCounter(model, 10, image.shape, SIGMA, batch_size).batch_size  # whole noise blocks
    if batch_size * per_vote > seconds:
        batch_size = NOISE_BLOCK
    batches = int(min(seconds / ROUNDS / per_vote, most)) // batch_size
    return batch_size, max(1, batches)


def votes_work(
    model: keras.Model, image: np.ndarray, batch_size: int, votes: int, levels: int | None = None, shared: bool = False
) -> Work:
    """The vote loop of certification. shared: with noise that is there already, as for all points but the first."""
    counter = VoteCounter(model, 10, image.shape, SIGMA, batch_size, levels)
    seed = seed_pair(0)
    if shared:
        counter.keep_noise(seed, votes)
    return lambda: counter.count_votes(image, votes, seed)


def model_work(model: keras.Model, image: np.ndarray, batch_size: int, batches: int) -> Work:
    """The model on ``batches`` batches that are already there."""

    def loop(weights: Tree, images: Any, zero: Any, batches: Any) -> Any:
        def body(batch: Any, total: Any) -> Any:
            # Images that depend on the batch's number, for else a compiler may evaluate the model only once.
            shift = zero * ops.cast(batch, "float32")
            logits = model.stateless_call(*weights, images + shift, training=False)[0]
            return total + ops.sum(ops.cast(logits, "float32"))

        return ops.fori_loop(0, batches, body, ops.zeros(()))

    generator = np.random.default_rng(0)
    noisy = image + SIGMA * generator.standard_normal((batch_size, *image.shape), np.float32)
    variables = model.trainable_variables, model.non_trainable_variables
    weights = tuple([variable.value for variable in group] for group in variables)
    arguments = tree_map(ops.convert_to_tensor, (noisy, np.float32(0), np.int32(batches)))
    return partial(jit(loop), weights, *arguments)


def noise_work(image: np.ndarray, batch_size: int, batches: int) -> Work:
    """``batches`` batches of noisy images, drawn as in certification."""

    def loop(image: Any, sigma: Any, seed: Any, batches: Any) -> Any:
        blocks = batch_size // NOISE_BLOCK
        shape = (NOISE_BLOCK, *image.shape)

        def body(batch: Any, _: Any) -> Any:
            noise = [normal(shape, fold_in(seed, batch * blocks + i)) for i in range(blocks)]
            return image + sigma * ops.concatenate(noise)

        return ops.fori_loop(0, batches, body, ops.zeros((batch_size, *image.shape)))

    compiled = jit(loop)
    arguments = tree_map(ops.convert_to_tensor, (image, np.float32(SIGMA), seed_pair(0), np.int32(batches)))
    return lambda: compiled(*arguments)[0, 0, 0]


def _best_matmul(dtype: str, seconds: float) -> tuple[Work, int]:
    """Square matrix products of the size with the highest rate whose work fits ``seconds``, and their multiply-adds.

    float32 means what the backend makes of it, TF32 on a GPU that has it, as for the model.
    """
    chain, size = 10, SMALLEST_MATMUL
    candidates: list[tuple[float, Work, int]] = []
    while True:
        work, multiplications = matmul_work(dtype, size, chain), chain * size**3
        _timed(work)
        took = min(_timed(work), _timed(work))
        candidates.append((multiplications / took, work, multiplications))
        if size >= LARGEST_MATMUL or 8 * took > seconds:  # the next size takes 8 times as long
            _, work, multiplications = max(candidates, key=lambda candidate: candidate[0])
            return work, multiplications
        size *= 2


def matmul_work(dtype: str, size: int, chain: int) -> Work:
    """``chain`` products of size x size matrices, each with the result of the one before."""

    def products(x: Any, y: Any) -> Any:
        return ops.fori_loop(0, chain, lambda _, x: ops.matmul(x, y), x)

    generator = np.random.default_rng(0)
    x = generator.standard_normal((size, size), np.float32) / np.float32(size**0.5)  # keeps the norm
    x = ops.cast(x, dtype)
    compiled = jit(products)
    return lambda: ops.cast(compiled(x, x)[0, :1], "float32")


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    cells = {
        "measurement": [f"{row.name:<50}" for row in rows],
        "value": [_number(row.value) for row in rows],
        "unit": [f"{row.unit:<8}" for row in rows],
        "gradients": ["" if row.gradients is None else _number(row.gradients) for row in rows],
        "bar": ["" if row.bar is None else f"<= {_number(row.bar)}" for row in rows],
        "met": [{None: "", True: "yes", False: "NO"}[row.met] for row in rows],
    }
    return pd.DataFrame(cells).to_string(index=False)


def _number(value: float) -> str:
    """Three significant digits, without exponent."""
    digits = 2 - int(np.floor(np.log10(abs(value)))) if value else 0
    return f"{round(value, digits):,.{max(0, digits)}f}"


if __name__ == "__main__":
    run_script(main, Config, __doc__)
