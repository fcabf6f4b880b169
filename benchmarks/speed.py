"""Time every stage on this machine in one run, and compare the times with the project's own bars.

    python benchmarks/speed.py
    python benchmarks/speed.py --batch-size 10000 --out speed.json    (on a GPU)
    python benchmarks/speed.py --data CIFAR10 --batch-size 10000      (the published attack on CIFAR10, on a GPU)

Each measurement is compiled and run twice, then repeated. The median counts. Every repeat ends by fetching a result to
the host, so that asynchronous devices are timed honestly. Compared measurements take turns, so that another load on the
machine slows all of them alike.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from benchmarks import works
from benchmarks.record import finish, machine
from models.registry import build_model
from models.saving import with_precision
from randomized_smoothing_certification.sampling import NOISE_BLOCK, in_whole_blocks
from robust_training.training import Training
from runtime.checks import require_usable
from runtime.command_line import run_script
from runtime.files import InputError
from runtime.lazy import keras

ADAM_BAR = 90.0  # outer step with the Adam residual solver, in gradients
CG_BAR = 45.0  # outer step with conjugate gradient, in gradients
TRAINING_BAR = 19 / 89  # training step of 200 images, in gradients of 1,000 images: 19 ms where a gradient takes 89 ms
GRID_BAR = 120.0  # % of the vote loop's time, with exact noise. The points share the noise in both loops
LOSS_BAR = 10.0  # % of the vote loop that is neither model nor noise
MATMUL_SIZES = 256, 512, 1024, 2048, 4096, 8192


@dataclass(frozen=True, kw_only=True)
class Config(works.TimedConfig):
    data: Literal["MNIST", "CIFAR10"] = "MNIST"
    """Data set whose published attack, model and images are measured."""

    @property
    def measured(self) -> works.Measured:
        """What is measured."""
        return works.CIFAR10 if self.data == "CIFAR10" and not self.quick else super().measured


def row(name: str, value: float, unit: str, gradients: float | None = None, bar: float | None = None) -> dict[str, Any]:
    """One line of the table. ``gradients``: the value as a multiple of a gradient's time at the attack's batch.

    bar: the largest accepted value of ``gradients``, or of ``value`` where ``gradients`` is None. 'met' is None where
    there is no bar.
    """
    met = None if bar is None else (value if gradients is None else gradients) <= bar
    return {"name": name, "value": value, "unit": unit, "gradients": gradients, "bar": bar, "met": met}


def main(config: Config) -> list[dict[str, Any]]:
    """Measure, print the rows, write them as JSON if ``out`` is set, return them. Raises InputError on bad settings."""
    require_usable(config)
    measured, about = config.measured, machine()
    print("measuring gradients and steps", file=sys.stderr)
    rows = measure_gradients_and_steps(measured, config.seconds)
    for dtype in ("float32", "bfloat16"):
        print(f"measuring votes in {dtype}", file=sys.stderr)
        rows += measure_certification(measured, dtype, config.batch_size, config.seconds)
    rates = {one["name"]: one["value"] for one in rows if one["unit"] == "TFLOP/s"}
    for name in ("outer step", "training"):
        share = 100 * rates[f"{name}, arithmetic"] / rates["float32 matrix product"]
        rows.append(row(f"{name}, share of the float32 matrix product's rate", share, "%"))
    finish(config, about, rows)
    return rows


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of the convolutions and dense layers for one image, computed from the layers' shapes.

    Raises InputError for another type of layer that has a kernel.
    """
    total = 0
    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        if not isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            raise InputError(
                f"{layer.name}: the multiply-adds of a {type(layer).__name__} are not known; add them here"
            )
        total += prod(layer.output.shape[1:]) * prod(layer.kernel.shape[:-1])
    return total


def measure_gradients_and_steps(measured: works.Measured, seconds: float) -> list[dict[str, Any]]:
    """Seconds of a gradient, a Hessian-vector product, an outer step and a training step, taking turns.

    The marginal time is the time of one more product in a linear system with a shared first-order evaluation. Raises
    InputError where another load made the longer system faster.
    """
    dataset = works.random_dataset(measured)
    published = works.attack(measured, dataset, "adam")
    training_batch = measured.victim.constants().batch_size
    took = works.median_seconds(
        {
            "gradient": works.gradient_work(measured, dataset),
            "system 1": works.system_work(measured, dataset, 1),
            "system n": works.system_work(measured, dataset, 1 + measured.steps),
            "adam": works.outer_step_work(published),
            "cg": works.outer_step_work(works.attack(measured, dataset, "cg")),
            "training": works.training_work(Training(measured.victim, dataset), measured.training_steps),
        },
        seconds,
    )
    marginal = (took["system n"] - took["system 1"]) / measured.steps
    if marginal <= 0:
        raise InputError("another load disturbs the measurement; stop it or raise --seconds")
    step, gradient = took["training"] / measured.training_steps, took["gradient"]
    model = build_model(measured.victim.architecture, measured.image_shape, dataset.num_classes, seed=0)
    operations = 2e-12 * 3 * multiply_adds(model)  # TFLOP of an image: forward pass, gradients of weights and images
    images = published.gradients_per_step(0) * measured.batch  # of an outer step

    def timed(name: str, value: float, bar: float | None = None) -> dict[str, Any]:
        return row(name, 1e3 * value, "ms", value / gradient, bar)

    return [
        timed(f"gradient, batch {measured.batch}", gradient),
        timed("Hessian-vector product, marginal", marginal),
        timed("outer step, Adam on the residual, redrawn noise", took["adam"], ADAM_BAR),
        row("outer step, arithmetic", images * operations / took["adam"], "TFLOP/s"),
        timed("outer step, conjugate gradient, fixed noise", took["cg"], CG_BAR),
        timed(f"training step, batch {training_batch}", step, TRAINING_BAR),
        row("training", training_batch / step, "images/s"),
        row("training, arithmetic", training_batch * operations / step, "TFLOP/s"),
    ]


