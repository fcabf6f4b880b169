"""Figures, and what tables say of several runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from evaluation.tables import figures
from evaluation.tables.figures import _at, save_acr_against_gradients, save_acr_bars, save_curves
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


def test_the_curve_of_an_attack_goes_through_the_means_in_order_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "save_png", lambda path, figure: drawn.append(figure))
    series = {"soba": [(400.0, [0.3, 0.5]), (20.0, [0.8, 0.8])], "unknown": []}
    save_acr_against_gradients(Path("a.png"), series, [1.0, 1.2], {"constant": [0.9]}, "title")
    ((axes,),) = (figure.axes for figure in drawn)
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert lines["soba"] == ([20.0, 400.0], [0.8, 0.4]) and lines["unknown"] == ([], [])
    assert lines["clean"][1] == pytest.approx([1.1, 1.1]) and lines["constant"][1] == [0.9, 0.9]
    (band,) = axes.patches
    assert [band.get_y(), band.get_height()] == pytest.approx([1.1 - np.std([1, 1.2], ddof=1), 0.2828427])
    assert axes.get_xscale() == "log"


def test_a_legend_of_long_names_is_not_cut(tmp_path: Path) -> None:
    names = [f"a_rather_long_name_of_an_attack_epochs_{epochs}" for epochs in range(4)]
    save_acr_bars(tmp_path / "acr.png", {"macer": {name: [0.5, 0.6] for name in names}}, "title")
    pixels = imread(tmp_path / "acr.png")
    assert pixels.shape[1] > 1_000  # wider than the axes need
    for edge in (pixels[:, 0], pixels[:, -1], pixels[0], pixels[-1]):
        assert np.all(edge == 1)
