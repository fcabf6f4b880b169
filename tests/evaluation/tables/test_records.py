"""A store takes a run only where its files belong together, and gives it back as it was measured."""

import hashlib
import json
import lzma
import random
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from data.ready_poisons import load_ready_poison
from evaluation.tables import records
from evaluation.tables.cells import Foreign
from evaluation.tables.frame import as_csv, frame_of
from evaluation.tables.layout import tables_of
from evaluation.tables.make_tables import Config, job_times, main, tables_as_text
from evaluation.tables.plan import Plan, plan_of, read_plan
from evaluation.tables.records import (
    Runs,
    StoredRun,
    _require_same_images,
    collect,
    differences,
    foreign_runs,
    read_entries,
    runs_of,
)
from evaluation.tables.runs import Run
from randomized_smoothing_certification.certificate_file import Point, as_text, summary_path
from randomized_smoothing_certification.core import radius_ceiling, round_down
from runtime.artifact import Artifact
from runtime.files import InputError, array_sha256, file_sha256, save_array, write_text
from runtime.store import POINTS as POINTS_FILE
from runtime.store import SETTINGS, read_store
from tests.fuzz.mutations import node_edited

POINTS = [Point(3, 8, 8, "0.250000", 1, "0:00:01"), Point(5, 8, -1, "0.000000", 0, "0:00:01")]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan of one victim on clean data, with all its files."""
    plan = plan_of(
        {
            "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 1, "rows": ["clean"],
            "methods": {"macer": [0.5]}, "work_dir": str(tmp_path / "work"), "results_dir": str(tmp_path / "store"),
            "certification": {"n": 1000, "points": 9},
        },
        "plan",
    )  # fmt: skip
    (cell,) = plan.cells()
    tsv, victim = plan.paths.certificate(cell, 0), plan.paths.model(cell, 0).with_suffix(".json")
    settings = {
        "dataset": "MNIST", "split": "test", "target_class": 8, "points": 9, "seed": 0, "n0": 100, "n": 1000,
        "alpha": 0.001, "sigma": 0.5, "precision": "float32", "noise": {"mode": "float32"}, "shard": None,
        "model_sha256": "of the model",
        "shared_noise": True, "acr_only": False, "radius_loss": 0.0, "radii": [], "noise_of": "seed and images",
    }  # fmt: skip
    for folder in (tsv.parent, victim.parent):
        folder.mkdir(parents=True)
    tsv.write_text(as_text(POINTS))
    record = {"settings": settings, "points": [3, 5], "provenance": {"commit": "0123456"}}
    tsv.with_suffix(".settings.json").write_text(json.dumps(record))
    summary_path(tsv).write_text(json.dumps({"tsv_sha256": file_sha256(tsv)}))
    victim.write_text(json.dumps({"settings": {"epochs": 101}, "sha256": "of the model", "accuracy": 0.9}))
    return plan


def test_two_programs_do_not_write_one_store(plan: Plan) -> None:
    with Artifact(plan.paths.results / "plan.yaml"), pytest.raises(InputError, match="another run is writing it"):
        collect(plan, plan.paths.results, add=True)


def measured(plan: Plan) -> tuple[Run, ...]:
    """The runs that a table of this plan has."""
    collect(plan, plan.paths.results)
    (entry,) = read_entries(plan, plan.paths.results).values()
    return entry.runs


def runs(plan: Plan) -> int:
    """How many runs a table of this plan has."""
    return len(measured(plan))


def write_points(plan: Plan, points: list[Point], **settings: Any) -> None:
    """Whole certificates of the only victim, and settings of their record."""
    tsv = tsv_of(plan)
    tsv.write_text(as_text(points))
    summary_path(tsv).write_text(json.dumps({"tsv_sha256": file_sha256(tsv)}))
    of_settings = tsv.with_suffix(".settings.json")
    record = json.loads(of_settings.read_text())
    record |= {"points": [point.idx for point in points], "settings": {**record["settings"], **settings}}
    of_settings.write_text(json.dumps(record))


def tsv_of(plan: Plan) -> Path:
    (cell,) = plan.cells()
    return plan.paths.certificate(cell, 0)


def test_a_run_whose_files_belong_together_is_taken_as_it_was_measured(plan: Plan) -> None:
    (run,) = measured(plan)
    assert run.seed == 0 and run.radii.tolist() == [0.25, -1.0] and run.idx.tolist() == [3, 5]
    assert run.acr == 0.125 and run.certified_at(0.0) == run.certified_at(0.25) == 0.5 and run.certified_at(0.26) == 0
    assert (run.accuracy, run.target_accuracy, run.sigma) == (0.9, None, 0.5)
    assert (run.certificate["n"], run.certificate["dataset"]) == (1000, "MNIST")
    assert run.gradients is None and run.visibility == {} and run.others_acr is run.others_certified_accuracy is None
    assert run.records["certificate"].keys() == {"settings", "provenance"}  # the points are in the other file
    assert {path.name for path in plan.paths.results.iterdir()} == {POINTS_FILE, SETTINGS, "plan.yaml"}


def test_the_share_at_the_ceiling_is_of_the_largest_radius_that_n_votes_can_show(plan: Plan) -> None:
    largest = round_down(radius_ceiling(0.5, 1000, 0.001))
    write_points(plan, [*POINTS, Point(7, 8, 8, largest, 1, "0:00:01"), Point(9, 8, 8, "1.000000", 1, "0:00:01")])
    (run,) = measured(plan)
    assert run.at_ceiling == 0.25


def test_points_of_other_classes_stand_apart(plan: Plan) -> None:
    others = [Point(7, 1, 1, "0.500000", 1, "0:00:01"), Point(8, 2, 1, "0.500000", 0, "0:00:01")]
    write_points(plan, [*POINTS, *others], target_class="all")
    (run,) = measured(plan)
    assert run.radii.tolist() == [0.25, -1.0] and run.idx.tolist() == [3, 5]
    assert run.other_radii.tolist() == [0.5, -1.0]
    assert (run.others_acr, run.others_certified_accuracy) == (0.25, 0.5)


def test_the_votes_of_each_point_are_kept(plan: Plan) -> None:
    points = [POINTS[0]._replace(votes=1000), POINTS[1]._replace(votes=0)]
    write_points(plan, points, acr_only=True)
    plan = msgspec.structs.replace(plan, certification={**plan.certification, "acr_only": True})
    assert runs(plan) == 1
    assert read_store(plan.paths.results).points["votes"].tolist() == [1000, 0]


@pytest.mark.parametrize("rows", [POINTS[:1], [POINTS[0]._replace(radius="0.250001"), POINTS[1]]], ids=["one", "other"])
def test_a_summary_of_other_rows_is_no_sign_of_whole_ones(plan: Plan, rows: list[Point]) -> None:
    """As left by a run that was killed when it began afresh."""
    tsv_of(plan).write_text(as_text(rows))
    with pytest.raises(InputError, match="has no certificate of the plan"):
        runs(plan)


def test_a_victim_that_was_trained_again_is_not_shown_with_the_certificates_of_the_first(plan: Plan) -> None:
    (cell,) = plan.cells()
    record = {"settings": {}, "sha256": "of another", "accuracy": 0.1}
    plan.paths.model(cell, 0).with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="has no certificate of the plan"):
        runs(plan)


def test_a_run_of_other_settings_than_the_plans_is_left_out(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as victims that were trained before the plan was changed. Their notes name the first setting."""
    for change, said in (
        ({"victim": {"all": {"epochs": 12}}}, "clean, seed 0: victim with epochs 101, where the plan says 12"),
        ({"seed": 1}, "clean, seed 1: certificate with seed 0, where the plan says 1"),
        ({"certification": {"n": 1000}}, "clean, seed 0: certificate with points 9, where the plan says 500"),
    ):
        changed = msgspec.structs.replace(plan, **change)
        if changed.seed:
            moved_to_seed_1(plan)
        with pytest.raises(InputError, match="has no certificate of the plan"):
            runs(changed)
        assert f"{said}\n" in capsys.readouterr().out
        if changed.seed:
            moved_to_seed_1(plan, back=True)
    assert runs(plan) == 1 and not capsys.readouterr().out


