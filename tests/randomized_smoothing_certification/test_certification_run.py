"""Certification runs on a toy dataset: files, restarts, shards, summaries and one-line errors."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from models.registry import build_model
from models.saving import load_model, save_model
from randomized_smoothing_certification import certification_run
from randomized_smoothing_certification.certificate_file import COLUMNS, is_summarised, read_points, summary_path
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
        ({"n": 3_000_000_000}, r"below 2\^31, got 3000000000"),
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
    with pytest.raises(InputError, match="is no folder; choose another place"):
        certify_test_points(config(toy, tmp_path / "file" / "a.tsv"))
    if Path("/dev/full").exists():
        with pytest.raises(InputError, match="no space left"):
            append(Path("/dev/full"), "row\n")


def changed(line: str, column: str, value: str) -> str:
    cells = line.split("\t")
    cells[COLUMNS.index(column)] = value
    return "\t".join(cells)


WRONG_ROWS = [
    ("radius", "-1.000000", "radius -1.0"),
    ("radius", "9.000000", "line 2 has a radius"),  # above the ceiling of n, alpha and sigma
    ("radius", "0.25", "line 2 has a radius"),
    ("radius", "1e-1", "line 2 has a radius"),
    ("radius", "nan", "radius nan"),
    ("predict", "-2", "line 2 has a class"),
    ("predict", "-1", "line 2 has a"),  # a radius without a class
    ("correct", "0", "line 2 has a correct"),
    ("correct", "5", "line 2 has a correct"),
    ("label", "01", "line 2 has a form"),
    ("label", "2", "line 2 has a"),
    ("idx", "2", "line 2 has a point"),
    ("idx", "999", "line 2 has a point"),
    ("time", "0:00:nan", "line 2 is damaged"),
    ("time", "0:00:-1", "line 2 is damaged"),
]


@pytest.fixture(scope="module")
def two_rows(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of a whole run, one of two shards, with two points."""
    out = tmp_path_factory.mktemp("two") / "a.tsv"
    certify_test_points(config(toy, out, points=4, shard="1/2"))
    return {path.name: path.read_text() for path in out.parent.iterdir()}


@pytest.mark.parametrize(("column", "value", "message"), WRONG_ROWS)
def test_rows_that_the_run_cannot_have_written_are_refused(
    toy: Path, tmp_path: Path, two_rows: dict[str, str], column: str, value: str, message: str
) -> None:
    """When a run goes on, and when its rows are joined to others; nothing is changed."""
    header, first, second, _ = two_rows["a.tsv"].split("\n")
    for lines in ([header, changed(first, column, value), ""], [header, changed(first, column, value), second, ""]):
        for name in ("a.tsv", "a.settings.json"):
            (tmp_path / name).write_text(two_rows[name])
        (tmp_path / "a.tsv").write_text("\n".join(lines))
        with pytest.raises(InputError, match=message):
            certify_test_points(config(toy, tmp_path / "a.tsv", points=4, shard="1/2"))
        with pytest.raises(InputError, match=message):
            merge([tmp_path / "a.tsv"], tmp_path / "merged.tsv")
        assert (tmp_path / "a.tsv").read_text() == "\n".join(lines)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.settings.json", "a.tsv"]


