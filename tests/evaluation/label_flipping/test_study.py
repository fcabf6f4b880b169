"""The curves of certified accuracy against changed labels, from a script's constants to its files."""

import csv
import dataclasses
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data
from data.datasets import SPLITS, labels, load_dataset
from data.preparation import SourceConfig, write_dataset
from evaluation.label_flipping.config import SETTINGS
from evaluation.label_flipping.features import Features, features_name, save_features
from evaluation.label_flipping.images import images_of_classes
from evaluation.label_flipping.report import LabelCurve, value_at
from evaluation.label_flipping.study import certify_labels
from runtime.files import InputError
from runtime.lock import Lock
from runtime.stop import StoppedEarly

ROOT = Path(data.__file__).parents[1]
SCRIPTS = ("digits", "mnist_1_7", "mnist", "cifar10")


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "evaluation" / "label_flipping" / f"{name}.py"))


def toy(name: str, data_dir: Path, folder: Path, **changes: Any) -> tuple[Any, Any]:
    loaded = script(name)
    network = loaded["Network"](epochs=1, architecture="digits_cnn", batch_size=50)
    settings = {
        "q": (0.1, 0.3), "ridges": (10.0, 1e3), "points": 40, "network_shares": (0.0, 0.2), "network_points": 2,
        "features": "raw", "work_dir": folder / "work", "results_dir": folder / "results", "data_dir": data_dir,
        "network": network,
    }  # fmt: skip
    return certify_labels, loaded["Config"](**{**settings, **changes})


def read(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def of_q(folder: Path) -> Path:
    """Per-point results of one q."""
    (path,) = folder.glob("results/*/q_0.1.tsv")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_data_dir: Path) -> Path:
    """Files of one run of the digits script."""
    folder = tmp_path_factory.mktemp("labels")
    main, config = toy("digits", tiny_data_dir, folder)
    main(config)
    return folder


def test_files_of_a_run_agree_with_each_other(folder: Path, tiny_data_dir: Path) -> None:
    results = folder / "results" / "label_flipping_DIGITS_raw_tight"
    curves = read(results / "curve.csv")
    assert {row["curve"] for row in curves} == {
        "tight", "closed_form", "ridge", "network_random", "network_greedy", "network_pointwise",
    }  # fmt: skip
    test = labels(load_dataset(tiny_data_dir).y_test)
    for q in ("0.1", "0.3"):
        points = read(results / f"q_{q}.tsv", "\t")
        assert len(points) == 40
        correct = np.array([row["correct"] == "1" for row in points])
        flips = np.array([int(row["flips"]) for row in points])
        assert all(int(row["label"]) == test[int(row["idx"])] for row in points)
        assert all((row["label"] == row["predict"]) == (row["correct"] == "1") for row in points)
        assert flips.max() > 3 and correct.sum() > 20
        for row in curves:
            if (row["curve"], row["q"]) == ("tight", q):
                share = np.mean(correct & (flips >= int(row["flips"])))
                assert float(row["accuracy"]) == pytest.approx(share, abs=1e-4)
    assert (results / "certified_accuracy.png").stat().st_size > 10_000
    settings = json.loads((results / "settings.json").read_text())
    best = max(settings["choice"]["tried"], key=lambda one: (one["certified_accuracy"], one["mean_flips"]))
    assert settings["choice"]["ridge"] == best["ridge"] and len(settings["choice"]["tried"]) == 4
    table = (results / "table.txt").read_text()
    assert "smoothed, tight, q 0.3" in table and "plain ridge, exact" in table
    of_half = max(int(row["flips"]) for row in curves if row["curve"] == "ridge" and float(row["accuracy"]) >= 0.5)
    assert next(line for line in table.splitlines() if line.startswith("plain ridge")).split()[-1] == str(of_half)


def test_the_learners_own_certificate_has_its_points(folder: Path) -> None:
    results = folder / "results" / "label_flipping_DIGITS_raw_tight"
    points = read(results / "exact.tsv", "\t")
    assert len(points) == 40
    for row in read(results / "curve.csv"):
        if row["curve"] == "ridge":
            certified = [int(point["flips"]) >= int(row["flips"]) and point["correct"] == "1" for point in points]
            assert float(row["accuracy"]) == pytest.approx(np.mean(certified), abs=1e-4)


