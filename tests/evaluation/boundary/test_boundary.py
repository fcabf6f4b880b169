"""The decision boundary before and after poisoning: points, smoothing, attack, files."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, stats

import data
from attack_generation.attack import AttackState
from bilevel_optimizer.f2sa import F2sa
from evaluation.boundary import experiment
from evaluation.boundary.experiment import draw_boundaries, tables_page
from evaluation.boundary.study import (
    KINDS,
    BoundaryConfig,
    Kind,
    Plane,
    Row,
    Study,
    control_points,
    smoothed_plane,
    two_blobs,
    two_moons,
)
from runtime.artifact import Artifact
from runtime.files import InputError
from runtime.store import SETTINGS, Store, read_store, write_store

ROOT = Path(data.__file__).parents[1]
SMALL = BoundaryConfig(
    runs=1, train_points=60, validation_points=60, test_points=40, victim_steps=500, outer_steps=40, n=1000
)
# The boundary is 0.4 away from the origin, in a direction that is not that of the grid.
NORMAL, OFFSET, SIGMA = np.array([0.6, 0.8]), 0.4, 0.1
LINEAR, NETWORK = KINDS


def half_plane(x: np.ndarray) -> np.ndarray:
    """Logits of a linear classifier, the second class on the far side of the boundary."""
    distance = x @ NORMAL - OFFSET
    return np.stack([-3 * distance, 2 * distance], axis=1)


def smoothed_radius(plane: Plane, x: np.ndarray, sigma: float) -> np.ndarray:
    """The smoothed classifier's l2 radius at points x (N, 2): sigma Phi^-1(share), 0 outside the target class.

    What CERTIFY would return with infinitely many votes, up to the grid.
    """
    cells = len(plane.axis)
    share = ndimage.map_coordinates(plane.share, (x[:, ::-1] * cells - 0.5).T, order=1, mode="nearest")
    return np.maximum(0, sigma * stats.norm.ppf(share))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("boundary")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, dict[str, Row]]:
    return draw_boundaries(replace(SMALL, out_dir=folder))


@pytest.mark.parametrize("sample", [two_blobs, two_moons])
def test_points_are_seeded_and_in_the_unit_square(sample: Callable) -> None:
    x, again, other = (sample(50, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(x, again)
    assert not np.array_equal(x, other)
    assert x.shape == (100, 2) and ((x >= 0) & (x <= 1)).mean() > 0.99


def test_smoothing_leaves_a_linear_boundary_where_it_is() -> None:
    plane = smoothed_plane(half_plane, SIGMA, 1)
    points = np.stack(np.meshgrid(plane.axis, plane.axis), axis=-1)
    distance = points @ NORMAL - OFFSET
    np.testing.assert_allclose(plane.share, stats.norm.cdf(distance / SIGMA), atol=2e-3)
    np.testing.assert_allclose(plane.margin, 5 * distance, atol=1e-5)
    away = np.abs(distance) > 1e-3
    np.testing.assert_array_equal((plane.share > 0.5)[away], (distance > 0)[away])


def test_the_smoothed_radius_of_a_linear_classifier_is_the_distance_from_its_boundary() -> None:
    x = np.random.default_rng(0).uniform(size=(200, 2))
    distance = x @ NORMAL - OFFSET
    near = distance < 2.5 * SIGMA
    radius = smoothed_radius(smoothed_plane(half_plane, SIGMA, 1), x, SIGMA)
    np.testing.assert_allclose(radius[near], np.maximum(0, distance)[near], atol=2e-3)
    assert not np.isnan(radius).any() and np.all(radius[~near] > 2.4 * SIGMA)
    assert np.all(smoothed_radius(smoothed_plane(half_plane, SIGMA, 0), x[distance > 0.01], SIGMA) == 0)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_certified_radii_lie_just_below_the_exact_ones(kind: Kind, results: dict) -> None:
    study = Study(SMALL, kind)
    row = results[kind.name]["clean"]
    plane = smoothed_plane(study.classifier(row.weights), SMALL.sigma, SMALL.target_class)
    test = study.dataset.x_test[study.dataset.y_test[:, 1] == 1].reshape(-1, 2)
    exact = smoothed_radius(plane, test, SMALL.sigma)
    certified = study.certified_radii(row.weights)
    assert np.mean(certified) == row.acr[0]
    assert np.all(certified < exact + 0.01)
    between = exact < 2 * SMALL.sigma  # n votes certify no more than about 2.5 sigma
    assert between.sum() >= 5
    np.testing.assert_allclose(certified[between], exact[between], atol=0.5 * SMALL.sigma)


def test_poison_stays_within_its_bound_and_is_the_same_again(results: dict) -> None:
    for kind in KINDS:
        clean, poison = (results[kind.name][name].points for name in ("clean", "optimised"))
        assert poison.shape == clean.shape and poison.dtype == np.float32
        assert poison.min() >= 0 and poison.max() <= 1
        assert 0.5 * SMALL.epsilon < np.abs(poison - clean).max() <= SMALL.epsilon + 1e-6
    study = Study(SMALL, LINEAR)
    train = study.dataset.x_train, study.dataset.y_train
    before = [array.copy() for array in train]
    assert train[0].min() >= 0 and train[0].max() <= 1 and train[0].dtype == np.float32
    np.testing.assert_array_equal(train[1].argmax(axis=1), np.repeat([0, 1], SMALL.train_points))
    np.testing.assert_array_equal(study.optimised_poison(), results["linear"]["optimised"].points)
    for array, copy in zip(train, before, strict=True):  # labels, and every other point
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(study.x_to_poison, train[0][train[1][:, 1] == 1])


def test_every_network_of_an_optimiser_starts_at_the_trained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[AttackState] = []

    def stop(study: Study, state: AttackState, number: int) -> Any:
        seen.append(state)
        raise StopIteration

    monkeypatch.setattr(Study, "outer_step", stop)
    study = Study(replace(SMALL, optimiser=F2sa()), NETWORK)
    with pytest.raises(StopIteration):
        study.optimised_poison()
    ((weights,), (lower,)) = seen[0].weights, seen[0].lower_states
    for one, other in zip(weights, lower.y, strict=True):
        np.testing.assert_array_equal(one, other)


def test_poison_lowers_the_radius_of_the_target_class_more_than_the_controls(results: dict) -> None:
    for rows in results.values():
        optimised = rows["optimised"].acr[0]
        assert optimised < 0.85 * rows["clean"].acr[0]
        assert all(optimised < rows[name].acr[0] - 0.01 for name in ("random", "constant", "contrast"))
    # The best poison of a linear classifier is a uniform shift; one of the curved boundary has many directions.
    directions = {
        name: len(np.unique(np.sign(rows["optimised"].points - rows["clean"].points), axis=0))
        for name, rows in results.items()
    }
    shifts = {
        name: min(row.acr[0] for key, row in rows.items() if key.startswith("shift")) for name, rows in results.items()
    }
    assert directions["linear"] == 1 and directions["network"] > 1
    assert results["linear"]["optimised"].acr[0] == pytest.approx(shifts["linear"], abs=0.005)
    assert results["network"]["optimised"].acr[0] < shifts["network"] - 0.01


def test_controls_are_all_uniform_shifts_and_those_of_the_tables() -> None:
    x = np.full((4, 2), 0.5, np.float32)
    controls = control_points(x, 0.125, 0)
    signs = {name: tuple(np.sign(points - x)[0]) for name, points in controls.items()}
    assert [signs[name] for name in ("constant", "shift (+, -)", "shift (-, +)", "shift (-, -)")] == [
        (1, 1), (1, -1), (-1, 1), (-1, -1),
    ]  # fmt: skip
    assert all(np.all(np.abs(points - x) == 0.125) for points in controls.values())
    assert {"random", "contrast"} < controls.keys()


def test_a_run_writes_picture_store_and_table(folder: Path, results: dict) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "decision_boundary.png", "points.csv.xz", "settings.json.xz", "tables.md",
    ]  # fmt: skip
    picture = (folder / "decision_boundary.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 50_000
    store = read_store(folder)
    table = (folder / "tables.md").read_text()
    assert table == tables_page(store)
    assert list(store.records) == [f"{kind}/{name}" for kind, rows in results.items() for name in rows]
    for kind, rows in results.items():
        for name, row in rows.items():
            record = store.records[f"{kind}/{name}"]["0"]
            assert record["config"]["epsilon"] == SMALL.epsilon and "commit" in record
            assert record["accuracy"] == row.accuracy[0] and (record["largest_change"] == 0) == (name == "clean")
            points = store.points[store.points["entry"] == f"{kind}/{name}"]
            assert points["radius"].tolist() == row.radii[0] and set(points["label"]) == {1}
            less = "" if name == "clean" else f"{100 * (1 - row.acr[0] / rows['clean'].acr[0]):.1f} % ("
            share = np.mean(np.array(row.radii[0]) > 0)
            (line,) = (line for line in table.splitlines() if line.startswith(f"| {kind} | {name} |"))
            assert line.startswith(f"| {kind} | {name} | {row.acr[0]:.3f} | {less}")
            assert line.endswith(f" | {share:.3f} | {row.accuracy[0]:.3f} |")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma must be positive, got 0.0"),
        ({"sigma": float("nan")}, "sigma must be positive, got nan"),
        ({"sigma": 0.6}, r"sigma must be at most 0.5, got 0.6"),
        ({"epsilon": -0.1}, "epsilon must be positive, got -0.1"),
        ({"epsilon": 1.5}, "epsilon must be at most 1, got"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"runs": 0}, "runs must be positive, got 0"),
        ({"target_class": 2}, "target_class must be at most 1, got 2"),
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"alpha": 1.0}, "alpha must lie strictly between 0 and 1, got 1.0"),
    ],
)
def test_bad_settings_get_one_clear_line(changes: dict, message: str, tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "evaluation" / "boundary" / "two_dimensional.py"))
    with pytest.raises(InputError, match=message):
        draw_boundaries(script["Config"](out_dir=tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_the_store_of_something_else_is_not_replaced(
    folder: Path, results: dict[str, dict[str, Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = pd.DataFrame({"entry": ["macer/clean/class_8"], "seed": [0], "idx": [0], "radius": [0.5]})
    write_store(tmp_path, Store(points, {"macer/clean/class_8": {"0": {}}}))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"holds other measurements \(points.csv.xz\); choose another --out-dir"):
        draw_boundaries(replace(SMALL, out_dir=tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.delattr(experiment, "Study")
    with pytest.raises(NameError, match="Study"):  # it begins to draw over its own store
        draw_boundaries(replace(SMALL, out_dir=folder))


def test_a_run_goes_on_after_a_killed_one_and_names_a_damaged_file(
    folder: Path, results: dict[str, dict[str, Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(experiment, "Study")  # where the drawing begins
    copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / SETTINGS).write_bytes((folder / SETTINGS).read_bytes()[:-40])
    with pytest.raises(InputError, match=r"settings\.json\.xz: not a whole .xz file .*; fetch it again, or delete"):
        draw_boundaries(replace(SMALL, out_dir=tmp_path))
    (tmp_path / SETTINGS).unlink()  # as a run does before it draws
    with pytest.raises(NameError, match="Study"):
        draw_boundaries(replace(SMALL, out_dir=tmp_path))


def test_a_second_picture_at_the_same_time_is_refused(tmp_path: Path) -> None:
    config = replace(SMALL, out_dir=tmp_path)
    with Artifact(tmp_path / "settings.json.xz"), pytest.raises(InputError, match="another run is writing it"):
        draw_boundaries(config)
    (tmp_path / "tables.md").mkdir()
    with pytest.raises(InputError, match=r"tables\.md: is a folder"):
        draw_boundaries(config)
