"""Hours that a table's row takes on this machine, stage by stage, with the published settings and with cheap settings.

    python benchmarks/price.py

A row: MNIST, Gaussian augmentation, one noise level, one class. Five kinds of training data (clean, optimised, random,
constant, contrast), five victims of each, and certificates of all test images of class 8. One unit of each stage is
timed as in speed.py, with the production code. The time is multiplied by the number of units in a row. Compiling,
starting and writing are left out. So are the three controls, which take seconds.
"""

import sys
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from attack_generation.attack import Attack
from benchmarks import works
from benchmarks.record import finish, machine
from bilevel_optimizer.f2sa import F2sa
from evaluation.tables.plan import read_plan
from models.registry import build_model
from models.saving import with_precision
from randomized_smoothing_certification.sampling import N0
from robust_training.training import Training
from runtime.checks import require_usable
from runtime.command_line import run_script
from runtime.provenance import project_path


class Settings(NamedTuple):
    """Settings of a row. Other settings have the published values: the defaults of the scripts."""

    attack: dict[str, Any]  # of poison_radius_gaussianaug.py
    victim: dict[str, Any]  # of gaussian_augmented_training.py
    votes: float  # mean share of VOTES that a point takes
    precision: str = "float32"  # of the votes


ROW = read_plan(project_path("config/mnist_row.yaml"))
# votes of cheap: a point of results/mnist_row took 5,088, the mean over 25 victims.
SETTINGS = {
    "published": Settings(attack={}, victim={}, votes=1.0),
    "cheap": Settings(
        {**ROW.attack["all"], "optimiser": F2sa()}, ROW.victim["all"], 0.504, ROW.certification["precision"]
    ),
}
KINDS = 5  # of training data
VICTIMS = 5  # of each
POINTS = 974  # test images of class 8
VOTES = N0 + 10_000  # of a point
GRADIENT = 65.0  # ms on the machine for which the bar is set
BAR = 1.5  # hours of a cheap row on that machine


def row(name: str, unit: str, published_and_cheap: np.ndarray, bar: float | None = None) -> dict[str, Any]:
    """One line of the price list. bar: the largest accepted value of 'cheap'. 'met' is None where there is no bar."""
    published, cheap = published_and_cheap.tolist()
    about = {"name": name, "unit": unit, "published": published, "cheap": cheap, "bar": bar}
    return {**about, "ratio": published / cheap, "met": None if bar is None else cheap <= bar}


def main(config: works.TimedConfig) -> list[dict[str, Any]]:
    """Measure, print the price list, write it as JSON if ``out`` is set. Returns its rows.

    The rows are hours of every stage and of the table's row, and milliseconds of a unit of each stage. Raises
    InputError for settings that cannot work.
    """
    require_usable(config)
    about = machine()
    print("measuring what each stage repeats", file=sys.stderr)
    measured, both = config.measured, list(SETTINGS.values())
    dataset = works.random_dataset(measured)
    attacks = [Attack(replace(measured.attack, **one.attack), dataset) for one in both]
    trainings = [Training(replace(measured.victim, **one.victim), dataset) for one in both]
    model = build_model(measured.victim.architecture, measured.image_shape, dataset.num_classes, seed=0)
    stages = {"gradient": works.gradient_work(measured, dataset)}
    for (name, one), attack, training in zip(SETTINGS.items(), attacks, trainings, strict=True):
        base = with_precision(model, one.precision)
        stages[f"votes, {name}"] = works.votes_work(base, dataset.x_val[0], config.batch_size, VOTES, shared=True)
        stages[f"attack, {name}"] = works.outer_step_work(attack)
        stages[f"training, {name}"] = works.training_work(training, measured.training_steps)
    took = works.median_seconds(stages, config.seconds)
    victims = KINDS * VICTIMS
    outer = np.array([took[f"attack, {name}"] for name in SETTINGS])
    step = np.array([took[f"training, {name}"] for name in SETTINGS]) / measured.training_steps
    point = np.array([one.votes * took[f"votes, {name}"] for name, one in SETTINGS.items()])
    hours = {
        "attack": outer * [attack.total_steps for attack in attacks] / 3600,
        f"{victims} victims": victims * step * [training.total_steps for training in trainings] / 3600,
        f"{victims} certificates": victims * POINTS * point / 3600,
    }
    together = np.sum(list(hours.values()), axis=0)
    gradient = np.full(len(both), took["gradient"])
    rows = [
        *(row(name, "h", pair) for name, pair in hours.items()),
        row("together", "h", together),
        row(f"together, were the gradient {GRADIENT:g} ms", "h", together * GRADIENT / (1e3 * gradient), BAR),
        row(f"gradient of {measured.batch:,}", "ms", 1e3 * gradient),
        row("outer step", "ms", 1e3 * outer),
        row("training step", "ms", 1e3 * step),
        row("certificate of a point", "ms", 1e3 * point),
    ]
    finish(config, about, rows)
    return rows


if __name__ == "__main__":
    run_script(main, works.TimedConfig, __doc__)