@pytest.mark.parametrize("part", ["victim", "visibility"])
def test_a_run_of_an_earlier_poison_is_left_out(plan: Plan, part: str) -> None:
    """A victim whose poison was made again since, and a poison whose visibility was measured before."""
    plan = msgspec.structs.replace(plan, rows=("clean", "constant"), visibility=True)
    clean, cell = plan.cells()
    for of_seed in (plan.paths.certificate, plan.paths.model):
        first, second = of_seed(clean, 0), of_seed(cell, 0)
        for path in first.parent.glob(f"{first.stem}.*"):
            write_text(second.parent / path.name.replace(first.stem, second.stem), path.read_text())
    save_array(images := plan.paths.poison(cell.poison), np.zeros((2, 3), np.float32))
    write_text(images.with_suffix(".json"), json.dumps({"settings": {}, "sha256": file_sha256(images)}))
    seen, victim = plan.paths.visibility(cell.poison), plan.paths.model(cell, 0).with_suffix(".json")

    def taken(**sha256: str) -> int:
        measured = {"settings": {"poison_sha256": sha256["visibility"]}, "measured": {"auc": {}}}
        write_text(seen, json.dumps(measured))
        record = {**json.loads(victim.read_text()), "poison_sha256": sha256["victim"]}
        write_text(victim, json.dumps(record))
        collect(plan, plan.paths.results)
        return len(read_entries(plan, plan.paths.results)[cell].runs)

    same = dict.fromkeys(("victim", "visibility"), array_sha256(np.zeros((2, 3), np.float32)))
    assert taken(**same) == 1
    assert taken(**{**same, part: "another"}) == 0


