"""The Snakemake workflow end to end on digits at toy size: failures, and what a change makes again."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.store import read_store
from tests.waiting import HANG
from tests.workflow.snakemake_runs import dry_runs, run, snakemake

pytest.importorskip("snakemake", reason="Snakemake needs Python 3.11")
PLAN: dict[str, Any] = {
    "table": "toy", "title": "Toy", "dataset": "DIGITS", "architecture": "digits_cnn", "runs": 1,
    "methods": {"gaussianaug": [0.25]}, "rows": ["clean"],
    "method_transfer": {"sigmas": [0.25], "against": ["standard"]},
    # The digits have fewer images than a batch of this attack: it fails.
    "attack": {"all": {"epochs": 1, "lower_steps": 2, "solver_steps": 1}, "standard": {"batch_clean": 5000}},
    "victim": {"all": {"epochs": 4, "learning_rate": 0.01}},
    "certification": {"points": 6, "n": 200},
}  # fmt: skip


def jobs(folder: Path, *plans: dict[str, Any]) -> list[dict[str, int]]:
    """How many jobs of each rule a run of each of the plans would start now."""
    tables = (re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE) for output in dry_runs(folder, plans))
    return [{rule: int(count) for rule, count in counts if rule != "total"} for counts in tables]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workflow")


@pytest.fixture(scope="module")
def partly_failed(folder: Path) -> subprocess.CompletedProcess:
    return run(folder, plan=PLAN)


def table(folder: Path, kind: str) -> str:
    """tables.md of the 'results', or of the 'incomplete' results of a run that failed."""
    return (folder / "runs/tables/toy" / kind / "tables.md").read_text()


def test_a_failing_combination_stops_no_other_and_is_named_at_the_end(
    folder: Path, partly_failed: subprocess.CompletedProcess
) -> None:
    output = partly_failed.stdout + partly_failed.stderr
    assert partly_failed.returncode != 0
    assert "rules that are not present" not in output  # a warning of Snakemake about a rule of other plans
    assert "batch_clean is 5000" in output  # the failed job's own line
    lacking = output[output.rindex("missing:") :]
    assert "training data: optimised against standard with digits_cnn: 0 of 1 runs" in lacking
    assert "training data: clean" not in lacking
    text = table(folder, "incomplete")
    assert "| gaussianaug | 0.25 | 8 | clean | 200 | 1 |" in text
    assert "| gaussianaug | 0.25 | 8 | optimised against standard | — | 0 of 1 | — |" in text and "Missing" in text
    assert not (folder / "runs/tables/toy/results").exists()


@pytest.fixture(scope="module")
def mended(folder: Path, partly_failed: subprocess.CompletedProcess) -> dict[str, Any]:
    """The plan with a batch that the attack can have, run."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.keras")}
    assert len(before) == 1
    plan = {**PLAN, "attack": {"all": PLAN["attack"]["all"]}}
    assert jobs(folder, plan)[0] == {"all": 1, "plan": 1, "poison": 1, "victim": 1, "certify": 1, "tables": 1}
    output = run(folder, plan=plan)
    assert output.returncode == 0, output.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    return plan


def test_only_what_failed_is_made_when_it_is_mended(folder: Path, mended: dict[str, Any]) -> None:
    text = table(folder, "results")
    assert "Missing" not in text
    assert text.count("| 200 | 1 |") == 2 and " of 1 |" not in text
    points = read_store(folder / "runs/tables/toy/results").points
    assert points.groupby(["entry", "seed"]).size().tolist() == 2 * [6]
    assert not (folder / "runs/tables/toy/incomplete").exists()


# A change of the plan, and the jobs that it makes again beside the plan's own and the tables.
CHANGES: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({"title": "Other"}, {}),
    ({"certification": {"points": 6, "n": 300}}, {"certify": 2}),
    ({"victim": {"all": {"epochs": 5, "learning_rate": 0.01}}}, {"victim": 2, "certify": 2}),
    ({"victim": {**PLAN["victim"], "macer": {"loss.copies": 1}}}, {}),
    ({"methods": {"gaussianaug": [0.25], "macer": [0.25]}}, {"victim": 2, "certify": 2}),
    ({"attack": {"all": PLAN["attack"]["all"], "standard": {"lr_u": 0.05}}}, {"poison": 1, "victim": 1, "certify": 1}),
    ({"runs": 2}, {"victim": 2, "certify": 2}),
    ({"rows": ["clean", "constant"]}, {"control": 1, "victim": 1, "certify": 1}),
]


def test_a_changed_constant_makes_its_dependants_again_and_no_change_nothing(
    folder: Path, mended: dict[str, Any]
) -> None:
    nothing, *made_again = jobs(folder, mended, *({**mended, **change} for change, _ in CHANGES))
    assert nothing == {}
    for found, (change, expected) in zip(made_again, CHANGES, strict=True):
        assert found == {"all": 1, "plan": 1, "tables": 1, **expected}, change


def test_data_that_were_prepared_otherwise_are_refused(folder: Path, mended: dict[str, Any]) -> None:
    command = snakemake(folder, "--dry-run", plan={**mended, "data": {"seed": 7}}, path=folder / "other_data.yaml")
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG)
    assert output.returncode == 2
    assert "DIGITS: was prepared with seed 0, the plan's data says 7; delete this folder" in output.stderr


def test_settings_of_a_sigma_that_the_plan_lacks_and_a_name_twice_are_refused(
    folder: Path, mended: dict[str, Any]
) -> None:
    path = folder / "unused.yaml"
    command = snakemake(folder, "--dry-run", plan={**mended, "victim": {"macer 0.3": {"epochs": 1}}}, path=path)
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG)
    assert output.returncode == 2 and "the plan has no macer 0.3; mend the sigma" in output.stderr
    path.write_text(yaml.safe_dump(mended) + "title: Other\n")
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG)
    assert output.returncode == 2 and "title stands there twice" in output.stderr


def test_the_report_is_one_page(folder: Path, mended: dict[str, Any]) -> None:
    output = run(folder, "--report", str(folder / "report.html"), plan=mended)
    assert output.returncode == 0, output.stderr
    page = (folder / "report.html").read_text()
    tables = (folder / "runs/tables/toy/results/tables.html").read_text()
    times = tables[tables.index("<h2>Run times</h2>") :]
    rows = re.findall(r"<td>(\w+)</td>\s*<td>(\d+)</td>\s*<td>([\de.-]+)</td>", times)
    assert {rule: int(jobs) for rule, jobs, _ in rows} == {"certify": 2, "poison": 1, "victim": 2}
    assert all(float(hours) > 0 for *_, hours in rows)
    for name in ("tables.html", "acr.png", "p_a.png", "certified_accuracy.png"):
        assert name in page
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="https?:', page)
