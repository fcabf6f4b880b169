"""Certification runs on a toy dataset: files, restarts, shards, summaries and one-line errors."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from models.saving import load_model, save_model
from randomized_smoothing_certification import certification_run
from randomized_smoothing_certification.certificate_file import COLUMNS, read_points
from randomized_smoothing_certification.certification_run import (
    CertificationConfig,
    certify_test_points,
    draw_points,
    merge,
)
from randomized_smoothing_certification.core import VoteCounter, certify, round_down
from randomized_smoothing_certification.grid_noise import GridNoise
from runtime.files import InputError, append
from runtime.stop import StoppedEarly

CLASSES, COUNT = 3, 24
SCRIPTS = Path(certification_run.__file__).parent


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 8x8 images of three classes and a linear model that mostly knows them."""
    folder = tmp_path_factory.mktemp("toy")
    generator = np.random.default_rng(0)
    centres = generator.uniform(0.3, 0.7, size=(CLASSES, 8, 8, 1))
    for split in ("train", "val", "test"):
        truth = np.arange(COUNT) % CLASSES
        images = centres[truth] + generator.uniform(-0.2, 0.2, size=(COUNT, 8, 8, 1))
        np.save(folder / f"X_{split}.npy", np.clip(images, 0, 1).astype(np.float32))
        np.save(folder / f"Y_{split}.npy", np.eye(CLASSES, dtype=np.float32)[truth])
    for side, name in ((8, "model"), (9, "other_shape")):
        model = keras.Sequential([keras.Input((side, side, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
        if side == 8:
            flat = centres.reshape(CLASSES, -1)
            model.set_weights([8 * flat.T, -4 * np.sum(flat**2, axis=1)])
        save_model(model, folder / f"{name}.keras")
    return folder


def config(toy: Path, out: Path, **changes: Any) -> CertificationConfig:
    values = {"target_class": 1, "points": 6, "n": 300, "model": toy / "model.keras", "data_dir": toy, "out": out}
    return CertificationConfig(**{**values, **changes})


def without_time(path: Path) -> list[list[str]]:
    return [line.split("\t")[:-1] for line in path.read_text().splitlines()]


def test_a_run_writes_rows_settings_and_summary(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.tsv"
    summary = certify_test_points(config(toy, out))
    lines = out.read_text().split("\n")
    assert lines[0].split("\t") == list(COLUMNS) == ["idx", "label", "predict", "radius", "correct", "time"]
    assert lines[-1] == ""
    rows = read_points(out)
    assert [row.idx for row in rows] == sorted(row.idx for row in rows) and len(rows) == 6
    truth = np.argmax(np.load(toy / "Y_test.npy"), axis=1)
    assert all(row.label == truth[row.idx] == 1 for row in rows)
    assert all(row.correct == (row.predict == row.label) for row in rows)
    assert all(len(row.radius.partition(".")[2]) == 6 for row in rows)
    radii = [float(row.radius) * row.correct for row in rows]
    assert summary["acr"] == pytest.approx(np.mean(radii)) and summary["acr"] > 0
    low, high = summary["acr_ci95"]
    assert low <= summary["acr"] <= high
    assert summary["certified_accuracy"]["0.25"] == np.mean([row.correct and float(row.radius) >= 0.25 for row in rows])
    assert len(summary["curve"]["radius"]) == len(summary["curve"]["accuracy"])
    assert summary["point_set"] == {
        "dataset": toy.name, "split": "test", "target_class": 1, "seed": 0, "count": 6, "n0": 100, "n": 300,
        "alpha": 0.001, "sigma": 0.5, "precision": "float32",
        "noise": {"mode": "float32", "cut_off": 5.7}, "shard": None,
    }  # fmt: skip
    assert json.loads(out.with_suffix(".summary.json").read_text()) == summary
    assert json.loads(out.with_suffix(".settings.json").read_text())["points"] == [row.idx for row in rows]
    printed = capsys.readouterr().out
    assert "ACR" in printed and "n0 100, n 300, alpha 0.001, float32, noise float32 up to 5.7 sigma" in printed
    # A complete run that is started again changes nothing.
    before = out.read_text()
    assert certify_test_points(config(toy, out))["acr"] == summary["acr"]
    assert out.read_text() == before


def test_each_row_is_certify_at_that_test_point(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tsv"
    certify_test_points(config(toy, out, seed=5))
    counter = VoteCounter(load_model(toy / "model.keras"), CLASSES, (8, 8, 1), 0.5)
    images = np.load(toy / "X_test.npy")
    for row in read_points(out):
        found = certify(counter, images[row.idx], row.idx, n0=100, n=300, alpha=0.001, seed=5)
        assert (row.predict, row.radius) == (found.prediction, round_down(found.radius))


def test_exact_noise_says_so_and_what_it_takes_off(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.tsv"
    with pytest.raises(InputError, match=r"X_test\.npy: pixels that are no multiples of 1/255 or 1/256"):
        certify_test_points(config(toy, out, noise="grid"))
    assert not list(tmp_path.iterdir())
    eight_bit = tmp_path / "eight_bit"
    shutil.copytree(toy, eight_bit)
    images = np.rint(np.load(toy / "X_test.npy") * 255).astype(np.float32) / np.float32(255)
    np.save(eight_bit / "X_test.npy", images)
    summary = certify_test_points(config(eight_bit, out, noise="grid"))
    mass = GridNoise(0.5, 255).failure_mass(64)
    expected = {"mode": "grid", "cut_off": 8.0, "levels": 255, "failure_mass": mass}
    assert summary["point_set"]["noise"] == expected
    assert json.loads(out.with_suffix(".settings.json").read_text())["settings"]["noise"] == expected
    assert f"noise grid up to 8 sigma, failure mass {mass:.2g}" in capsys.readouterr().out
    counter = VoteCounter(load_model(toy / "model.keras"), CLASSES, (8, 8, 1), 0.5, levels=255)
    for row in read_points(out):
        found = certify(counter, images[row.idx], row.idx, n0=100, n=300, alpha=0.001, seed=0)
        assert (row.predict, row.radius) == (found.prediction, round_down(found.radius))
    with pytest.raises(InputError, match="made with noise"):
        certify_test_points(config(eight_bit, out))


@pytest.mark.parametrize("kept", [0, 5, len("\t".join(COLUMNS)) + 1, 80, 120])
def test_a_cut_off_file_is_completed_to_the_same_rows(toy: Path, tmp_path: Path, kept: int) -> None:
    out = tmp_path / "a.tsv"
    certify_test_points(config(toy, out))
    whole, rows = out.read_text(), without_time(out)
    out.write_text(whole[:kept])
    whole_lines = whole[:kept].rpartition("\n")[0]
    certify_test_points(config(toy, out, batch_size=100))
    assert without_time(out) == rows
    assert out.read_text().startswith(whole_lines)  # rows that were there are kept, not made again


def test_sigterm_stops_after_the_point_and_the_run_continues(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.tsv", tmp_path / "a.tsv"
    certify_test_points(config(toy, whole))
    original = certification_run.certify

    def terminate_at_the_second(counter: Any, image: np.ndarray, index: int, **votes: Any) -> Any:
        if out.exists() and len(read_points(out)) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(counter, image, index, **votes)

    with monkeypatch.context() as patch, pytest.raises(StoppedEarly, match="SIGTERM; 4 points are left"):
        patch.setattr(certification_run, "certify", terminate_at_the_second)
        certify_test_points(config(toy, out))
    assert len(read_points(out)) == 2 and not out.with_suffix(".summary.json").exists()
    with pytest.raises(StoppedEarly, match="minutes"):
        certify_test_points(config(toy, out, max_minutes=1e-9))
    certify_test_points(config(toy, out))
    assert without_time(out) == without_time(whole)


@pytest.mark.parametrize(
    "name, value", [("n", 301), ("seed", 1), ("sigma", 0.4), ("target_class", 2), ("shard", "1/2")]
)
def test_a_file_of_other_settings_is_refused_by_name(toy: Path, tmp_path: Path, name: str, value: Any) -> None:
    out = tmp_path / "a.tsv"
    certify_test_points(config(toy, out, points=1))
    before = out.read_text()
    with pytest.raises(InputError, match=f"made with {name} = "):
        certify_test_points(config(toy, out, **{"points": 1, name: value}))
    assert out.read_text() == before


def test_a_file_of_other_settings_gives_way_where_that_is_allowed(toy: Path, tmp_path: Path) -> None:
    out, fresh = tmp_path / "a.tsv", tmp_path / "b.tsv"
    certify_test_points(config(toy, out, points=1))
    summary = certify_test_points(config(toy, out, points=2, n=301, on_other_settings="start_afresh"))
    certify_test_points(config(toy, fresh, points=2, n=301))
    assert without_time(out) == without_time(fresh)
    assert summary["point_set"]["n"] == 301


def test_another_model_and_a_stray_file_are_refused(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tsv"
    certify_test_points(config(toy, out, points=1))
    model = keras.saving.load_model(toy / "model.keras")
    model.set_weights([weights + 1 for weights in model.get_weights()])
    save_model(model, tmp_path / "b.keras")
    with pytest.raises(InputError, match="model_sha256"):
        certify_test_points(config(toy, out, points=1, model=tmp_path / "b.keras"))
    out.with_suffix(".settings.json").unlink()
    with pytest.raises(InputError, match="without"):
        certify_test_points(config(toy, out, points=1))


def test_merged_shards_are_the_whole_run(toy: Path, tmp_path: Path) -> None:
    whole, merged = tmp_path / "whole.tsv", tmp_path / "merged.tsv"
    expected = certify_test_points(config(toy, whole, target_class="all", points=3))
    shards = [tmp_path / f"{i}.tsv" for i in (3, 1, 2)]
    for path in shards:
        certify_test_points(config(toy, path, target_class="all", points=3, shard=f"{path.stem}/3"))
    with pytest.raises(InputError, match="shard 2/3 is missing"):
        merge(shards[:2], merged)
    with pytest.raises(InputError, match="name every shard once"):
        merge([*shards, shards[0]], merged)
    summary = merge(shards, merged)
    assert without_time(merged) == without_time(whole)
    lines = {line for path in shards for line in path.read_text().splitlines()}
    assert set(merged.read_text().splitlines()) == lines  # carried over with the measured time
    for name in ("point_set", "acr", "acr_ci95", "certified_accuracy", "per_class"):
        assert summary[name] == expected[name]
    settings = [json.loads(path.with_suffix(".settings.json").read_text()) for path in (merged, whole)]
    assert settings[0]["settings"] == settings[1]["settings"] and settings[0]["points"] == settings[1]["points"]
    shards[0].write_text("\n".join(shards[0].read_text().split("\n")[:-2]) + "\n")
    with pytest.raises(InputError, match="2 of 3 points"):
        merge(shards, tmp_path / "b.tsv")
    with pytest.raises(InputError, match="not a shard"):
        merge([whole], tmp_path / "b.tsv")


def test_shards_of_other_settings_do_not_merge(toy: Path, tmp_path: Path) -> None:
    for shard, n in (("1/2", 300), ("2/2", 200)):
        certify_test_points(config(toy, tmp_path / f"{n}.tsv", shard=shard, n=n))
    with pytest.raises(InputError, match="made with n = 200, this run has 300"):
        merge([tmp_path / "300.tsv", tmp_path / "200.tsv"], tmp_path / "merged.tsv")


def test_all_classes_are_certified_and_summarised(toy: Path, tmp_path: Path) -> None:
    summary = certify_test_points(config(toy, tmp_path / "a.tsv", target_class="all", points=2))
    assert summary["point_set"]["count"] == 6 and summary["point_set"]["target_class"] == "all"
    assert list(summary["per_class"]) == ["0", "1", "2"]
    assert all(values["count"] == 2 for values in summary["per_class"].values())
    assert summary["acr"] == pytest.approx(np.mean([values["acr"] for values in summary["per_class"].values()]))


def test_points_are_drawn_once_per_seed_and_class(capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.arange(300) % 3
    one = draw_points(truth, 3, 1, 20, 0)
    assert len(set(one)) == 20 and np.all(truth[one] == 1) and np.all(np.diff(one) > 0)
    np.testing.assert_array_equal(one, draw_points(truth, 3, 1, 20, 0))
    assert not np.array_equal(one, draw_points(truth, 3, 1, 20, 1))
    every = draw_points(truth, 3, "all", 20, 0)
    np.testing.assert_array_equal(every[truth[every] == 1], one)
    assert capsys.readouterr().out == ""
    assert len(draw_points(truth, 3, 1, 500, 0)) == 100
    assert "class 1 has 100 test points, fewer than 500" in capsys.readouterr().out


def test_saturation_is_said(toy: Path, tmp_path: Path) -> None:
    summary = certify_test_points(config(toy, tmp_path / "a.tsv", sigma=0.01))
    assert summary["saturation"]["share"] > 0.5 and "largest radius" in summary["saturation"]["note"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sigma": 0.0}, "sigma"),
        ({"alpha": 1.0}, "alpha"),
        ({"n": 0}, "n must be"),
        ({"n0": 0}, "n0 must be"),
        ({"points": 0}, "points"),
        ({"seed": -1}, "seed"),
        ({"target_class": 3}, "0 to 2"),
        ({"target_class": -1}, "0 to 2"),
        ({"model": Path("missing.keras")}, "missing.keras"),
        ({"model": "other_shape"}, "shape"),
        ({"shard": "3/2"}, "I/N"),
        ({"shard": "7/7"}, "no points"),
        ({"max_minutes": 0.0}, "max_minutes"),
        ({"out": Path("a.csv")}, ".tsv"),
    ],
)
def test_bad_settings_end_in_one_line(toy: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    if changes.get("model") == "other_shape":
        changes = {"model": toy / "other_shape.keras"}
    with pytest.raises(InputError, match=message) as caught:
        certify_test_points(dataclasses.replace(config(toy, tmp_path / "a.tsv"), **changes))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_unwritable_output_and_full_disk(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        certify_test_points(config(toy, tmp_path / "file" / "a.tsv"))
    if Path("/dev/full").exists():
        with pytest.raises(InputError, match="no space left"):
            append(Path("/dev/full"), "row\n")


def test_damaged_rows_are_refused(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tsv"
    certify_test_points(config(toy, out, points=2))
    lines = out.read_text().split("\n")
    for damaged in ([lines[0], lines[1][:-20], lines[2], ""], [lines[0], lines[2], ""], ["idx", *lines[1:]]):
        out.write_text("\n".join(damaged))
        with pytest.raises(InputError):
            certify_test_points(config(toy, out, points=2))


def test_the_script_ends_in_status_2_and_one_line(toy: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "certify_digits.py"), "--data-dir", str(toy), "--target-class", "1"]
    command += ["--model", "absent.keras", "--out", "a.tsv"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.startswith("error: absent.keras: no such file") and found.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