def test_rows_that_no_run_writes_are_refused(plan: Plan) -> None:
    tsv = tsv_of(plan)
    for rows, message in (
        ([POINTS[0]._replace(radius="2.250000"), POINTS[1]], "line 2 has a radius"),
        ([POINTS[1], POINTS[0]], "line 2 has a point"),
        ([POINTS[0]], "has 1 of 2 points"),
    ):
        tsv.write_text(as_text(rows))
        summary_path(tsv).write_text(json.dumps({"tsv_sha256": file_sha256(tsv)}))
        with pytest.raises(InputError, match=message):
            runs(plan)


def test_a_changed_digit_in_the_store_is_noticed(plan: Plan) -> None:
    assert runs(plan) == 1
    stored = plan.paths.results / POINTS_FILE
    stored.write_bytes(lzma.compress(lzma.decompress(stored.read_bytes()).replace(b",0.25,", b",0.26,")))
    with pytest.raises(InputError, match=r"points\.csv\.xz: not the points that settings\.json\.xz was written with"):
        read_entries(plan, plan.paths.results)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("radius", "size", r"points\.csv\.xz: not the points of a plan .*radius.*; make the tables again"),
        (",0.25,", ",far,", r"points\.csv\.xz: not the points of a plan .*far"),
        (",0.25,", ",,", r"points\.csv\.xz: not the points of a plan \(a value is missing\)"),
        (",0.25,", ",-0.25,", r"not the points of a plan \(a radius is negative or not finite\)"),
        (",0.25,", ",inf,", r"not the points of a plan \(a radius is negative or not finite\)"),
        (",0.25,1", ",0.25,0", r"not the points of a plan \('correct' is not 1 where predict is the label"),
        ("/class_8,0,5", "/class_8,0,3", r"not the points of a plan \(a run has a point twice\)"),
        ("/class_8,0,3", "/class_8,1,3", r"settings\.json\.xz: macer_.*/class_8, seed 1, is not in both files"),
        ("macer", "taken", r"settings\.json\.xz: .*/class_8, seed 0, is not in both files"),
        ("entry", "named", r"points\.csv\.xz: not the points of a plan .*entry"),
    ],
    ids=str,
)
def test_points_of_another_form_are_one_line(plan: Plan, old: str, new: str, message: str) -> None:
    """Also where both files belong together."""
    assert runs(plan) == 1
    store = plan.paths.results
    text = lzma.decompress((store / POINTS_FILE).read_bytes()).decode()
    assert old in text
    text = text.replace(old, new, 1)
    of_settings = json.loads(lzma.decompress((store / SETTINGS).read_bytes()))
    of_settings["points_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (store / POINTS_FILE).write_bytes(lzma.compress(text.encode()))
    (store / SETTINGS).write_bytes(lzma.compress(json.dumps(of_settings).encode()))
    with pytest.raises(InputError, match=message):
        read_entries(plan, store)


def test_records_with_any_other_value_make_tables_or_one_line(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place of a run's records is replaced, renamed or removed."""
    (run,) = measured(plan)
    seen = {"measured": {"l2": 1.0, "auc": {"linear": 0.5}}, "settings": {}}
    versions = {"python": "3.12.3"}
    victim = {**run.records["victim"], "versions": versions, "backend": "jax", "machine": "x86_64", "commit": "0123456"}
    records = {**run.records, "victim": victim, "visibility": seen, "poison": {"settings": {}, "gradients": 3.0}}
    folder, draw, refused = plan.paths.results, random.Random(0), 0
    store = read_store(folder)
    (key,) = store.records
    for _ in range(200):
        edited = store._replace(records={key: {"0": node_edited(records, draw)}})
        monkeypatch.setattr("evaluation.tables.records.read_store", lambda _, edited=edited: edited)
        try:
            entries = read_entries(plan, folder)
        except InputError as error:
            assert "settings.json.xz" in str(error) and "\n" not in str(error)
            refused += 1
            continue
        frame = frame_of(plan, entries)
        assert len(tables_of(plan.title, frame)) >= 1 and as_csv(frame).count("\n") == 2
        assert tables_as_text(plan, frame, [], job_times(plan.paths))["tables.html"]
    assert 30 < refused < 170


@pytest.mark.parametrize("text", ["null", "[]"])
def test_records_of_another_form_are_one_line(plan: Plan, text: str) -> None:
    (cell,) = plan.cells()
    for path in (plan.paths.model(cell, 0).with_suffix(".json"), tsv_of(plan).with_suffix(".settings.json")):
        before = path.read_text()
        path.write_text(text)
        with pytest.raises(InputError, match=rf"{path.name}: not a record"):
            runs(plan)
        path.write_text(before)


def test_runs_of_an_earlier_time_do_not_pass_for_ones_that_are_there(plan: Plan, tmp_path: Path) -> None:
    write_text(tmp_path / "plan.yaml", msgspec.yaml.encode(plan).decode())
    assert runs(plan) == 1
    plan.paths.work.rename(tmp_path / "elsewhere")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match=r"/work: has no certificate of the plan \(.*: 0 of 1 runs, .* --directory"):
        main(Config(plan=tmp_path / "plan.yaml"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_nothing_is_stored_where_a_later_run_is_of_no_commit(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,), plan = plan.cells(), msgspec.structs.replace(plan, runs=2)
    for of_seed in (plan.paths.certificate, plan.paths.model):
        first, second = of_seed(cell, 0), of_seed(cell, 1)
        for path in first.parent.glob(f"{first.stem}.*"):
            write_text(second.parent / path.name.replace(first.stem, second.stem), path.read_text())
    record = plan.paths.model(cell, 1).with_suffix(".json")
    write_text(record, json.dumps({**json.loads(record.read_text()), "commit": "0123456-dirty"}))
    monkeypatch.setattr("runtime.provenance.project_path", lambda relative: tmp_path / relative)
    with pytest.raises(InputError, match=r"seed_1\.tsv: measured at 0123456-dirty, which is no commit"):
        collect(plan, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def moved_to_seed_1(plan: Plan, back: bool = False) -> None:
    """The plan's only run becomes a run of seed 1. back: the run of seed 1 becomes one of seed 0."""
    (cell,) = plan.cells()
    for of_seed in (plan.paths.certificate, plan.paths.model):
        first, second = of_seed(cell, int(back)), of_seed(cell, int(not back))
        for path in first.parent.glob(f"{first.stem}.*"):
            path.rename(second.parent / path.name.replace(first.stem, second.stem))


def test_a_store_grows_in_parts(plan: Plan, tmp_path: Path) -> None:
    """As if seed 0 was measured on one machine, seed 1 on another, and then seed 1 again."""
    write_text(tmp_path / "plan.yaml", msgspec.yaml.encode(both := msgspec.structs.replace(plan, runs=2)).decode())
    assert runs(plan) == 1
    moved_to_seed_1(plan)
    for _ in range(2):
        main(Config(plan=tmp_path / "plan.yaml", add=True))
        (entry,) = read_entries(both, plan.paths.results).values()
        assert [run.seed for run in entry.runs] == [0, 1]
        assert [run.radii.tolist() for run in entry.runs] == [[0.25, -1.0]] * 2
    assert read_plan(plan.paths.results / "plan.yaml") == both
    main(Config(plan=tmp_path / "plan.yaml"))
    (entry,) = read_entries(both, plan.paths.results).values()
    assert [run.seed for run in entry.runs] == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"certification": {"n": 9}}, "clean, seed 0: has certificate with n 1000, where the plan says 9; write the"),
        ({"certification": {"points": 9}, "shards": 2}, "certificate with n 1000, where the plan says 100000; write"),
        ({"victim": {"macer": {"epochs": 3}}}, "seed 0: has victim with epochs 101, where the plan says 3; write"),
        ({"victim": {"macer": {"epochs": 3}}, "table": "u"}, "victim with epochs 101, where the plan says 3; "),
        ({"certification": {"n": 1000, "points": 9, "all_classes": True}}, "target_class 8, where the plan says all; "),
        ({"runs": 1, "seed": 1}, r"has macer_.*/class_8, seed 0, which the plan lacks; add it to the plan"),
    ],
)
def test_only_runs_of_the_same_settings_are_kept(plan: Plan, change: dict[str, Any], message: str) -> None:
    assert runs(plan) == 1
    moved_to_seed_1(plan)
    before = {path: path.read_bytes() for path in plan.paths.results.iterdir()}
    with pytest.raises(InputError, match=message):
        collect(msgspec.structs.replace(plan, **{"runs": 2, **change}), plan.paths.results, add=True)
    assert {path: path.read_bytes() for path in plan.paths.results.iterdir()} == before


