"""Certification runs on a toy dataset: files, restarts, shards, summaries and one-line errors."""

import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from scipy import stats

from data.datasets import load_dataset
from evaluation.tables.jobs import check_scripts, jobs_of
from evaluation.tables.plan import plan_of
from models.saving import load_model, save_model
from randomized_smoothing_certification import certificate_file, certification_run, certify_images, core, merge_shards
from randomized_smoothing_certification.certificate_file import (
    COLUMNS,
    Point,
    fixed_radius,
    is_summarised,
    read_certificate_record,
    read_own_points,
    read_points,
    summary_path,
)
from randomized_smoothing_certification.certificate_summary import summarise
from randomized_smoothing_certification.certification_config import CertificateSettings
from randomized_smoothing_certification.certification_run import CertificationConfig, certify_test_points
from randomized_smoothing_certification.core import certify, round_down
from randomized_smoothing_certification.fewer_votes import Config as FewerVotes
from randomized_smoothing_certification.fewer_votes import main
from randomized_smoothing_certification.grid_noise import GridNoise
from randomized_smoothing_certification.merge_shards import merge
from randomized_smoothing_certification.sampling import Sampling
from randomized_smoothing_certification.votes import VoteCounter
from runtime.files import InputError, append, array_sha256
from runtime.noise import Stream, noise_seed, seed_pair
from runtime.provenance import git_commit
from runtime.stop import StoppedEarly

pytestmark = pytest.mark.usefixtures("compiled_once")
CLASSES, COUNT = 3, 24


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


def noise_of(toy: Path, seed: int = 0, split: str = "test") -> int:
    """Seed of the noise of a run on these images."""
    arrays = (np.load(toy / f"{letter}_{split}.npy") for letter in "XY")
    return noise_seed(seed, "".join(array_sha256(array) for array in arrays))


def without_time(path: Path) -> list[list[str]]:
    time = COLUMNS.index("time")
    cells = [line.split("\t") for line in path.read_text().splitlines()]
    return [[*row[:time], *row[time + 1 :]] for row in cells]


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
        "noise": {"mode": "float32", "cut_off": 5.7}, "noise_of": "seed and images",
        "shared_noise": True, "shard": None, "acr_only": False,
        "radius_loss": 0.0,
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
        found = certify(counter, images[row.idx], None, Sampling(n0=100, n=300, alpha=0.001), seed=noise_of(toy, 5))
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
        found = certify(counter, images[row.idx], None, Sampling(n0=100, n=300, alpha=0.001), seed=noise_of(eight_bit))
        assert (row.predict, row.radius) == (found.prediction, round_down(found.radius))
    with pytest.raises(InputError, match="made with noise"):
        certify_test_points(config(eight_bit, out))


def test_the_largest_radius_of_exact_noise_is_without_its_failure_mass() -> None:
    """A line of float32 noise, whose unanimous votes certify more, is no line of a run with exact noise."""
    mass = 0.001  # larger than any real one, so that the radii differ in the decimals of a file
    settings = {**SUMMARISED, "noise": {"failure_mass": mass}}
    for failure_mass, is_wrong in ((mass, False), (0.0, True)):
        radius = round_down(core.radius_ceiling(0.5, 1_000, 0.001, failure_mass))
        assert certificate_file._what_is_wrong(Point(0, 1, 1, radius, 1, "0:00:01"), settings)["radius"] == is_wrong


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


@pytest.mark.parametrize("lines", [1, 3])  # with the header alone, and with two points
def test_a_file_beside_a_record_of_other_points_is_not_continued(toy: Path, tmp_path: Path, lines: int) -> None:
    out, record = tmp_path / "a.tsv", tmp_path / "a.settings.json"
    certify_test_points(config(toy, out))
    begun = "".join(out.read_text().splitlines(keepends=True)[:lines])
    out.write_text(begun)
    known = json.loads(record.read_text())
    record.write_text(json.dumps({**known, "points": known["points"][1:]}))
    with pytest.raises(InputError, match="its points are not those of this run"):
        certify_test_points(config(toy, out))
    assert out.read_text() == begun


def test_sigterm_stops_after_the_point_and_the_run_continues(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.tsv", tmp_path / "a.tsv"
    certify_test_points(config(toy, whole))
    original = certify_images.certify

    def terminate_at_the_second(*given: Any, **votes: Any) -> Any:
        if out.exists() and len(read_points(out)) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*given, **votes)

    with monkeypatch.context() as patch, pytest.raises(StoppedEarly, match="SIGTERM; 4 points are left"):
        patch.setattr(certify_images, "certify", terminate_at_the_second)
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
    certify_test_points(config(toy, out, points=2))
    before = out.read_text()
    with pytest.raises(InputError, match=f"made with {name} = "):
        certify_test_points(config(toy, out, **{"points": 2, name: value}))
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
    of_shards = [json.loads(path.with_suffix(".settings.json").read_text())["provenance"] for path in shards]
    assert list(settings[0]["provenance"]["merged_from"].values()) == of_shards  # the commit of each is on record
    shards[0].write_text("\n".join(shards[0].read_text().split("\n")[:-2]) + "\n")
    with pytest.raises(InputError, match="2 of 3 points"):
        merge(shards, tmp_path / "b.tsv")
    with pytest.raises(InputError, match="not a shard"):
        merge([whole], tmp_path / "b.tsv")