def test_a_record_of_other_points_is_refused(toy: Path, tmp_path: Path, two_rows: dict[str, str]) -> None:
    for change, message in (({"points": [4]}, "its points are not those"), ({"points": None}, "not a record")):
        for name, text in two_rows.items():
            (tmp_path / name).write_text(text)
        record = {**json.loads(two_rows["a.settings.json"]), **change}
        (tmp_path / "a.settings.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match=message):
            certify_test_points(config(toy, tmp_path / "a.tsv", points=4, shard="1/2"))


def test_lines_out_of_place_are_refused(toy: Path, tmp_path: Path, two_rows: dict[str, str]) -> None:
    header, first, second, _ = two_rows["a.tsv"].split("\n")
    for lines, message in (
        ([header, second, ""], "line 2 has a point"),
        ([header, first, first, ""], "once more"),
        ([header, first, second, changed(first, "idx", "23"), ""], "line 4 has a point"),
        ([header, "", first, ""], "not the lines"),
        ([header, first[:-20], second, ""], "line 2 is damaged"),
        (["idx", first, second, ""], "columns"),
    ):
        for name in ("a.tsv", "a.settings.json"):
            (tmp_path / name).write_text(two_rows[name])
        (tmp_path / "a.tsv").write_text("\n".join(lines))
        with pytest.raises(InputError, match=message):
            certify_test_points(config(toy, tmp_path / "a.tsv", points=4, shard="1/2"))
    with pytest.raises(InputError, match="line 2 has a class"):
        (tmp_path / "a.tsv").write_text("\n".join([header, changed(first, "predict", str(CLASSES)), ""]))
        certify_test_points(config(toy, tmp_path / "a.tsv", points=4, shard="1/2"))


def test_a_changed_digit_in_whole_certificates_is_noticed_by_their_hash(
    toy: Path, tmp_path: Path, two_rows: dict[str, str]
) -> None:
    for name, text in two_rows.items():
        (tmp_path / name).write_text(text)
    radius = read_points(tmp_path / "a.tsv")[0].radius
    other = radius[:-1] + str((int(radius[-1]) + 1) % 10)
    (tmp_path / "a.tsv").write_text(two_rows["a.tsv"].replace(radius, other))
    assert not is_summarised(tmp_path / "a.tsv")
    with pytest.raises(InputError, match=r"changed since a\.summary\.json was made"):
        certify_test_points(config(toy, tmp_path / "a.tsv", points=4, shard="1/2"))
    with pytest.raises(InputError, match=r"changed since a\.summary\.json was made"):
        merge([tmp_path / "a.tsv"], tmp_path / "merged.tsv")


def test_another_program_may_lack_columns_but_not_repeat_a_point(tmp_path: Path) -> None:
    foreign = tmp_path / "a.tsv"
    foreign.write_text("label\tpredict\tradius\n8\t8\t1.5\n8\t-1\t0\n")
    assert [(point.idx, point.radius) for point in read_points(foreign)] == [(0, "1.5"), (1, "0")]
    foreign.write_text("idx\tlabel\tpredict\tradius\n3\t8\t8\t1.5\n3\t8\t8\t1.5\n")
    with pytest.raises(InputError, match="line 3 has the point 3 once more"):
        read_points(foreign)


def test_a_failing_first_point_leaves_no_file(toy: Path, tmp_path: Path) -> None:
    model = keras.saving.load_model(toy / "model.keras")
    model.set_weights([np.full_like(weights, np.nan) for weights in model.get_weights()])
    (tmp_path / "models").mkdir()
    save_model(model, tmp_path / "models" / "nan.keras")
    with pytest.raises((FloatingPointError, InputError)):
        certify_test_points(config(toy, tmp_path / "new" / "a.tsv", model=tmp_path / "models" / "nan.keras"))
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_model_that_its_record_does_not_describe_is_refused(toy: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.keras"
    model.write_bytes((toy / "model.keras").read_bytes())
    model.with_suffix(".json").write_text(json.dumps({"config": {}, "sha256": "of another file"}))
    with pytest.raises(InputError, match=r"m\.keras: not the file that m\.json describes"):
        certify_test_points(config(toy, tmp_path / "a.tsv", model=model))
    assert not (tmp_path / "a.tsv").exists()


@pytest.mark.parametrize("name", ["a.tsv", "a.settings.json", "a.summary.json"])
def test_a_folder_in_the_way_is_one_line(toy: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name}, which is a folder"):
        certify_test_points(config(toy, tmp_path / "a.tsv"))


class Killed(BaseException):
    """Nothing is done on the disk from here on."""


@pytest.mark.parametrize("at", range(1, 5))
def test_a_merge_killed_at_any_write_is_done_again(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    shards = [tmp_path / f"{i}.tsv" for i in (1, 2)]
    for path in shards:
        certify_test_points(config(toy, path, shard=f"{path.stem}/2"))
    merged, left, replace = tmp_path / "merged.tsv", [at], Path.replace
    summary_path(merged).write_text('{"of": "something that was there before"}')

    def kill(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        try:
            merge(shards, merged)
        except Killed:
            assert at < 4 and not summary_path(merged).exists()
    summary = merge(shards, merged)
    assert summary == json.loads(merged.with_suffix(".summary.json").read_text()) and is_summarised(merged)
    assert len(read_points(merged)) == 6 and not list(tmp_path.glob(".*"))
    # What one made, the other neither changes nor takes for its own with other rows in it.
    before = merged.read_text()
    assert certify_test_points(config(toy, merged))["tsv_sha256"] == summary["tsv_sha256"]
    assert merged.read_text() == before
    whole = tmp_path / "whole.tsv"
    with pytest.raises(StoppedEarly):
        certify_test_points(config(toy, whole, max_minutes=1e-9))
    certify_test_points(config(toy, whole))
    with pytest.raises(InputError, match=r"whole\.tsv: exists with other rows"):  # other times
        merge(shards, whole)


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", 0), ("sigma", "0.5"), ("sigma", float("nan")), ("seed", -1), ("n", 10**30), ("n", None), ("shard", 1)],
)
def test_a_shard_whose_record_holds_no_settings_leaves_no_output(
    tmp_path: Path, two_rows: dict[str, str], name: str, value: Any
) -> None:
    (tmp_path / "a.tsv").write_text(two_rows["a.tsv"])
    record = json.loads(two_rows["a.settings.json"])
    for broken in ({**record, "settings": {**record["settings"], name: value}}, [], {"settings": None}):
        (tmp_path / "a.settings.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"a\.settings\.json: not a record of certificates"):
            merge([tmp_path / "a.tsv"], tmp_path / "merged.tsv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.settings.json", "a.tsv"]


def test_points_that_are_no_shard_of_one_run_do_not_merge(toy: Path, tmp_path: Path) -> None:
    shards = [tmp_path / f"{i}.tsv" for i in (1, 2)]
    for path in shards:
        certify_test_points(config(toy, path, shard=f"{path.stem}/2"))
    for path, other in zip(shards, ("2/2", "1/2"), strict=True):
        record = json.loads(path.with_suffix(".settings.json").read_text())
        record["settings"]["shard"] = other
        path.with_suffix(".settings.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="its points are not those of shard 2/2"):
        merge(shards, tmp_path / "merged.tsv")
    assert not (tmp_path / "merged.tsv").exists()


def test_two_processes_on_one_output(tiny_data_dir: Path, tmp_path: Path) -> None:
    """One writes it, the other is refused in one line; the table has a row per point."""
    save_model(build_model("digits_cnn", (8, 8, 1), 10, seed=0), tmp_path / "m.keras")
    arguments = ["certify_digits.py", "--data-dir", str(tiny_data_dir), "--model", str(tmp_path / "m.keras")]
    arguments += ["--out", str(tmp_path / "a.tsv"), "--n", "500"]
    waits_at_its_first_point = (
        "import runpy, sys, time\n"
        "from pathlib import Path\n"
        "from randomized_smoothing_certification import certification_run\n"
        "certify = certification_run.certify\n"
        "def waiting(*given, **votes):\n"
        "    Path('started').touch()\n"
        "    while not Path('go').exists():\n"
        "        time.sleep(0.05)\n"
        "    return certify(*given, **votes)\n"
        "certification_run.certify = waiting\n"
        f"sys.argv = {arguments!r}\n"
        f"runpy.run_path({str(SCRIPTS / 'certify_digits.py')!r}, run_name='__main__')\n"
    )
    shared: dict[str, Any] = {"cwd": tmp_path, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    shared["env"] = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent)}
    first = subprocess.Popen([sys.executable, "-c", waits_at_its_first_point], **shared)
    try:
        while not (tmp_path / "started").exists() and first.poll() is None:
            time.sleep(0.05)
        second = subprocess.run([sys.executable, str(SCRIPTS / arguments[0]), *arguments[1:]], **shared, timeout=300)
    finally:
        (tmp_path / "go").touch()
        _, errors = first.communicate(timeout=300)
    assert (first.returncode, second.returncode) == (0, 2), errors + second.stderr
    assert second.stderr == (
        f"error: {tmp_path / 'a.tsv'}: another run is writing it; wait for it or choose another output\n"
    )
    assert len(read_points(tmp_path / "a.tsv")) == 35
    assert not list(tmp_path.glob(".*"))


def test_the_script_ends_in_status_2_and_one_line(toy: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "certify_digits.py"), "--data-dir", str(toy), "--target-class", "1"]
    command += ["--model", "absent.keras", "--out", "a.tsv"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.startswith("error: absent.keras: no such file") and found.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
