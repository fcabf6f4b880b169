"""The store of what was measured takes a run only where its files belong together."""

import json
from pathlib import Path

import msgspec
import pytest

from evaluation.tables.make_tables import Config, main
from evaluation.tables.plan import Plan, plan_of
from evaluation.tables.records import collect, read_entries
from randomized_smoothing_certification.certificate_file import Point, as_text, summary_path
from runtime.files import InputError, file_sha256, write_text

POINTS = [Point(3, 8, 8, "0.250000", 1, "0:00:01"), Point(5, 8, -1, "0.000000", 0, "0:00:01")]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan of one victim on clean data, with all its files."""
    plan = plan_of(
        {
            "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 1, "rows": ["clean"],
            "methods": {"macer": [0.5]}, "work_dir": str(tmp_path / "work"), "results_dir": str(tmp_path / "store"),
        },
        "plan",
    )  # fmt: skip
    (cell,) = plan.cells()
    tsv, victim = plan.certificate_file(cell, 0), plan.model_file(cell, 0).with_suffix(".json")
    settings = {
        "dataset": "MNIST", "split": "test", "target_class": 8, "seed": 0, "n0": 100, "n": 1000, "alpha": 0.001,
        "sigma": 0.5, "precision": "float32", "noise": {"mode": "float32"}, "shard": None,
        "model_sha256": "of the model",
    }  # fmt: skip
    for folder in (tsv.parent, victim.parent):
        folder.mkdir(parents=True)
    tsv.write_text(as_text(POINTS))
    record = {"settings": settings, "points": [3, 5], "provenance": {"commit": "0123456"}}
    tsv.with_suffix(".settings.json").write_text(json.dumps(record))
    summary_path(tsv).write_text(json.dumps({"tsv_sha256": file_sha256(tsv)}))
    victim.write_text(json.dumps({"settings": {}, "sha256": "of the model", "accuracy": 0.9}))
    return plan


def runs(plan: Plan) -> int:
    """How many runs a table of this plan has."""
    collect(plan, plan.folders["results"])
    (entry,) = read_entries(plan, plan.folders["results"]).values()
    return len(entry.runs)


def tsv_of(plan: Plan) -> Path:
    (cell,) = plan.cells()
    return plan.certificate_file(cell, 0)


def test_a_run_whose_files_belong_together_is_taken(plan: Plan) -> None:
    assert runs(plan) == 1


@pytest.mark.parametrize("rows", [POINTS[:1], [POINTS[0]._replace(radius="0.250001"), POINTS[1]]], ids=["one", "other"])
def test_a_summary_of_other_rows_is_no_sign_of_whole_ones(plan: Plan, rows: list[Point]) -> None:
    """As left by a run that was killed when it began afresh."""
    tsv_of(plan).write_text(as_text(rows))
    assert runs(plan) == 0


def test_a_victim_that_was_trained_again_is_not_shown_with_the_certificates_of_the_first(plan: Plan) -> None:
    (cell,) = plan.cells()
    record = {"settings": {}, "sha256": "of another", "accuracy": 0.1}
    plan.model_file(cell, 0).with_suffix(".json").write_text(json.dumps(record))
    assert runs(plan) == 0


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
    (stored,) = plan.folders["results"].rglob("seed_0.tsv")
    stored.write_text(stored.read_text().replace("0.250000", "0.260000"))
    with pytest.raises(InputError, match=r"seed_0\.tsv: changed since it was measured"):
        read_entries(plan, plan.folders["results"])


@pytest.mark.parametrize("text", ["null", "[]"])
def test_records_of_another_form_are_one_line(plan: Plan, text: str) -> None:
    (cell,) = plan.cells()
    for path in (plan.model_file(cell, 0).with_suffix(".json"), tsv_of(plan).with_suffix(".settings.json")):
        before = path.read_text()
        path.write_text(text)
        with pytest.raises(InputError, match=rf"{path.name}: not a record"):
            runs(plan)
        path.write_text(before)


def test_runs_of_an_earlier_time_do_not_pass_for_ones_that_are_there(plan: Plan, tmp_path: Path) -> None:
    write_text(tmp_path / "plan.yaml", msgspec.yaml.encode(plan).decode())
    assert runs(plan) == 1
    plan.folders["work"].rename(tmp_path / "elsewhere")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match=r"/work: has no certificate of the plan \(.*: 0 of 1 runs, .* --directory"):
        main(Config(plan=tmp_path / "plan.yaml"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_nothing_is_stored_where_a_later_run_is_of_no_commit(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,), plan = plan.cells(), msgspec.structs.replace(plan, runs=2)
    for of_seed in (plan.certificate_file, plan.model_file):
        first, second = of_seed(cell, 0), of_seed(cell, 1)
        for path in first.parent.glob(f"{first.stem}.*"):
            write_text(second.parent / path.name.replace(first.stem, second.stem), path.read_text())
    record = plan.model_file(cell, 1).with_suffix(".json")
    write_text(record, json.dumps({**json.loads(record.read_text()), "commit": "0123456-dirty"}))
    monkeypatch.setattr("evaluation.tables.records.project_path", lambda relative: tmp_path / relative)
    with pytest.raises(InputError, match=r"seed_1\.tsv: measured at 0123456-dirty, which is no commit"):
        collect(plan, tmp_path / "results")
    assert not (tmp_path / "results").exists()