def test_a_store_grows_by_classes(plan: Plan) -> None:
    """A clean victim serves every class, whichever class its plan named first."""
    assert runs(plan) == 1
    more = msgspec.structs.replace(plan, target_classes=(3, 8))
    collect(more, plan.paths.results, add=True)
    assert [len(entry.runs) for entry in read_entries(more, plan.paths.results).values()] == [0, 1]


@pytest.mark.parametrize("images", ["x_train", "x_test"])
def test_runs_of_different_images_are_not_one_entry(plan: Plan, images: str) -> None:
    """Such as victims of a poison that was made again on another machine, where floats are rounded in another way."""

    def trained_on(which: str, seed: int) -> None:
        victim = plan.paths.model(plan.cells()[0], seed).with_suffix(".json")
        victim.write_text(json.dumps({**json.loads(victim.read_text()), "settings": {images: which}}))

    trained_on("these", seed=0)
    assert runs(plan) == 1
    moved_to_seed_1(plan)
    both = msgspec.structs.replace(plan, runs=2)
    trained_on("others", seed=1)
    with pytest.raises(InputError, match="has runs of other training or test images; run the plan again"):
        collect(both, plan.paths.results, add=True)
    trained_on("these", seed=1)
    collect(both, plan.paths.results, add=True)
    for of_seed in (plan.paths.certificate, plan.paths.model):  # both runs in the plan's folder, without --add
        first, second = (of_seed(plan.cells()[0], seed) for seed in (0, 1))
        for path in second.parent.glob(f"{second.stem}.*"):
            shutil.copy(path, first.parent / path.name.replace(second.stem, first.stem))
    assert runs(both) == 2
    trained_on("others", seed=1)
    with pytest.raises(InputError, match="has runs of other training or test images; run the plan again"):
        collect(both, plan.paths.results)