def test_neighbours_and_kernel_regression_take_the_place_of_least_squares(tiny_data_dir: Path, tmp_path: Path) -> None:
    for learner, changes in (
        ("neighbours", {"neighbours": (20, 60), "diffusion": 6, "network_shares": (0.0, 0.2), "network_points": 0}),
        ("kernel", {"bandwidths": (0.1, 0.3), "network_shares": ()}),
        ("signed_neighbours", {"neighbours": (20, 60), "network_shares": (0.0, 0.2), "network_points": 0}),
        ("signed_least_squares", {"neighbours": (20, 60), "ridges": (1.0, 100.0), "network_shares": ()}),
    ):
        folder = tmp_path / learner
        main, config = toy("digits", tiny_data_dir, folder, learner=learner, **changes)
        main(config)
        (results,) = (folder / "results").iterdir()
        assert results.name == f"label_flipping_DIGITS_raw_{'diffusion_' * (learner == 'neighbours')}{learner}_tight"
        choice = json.loads((results / "settings.json").read_text())["choice"]
        names = SETTINGS[learner]
        for name in names:
            candidates = set(changes[f"{name.removesuffix('s')}s"])
            assert {one[name] for one in choice["tried"]} == candidates and choice[name] in candidates
        assert len(choice["tried"]) == 2 ** len(names) * len(config.q)
        points = read(results / "exact.tsv", "\t")
        assert np.mean([int(row["flips"]) * int(row["correct"]) for row in points]) > 5
        assert np.mean([row["correct"] == "1" for row in points]) > 0.75
        smoothed = {row["idx"]: row for row in read(results / "q_0.1.tsv", "\t")}
        same = [row for row in points if smoothed[row["idx"]]["predict"] == row["predict"]]
        # The exact number of flips is of the classifier itself: the smoothed one is another, but not far from it here.
        assert (
            len(same) > 30 and np.mean([int(smoothed[row["idx"]]["flips"]) <= int(row["flips"]) for row in same]) > 0.9
        )
        chosen = ", ".join(f"{name} {choice[name]:g}" for name in names)
        assert f"{chosen} (chosen on" in (results / "table.txt").read_text()


def test_features_of_a_file_are_those_of_the_images_that_they_belong_to(tiny_data_dir: Path, tmp_path: Path) -> None:
    """Raw pixels from a file, centred with a constant, give the raw features' files to the letter."""
    dataset = load_dataset(tiny_data_dir)
    x, y = (np.concatenate([getattr(dataset, f"{k}_{split}") for split in ("train", "val")]) for k in "xy")
    mean = x[np.isin(labels(y), (3, 8))].reshape(-1, 64).astype(float).mean(axis=0)
    for name in ("own", "of_file"):
        settings: dict[str, Any] = {"network_shares": (), "classes": (3, 8), "ridge": 10.0}
        if name == "of_file":
            settings["features_file"] = tmp_path / "pixels.npz"
            pixels = {split: getattr(dataset, f"x_{split}").reshape(-1, 64) - mean for split in SPLITS}
            arrays = {split: np.concatenate([x, np.ones((len(x), 1))], axis=1) for split, x in pixels.items()}
            save_features(settings["features_file"], arrays)
        main, config = toy("digits", tiny_data_dir, tmp_path / name, **settings)
        main(config)
    own = tmp_path / "own/results/label_flipping_DIGITS_3_8_raw_tight"
    of_file = tmp_path / "of_file/results/label_flipping_DIGITS_3_8_pixels_tight"
    points = [read(folder / "exact.tsv", "\t") for folder in (own, of_file)]
    assert len(points[0]) == 40
    assert points[0] == points[1]