def measure_certification(
    measured: works.Measured, dtype: str, batch_size: int, seconds: float
) -> list[dict[str, Any]]:
    """Votes per second in one precision, the time of their parts, and the share of the matmul limit that they reach.

    The limit is the votes per second if every multiply-add of the model ran at the rate of one large matrix
    product in the same dtype. The loss is the share of the vote loop that remains after the times of model and noise,
    each run alone. It is 0 where model and noise overlap.
    """
    model = with_precision(build_model(measured.victim.architecture, measured.image_shape, 10, seed=0), dtype)
    image = np.rint(255 * works.random_dataset(measured._replace(train=10, validation=10)).x_val[0]) / np.float32(255)
    batch_size, batches = _fitting_votes(model, image, batch_size, measured.votes, seconds)
    votes = batch_size * batches
    matmul, in_products = _best_matmul(dtype, seconds / works.ROUNDS)
    took = works.median_seconds(
        {
            "votes": works.votes_work(model, image, batch_size, votes),
            "shared": works.votes_work(model, image, batch_size, votes, shared=True),
            "grid": works.votes_work(model, image, batch_size, votes, levels=255, shared=True),
            "model": works.model_work(model, image, batch_size, batches),
            "noise": works.noise_work(image, batch_size, batches),
            "matmul": matmul,
        },
        seconds,
    )
    rate = in_products / took["matmul"]
    limit = rate / multiply_adds(model)
    per_second, shared = votes / took["votes"], votes / took["shared"]
    grid = took["grid"] / took["shared"]
    lost = max(0.0, 1 - (took["model"] + took["noise"]) / took["votes"])
    return [
        row(f"{dtype} votes, {batch_size} together", per_second, "votes/s"),
        row(f"{dtype} votes with noise that points share", shared, "votes/s"),
        row(f"{dtype} votes with exact noise, in the time of others", 100 * grid, "%", bar=GRID_BAR),
        row(f"{dtype} model alone", 1e6 * took["model"] / votes, "us/vote"),
        row(f"{dtype} noise alone", 1e6 * took["noise"] / votes, "us/vote"),
        row(f"{dtype} vote loop, neither model nor noise", 100 * lost, "%", bar=LOSS_BAR),
        row(f"{dtype} matrix product", 2e-12 * rate, "TFLOP/s"),
        row(f"{dtype} votes at the matrix product's rate", limit, "votes/s"),
        row(f"{dtype} share of that limit reached", 100 * per_second / limit, "%"),
        row(f"{dtype} share reached with shared noise", 100 * shared / limit, "%"),
    ]


def _fitting_votes(
    model: keras.Model, image: np.ndarray, batch_size: int, most: int, seconds: float
) -> tuple[int, int]:
    """(batch size, batches) of a vote loop that fits one turn.

    One batch takes at most ``seconds``. Where it would take longer, the batch is the smallest.
    """
    probe = works.votes_work(model, image, NOISE_BLOCK, NOISE_BLOCK)
    works.timed(probe)
    per_vote = works.timed(probe) / NOISE_BLOCK
    batch_size = in_whole_blocks(batch_size)  # as VoteCounter rounds it
    batch_size = NOISE_BLOCK if batch_size * per_vote > seconds else batch_size
    batches = int(min(seconds / works.ROUNDS / per_vote, most)) // batch_size
    return batch_size, max(1, batches)


def _best_matmul(dtype: str, seconds: float) -> tuple[works.Work, int]:
    """Square matrix products of the size with the highest rate that fits ``seconds``, and their multiply-adds.

    float32 is computed as in the model, with TF32 on a GPU that has it.
    """
    candidates: list[tuple[float, works.Work, int]] = []
    for size in MATMUL_SIZES:
        work, multiplications = works.matmul_work(dtype, size), works.CHAIN * size**3
        works.timed(work)
        took = min(works.timed(work), works.timed(work))
        candidates.append((multiplications / took, work, multiplications))
        if 8 * took > seconds:  # the next size takes 8 times as long
            break
    return max(candidates, key=lambda candidate: candidate[0])[1:]


if __name__ == "__main__":
    run_script(main, Config, __doc__)
