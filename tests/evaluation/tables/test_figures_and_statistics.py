"""Figures, and what tables say of several runs."""

from pathlib import Path

import numpy as np
import pytest

from evaluation.tables.figures import _at, save_curves
from evaluation.tables.statistics import mean_and_std, mean_and_std_text, reduction_percent


def test_spread_is_the_sample_standard_deviation_and_a_single_run_has_none() -> None:
    assert mean_and_std([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, np.std([1, 2, 4], ddof=1)))
    assert mean_and_std([0.5]) == (0.5, None)
    assert mean_and_std_text([0.5]) == "0.500"
    assert mean_and_std_text([0.5, 0.7]) == "0.600 ± 0.141"


def test_reductions() -> None:
    assert reduction_percent(0.25, 1.0) == 75.0
    assert reduction_percent(0.25, 0.0) is None


def test_curves_are_steps_that_fall_after_each_radius(tmp_path: Path) -> None:
    curve = {"radius": [0.0, 0.5, 1.0], "accuracy": [1.0, 0.75, 0.25]}
    assert _at(np.array([0.0, 0.2, 0.5, 0.6, 1.0, 1.1]), curve).tolist() == [1.0, 0.75, 0.75, 0.25, 0.25, 0.0]
    path = tmp_path / "figure.png"
    save_curves(path, {"clean": [curve, curve], "poison": [{"radius": [0.0], "accuracy": [0.0]}]}, "title")
    assert path.read_bytes().startswith(b"\x89PNG")