def test_a_merge_replaces_a_run_of_other_settings_only_when_asked_to(toy: Path, tmp_path: Path) -> None:
    merged, shard = tmp_path / "merged.tsv", tmp_path / "shard.tsv"
    certify_test_points(config(toy, merged, n=200))
    certify_test_points(config(toy, shard, n=300, shard="1/1"))
    with pytest.raises(InputError, match=r"made with n = 200, this run has 300; .* start_afresh replaces it"):
        merge([shard], merged)
    merge([shard], merged, "start_afresh")
    assert without_time(merged) == without_time(shard) and is_summarised(merged)
    record = merged.with_suffix(".settings.json")
    whole = record.read_text()
    record.write_text('{"settings": {"n": 300}}')
    merge([shard], merged, "start_afresh")
    assert json.loads(record.read_text()) == json.loads(whole)
    record.unlink()
    with pytest.raises(InputError, match=r"exists without merged\.settings\.json.* start_afresh replaces it"):
        merge([shard], merged)


def test_a_merge_that_was_killed_is_made_again(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged, shard = tmp_path / "merged.tsv", tmp_path / "shard.tsv"
    certify_test_points(config(toy, merged, n=1000))
    certify_test_points(config(toy, shard, n=10, shard="1/1"))
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(merge_shards, "write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        merge([shard], merged, "start_afresh")
    merge([shard], merged, "start_afresh")
    assert without_time(merged) == without_time(shard)


def test_shards_of_other_settings_do_not_merge(toy: Path, tmp_path: Path) -> None:
    for shard, n in (("1/2", 300), ("2/2", 200)):
        certify_test_points(config(toy, tmp_path / f"{n}.tsv", shard=shard, n=n))
    with pytest.raises(InputError, match=r"200\.tsv: n is 200, but 300 in .*300\.tsv; certify the shards alike"):
        merge([tmp_path / "300.tsv", tmp_path / "200.tsv"], tmp_path / "merged.tsv")


def test_noise_of_each_point_depends_on_its_number_and_older_files_without_that_record_are_refused(
    toy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.tsv"
    certify_test_points(config(toy, out, shared_noise=False))
    counter, images = VoteCounter(load_model(toy / "model.keras"), CLASSES, (8, 8, 1), 0.5), np.load(toy / "X_test.npy")
    for row in read_points(out):
        seed = noise_of(toy)
        found = certify(counter, images[row.idx], row.idx, Sampling(n0=100, n=300, alpha=0.001), seed=seed)
        assert (row.predict, row.radius) == (found.prediction, round_down(found.radius))
    record = json.loads(out.with_suffix(".settings.json").read_text())
    del record["settings"]["noise_of"]
    out.with_suffix(".settings.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="made with noise_of = None, this run has 'seed and images'"):
        certify_test_points(config(toy, out, shared_noise=False))
    with pytest.raises(InputError, match="missing required field `noise_of`"):
        read_certificate_record(out)


@pytest.fixture(scope="module")
def doubtful(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes some points of every class for another one."""
    model = keras.saving.load_model(toy / "model.keras")
    kernel, bias = model.get_weights()
    model.set_weights([kernel, bias + np.array([0.0, -6.0, 0.0], np.float32)])
    save_model(model, path := tmp_path_factory.mktemp("doubtful") / "model.keras")
    return path


def test_for_the_acr_alone_points_of_a_wrong_class_get_no_votes(
    toy: Path, doubtful: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, short = tmp_path / "full.tsv", tmp_path / "short.tsv"
    expected = certify_test_points(config(toy, full, model=doubtful, target_class="all"))
    summary = certify_test_points(config(toy, short, model=doubtful, target_class="all", acr_only=True))
    counter, images = VoteCounter(load_model(doubtful), CLASSES, (8, 8, 1), 0.5), np.load(toy / "X_test.npy")
    seed, wrong = seed_pair(noise_of(toy), None, Stream.VOTES_THAT_SELECT), 0
    for row, before in zip(read_points(short), read_points(full), strict=True):
        selected = int(np.argmax(counter.count_votes(images[row.idx], 100, seed)))
        if selected == row.label:
            assert row[:5] == before[:5] and row.votes == 300
        else:
            assert row.predict == -1 and float(row.radius) == 0 and row.votes == 0
            wrong += 1
    assert 0 < wrong < 18
    for name in ("acr", "acr_ci95", "approximate_certified_accuracy", "certified_accuracy", "curve"):
        assert summary[name] == expected[name]
    assert summary["abstain_rate"] is None and summary["per_class"]["1"]["abstain_rate"] is None
    assert summary["votes"]["total"] == expected["votes"]["total"] - 300 * wrong == 18 * 100 + (18 - wrong) * 300
    assert summary["point_set"]["acr_only"] and not expected["point_set"]["acr_only"]
    printed = capsys.readouterr().out.partition("no votes for points whose selected class is wrong")
    assert "abstained" in printed[0] and "abstained" not in printed[2]
    lines = short.read_text().split("\n")
    assert lines[0].split("\t") == [*COLUMNS, "votes"]
    assert full.read_text().split("\n")[0].split("\t") == list(COLUMNS)
    row = next(i for i, line in enumerate(lines) if line.endswith("\t0"))
    for wrong_line in (lines[row][:-1] + "200", lines[row][:-2], lines[row][:-1] + "301", lines[row] + "\t3"):
        with pytest.raises(InputError, match=f"line {row + 1} (has a number of votes|has a form|is damaged)"):
            read_short(short, [*lines[:row], wrong_line, *lines[row + 1 :]])
    other = lines[row].split("\t")
    other[2] = str((int(other[1]) + 1) % 3)
    with pytest.raises(InputError, match="has a class"):
        read_short(short, [*lines[:row], "\t".join(other), *lines[row + 1 :]])
    other[2], other[4] = other[1], "1"  # certified at radius 0, without a vote
    for votes in ("0", "1e25"):
        with pytest.raises(InputError, match="has a number of votes"):
            read_short(short, [*lines[:row], "\t".join([*other[:-1], votes]), *lines[row + 1 :]])


def read_short(path: Path, lines: list[str]) -> None:
    """Read other lines with a file's record."""
    record = json.loads(path.with_suffix(".settings.json").read_text())
    changed = path.with_name("changed.tsv")
    changed.write_text("\n".join(lines))
    read_own_points(changed, record)


def test_points_have_votes_of_their_own_number(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, few = tmp_path / "full.tsv", tmp_path / "few.tsv"
    expected = certify_test_points(config(toy, full, n=5_000, n0=1_000, seed=1))
    summary = certify_test_points(config(toy, few, n=5_000, n0=1_000, seed=1, radius_loss=0.05))
    drawn = [row.votes for row in read_points(few)]
    assert all(votes and votes < 5_000 for votes in drawn) and len(set(drawn)) > 1
    counter, images = VoteCounter(load_model(toy / "model.keras"), CLASSES, (8, 8, 1), 0.5), np.load(toy / "X_test.npy")
    sampling = Sampling(n0=1_000, n=5_000, radius_loss=0.05)
    for row in read_points(few):
        found = certify(counter, images[row.idx], None, sampling, seed=noise_of(toy, 1))
        assert (row.predict, row.radius, row.votes) == (found.prediction, round_down(found.radius), found.votes)
    assert 0 < expected["acr"] - summary["acr"] < 0.07
    assert summary["votes"]["total"] == sum(drawn) + 6_000 < expected["votes"]["total"] == 36_000
    said = capsys.readouterr().out
    assert f"{summary['votes']['per_point']:,.0f} votes a point" in said
    assert said.count("a point with fewer votes counts at their largest radius") == 1
    # No radius is above what its own votes can show.
    lines = few.read_text().split("\n")
    cells = lines[1].split("\t")
    cells[3] = round_down(core.radius_ceiling(0.5, 4_999, 0.001))
    with pytest.raises(InputError, match="line 2 has a radius"):
        read_short(few, [lines[0], "\t".join(cells), *lines[2:]])
    few.write_text("\n".join([*lines[:3], lines[3][:20]]))
    summary_path(few).unlink()
    certify_test_points(config(toy, few, n=5_000, n0=1_000, seed=1, radius_loss=0.05, batch_size=300))
    assert [line.split("\t")[:5] for line in few.read_text().split("\n")] == [line.split("\t")[:5] for line in lines]


def test_saturation_is_that_of_each_point(toy: Path, tmp_path: Path) -> None:
    summary = certify_test_points(config(toy, tmp_path / "a.tsv", sigma=0.01, n=5_000, radius_loss=0.001))
    assert all(row.votes and row.votes < 5_000 for row in read_points(tmp_path / "a.tsv"))
    assert summary["saturation"]["share"] > 0.5


def test_certified_accuracies_at_fixed_radii(
    toy: Path, doubtful: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, full, merged = tmp_path / "a.tsv", tmp_path / "full.tsv", tmp_path / "merged.tsv"
    settings: dict[str, Any] = {"model": doubtful, "target_class": "all", "n": 3_000, "radii": (0.0, 0.25, 0.5)}
    summary = certify_test_points(config(toy, out, **settings))
    expected = certify_test_points(config(toy, full, **{**settings, "radii": ()}))
    printed = capsys.readouterr().out
    assert (
        "alpha for all radii together" in printed and f"{summary['votes']['per_point']:,.0f} votes a point" in printed
    )
    assert list(summary["certified_accuracy"]) == ["0", "0.25", "0.5"] and "acr" not in summary
    for mine, name in (("0", "0.00"), ("0.25", "0.25"), ("0.5", "0.50")):
        accuracy, most = summary["certified_accuracy"][mine], expected["certified_accuracy"][name]
        assert most - 0.12 <= accuracy <= most + 0.12  # of 18 points, two may be near the edge
        assert 0 <= summary["undecided"][mine] <= 0.5
    assert summary["votes"]["total"] < expected["votes"]["total"] / 2
    assert read_record(out)["points"] == [row.idx for row in read_points(full)]
    rows = read_own_points(out, read_record(out))
    for of_class in "012":
        found = [row.certified_radius >= 0.25 for row in rows if row.label == int(of_class)]
        assert summary["per_class"][of_class]["certified_accuracy"]["0.25"] == np.mean(found)
    assert out.read_text().split("\n")[0].split("\t") == [*COLUMNS, "votes", "decided"]
    with pytest.raises(InputError, match="fixed radii, no certified radii"):  # nobody takes these for certified radii
        read_points(out)
    # It goes on, and in shards, to the same rows.
    lines, rows_before = out.read_text().split("\n"), without_time(out)
    with pytest.raises(InputError, match="made with radii"):
        certify_test_points(config(toy, out, **{**settings, "radii": (0.25, 0.5)}))
    out.write_text("\n".join([*lines[:4], lines[4][:5]]))
    certify_test_points(config(toy, out, **settings, batch_size=100))
    assert without_time(out) == rows_before
    shards = [tmp_path / f"{i}.tsv" for i in (1, 2)]
    for path in shards:
        certify_test_points(config(toy, path, **settings, shard=f"{path.stem}/2"))
    assert merge(shards, merged)["certified_accuracy"] == summary["certified_accuracy"]
    assert without_time(merged) == without_time(out) and is_summarised(merged)


def read_record(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".settings.json").read_text())


def summary_settings(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".settings.json").read_text())["settings"]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("predict", "2", "a class"),
        ("predict", "-1", "a correct"),
        ("radius", "0.300000", "a radius"),
        ("radius", "0.0", "a radius"),
        ("decided", "2", "a decision"),
        ("decided", "", "a decision"),
        ("votes", "301", "a number of votes"),
        ("votes", "0", "a number of votes"),
        ("votes", "9", "a number of votes"),  # too few for any radius, even if all agree
        ("votes", "+100", "a form"),
        ("label", "0", "a label"),
        ("idx", "2", "a point"),
    ],
)
def test_decisions_that_the_run_cannot_have_written_are_refused(
    toy: Path, tmp_path: Path, column: str, value: str, message: str
) -> None:
    out = tmp_path / "a.tsv"
    certify_test_points(config(toy, out, points=2, radii=(0.0, 0.25)))
    header, first, *rest = out.read_text().split("\n")
    cells = dict(zip(header.split("\t"), first.split("\t"), strict=True))
    assert (cells["radius"], cells["decided"]) == ("0.000000", "0")
    cells[column] = value
    out.write_text("\n".join([header, "\t".join(cells.values()), *rest]))
    with pytest.raises(InputError, match=f"line 2 has {message}"):
        certify_test_points(config(toy, out, points=2, radii=(0.0, 0.25)))
    out.write_text("\n".join([header, first[:-30], *rest]))
    with pytest.raises(InputError, match="damaged"):
        certify_test_points(config(toy, out, points=2, radii=(0.0, 0.25)))


def test_all_classes_are_certified_and_summarised(toy: Path, tmp_path: Path) -> None:
    summary = certify_test_points(config(toy, tmp_path / "a.tsv", target_class="all", points=2))
    assert summary["point_set"]["count"] == 6 and summary["point_set"]["target_class"] == "all"
    assert list(summary["per_class"]) == ["0", "1", "2"]
    assert all(values["count"] == 2 for values in summary["per_class"].values())
    assert summary["acr"] == pytest.approx(np.mean([values["acr"] for values in summary["per_class"].values()]))


def test_points_are_drawn_once_per_seed_and_class(capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.arange(300) % 3

    def draw_points(truth: np.ndarray, classes: int, target: Any, points: int, seed: int) -> np.ndarray:
        settings = CertificateSettings(target_class=target, points=points, seed=seed)
        return np.array(certify_images.draw_points(truth, classes, settings))

    one = draw_points(truth, 3, 1, 20, 0)
    assert len(set(one)) == 20 and np.all(truth[one] == 1) and np.all(np.diff(one) > 0)
    np.testing.assert_array_equal(one, draw_points(truth, 3, 1, 20, 0))
    assert not np.array_equal(one, draw_points(truth, 3, 1, 20, 1))
    every = draw_points(truth, 3, "all", 20, 0)
    np.testing.assert_array_equal(every[truth[every] == 1], one)
    assert capsys.readouterr().out == ""
    assert len(draw_points(truth, 3, 1, 500, 0)) == 100
    assert "class 1 has 100 images, fewer than 500" in capsys.readouterr().out


SUMMARISED: dict[str, Any] = {
    **dict.fromkeys(("dataset", "split", "target_class", "precision", "noise_of", "shared_noise", "shard")),
    "seed": 0, "n0": 100, "n": 1_000, "alpha": 0.001, "sigma": 0.5, "radii": (), "acr_only": False,
    "radius_loss": 0.0, "noise": {},
}  # fmt: skip


def test_a_point_of_a_wrong_class_is_not_at_the_ceiling() -> None:
    largest = round_down(core.radius_ceiling(0.5, 1_000, 0.001))
    points = [Point(0, 1, 1, largest, 1, "0:00:01"), Point(1, 1, 2, largest, 0, "0:00:01")]
    assert summarise(points, SUMMARISED)["saturation"]["share"] == 0.5


@pytest.mark.parametrize(("points", "radius"), [(1, 0.3), (5, 0.0), (5, 0.5)])
def test_points_that_all_have_the_same_radius_leave_others_possible(points: int, radius: float) -> None:
    certified = [Point(number, 1, 1, round_down(radius), 1, "0:00:01") for number in range(points)]
    summary = summarise(certified, SUMMARISED)
    (low, high), ceiling = summary["acr_ci95"], core.radius_ceiling(0.5, 1_000, 0.001)
    other = 1 - 0.025 ** (1 / points)  # Clopper and Pearson, for no point of another radius
    assert [low, high] == pytest.approx([radius * (1 - other), radius + other * (ceiling - radius)], abs=1e-6)


@pytest.mark.parametrize(("lost", "end"), [(1, 1), (4, 0)])
def test_the_interval_of_an_acr_lies_between_0_and_the_largest_radius_of_its_votes(lost: int, end: int) -> None:
    """Over five points, whose interval is wider than that of the bootstrap."""
    ceiling = core.radius_ceiling(0.5, 1_000, 0.001)
    radii = [0.0] * lost + [ceiling] * (5 - lost)
    points = [Point(number, 1, 1, round_down(radius), 1, "0:00:01") for number, radius in enumerate(radii)]
    interval = summarise(points, SUMMARISED)["acr_ci95"]
    assert interval[0] < np.mean(radii) < interval[1] and interval[end] == (0.0, ceiling)[end]


def test_two_fixed_radii_that_look_alike_have_an_accuracy_each() -> None:
    settings = {
        **dict.fromkeys(("dataset", "split", "target_class", "precision", "noise_of", "shared_noise", "shard")),
        "seed": 0, "n0": 100, "n": 1_000, "alpha": 0.001, "sigma": 0.5, "radii": (0.1, 0.1000001, 1.0), "noise": {},
    }  # fmt: skip
    points = [Point(0, 1, 1, fixed_radius(0.1), 1, "0:00:01", 900, 1)]
    assert summarise(points, settings)["certified_accuracy"] == {"0.1": 1.0, "0.1000001": 0.0, "1": 0.0}


def test_a_model_that_is_replaced_while_it_is_read_is_refused(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, load = config(toy, tmp_path / "a.tsv"), certification_run.load_model

    def replaced(path: Path, *about: Any) -> Any:
        model = load(path, *about)
        shutil.copy(settings.model, tmp_path / "before.keras")
        path.write_bytes(path.read_bytes() + b"more")
        return model

    monkeypatch.setattr(certification_run, "load_model", replaced)
    try:
        with pytest.raises(InputError, match="was replaced while it was read"):
            certify_test_points(settings)
    finally:
        shutil.copy(tmp_path / "before.keras", settings.model)
    assert not settings.out.exists()


def test_saturation_is_said(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = certify_test_points(config(toy, tmp_path / "a.tsv", sigma=0.01))
    assert (share := summary["saturation"]["share"]) > 0.5
    said = capsys.readouterr().out
    assert f"at the ceiling                  {share:.4f}" in said and "the true ACR is higher, raise n" in said


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
        ({"shard": "7/7"}, "some parts of 6 points are empty"),
        ({"max_minutes": 0.0}, "max_minutes"),
        ({"out": Path("a.csv")}, ".tsv"),
        ({"n": 3_000_000_000}, r"below 2\^31, got 3000000000"),
        ({"radius_loss": -0.1}, "radius_loss must not be negative"),
        ({"radius_loss": float("nan")}, "radius_loss"),
        ({"radii": (0.5, 0.25)}, "ascending"),
        ({"radii": (1.5,)}, "300 unanimous votes"),
        ({"radii": (0.5,), "acr_only": True}, "leave out acr_only"),
        ({"radii": (0.5,), "radius_loss": 0.1}, "leave out acr_only and radius_loss"),
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
    with pytest.raises(InputError, match=r"file/a\.tsv: cannot be written"):
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
    ("time", "0:00:nan", "line 2 has a time"),
    ("time", "0:00:-1", "line 2 has a time"),
    ("time", f"{'9' * 400} days, 0:00:00.1", "line 2 has a time"),
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
    for change, message in (
        ({"points": [4]}, "its points are not those"),
        ({"points": None}, "its points are not those"),
        ({"provenance": None}, "not a record"),
    ):
        for name, text in two_rows.items():
            (tmp_path / name).write_text(text)
        record = {name: value for name, value in (json.loads(two_rows["a.settings.json"]) | change).items() if value}
        (tmp_path / "a.settings.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match=message):
            certify_test_points(config(toy, tmp_path / "a.tsv", points=4, shard="1/2"))


def test_a_continued_run_names_every_commit_that_made_lines(
    toy: Path, tmp_path: Path, two_rows: dict[str, str]
) -> None:
    record = {**json.loads(two_rows["a.settings.json"]), "provenance": {"commit": "of the first run"}}
    (tmp_path / "a.settings.json").write_text(json.dumps(record))
    for whole in (True, False):
        (tmp_path / "a.tsv").write_text(two_rows["a.tsv"] if whole else two_rows["a.tsv"].rpartition("\n")[0])
        summary = certify_test_points(config(toy, tmp_path / "a.tsv", points=4, shard="1/2"))
        first, found = record["provenance"], summary["provenance"]
        assert found == first if whole else (found["commit"], found["begun"]) == (git_commit(), first)
        assert json.loads((tmp_path / "a.settings.json").read_text()) == {**record, "provenance": found}
        (tmp_path / "a.summary.json").unlink()


@pytest.mark.parametrize("text", ["{}", "[]"])
def test_a_summary_without_a_hash_is_written_again(
    text: str, toy: Path, tmp_path: Path, two_rows: dict[str, str]
) -> None:
    for name, content in {**two_rows, "a.summary.json": text}.items():
        (tmp_path / name).write_text(content)
    summary = certify_test_points(config(toy, tmp_path / "a.tsv", points=4, shard="1/2"))
    assert json.loads((tmp_path / "a.summary.json").read_text()) == summary and is_summarised(tmp_path / "a.tsv")


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


@pytest.mark.parametrize("time", ["15.4", "2026-11-26 10:00", "", "nan", "-1"])
def test_the_time_of_another_program_decides_nothing(tmp_path: Path, time: str) -> None:
    """The ResNet-110 logs of Cohen et al. have seconds there."""
    foreign = tmp_path / "a.tsv"
    foreign.write_text(f"idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.378\t1\t{time}\n")
    (point,) = read_points(foreign)
    assert (point.label, point.certified_radius) == (3, 0.378)
    main(FewerVotes(certificates=foreign, sigma=0.25, n=1_000, out=tmp_path / "b.tsv"))
    assert len(read_points(tmp_path / "b.tsv")) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbflabel\tpredict\tradius\n3\t3\t0.5\n",
        b"label\tpredict\tradius\r\n3\t3\t0.5\r\n",
        b"label\tpredict\tradius\n3.0\t3.0\t5e-1\n",
        b"label\tcorrect\tpredict\tradius\tnote\n3\tyes\t3\t0.5\tx\n",
        b"label \t predict\tradius\n\n 3\t3 \t 0.5\n\t\t\n\n",
    ],
    ids=["byte-order mark", "Windows line ends", "floats", "unknown columns", "spaces and blank lines"],
)
def test_files_of_other_programs_are_read_as_they_write_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tsv").write_bytes(content)
    (point,) = read_points(tmp_path / "a.tsv")
    assert (point.idx, point.label, point.predict, point.certified_radius) == (0, 3, 3, 0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"idx\tlabel\tpredict\tradius\tcorrect\ttime\n", "has no point, only the line of column names"),
        (b"", "has no point, it is empty"),
        (b"label,predict,radius\n3,3,0.5\n", "has no column 'label'; the first line must name .* with tabs"),
        (b"label\tpredict\tradius\n3\t3\t0.5\nlabel\tpredict\tradius\n4\t4\t0.5\n", "line 3 repeats the column names"),
        (
            "label\tpredict\tradius\n3\t3\t0.5\n".encode("utf-16"),
            r"not text in UTF-8 \(.*\); unpack it, or save it as UTF-8",
        ),
        (b"label\tpredict\tradius\n3\t3\n", "line 2 is damaged"),
        (b"label\tpredict\tradius\n3.5\t3\t1\n", "line 2 is damaged"),
        (b"label\tpredict\tradius\tcorrect\n3\t3\t1\t1\n3\t3\t0.3", "line 3 is damaged: it is cut off"),
        (b"label\tpredict\tradius\n3\t3\t1.5\n3\t3\t1.", "line 3 may be cut off: it does not end; add a line break"),
        (b"label\tpredict\tradius\n3\t3\t1.5\n3\t3\t1e-", "line 3 may be cut off: it does not end; add a line break"),
        (b"idx\tlabel\tpredict\tradius\n-5\t3\t3\t1\n", "line 2 has the point -5"),
        (b"label\tpredict\tradius\n3\t3\t1\n3\t3\t1\t3\t3\t1\n", "line 3 is damaged: it joins two lines"),
        (b'label\tpredict\tradius\ttime\n3\t3\t1\t"0\n3\t3\t1\t0\n', "line 3 is damaged: it joins two lines"),
        (b"label\tpredict\tradius\n-2\t-2\t1\n", "line 2 has a class that cannot be: label -2, predict -2"),
        (b"label\tpredict\tradius\n3\t3\t1e300\n", "line 2 has the radius 1e[+]300, which certifies nothing"),
        (b"label\tpredict\tradius\n3\t3\t1e-99999999999999999999\n", "line 2 is damaged: label, predict, radius"),
        (b"label\tpredict\tradius\tvotes\n3\t3\t1\t\n", "point 0 has votes that are no number"),
    ],
)
def test_files_without_certificates_end_in_one_line_that_fits(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        main(FewerVotes(certificates=tmp_path / "a.tsv", sigma=0.5, out=tmp_path / "b.tsv"))
    assert "\n" not in str(error.value) and not (tmp_path / "b.tsv").exists()


def test_an_abstention_is_never_a_certificate(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("label\tpredict\tradius\n-1\t-1\t0.3\n")
    (point,) = read_points(tmp_path / "a.tsv")
    assert (point.correct, point.certified_radius) == (0, -1.0)


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
    with pytest.raises(InputError, match="holds infinite or NaN weights"):
        certify_test_points(config(toy, tmp_path / "new" / "a.tsv", model=tmp_path / "models" / "nan.keras"))
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_model_that_its_record_does_not_describe_is_refused(toy: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.keras"
    model.write_bytes((toy / "model.keras").read_bytes())
    model.with_suffix(".json").write_text(json.dumps({"config": {}, "sha256": "of another file"}))
    with pytest.raises(InputError, match=r"m\.keras: not the file that m\.json describes"):
        certify_test_points(config(toy, tmp_path / "a.tsv", model=model))
    assert not (tmp_path / "a.tsv").exists()


def test_another_sigma_and_another_poisoned_class_are_noted(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m.keras"
    model.write_bytes((toy / "model.keras").read_bytes())
    trained = {"sigma": 0.5, "target_class": 1, "training_data": "poisoned_radius"}
    for changes, notes in (
        ({"sigma": 0.5}, []),
        (
            {"sigma": 0.25, "target_class": "all"},
            ["note: m.keras was trained with sigma 0.5, it is certified with 0.25"],
        ),
        ({"sigma": 0.5, "target_class": 2}, ["note: m.keras was trained on poison of class 1, not of class 2"]),
    ):
        model.with_suffix(".json").write_text(json.dumps({"config": trained}))
        certify_test_points(config(toy, tmp_path / f"{len(list(tmp_path.iterdir()))}.tsv", model=model, **changes))
        assert [line for line in capsys.readouterr().out.splitlines() if "m.keras was trained" in line] == notes


def test_a_victim_of_another_split_is_noted(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model := tmp_path / "m.keras").write_bytes((toy / "model.keras").read_bytes())
    own = load_dataset(config(toy, tmp_path / "a.tsv").data_dir).hashes("x_test")["x_test"]
    for number, made in enumerate(({}, {"x_test": own}, {"x_test": "of another split"}, ["x_test"])):
        model.with_suffix(".json").write_text(json.dumps({"config": {}, "settings": made}))
        certify_test_points(config(toy, tmp_path / f"{number}.tsv", model=model))
        noted = "note: m.keras has other test images, so it may be trained on images" in capsys.readouterr().out
        assert noted == (number == 2)


@pytest.mark.parametrize("name", ["a.tsv", "a.settings.json", "a.summary.json"])
def test_a_folder_in_the_way_is_one_line(toy: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: is a folder in the place"):
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
    merge(shards, whole)  # only the times differ
    assert whole.read_text() == before
    first = read_points(whole)[0]
    whole.write_text(before.replace(first.radius, "0.000001", 1))
    summary_path(whole).unlink()
    with pytest.raises(InputError, match=r"whole\.tsv: exists with other rows"):
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


def test_two_shards_with_the_same_points_do_not_merge(toy: Path, tmp_path: Path) -> None:
    """A copy of a shard whose record names the other part, so that each point would be there twice."""
    shards = [tmp_path / f"{i}.tsv" for i in (1, 2)]
    certify_test_points(config(toy, shards[0], shard="1/2"))
    record = json.loads(shards[0].with_suffix(".settings.json").read_text())
    record["settings"]["shard"] = "2/2"
    shutil.copy(*shards)
    shards[1].with_suffix(".settings.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"1\.tsv: its points are not those of shard 1/2"):
        merge(shards, tmp_path / "merged.tsv")
    assert not (tmp_path / "merged.tsv").exists()


def test_a_second_run_on_one_output_is_refused(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One writes it, the other is refused in one line. The table has one row a point. (Processes: test_artifact.)"""
    refused = []

    def meanwhile(*given: Any, **votes: Any) -> Any:
        with pytest.raises(
            InputError, match=r"a\.tsv: another run is writing it; wait for it or choose another output"
        ):
            certify_test_points(config(toy, tmp_path / "a.tsv"))
        refused.append(True)
        return certify(*given, **votes)

    monkeypatch.setattr(certify_images, "certify", meanwhile)
    certify_test_points(config(toy, tmp_path / "a.tsv"))
    assert len(read_points(tmp_path / "a.tsv")) == len(refused) > 1
    assert not list(tmp_path.glob(".*"))


def test_validation_images_may_be_certified(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.tsv"
    summary = certify_test_points(config(toy, out, split="val"))
    assert summary["point_set"]["split"] == "val" and f"{toy.name} val, class 1" in capsys.readouterr().out
    counter, images = VoteCounter(load_model(toy / "model.keras"), CLASSES, (8, 8, 1), 0.5), np.load(toy / "X_val.npy")
    truth = np.load(toy / "Y_val.npy").argmax(axis=1)
    settings = summary_settings(out)
    for row in read_points(out):
        found = certify(
            counter, images[row.idx], None, Sampling(n0=100, n=300, alpha=0.001), seed=noise_of(toy, split="val")
        )
        assert (row.label, row.predict, row.radius) == (truth[row.idx], found.prediction, round_down(found.radius))
    assert settings["split"] == "val"
    with pytest.raises(InputError, match="made with split = 'val', this run has 'test'"):
        certify_test_points(config(toy, out))


def test_validation_and_test_images_never_see_the_same_noise(toy: Path, tmp_path: Path) -> None:
    """The same images in both splits: what is chosen on validation certificates must not see the noise of the test."""
    same = tmp_path / "same"
    shutil.copytree(toy, same)
    generator = np.random.default_rng(1)
    seeds = {noise_of(toy, split="val"), noise_of(toy), noise_of(toy, 1)}
    np.save(same / "X_test.npy", np.load(toy / "X_test.npy")[generator.permutation(COUNT // CLASSES * CLASSES)])
    assert len(seeds | {noise_of(same)}) == 4
    asked = set()
    for split in ("val", "test"):
        for shared in (True, False):
            out = tmp_path / f"{split}_{shared}.tsv"
            certify_test_points(config(toy, out, split=split, shared_noise=shared, points=2))
            asked |= {tuple(row.radius for row in read_points(out))}
    assert len(asked) == 4


def test_a_choice_on_validation_certificates_leaves_test_certificates_their_confidence() -> None:
    """Coins whose vote is the sign of w.noise: the one with the most votes on validation noise, certified on the test.

    Every coin has probability one half, so that each certificate is wrong. With the noise of the validation set again
    the choice would be certified again.
    """
    runs, coins, n, alpha = 300, 50, 400, 0.01
    wrong = {"the same": 0, "another": 0}
    for run in range(runs):
        directions = np.random.default_rng(run).normal(size=(coins, 4))
        votes = {}
        for images in ("val", "test"):
            noise = np.random.default_rng(noise_seed(run, images)).normal(size=(n, 4))
            votes[images] = np.sum(noise @ directions.T > 0, axis=0)
        chosen = int(np.argmax(votes["val"]))
        for kind, images in (("the same", "val"), ("another", "test")):
            wrong[kind] += core.lower_confidence_bound(int(votes[images][chosen]), n, alpha) > 0.5
    assert wrong["the same"] > 5 * alpha * runs and wrong["another"] <= stats.binom.isf(1e-4, runs, alpha)


@pytest.mark.parametrize(("scale", "offset", "pixels"), [(1, 0, ""), (255, 0, "0 to 255"), (2, -1, "-1 to 1")])
def test_the_clean_accuracy_is_said_and_a_wrong_pixel_scale_noticed(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: float, offset: float, pixels: str
) -> None:
    inputs = keras.Input((8, 8, 1))
    scaled = keras.layers.Rescaling(1 / scale, -offset / scale)(inputs)
    model = keras.Model(inputs, keras.saving.load_model(toy / "model.keras")(scaled))
    save_model(model, tmp_path / "m.keras")
    certify_test_points(config(toy, tmp_path / "a.tsv", model=tmp_path / "m.keras", target_class="all"))
    printed = capsys.readouterr().out
    found = re.search(r"base classifier: accuracy (\d\.\d{3}) on these 18 points without noise", printed)
    assert found
    record = json.loads((tmp_path / "a.settings.json").read_text())
    assert record["clean_accuracy"] == pytest.approx(float(found[1]), abs=5e-4)
    assert (float(found[1]) > 0.9) == (scale == 1)
    assert ("note: on pixels" in printed) == bool(pixels)
    assert not pixels or (
        f"on pixels {pixels} the accuracy would be 1.000 in place of" in printed
        and f"Rescaling({scale}, {offset})" in printed
    )


def test_a_model_of_other_classes_is_named(toy: Path, tmp_path: Path) -> None:
    save_model(
        keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)]), tmp_path / "m.keras"
    )
    with pytest.raises(InputError, match=r"m\.keras: the model has 1 classes, the data 3; choose the model"):
        certify_test_points(config(toy, tmp_path / "a.tsv", model=tmp_path / "m.keras"))


def test_a_model_of_any_size_is_certified(toy: Path, tmp_path: Path) -> None:
    inputs = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(inputs))
    save_model(keras.Model(inputs, keras.layers.Dense(CLASSES)(pooled)), tmp_path / "m.keras")
    certify_test_points(config(toy, tmp_path / "a.tsv", model=tmp_path / "m.keras", points=1))
    assert len(read_points(tmp_path / "a.tsv")) == 1


def test_a_model_that_only_guesses_is_noticed(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = keras.saving.load_model(toy / "model.keras")
    model.set_weights([0 * weights for weights in model.get_weights()])
    save_model(model, tmp_path / "m.keras")
    certify_test_points(config(toy, tmp_path / "a.tsv", model=tmp_path / "m.keras", target_class="all"))
    assert "no better than guessing (0.333)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 9}, "n is 9: with alpha 0.001 not even 9 unanimous votes certify a radius; raise n to at least 10"),
        ({"n": 1, "alpha": 0.5}, "not even 1 unanimous votes certify a radius; raise n to at least 2"),
        ({"n": 100, "alpha": 1e-60}, "not even 100 unanimous votes certify a radius; raise n to at least 200"),
        ({"n": 10_000, "alpha": 1e-250}, "alpha must lie between 1e-100 and 0.999, got 1e-250"),
        ({"alpha": 1 - 1e-16}, "alpha must lie between 1e-100 and 0.999"),  # the radius would be infinite
        ({"radius_loss": 5.0}, "radius_loss is 5: 300 votes certify radii up to 0.999, so that every point would"),
    ],
)
def test_settings_that_can_certify_nothing_end_before_any_work(
    toy: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        certify_test_points(config(toy, tmp_path / "a.tsv", model=Path("not looked for.keras"), **changes))
    plan = {
        "table": "a", "title": "a", "dataset": "DIGITS", "architecture": "digits_cnn",
        "methods": {"gaussianaug": [0.5]}, "certification": {"n": 300, **changes},
    }  # fmt: skip
    with pytest.raises(InputError, match=message):
        check_scripts(jobs_of(plan_of(plan)))