@pytest.mark.parametrize("name", ["x_train", "x_test"])
def test_a_run_of_other_images_than_the_prepared_ones_is_left_out(
    name: str, plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = {f"X_{split}.npy": {"sha256": "these"} for split in ("train", "test")}
    write_text(plan.paths.manifest, json.dumps({"arrays": arrays}))
    victim = plan.paths.model(plan.cells()[0], 0).with_suffix(".json")
    for images, count in (("these", 1), ("others", 0)):
        victim.write_text(json.dumps({**json.loads(victim.read_text()), "settings": {name: images}}))
        if count:
            assert runs(plan) == count
    with pytest.raises(InputError, match="has no certificate of the plan"):
        runs(plan)
    assert f"clean, seed 0: images {name} others, data/MNIST has others now" in capsys.readouterr().out


def test_entries_of_different_clean_images_are_not_one_table() -> None:
    def measured_with(victim: str, poison: str, defence: str = "none") -> Runs:
        records = {"victim": {"settings": {"x_train": victim, "defence": defence}}}
        other = {"victim": {"settings": {"x_train": "poisoned"}}, "poison": {"settings": {"x_train": poison}}}
        stored = {"a/clean/class_8": records, "a/constant_sigma_0.5_class_8/class_8": other}
        return {entry: {0: StoredRun(Path(), pd.DataFrame(), one)} for entry, one in stored.items()}

    for fine in (measured_with("these", "these"), measured_with("of the defence", "these", "removal")):
        _require_same_images(fine, Path("store"))
    with pytest.raises(InputError, match="store: has runs of other training or test images; run the plan again"):
        _require_same_images(measured_with("these", "others"), Path("store"))


def test_the_first_part_needs_no_store(plan: Plan) -> None:
    collect(plan, plan.paths.results, add=True)
    (entry,) = read_entries(plan, plan.paths.results).values()
    assert [run.seed for run in entry.runs] == [0]
    with pytest.raises(InputError, match=r"--add: .* leave one of the two out"):
        main(Config(plan=plan.paths.results / "plan.yaml", add=True, from_results=True))


# As Cohen et al.'s code writes them: radii of three digits, -1 for an abstention, and points of other classes.
OF_ANOTHER_PROGRAM = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t8\t8\t1.000\t1\t0:00:01.1
20\t8\t-1\t0.000\t0\t0:00:01.1
40\t8\t3\t0.700\t0\t0:00:01.1
60\t8\t8\t0.500\t1\t0:00:01.1
80\t1\t1\t2.000\t1\t0:00:01.1
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OF_ANOTHER_PROGRAM.replace("radius", "size"), "has no column 'radius'"),
        (OF_ANOTHER_PROGRAM.replace("0.500", "nan"), "line 5 has the radius nan"),
        (OF_ANOTHER_PROGRAM.replace("0.500", "-0.1"), r"line 5 has the radius -0.1"),
        (OF_ANOTHER_PROGRAM.replace("0.500", "half"), "line 5 is damaged"),
        (OF_ANOTHER_PROGRAM[: OF_ANOTHER_PROGRAM.index("60\t8") + 4], "line 5 is damaged"),
        (OF_ANOTHER_PROGRAM.replace("\t8\t", "\t7\t"), "has no point of class 8"),
        ("", "has no point, it is empty"),
    ],
)
def test_damaged_certificates_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        runs_of(Foreign(method="consistency", sigma=0.5, target_class=8, files=("a.tsv",)), tmp_path)


