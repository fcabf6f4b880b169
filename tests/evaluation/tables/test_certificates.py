"""Entries of a store are exported as files that the field's own code reads, and its files are imported."""

import json
import lzma
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from evaluation.tables import certificates, make_tables
from evaluation.tables.certificates import Config, main
from evaluation.tables.frame import CERTIFIED_AT, frame_of
from evaluation.tables.plan import plan_of, read_plan
from evaluation.tables.records import read_entries
from randomized_smoothing_certification.certificate_file import Point, read_points
from runtime.files import InputError
from runtime.provenance import project_path
from runtime.store import POINTS, SETTINGS, Store, read_store, write_store

PUBLISHED = project_path("results/mnist_published")
CLEAN = "gaussianaug_mnist_cnn_sigma_0.5/clean/class_8"
# As Cohen et al.'s code writes them.
THEIRS = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t8\t8\t1.12\t1\t0:00:01.1
20\t8\t-1\t0.0\t0\t0:00:01.1
40\t8\t3\t0.7\t0\t0:00:01.1
60\t8\t8\t0.5\t1\t0:00:01.1
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A copy of measured results that may be changed."""
    folder = tmp_path / "store"
    folder.mkdir()
    for name in (POINTS, SETTINGS, "plan.yaml"):
        shutil.copy(PUBLISHED / name, folder / name)
    return folder


@pytest.fixture
def theirs(tmp_path: Path) -> tuple[Path, Path]:
    files = tmp_path / "a.tsv", tmp_path / "b.tsv"
    files[0].write_text(THEIRS)
    files[1].write_text(THEIRS.replace("0.5", "0.9"))
    return files


def importing(store: Path, files: tuple[Path, ...], **changes: Any) -> Config:
    values = {"method": "consistency", "sigma": 0.5, "target_class": 8, "accuracy": 0.97, "n": 1000}
    return Config(store=store, import_files=files, **{**values, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def exported(store: Path, entry: str, out_dir: Path) -> list[Path]:
    main(Config(store=store, entry=entry, out_dir=out_dir))
    return sorted(out_dir.glob("*.tsv"))


# Cohen, Rosenfeld and Kolter's code/analyze.py, ApproximateAccuracy.at_radius.
def at_radius(path: Path, radius: float) -> float:
    df = pd.read_csv(path, delimiter="\t")
    return (df["correct"] & (df["radius"] >= radius)).mean()


def test_the_fields_own_code_finds_the_frames_numbers_in_exported_files(tmp_path: Path) -> None:
    plan = read_plan(PUBLISHED / "plan.yaml")
    frame = frame_of(plan, read_entries(plan, PUBLISHED))
    assert len(frame) == 5
    for number, row in enumerate(frame.to_dict("records")):
        files = exported(PUBLISHED, row["cell"].key, tmp_path / str(number))
        assert [path.name for path in files] == ["seed_0.tsv", "seed_1.tsv", "seed_2.tsv"]
        for name, of_sigma in CERTIFIED_AT.items():
            shares = [at_radius(path, of_sigma * 0.5) for path in files]
            assert np.mean(shares) == pytest.approx(row[f"{name}_mean"], abs=1e-12)
            assert np.std(shares, ddof=1) == pytest.approx(row[f"{name}_std"], abs=1e-12)
        tables = [pd.read_csv(path, delimiter="\t") for path in files]
        acr = [table["radius"].where(table["correct"] == 1, 0).mean() for table in tables]
        assert np.mean(acr) == pytest.approx(row["acr_mean"], abs=1e-12)


def test_exported_files_are_in_the_fields_columns_and_the_projects_own_reader_takes_them(tmp_path: Path) -> None:
    stored = read_store(PUBLISHED)
    for number, entry in enumerate((CLEAN, "n_10000/clean")):  # the second is no row of a table
        for seed, path in enumerate(exported(PUBLISHED, entry, tmp_path / str(number))):
            assert path.read_text().startswith("idx\tlabel\tpredict\tradius\tcorrect\ttime\n")
            points = read_points(path)
            kept = stored.points[(stored.points["entry"] == entry) & (stored.points["seed"] == seed)]
            assert len(points) == len(kept) == 500 and {point.time for point in points} == {"0:00:00.000000"}
            for name in ("idx", "label", "predict", "correct"):
                assert [getattr(point, name) for point in points] == kept[name].tolist()
            assert [float(point.radius) for point in points] == kept["radius"].tolist()
            assert all(len(point.radius.partition(".")[2]) == 6 and point.votes is None for point in points)
        assert json.loads((tmp_path / f"{number}/settings.json").read_text()) == stored.records[entry]


def store_of(folder: Path, points: list[dict[str, Any]]) -> Path:
    write_store(folder, Store(pd.DataFrame(points), {one["entry"]: {"0": {"victim": {}}} for one in points}))
    return folder


POINT = {"entry": "a/class_8", "seed": 0, "label": 8, "predict": 8, "correct": 1}


def test_votes_are_exported_where_the_points_have_them(tmp_path: Path) -> None:
    points = [{**POINT, "idx": idx, "radius": 0.5, "votes": votes} for idx, votes in ((3, 1000.0), (5, 0.0))]
    without = [{**POINT, "entry": "b", "idx": 1, "radius": 0.5, "votes": np.nan}]
    store = store_of(tmp_path / "store", [*points, *without])
    (path,) = exported(store, "a/class_8", tmp_path / "a")
    assert path.read_text().splitlines()[0].endswith("\ttime\tvotes")
    assert [point.votes for point in read_points(path)] == [1000, 0]
    (path,) = exported(store, "b", tmp_path / "b")
    assert path.read_text().splitlines()[0].endswith("\ttime")


def test_no_radius_is_exported_larger_than_it_was_certified(tmp_path: Path) -> None:
    radii = [0.1234567, 0.1234561, 0.9999999, 1 / 3, 0.3, 0.000001, 0.0, 2.0, 1.599288, 0.123456]
    points = [{**POINT, "idx": idx, "radius": radius} for idx, radius in enumerate(radii)]
    (path,) = exported(store_of(tmp_path / "store", points), "a/class_8", tmp_path / "out")
    texts = [point.radius for point in read_points(path)]
    assert texts == [
        "0.123456", "0.123456", "0.999999", "0.333333", "0.300000", "0.000001", "0.000000", "2.000000", "1.599288",
        "0.123456",
    ]  # fmt: skip


@pytest.mark.parametrize("poison", ["clean", "constant"])
def test_an_exported_entry_imported_into_another_store_has_the_same_numbers(
    poison: str, tmp_path: Path, store: Path
) -> None:
    entry = CLEAN if poison == "clean" else CLEAN.replace("clean", "constant_sigma_0.5_class_8")
    files = exported(PUBLISHED, entry, tmp_path / "out")
    main(importing(store, tuple(files), n=100_000, poison=poison, victim="again"))
    plan = read_plan(store / "plan.yaml")
    entries = {cell.key: one for cell, one in read_entries(plan, store).items()}
    own, theirs = entries[entry], entries[plan.foreign[-1].cell.key]
    assert [run.acr for run in theirs.runs] == [run.acr for run in own.runs] and theirs.wanted == 3
    for one, other in zip(theirs.runs, own.runs, strict=True):
        assert np.array_equal(one.radii, other.radii) and np.array_equal(one.idx, other.idx)
        assert one.at_ceiling == other.at_ceiling and one.seed == other.seed


def test_imported_certificates_join_the_store_the_plan_and_the_tables(
    store: Path, theirs: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    old_plan, old = read_plan(store / "plan.yaml"), read_store(store)
    main(importing(store, theirs))
    said = capsys.readouterr().out
    assert f"make_tables.py --plan {store}/plan.yaml --from-results" in said and "consistency_sigma_0.5/clean" in said
    plan = read_plan(store / "plan.yaml")
    (foreign,) = plan.foreign
    assert (foreign.method, foreign.n, foreign.accuracy, foreign.files) == (
        "consistency", 1000, 0.97, tuple(map(str, theirs)),
    )  # fmt: skip
    assert plan.cells() == old_plan.cells()
    new = read_store(store)
    pd.testing.assert_frame_equal(new.points[: len(old.points)], old.points)
    assert {name: new.records[name] for name in old.records} == old.records
    assert len(new.points) == len(old.points) + 8 and len(new.records) == len(old.records) + 1
    entry = read_entries(plan, store)[foreign.cell]
    assert [run.acr for run in entry.runs] == pytest.approx([(1.12 + 0.5) / 4, (1.12 + 0.9) / 4])
    make_tables.main(make_tables.Config(plan=store / "plan.yaml", from_results=True, results_dir=store / "out"))
    assert "| consistency | 0.5 | 8 | clean | 1,000 | 2 |" in (store / "out/tables.md").read_text()
    # From the files themselves the same run is read.
    foreign_alone = plan_of({**yaml.safe_load((store / "plan.yaml").read_text()), "methods": {}})
    again = store.parent / "again"
    make_tables.records.collect(foreign_alone, again)
    assert [run.acr for run in read_entries(foreign_alone, again)[foreign.cell].runs] == [
        run.acr for run in entry.runs
    ]  # fmt: skip


def test_an_import_that_was_stopped_before_the_plan_was_written_goes_on(
    store: Path, theirs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shutil.copytree(store, store.parent / "whole")
    main(importing(whole, theirs))
    before = contents(store)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(certificates, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        main(importing(store, theirs))
    assert contents(store)["plan.yaml"] == before["plan.yaml"] and contents(store)[POINTS] != before[POINTS]
    monkeypatch.undo()
    theirs[1].write_text(THEIRS)
    with pytest.raises(InputError, match=r"store: the store has other runs of the entry consistency_.* already"):
        main(importing(store, theirs))
    theirs[1].write_text(THEIRS.replace("0.5", "0.9"))
    main(importing(store, theirs))
    assert contents(store) == contents(whole)


def test_an_import_that_was_killed_within_the_store_goes_on(store: Path, theirs: tuple[Path, Path]) -> None:
    whole = shutil.copytree(store, store.parent / "whole")
    main(importing(whole, theirs))
    shutil.copy(whole / POINTS, store / POINTS)  # renamed, and its records not yet
    shutil.copy(whole / SETTINGS, store / f".{Path(SETTINGS).stem}-0123abcd.xz")
    main(importing(store, theirs))
    assert contents(store) == contents(whole)


def test_an_import_keeps_the_recorded_settings(
    store: Path, theirs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"n": 1_000, "split": "val", "model": "unused"}
    monkeypatch.setattr("evaluation.tables.runs.recorded_settings", lambda path: known)
    main(importing(store, theirs))
    records = read_store(store).records["consistency_sigma_0.5/clean/class_8"]
    assert [one["foreign"]["split"] for one in records.values()] == ["val", "val"]
    with pytest.raises(InputError, match=r"a\.tsv: is given twice; give each victim's file once"):
        (theirs[0].parent / "linked").symlink_to(theirs[0].parent)
        main(importing(store, (theirs[0], theirs[0].parent / "linked/a.tsv"), victim="others"))
    head, *lines = theirs[1].read_text().splitlines(keepends=True)
    other = theirs[0].parent / "other.tsv"
    for changed in (lines[:-1], [*lines[:-1], f"77{lines[-1].removeprefix(lines[-1].split()[0])}"]):
        other.write_text("".join([head, *changed]))
        with pytest.raises(InputError, match=r"other\.tsv: has other test points than .*a\.tsv; certify the same"):
            main(importing(store, (theirs[0], other), victim="others"))
    other.write_text("".join([head, *lines[::-1]]))
    main(importing(store, (theirs[0], other), victim="others"))
    points = read_store(store).points.query("entry == 'consistency_sigma_0.5_others/clean/class_8'")
    assert points[points.seed == 1].idx.is_monotonic_increasing


def test_what_is_there_already_is_not_imported_again(store: Path, theirs: tuple[Path, Path]) -> None:
    main(importing(store, theirs))
    before = contents(store)
    for changes, key in (
        ({}, "consistency_sigma_0.5/clean/class_8"),
        ({"n": 5, "accuracy": None}, "consistency_sigma_0.5/clean/class_8"),
        ({"method": "gaussianaug", "architecture": "mnist_cnn"}, CLEAN),
        ({"method": "gaussianaug_mnist_cnn"}, CLEAN),  # another name of the same key
    ):
        with pytest.raises(InputError, match=f"plan.yaml: the plan has the entry {key} already; name another kind"):
            main(importing(store, theirs, **changes))
    assert contents(store) == before
    main(importing(store, theirs, victim="others"))  # another kind of victims is another entry
    assert len(read_plan(store / "plan.yaml").foreign) == 2


def test_the_entries_of_a_store_are_listed(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    main(Config(store=PUBLISHED))
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["entry", "seeds", "points", "ACR"]
    assert [line.split()[0] for line in lines] == list(read_store(PUBLISHED).records)
    plan = read_plan(PUBLISHED / "plan.yaml")
    entries = {cell.key: entry for cell, entry in read_entries(plan, PUBLISHED).items()}
    (line,) = (line.split() for line in lines if line.split()[0] == CLEAN)
    assert line[1:] == ["0", "1", "2", "500", f"{np.mean([run.acr for run in entries[CLEAN].runs]):.4f}"]
    # Of points of all classes the radius of the named one.
    points = [{**POINT, "idx": 0, "radius": 0.5}, {**POINT, "idx": 1, "radius": 9.0, "label": 3, "predict": 3}]
    main(Config(store=store_of(tmp_path / "store", points)))
    assert capsys.readouterr().out.splitlines()[-1].split() == ["a/class_8", "0", "2", "0.5000"]


def test_nothing_that_lies_there_is_written_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(Config(store=PUBLISHED, entry=CLEAN, out_dir=out))
    before = contents(out)
    main(Config(store=PUBLISHED, entry=CLEAN, out_dir=out))  # the same again
    assert contents(out) == before
    with pytest.raises(InputError, match=r"out/seed_0\.tsv: another file of this name is there; choose another"):
        main(Config(store=PUBLISHED, entry="n_10000/clean", out_dir=out))
    assert contents(out) == before
    for path in out.glob("*.tsv"):
        path.unlink()
    with pytest.raises(InputError, match=r"out/settings\.json: another file"):
        main(Config(store=PUBLISHED, entry="n_10000/clean", out_dir=out))
    assert [path.name for path in out.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": ""}, r"--import-files .*a\.tsv: --method is missing; give it"),
        ({"sigma": None}, "--sigma is missing"),
        ({"target_class": None}, "--target-class is missing"),
        ({"target_class": 3}, r"a\.tsv: has no point of class 3; choose another file"),
        ({"sigma": -1.0}, "sigma of foreign certificates must be positive, got -1.0"),
        ({"method": "../x"}, r"foreign: method is '\.\./x', which cannot be a file's name"),
        ({"poison": "a/b"}, "foreign: poison is 'a/b', which cannot be a file's name"),
        ({"poison": "constnat"}, "no poison of foreign 'constnat'; choose from clean, "),
        ({"accuracy": 97.0}, "accuracy of foreign certificates must lie between 0 and 1, got 97.0"),
        ({"n": 0}, "n of foreign certificates must be at least 1, got 0"),
        ({"n": 3_000_000_000}, r"n of foreign certificates must be below 2\^31, got 3000000000"),
        ({"target_class": -1}, "target_class of foreign certificates must lie between 0 and 2147483647, got -1"),
        ({"alpha": 1.0}, "alpha of foreign certificates must lie strictly between 0 and 1"),
        ({"entry": "a"}, "--import-files adds an entry, --entry and --out-dir export one; give one or the other"),
        ({"out_dir": Path("out")}, "give one or the other"),
        ({"import_files": ()}, "--method describes --import-files; name the files, or leave the flag out"),
        ({"import_files": (Path("nowhere.tsv"),)}, r"nowhere\.tsv: no such file"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_imported_is_one_line(
    changes: dict[str, Any], message: str, store: Path, theirs: tuple[Path, Path]
) -> None:
    before = contents(store)
    with pytest.raises(InputError, match=message) as caught:
        main(replace(importing(store, theirs), **changes))
    assert "\n" not in str(caught.value) and contents(store) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (THEIRS.replace("radius", "size"), r"b\.tsv: has no column 'radius'"),
        (THEIRS.replace("0.5", "nan"), r"b\.tsv: line 5 has the radius nan"),
        (THEIRS.replace("60\t8", "20\t8"), r"b\.tsv: line 5 has the point 20 once more"),
        ("", r"b\.tsv: has no point"),
    ],
)
def test_damaged_files_are_not_imported(text: str, message: str, store: Path, theirs: tuple[Path, Path]) -> None:
    theirs[1].write_text(text)
    before = contents(store)
    with pytest.raises(InputError, match=message):
        main(importing(store, theirs))
    assert contents(store) == before


def test_a_record_beside_a_file_has_the_settings(store: Path, theirs: tuple[Path, Path]) -> None:
    before, made_with = contents(store), {"sigma": 0.5, "votes": 100_000, "alpha": 0.001, "failure_mass": 0.0}
    theirs[1].with_suffix(".json").write_text(json.dumps({"made_with": made_with, "config": {"n": 1_000}}))
    for changes, message in (({"sigma": 0.75}, "sigma is 0.75, .* says 0.5"), ({"n": 10_000}, "n is 10000, .* 1000")):
        with pytest.raises(InputError, match=rf"b\.tsv: {message}; give that"):
            main(importing(store, theirs, **changes))
    (run := theirs[0].with_suffix(".settings.json")).write_text("{}")
    with pytest.raises(InputError, match=r"a\.settings\.json: not a record of certificates"):
        main(importing(store, theirs))
    assert contents(store) == before
    run.unlink()
    theirs[0].with_suffix(".json").write_text('{"of": "another program"}')
    main(importing(store, theirs))


def test_what_is_no_store_and_what_no_entry_is_one_line(store: Path, theirs: tuple[Path, Path], tmp_path: Path) -> None:
    for config, message in (
        (Config(store=tmp_path), r"points\.csv\.xz: no such file"),
        (Config(store=store, entry="x", out_dir=tmp_path / "out"), r"--entry 'x': .*/store has no such entry; .* 10"),
        (Config(store=store, entry=CLEAN), "give the folder of its files as --out-dir"),
        (Config(store=store, out_dir=tmp_path / "out"), "--entry '': .* has no such entry"),
        (importing(tmp_path, theirs), r"plan\.yaml: no such file"),
        (Config(store=store_of(tmp_path / "few", [{"entry": "a", "seed": 0}])), "not the points of a plan .*radius"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            main(config)
        assert "\n" not in str(caught.value)
    (store / "plan.yaml").unlink()
    with pytest.raises(InputError, match=r"store/plan\.yaml: no such file"):
        main(importing(store, theirs))
    (store / POINTS).write_bytes(lzma.compress(b"entry\n"))
    with pytest.raises(InputError, match="not the points that"):
        main(Config(store=store))
    assert not (tmp_path / "out").exists()


def test_a_point_of_an_export_is_one_that_can_be_written_again() -> None:
    points = pd.DataFrame([{**POINT, "idx": 3, "radius": 0.25}])
    assert certificates.as_certificates(points).splitlines()[1] == Point(3, 8, 8, "0.250000", 1, "0:00:00.000000").line