def test_joined_features_are_both_of_one_scale(tiny_data_dir: Path, tmp_path: Path) -> None:
    dataset = load_dataset(tiny_data_dir)
    random = np.random.default_rng(0)
    arrays = {split: 1e3 * random.normal(3, 1, (len(getattr(dataset, f"x_{split}")), 5)) for split in SPLITS}
    save_features(tmp_path / "wide.npz", arrays)
    _, config = toy("digits", tiny_data_dir, tmp_path, features="patches", features_file=tmp_path / "wide.npz")
    config = dataclasses.replace(config, joined=True, centroids=7)
    assert features_name(config) == "patches_wide"
    train, held_out, test = images_of_classes(dataset, config)
    x, x_test = Features(config, dataset)((train, held_out), test)
    assert x.shape[1] == 4 * 7 + 5 + 1 and len(x_test) == len(test.x)
    for part in (x[:, :28], x[:, 28:33]):
        np.testing.assert_allclose(part.mean(axis=0), 0, atol=1e-9)
        assert np.square(part).sum(axis=1).mean() == pytest.approx(1)
    assert (x[:, 33] == 1).all() and (x_test[:, 33] == 1).all()
    of_file = np.concatenate([arrays["train"], arrays["val"]])
    scale = np.sqrt(of_file.var(axis=0).sum())
    np.testing.assert_allclose(x_test[:, 28:33], (arrays["test"] - of_file.mean(axis=0)) / scale, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": np.zeros((3, 2))}, r"test is float64 of shape \(3, 2\), floats of shape \(\d+, 2\) expected"),
        ({"val": np.zeros((0, 2), int)}, r"val is int64 of shape"),
        ({"train": np.zeros(7)}, r"train is float64 of shape \(7,\)"),
        ({"test": None}, "has no array 'test'"),
        ({"test": "nan"}, "test holds NaN or infinite values"),
    ],
)
def test_a_file_of_other_features_is_refused(
    change: dict[str, Any], message: str, tiny_data_dir: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(tiny_data_dir)
    arrays = {split: np.zeros((len(getattr(dataset, f"x_{split}")), 2)) for split in ("train", "val", "test")}
    for name, array in change.items():
        if array is None:
            del arrays[name]
        elif isinstance(array, str):
            arrays[name][1, 1] = np.nan
        else:
            arrays[name] = array
    save_features(tmp_path / "a.npz", arrays)
    main, config = toy("digits", tiny_data_dir, tmp_path, features_file=tmp_path / "a.npz")
    with pytest.raises(InputError, match=f"{tmp_path}/a.npz: {message}"):
        main(config)
    with pytest.raises(InputError, match="no such file"):
        main(dataclasses.replace(config, features_file=tmp_path / "b.npz"))


def test_a_draw_of_test_points_without_some_class_changes_no_certificate(
    folder: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    main, config = toy("digits", tiny_data_dir, tmp_path, points=3, network_shares=())
    main(config)
    whole = {row["idx"]: row for row in read(of_q(folder), "\t")}
    few = read(of_q(tmp_path), "\t")
    assert len(few) == 3 and all(whole[row["idx"]] == row for row in few)


def test_certificates_lie_below_the_exact_robustness_of_ridge_on_the_whole(folder: Path) -> None:
    curves = read(folder / "results" / "label_flipping_DIGITS_raw_tight" / "curve.csv")

    def area(name: str, q: str) -> float:
        rows = [row for row in curves if (row["curve"], row["q"]) == (name, q)]
        flips, accuracy = (np.array([float(row[column]) for row in rows]) for column in ("flips", "accuracy"))
        assert np.all(np.diff(accuracy) <= 0)
        return float(np.sum(np.diff(flips) * accuracy[1:]))

    assert 0 < area("closed_form", "0.1") < area("tight", "0.1") < area("ridge", "")


def test_a_stopped_run_continues_to_the_same_files(folder: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    main, config = toy("digits", tiny_data_dir, tmp_path)
    stages = ("ridge_10.json", "ridge_1000.json", "points_0.json")
    for done in (*stages, "points_0.json"):  # the last stop is in the first training
        with pytest.raises(StoppedEarly):
            main(dataclasses.replace(config, max_minutes=1e-9))
        assert (tmp_path / "work" / done).is_file()
    assert not list((tmp_path / "work").glob("network*"))
    main(config)
    name = "results/label_flipping_DIGITS_raw_tight/curve.csv"
    assert (tmp_path / name).read_text() == (folder / name).read_text()
    other = dataclasses.replace(config, at=0.2)
    with pytest.raises(InputError, match=r"made with at = 0\.01, this run has 0\.2"):
        main(other)


@pytest.mark.parametrize("part", ["Y_train", "X_val", "Y_val", "Y_test"])
def test_other_labels_or_held_out_images_are_another_study(
    folder: Path, tiny_data_dir: Path, tmp_path: Path, part: str
) -> None:
    for path in tiny_data_dir.glob("*.npy"):
        array = np.load(path)
        np.save(tmp_path / path.name, np.roll(array, 1, axis=0) if path.stem == part else array)
    main, config = toy("digits", tmp_path, tmp_path, work_dir=folder / "work")
    with pytest.raises(InputError, match=f"made with {part.lower()} = "):
        main(config)


def test_the_record_is_the_last_and_only_one_study_writes(
    folder: Path, tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results" / "label_flipping_DIGITS_raw_tight"
    shutil.copytree(folder / "results", tmp_path / "results")
    main, config = toy("digits", tiny_data_dir, tmp_path, work_dir=folder / "work")
    for held in (folder / "work" / "stages", results / "settings.json"):
        with Lock(held), pytest.raises(InputError, match=f"{held}: another run is writing it"):
            main(config)

    def full(*_: object) -> None:
        raise InputError("no space left on the disk")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="no space left"):
        patch.setattr("evaluation.label_flipping.study.write_curves", full)
        main(config)
    assert not (results / "settings.json").exists()
    (results / "table.txt").unlink()
    (results / "table.txt").mkdir()
    with pytest.raises(InputError, match=r"table\.txt: is a folder"):
        main(config)
    (results / "table.txt").rmdir()
    main(config)
    assert (results / "settings.json").exists() and not list(results.glob(".*"))


def test_every_script_runs_on_arrays_of_its_kind(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, shape in (("mnist_1_7", (28, 28, 1)), ("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))):
        patterns = random.uniform(50, 200, size=(10, *shape))
        splits = {}
        for split, count in (("train", 200), ("val", 60), ("test", 60)):
            y = np.arange(count) % 10
            x = np.clip(patterns[y] + random.normal(scale=20, size=(count, *shape)), 0, 255)
            splits[split] = (x.astype(np.uint8), y)
        folder = tmp_path / name
        write_dataset(
            folder / "data", None, splits, {"file": "made by a test"}, 0, SourceConfig(out_dir=folder / "data")
        )
        main, config = toy(
            name, folder / "data", folder, q=(0.1,), network_shares=(), features=script(name)["Config"]().features
        )
        main(config)
        rows = read(of_q(folder), "\t")
        expected = {"1", "7"} if name == "mnist_1_7" else {str(k) for k in range(10)}
        assert {row["label"] for row in rows} <= expected and len(rows) == (12 if name == "mnist_1_7" else 40)
        assert np.mean([row["correct"] == "1" for row in rows]) > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": (0.1, 0.6)}, "q must lie strictly between 0 and 1/2, got 0.6"),
        ({"network_points": -1}, "network_points must not be negative, got -1"),
        ({"q": ()}, "q must hold at least one"),
        ({"classes": (1, 12)}, "class 12 is out of range; choose from 0 to 9"),
        ({"classes": (1, 1)}, "at least two different ones"),
        ({"at": 0.0}, "at must lie strictly between 0 and 1, got 0.0"),
        ({"points": 0}, "points must be at least 1, got 0"),
        ({"ridges": ()}, "ridges must hold at least one candidate"),
        ({"ridge": -1.0}, "ridge must be finite and not negative, got -1.0"),
        ({"neighbours": ()}, r"neighbours must hold positive numbers, got \(\)"),
        ({"bandwidths": (0.1, 0.0)}, r"bandwidths must hold positive numbers, got \(0.1, 0.0\)"),
        ({"diffusion": -2}, "diffusion must not be negative, got -2"),
        ({"learner": "neighbours", "neighbours": (10**6,)}, "neighbours must lie between 1 and the"),
        ({"learner": "signed_neighbours", "neighbours": (10**6,)}, "signed votes need from 1 to"),
        ({"joined": True}, "joined needs features_file"),
        ({"centroids": 0}, "centroids must be positive, got 0"),
        ({"network_shares": (1.5,)}, "network_shares must lie between 0 and 1, got 1.5"),
    ],
)
def test_bad_settings_get_one_clear_line(
    changes: dict[str, Any], message: str, tiny_data_dir: Path, tmp_path: Path
) -> None:
    main, config = toy("digits", tiny_data_dir, tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        main(config)


def test_a_certificate_falls_in_steps_and_a_network_in_lines() -> None:
    certificate = LabelCurve("tight", 0.1, np.array([0, 5, 6, 9, 10]), np.array([0.9, 0.9, 0.5, 0.5, 0.0]))
    assert [value_at(certificate, flips) for flips in (0, 3, 5, 6, 7, 10, 11)] == [
        0.9, 0.9, 0.9, 0.5, 0.5, 0.0, 0.0,
    ]  # fmt: skip
    network = LabelCurve("network_random", None, np.array([0, 10]), np.array([1.0, 0.5]))
    assert value_at(network, 5) == 0.75