def foreign_plan(tmp_path: Path, *foreign: dict[str, Any]) -> Plan:
    own = {"table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "methods": {"macer": [0.5]}}
    (tmp_path / "a.tsv").write_text(OF_ANOTHER_PROGRAM)
    cell = {"method": "consistency", "sigma": 0.5, "target_class": 8, "files": ["a.tsv"]}
    return plan_of({**own, "foreign": [{**cell, **one} for one in foreign]})


def test_certificates_of_another_program_are_runs(tmp_path: Path) -> None:
    plan = foreign_plan(tmp_path, {"files": ["a.tsv", "b.tsv"], "accuracy": 0.98, "n": 10**6, "alpha": 0.01})
    lines = ("0.3\t8\t8", "0.4\t1\t8", "0.2\t8\t8", "0.0\t-1\t8", "0.1\t1\t1")
    rows = "".join(f"{line}\tx\t{20 * place}\n" for place, line in enumerate(lines))
    (tmp_path / "b.tsv").write_text(f"radius\tpredict\tlabel\textra\tidx\n{rows}")  # columns are found by name
    collect(plan, tmp_path / "store", tmp_path)
    entry = read_entries(plan, tmp_path / "store")[plan.foreign[0].cell]
    first, second = entry.runs
    assert entry.wanted == 2 and first.radii.tolist() == [1.0, -1.0, -1.0, 0.5] and first.other_radii.tolist() == [2.0]
    assert second.radii.tolist() == [0.3, -1.0, 0.2, -1.0] and second.idx.tolist() == [0, 20, 40, 60]
    assert (first.accuracy, first.certificate["n"], first.certificate.get("dataset")) == (0.98, 10**6, None)
    assert first.records["file"] == "a.tsv" and second.records["file"] == "b.tsv"
    assert first.at_ceiling == 0
    (tmp_path / "b.tsv").write_text("radius\tpredict\tlabel\textra\n0.3\t8\t8\tx\n0.4\t1\t8\tx\n")
    alone = foreign_plan(tmp_path, {"files": ["b.tsv"]})
    collect(alone, tmp_path / "alone", tmp_path)
    (without_idx,) = read_entries(alone, tmp_path / "alone")[alone.foreign[0].cell].runs
    assert without_idx.radii.tolist() == [0.3, -1.0] and without_idx.idx.tolist() == [0, 1]


@pytest.mark.parametrize(("n", "point"), [(100, 0), (1_000, 80)])
def test_radii_of_another_program_that_its_votes_cannot_certify_are_refused(tmp_path: Path, n: int, point: int) -> None:
    plan = foreign_plan(tmp_path, {"n": n})
    with pytest.raises(InputError, match=rf"a\.tsv: point {point} has the radius .* {n} votes certify at most \d\.\d+"):
        collect(plan, tmp_path / "store", tmp_path)
    assert not (tmp_path / "store").exists()
    largest = f"{radius_ceiling(0.5, n, 0.001):.3f}"  # rounded up or down, as others write it
    (tmp_path / "a.tsv").write_text(f"radius\tpredict\tlabel\n{largest}\t8\t8\n9.0\t-1\t8\n")
    collect(plan, tmp_path / "store", tmp_path)


def test_a_store_that_was_measured_otherwise_than_the_plan_says_is_noticed(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs(plan) == 1
    other = msgspec.structs.replace(plan, certification={"n": 5000, "alpha": 0.001, "points": 9}, runs=1)
    (line,) = differences(other, read_entries(other, plan.paths.results).values())
    assert line.endswith(", class 8, training data: clean: has certificate with n 1000, where the plan says 5000")
    assert differences(plan, read_entries(plan, plan.paths.results).values()) == []
    default = msgspec.structs.replace(plan, certification={"n": 1000, "alpha": "1e-3"})
    (other_points,) = differences(default, read_entries(default, plan.paths.results).values())
    assert other_points.endswith("has certificate with points 9, where the plan says 500")
    write_text(tmp_path / "store" / "plan.yaml", msgspec.yaml.encode(other).decode())
    main(Config(plan=tmp_path / "store" / "plan.yaml", from_results=True, results_dir=tmp_path / "made"))
    assert f"note: {line}" in capsys.readouterr().out
    longer = msgspec.structs.replace(plan, victim={"all": {"epochs": 7}})  # its plan.yaml was written, its store not
    (line,) = differences(longer, read_entries(longer, plan.paths.results).values())
    assert line.endswith("has victim with epochs 101, where the plan says 7")


def test_of_another_program_n_need_not_be_known(tmp_path: Path) -> None:
    plan = foreign_plan(tmp_path, {})
    collect(plan, tmp_path / "store", tmp_path)
    (run,) = read_entries(plan, tmp_path / "store")[plan.foreign[0].cell].runs
    assert run.certificate.get("n") is run.at_ceiling is run.accuracy is None


@pytest.mark.parametrize(
    "foreign",
    [
        [{}, {}],
        [{"method": "macer", "architecture": "mnist_cnn"}],
        [{"method": "macer_mnist_cnn"}],
        [{"method": "a_b"}, {"method": "a", "architecture": "b"}],
    ],
    ids=["twice", "the plan's own", "of the key of the plan's own", "two of one key"],
)
def test_two_entries_do_not_share_a_key(foreign: list[dict[str, Any]], tmp_path: Path) -> None:
    """A store knows entries by their keys."""
    with pytest.raises(InputError, match="foreign: the plan makes the entry itself, or names it twice"):
        foreign_runs(foreign_plan(tmp_path, *foreign), tmp_path)


def test_a_file_is_in_one_entry_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.tsv: is given twice"):
        foreign_runs(foreign_plan(tmp_path, {}, {"poison": "constant"}), tmp_path)


def test_records_beside_files_of_an_entry_have_its_settings_and_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = foreign_plan(tmp_path, {"files": ["a.tsv", "b.tsv"], "n": 10**6})
    (tmp_path / "b.tsv").write_text(OF_ANOTHER_PROGRAM)
    known: dict[str, Any] = {"a.tsv": {"n": 10**6, "sigma": 0.5}, "b.tsv": {"n": 10**6, "sigma": 0.5}}
    monkeypatch.setattr("evaluation.tables.runs.recorded_settings", lambda path: known[path.name])
    monkeypatch.setattr("evaluation.tables.runs.recorded_victim", lambda one: one.get("victim", {}))
    assert [*runs_of(plan.foreign[0], tmp_path)] == [0, 1]
    for name, seed in (("a.tsv", 7), ("b.tsv", 3)):
        known[name]["victim"] = {"settings": {"seed": seed}}
    assert {seed: run.records["file"] for seed, run in runs_of(plan.foreign[0], tmp_path).items()} == {
        7: "a.tsv", 3: "b.tsv"
    }  # fmt: skip
    collect(plan, tmp_path / "store", tmp_path)
    collect(plan, tmp_path / "store", tmp_path, add=True)
    for name, training_data, message in (
        ("b.tsv", "poisoned_radius", r"b\.tsv: its victim was trained on poisoned_radius data, not on clean"),
        ("b.tsv", "clean", r"a\.tsv: is of the same victim as .*b\.tsv"),
    ):
        known["a.tsv"]["model_sha256"] = "of a"
        known[name] |= {"model_sha256": "of a" if training_data == "clean" else "of b"}
        known[name]["victim"]["config"] = {"training_data": training_data}
        with pytest.raises(InputError, match=message):
            runs_of(plan.foreign[0], tmp_path)
    known["b.tsv"] |= {"model_sha256": "of b"}
    known["b.tsv"]["sigma"] = 0.25
    with pytest.raises(InputError, match=r"b\.tsv: sigma is 0\.5, but the record beside it says 0\.25"):
        runs_of(plan.foreign[0], tmp_path)


def test_a_run_of_another_ready_poison_than_the_plan_names_is_known() -> None:
    plan = plan_of({
        "table": "t", "title": "T", "dataset": "DIGITS", "architecture": "digits_cnn", "rows": ["clean"],
        "methods": {"macer": [0.25]}, "ready": {"mine": "digits_per_image"},
    })  # fmt: skip
    cell = next(cell for cell in plan.cells() if cell.poison)
    made_with = load_ready_poison("digits_per_image").record
    assert records._differences_from_plan(plan, cell, 0, {"poison": made_with}) == []
    assert records._differences_from_plan(plan, cell, 0, {"poison": {}}) == []  # of an older record
    (line,) = records._differences_from_plan(
        plan, cell, 0, {"poison": {**made_with, "arrays_sha256": {"X_poisoned": "another"}}}
    )
    assert line == "other poison than digits_per_image, which the plan names"
    with_file = plan_of({**msgspec.to_builtins(plan), "ready": {"mine": "mine.npz"}})
    files = {"mine.npz": {"X_poisoned": "another"}}
    assert records._differences_from_plan(with_file, cell, 0, {"poison": made_with}) == []  # the file is not at hand
    assert records._differences_from_plan(with_file, cell, 0, {"poison": made_with}, files) == [
        "other poison than mine.npz, which the plan names"
    ]


def test_run_times_are_those_of_each_jobs_last_attempt(plan: Plan) -> None:
    assert job_times(plan.paths).empty
    for name, seconds in {"a": 1800, "b": 5400}.items():
        write_text(plan.paths.work / f"benchmarks/victim/x/{name}.tsv", f"s\th:m:s\tmax_rss\n{seconds}\t-\t{seconds}\n")
    write_text(plan.paths.work / "benchmarks/certify/c.tsv", "s\th:m:s\tmax_rss\n60\t0:01:00\t-\n")
    write_text(plan.paths.work / "benchmarks/certify/killed.tsv", "")
    times = job_times(plan.paths).set_index("rule")
    assert times.loc["victim"].tolist() == [2, 2.0, 90.0, 5400.0]
    assert times.loc["certify", "jobs"] == 1 and np.isnan(times.loc["certify", "peak memory, MiB"])


def test_records_need_the_mode_of_the_noise_the_areas_of_a_visibility_and_numbers() -> None:
    for more in (
        {"certificate": {"settings": {"noise": {}}}}, {"visibility": {"measured": {}}}, {"victim": 1},
        {"poison": {"settings": {"epsilon": "0.1"}}}, {"poison": {"settings": {"epsilon": None}}},
    ):  # fmt: skip
        assert records._are_records({"victim": {}}) and not records._are_records({"victim": {}, **more})
