"""The victims' schedules: the formula, and who decides on epochs, batch size and rate."""

import dataclasses
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from evaluation.tables.jobs import words_of
from robust_training.methods import METHODS
from robust_training.schedules import ONE_CYCLE, RISE, Schedule, learning_rate
from robust_training.smoothadv import SmoothAdvLoss
from robust_training.training import train_victims
from runtime.files import InputError

DATASETS = ("DIGITS", "MNIST", "CIFAR10")


def script(dataset: str, method: str) -> Any:
    """The settings' class of a victim script."""
    return import_module(f"evaluation.{dataset}.{METHODS[method].victim_script}").Config


def values(config: Any) -> tuple[Any, ...]:
    """Epochs, batch size and rate."""
    return config.epochs, config.batch_size, config.learning_rate


def test_one_cycle_rises_to_its_peak_and_falls_to_0() -> None:
    rates = [learning_rate("one_cycle", 0.02, step, 10) for step in range(10)]
    np.testing.assert_allclose(rates, 0.02 * np.array([1 / 3, 2 / 3, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7, 0]))
    many = np.array([learning_rate("one_cycle", 0.02, step, 10_007) for step in range(10_007)])
    peak = many.argmax()
    assert peak == pytest.approx(RISE * 10_007, abs=2) and many[peak] == pytest.approx(0.02, rel=1e-3)
    assert np.all(np.diff(many[: peak + 1]) > 0) and np.all(np.diff(many[peak:]) < 0)
    assert many[-1] == 0 and many.max() <= 0.02 and many[0] > 0
    assert learning_rate("one_cycle", 0.02, 0, 1) == 0.02


def test_constant_is_the_rate_itself() -> None:
    assert {learning_rate("constant", 1e-3, step, 7) for step in range(7)} == {1e-3}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_a_schedule_alone_picks_epochs_batch_size_and_rate(dataset: str, method: str) -> None:
    config = script(dataset, method)
    published, short = config().in_force(), tyro.cli(config, args=["--schedule", "one_cycle"]).in_force()
    assert published.schedule == "constant" and published.learning_rate == 1e-3
    assert 4.5 < published.epochs / short.epochs < 5.5
    assert values(short) == values(config.one_cycle)
    assert short.in_force() == short  # nothing is left open
    if method == "smoothadv":
        assert (published.loss.ramp_epochs, short.loss.ramp_epochs) == (10, config.one_cycle.ramp_epochs)
        assert 4 * short.loss.ramp_epochs < short.epochs  # most of the training is at the full radius


def test_a_plan_picks_the_schedule() -> None:
    settings = words_of({"schedule": "one_cycle", "epochs": 7})
    found = tyro.cli(script("MNIST", "gaussianaug"), args=settings).in_force()
    assert (found.schedule, found.epochs, found.batch_size) == ("one_cycle", 7, ONE_CYCLE["MNIST"].batch_size)


def test_published_constants() -> None:
    """Epochs and batch size of the published victims."""
    smaller = {
        ("MNIST", "smoothadv"): (101, 100),
        ("CIFAR10", "smoothadv"): (101, 100),
        ("CIFAR10", "macer"): (101, 100),
    }
    usual = {"DIGITS": (100, 200), "MNIST": (101, 200), "CIFAR10": (201, 200)}
    for dataset in DATASETS:
        for method in METHODS:
            found = values(script(dataset, method)().in_force())
            assert found == (*smaller.get((dataset, method), usual[dataset]), 1e-3)


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_what_is_given_is_kept(schedule: str) -> None:
    config = script("MNIST", "smoothadv")
    given = {"--epochs": 101, "--batch-size": 33, "--learning-rate": 0.25, "--loss.ramp-epochs": 3}
    others = tyro.cli(config, args=["--schedule", schedule]).in_force()
    for flag, value in given.items():
        found = tyro.cli(config, args=["--schedule", schedule, flag, str(value)]).in_force()
        name = flag[2:].replace("-", "_")
        if name == "loss.ramp_epochs":
            assert found == dataclasses.replace(others, loss=dataclasses.replace(others.loss, ramp_epochs=3))
        else:
            assert found == dataclasses.replace(others, **{name: value})


def test_the_record_holds_the_settings_in_force(tiny_data_dir: Path, tmp_path: Path) -> None:
    config = script("DIGITS", "smoothadv")
    loss = dataclasses.replace(config.loss, attack_steps=1)
    victim = config(
        schedule="one_cycle", epochs=1, loss=loss, data_dir=tiny_data_dir, out_dir=tmp_path, run_dir=tmp_path
    )
    record = json.loads(train_victims(victim)[0].with_suffix(".json").read_text())
    one_cycle = config.one_cycle
    for kept in (record["settings"], record["config"]):
        assert (kept["schedule"], kept["epochs"], kept["batch_size"], kept["learning_rate"]) == (
            "one_cycle", 1, one_cycle.batch_size, one_cycle.learning_rate
        )  # fmt: skip
        assert kept["loss"]["ramp_epochs"] == one_cycle.ramp_epochs


def test_the_table_has_every_data_set() -> None:
    assert set(ONE_CYCLE) == set(DATASETS) and all(isinstance(one, Schedule) for one in ONE_CYCLE.values())


def test_a_ramp_that_is_left_open_is_one_line_in_an_attack() -> None:
    with pytest.raises(InputError, match="ramp_epochs of smoothadv is None"):
        SmoothAdvLoss(ramp_epochs=None).radius(np.float32(3))
    assert SmoothAdvLoss(ramp_epochs=3).ramped(7).ramp_epochs == 3
    assert SmoothAdvLoss(ramp_epochs=None).ramped(7).ramp_epochs == 7
