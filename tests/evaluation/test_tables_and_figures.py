"""The record of measurements and the figures."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.figures import _at, save_curves
from evaluation.tables import COLUMNS, SummaryRow, mean_and_std, text_table, update_summary
from runtime.files import InputError

CLEAN = SummaryRow(
    dataset="DIGITS", victim="gaussianaug", poison="clean", sigma=0.25, epsilon=None, target_class=8,
    architecture="digits_cnn", runs=3, attack_epochs=None, victim_epochs=100, points=35, n=5000, alpha=0.001,
    acr_mean=0.4, acr_std=0.01, certified_accuracy_mean=0.9, certified_accuracy_std=0.02, accuracy_mean=0.97,
    target_accuracy_mean=0.95, reduction_percent=None, backend="tensorflow", commit="abc", command="python x.py",
)  # fmt: skip
POISONED = replace(CLEAN, poison="constant", epsilon=0.1, acr_mean=0.1, reduction_percent=75.0)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_summary_has_the_documented_columns_and_empty_cells_where_nothing_applies(tmp_path: Path) -> None:
    update_summary(tmp_path / "summary.csv", [CLEAN, POISONED])
    clean, poisoned = rows_of(tmp_path / "summary.csv")
    assert tuple(clean) == COLUMNS
    assert clean["epsilon"] == clean["attack_epochs"] == clean["reduction_percent"] == ""
    assert poisoned["reduction_percent"] == "75.0"
    assert poisoned["acr_mean"] == "0.1000"


def test_a_row_measured_again_replaces_the_old_one_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    update_summary(path, [CLEAN, POISONED])
    update_summary(path, [replace(POISONED, acr_mean=0.2), replace(POISONED, epsilon=0.05)])
    assert [(row["poison"], row["epsilon"], row["acr_mean"]) for row in rows_of(path)] == [
        ("clean", "", "0.4000"),
        ("constant", "0.1", "0.2000"),
        ("constant", "0.05", "0.1000"),
    ]


def test_another_csv_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"summary\.csv.*columns"):
        update_summary(path, [CLEAN])
    assert path.read_text() == "a,b\n1,2\n"


def test_spread_is_the_sample_standard_deviation() -> None:
    assert mean_and_std([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, np.std([1, 2, 4], ddof=1)))
    assert mean_and_std([0.5]) == (0.5, 0.0)


def test_table_shows_mean_spread_and_reduction() -> None:
    lines = text_table([CLEAN, POISONED]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "0.400 ± 0.010" in lines[2]
    assert "75.0 %" in lines[3]


def test_curves_are_steps_that_fall_after_each_radius(tmp_path: Path) -> None:
    curve = {"radius": [0.0, 0.5, 1.0], "accuracy": [1.0, 0.75, 0.25]}
    assert _at(np.array([0.0, 0.2, 0.5, 0.6, 1.0, 1.1]), curve).tolist() == [1.0, 0.75, 0.75, 0.25, 0.25, 0.0]
    path = tmp_path / "figure.png"
    save_curves(path, {"clean": [curve, curve], "poison": [{"radius": [0.0], "accuracy": [0.0]}]}, "title")
    assert path.read_bytes().startswith(b"\x89PNG")
