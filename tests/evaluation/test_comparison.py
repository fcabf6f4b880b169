"""The whole chain on real digits at toy size: controls, poison, victims, certificates, table."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attack_generation.config import PoisonConfig
from data.datasets import load_dataset, split_target_class
from evaluation.comparison import ComparisonConfig, compare
from evaluation.training import TrainingConfig
from robust_training.gaussian_augmentation import GaussianAugmentationLoss
from runtime.files import InputError
from runtime.stop import StoppedEarly


@pytest.fixture(scope="module")
def folder(tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the data, since poison is written beside it."""
    copy = tmp_path_factory.mktemp("comparison") / "data"
    copy.mkdir()
    for path in tiny_data_dir.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy.parent


def toy(folder: Path, **changes: object) -> ComparisonConfig:
    attack = PoisonConfig(
        loss=GaussianAugmentationLoss(), epochs=1, batch_clean=300, batch_poison=20, batch_validation=10,
        radius_copies=2, lower_steps=2, solver_steps=2, architecture="digits_cnn", data_dir=folder / "data",
    )  # fmt: skip
    victim = TrainingConfig(
        loss=GaussianAugmentationLoss(), epochs=15, batch_size=100, architecture="digits_cnn",
        data_dir=folder / "data",
    )  # fmt: skip
    settings = {
        "sigma": 0.25, "runs": 2, "points": 5, "n": 200, "n0": 50, "attack": attack, "victim": victim,
        "data_dir": folder / "data", "work_dir": folder / "work", "results_dir": folder / "results", **changes,
    }  # fmt: skip
    return ComparisonConfig(**settings)  # type: ignore[arg-type]


def test_chain_writes_table_figures_and_settings_and_a_second_run_changes_nothing(folder: Path) -> None:
    rows = compare(toy(folder))
    assert [row.poison for row in rows] == ["clean", "random", "constant", "contrast", "gaussianaug"]
    assert rows[0].reduction_percent is None
    assert rows[0].accuracy_mean > 0.8
    assert rows[0].acr_mean > 0
    for row in rows[1:]:
        assert row.epsilon == 0.1
        assert row.reduction_percent == pytest.approx(100 * (1 - row.acr_mean / rows[0].acr_mean))
    certificates = sorted((folder / "work").rglob("*.tsv"))
    assert len(certificates) == 10
    # The row is the mean of what the certificates say.
    clean = [
        json.loads(p.with_suffix(".summary.json").read_text())
        for p in certificates
        if p.parent.name == "clean"
    ]
    assert rows[0].acr_mean == pytest.approx(np.mean([summary["acr"] for summary in clean]))

    results = folder / "results" / "DIGITS_gaussianaug_sigma_0.25_class_8"
    assert {path.name for path in results.iterdir()} == {
        "certified_accuracy.png", "images_constant_epsilon_0.1.png", "images_contrast_epsilon_0.1.png",
        "images_gaussianaug_epsilon_0.1.png", "images_random_epsilon_0.1.png", "settings.json",
    }  # fmt: skip
    before = {path: path.read_bytes() for path in [*certificates, *(folder / "work").rglob("*.keras")]}
    again = compare(toy(folder))
    assert [replace(row, commit="") for row in again] == [replace(row, commit="") for row in rows]
    assert {path: path.read_bytes() for path in before} == before
    with (folder / "results" / "summary.csv").open(newline="") as file:
        assert [row["poison"] for row in csv.DictReader(file)] == [row.poison for row in rows]


def test_controls_are_at_epsilon_and_only_clipping_brings_them_nearer(folder: Path) -> None:
    compare(toy(folder, poisons=("clean", "random", "constant")))
    dataset = load_dataset(folder / "data")
    x = split_target_class(dataset.x_train, dataset.y_train, 8).x_target
    change = {
        kind: np.load(folder / "data" / "epsilon_0.1" / f"X_poisoned_radius_{kind}_0.25_8.npy") - x
        for kind in ("random", "constant")
    }
    inside = (x >= 0.1) & (x <= 0.9)
    assert np.allclose(change["constant"][inside], 0.1, atol=1e-6)
    assert np.allclose(np.abs(change["random"][inside]), 0.1, atol=1e-6)
    assert abs((change["random"][inside] > 0).mean() - 0.5) < 0.05
    for difference in change.values():
        assert np.abs(difference).max() <= 0.1 + 1e-6
        assert (x + difference).min() >= 0
        assert (x + difference).max() <= 1


def test_the_clean_row_is_required_and_the_time_limit_stops_between_stages(folder: Path) -> None:
    with pytest.raises(InputError, match="clean"):
        compare(toy(folder, poisons=("random",)))
    with pytest.raises(StoppedEarly, match="minutes"):
        compare(toy(folder, max_minutes=1e-9))


def test_the_saved_settings_are_those_in_force_and_one_that_would_be_ignored_is_refused(folder: Path) -> None:
    compare(toy(folder, poisons=("clean",)))
    record = json.loads(
        (folder / "results" / "DIGITS_gaussianaug_sigma_0.25_class_8" / "settings.json").read_text()
    )["config"]
    for part in ("attack", "victim"):  # their own defaults are sigma 0.5 and one run
        assert record[part]["sigma"] == 0.25
        assert record[part]["data_dir"] == str(folder / "data")
    assert record["victim"]["runs"] == 2
    config = toy(folder)
    with pytest.raises(
        InputError, match=r"attack\.epsilon is 0\.05, but the comparison decides it; give --epsilons"
    ):
        compare(replace(config, attack=replace(config.attack, epsilon=0.05)))
    with pytest.raises(InputError, match=r"victim\.sigma is 0\.75, .* give --sigma instead"):
        compare(replace(config, victim=replace(config.victim, sigma=0.75)))
