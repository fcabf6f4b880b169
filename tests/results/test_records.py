"""Every number in results/ and benchmarks/ is computed again from the records beside it, and no overview is stale."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import data
from evaluation.boundary.experiment import text_table
from evaluation.boundary.study import BoundaryConfig, Row
from evaluation.label_flipping.report import EXACT
from evaluation.survival.write_page import page, read_studies
from evaluation.tables.formats import as_text
from evaluation.tables.layout import tables_by_training_data
from evaluation.tables.make_tables import tables_as_text
from evaluation.tables.plan import read_plan
from evaluation.tables.records import read_entries, read_radii
from evaluation.tables.write_results import overview, speed_page

ROOT = Path(data.__file__).parents[1]
RESULTS = ROOT / "results"
STORES = sorted(path.parent for path in RESULTS.glob("tables/*/plan.yaml"))
LABELS = sorted(RESULTS.glob("label_flipping_*"))


def test_nothing_lies_in_the_results_without_a_record() -> None:
    assert STORES and LABELS
    known = {*STORES, *LABELS, RESULTS / "decision_boundary", RESULTS / "which_poison_survives"}
    assert {path for path in [*RESULTS.glob("*/"), *RESULTS.glob("tables/*/")] if path.is_dir()} == {
        *known, RESULTS / "tables",
    }  # fmt: skip


@pytest.mark.parametrize("store", STORES, ids=lambda path: path.name)
def test_tables_follow_from_the_certificates(store: Path) -> None:
    plan = read_plan(store / "plan.yaml")
    for name, text in tables_as_text(plan, read_entries(plan, store)).items():
        assert (store / name).read_text() == text, f"make_tables.py --plan {store}/plan.yaml --from-results"


def test_the_page_on_surviving_poison_follows_from_its_records() -> None:
    text = (RESULTS / "which_poison_survives.md").read_text()
    assert text == page(read_studies(RESULTS), RESULTS), "python evaluation/survival/write_page.py"
    for picture in re.findall(r"]\((.*?\.png)\)", text):
        assert (RESULTS / picture).is_file(), picture


@pytest.mark.parametrize("folder", LABELS, ids=lambda path: path.name)
def test_curves_of_changed_labels_follow_from_the_points(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())["config"]
    curves = pd.read_csv(folder / "curve.csv")
    of_files = {f"q_{q:g}.tsv": (settings["bound"], q) for q in settings["q"]}
    if (folder / "exact.tsv").is_file():
        of_files["exact.tsv"] = EXACT[settings["learner"]], None
    for name, (kind, q) in of_files.items():
        points = pd.read_csv(folder / name, sep="\t")
        curve = curves[(curves["curve"] == kind) & (curves["q"].isna() if q is None else curves["q"] == q)]
        assert len(curve) > 10
        for flips, accuracy in zip(curve["flips"], curve["accuracy"], strict=True):
            assert np.mean((points["correct"] == 1) & (points["flips"] >= flips)) == pytest.approx(accuracy, abs=6e-5)


@pytest.mark.parametrize(("overview_page", "least"), [(RESULTS / "NOTES.md", 20), (ROOT / "README.md", 10)])
def test_numbers_beside_the_papers_claims_stand_in_the_records_that_they_link_to(
    overview_page: Path, least: int
) -> None:
    linked = re.findall(r"\[([^]]*)]\(([^)]*\.(?:md|txt|csv))\)", overview_page.read_text())
    numbers = [(number, path) for text, path in linked for number in re.findall(r"\d[\d.]*", text)]
    assert len(numbers) > least
    for number, path in numbers:
        record = (overview_page.parent / path).read_text()
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", record), (number, path)


def test_radii_of_the_decision_boundary_give_its_numbers() -> None:
    record = json.loads((RESULTS / "decision_boundary/decision_boundary.json").read_text())
    measured: dict[str, dict[str, Row]] = {}
    for kind, rows in record["results"].items():
        for name, row in rows.items():
            acr = [np.mean(radii) for radii in row["radii"]]
            assert row["acr"] == pytest.approx(acr) and row["acr_mean"] == pytest.approx(np.mean(acr))
            measured.setdefault(kind, {})[name] = Row(row["radii"], row["accuracy"], np.empty((0, 2)), [])
    table = text_table(measured, BoundaryConfig(**record["config"]))
    assert (RESULTS / "decision_boundary/table.txt").read_text() == table + "\n"


def test_every_record_names_a_commit() -> None:
    records = [path for path in RESULTS.rglob("*.json") if '"commit"' in path.read_text()]
    assert len(records) > 50
    for path in [*records, *(ROOT / "benchmarks/records").glob("*.json")]:
        commits = re.findall(r'"commit": "(.*?)"', path.read_text())
        assert commits and all(re.fullmatch("[0-9a-f]{7,12}", commit) for commit in commits), path


def test_the_readme_shows_the_demo_as_it_was_measured() -> None:
    plan = read_plan(RESULTS / "tables/demo/plan.yaml")
    tables = as_text(tables_by_training_data(plan, read_entries(plan, RESULTS / "tables/demo")))
    shown = tables[: tables.index("\n\n", tables.index("clean"))]  # of the method that make demo runs by default
    indented = "\n".join(f"    {line}".rstrip() for line in shown.splitlines())
    assert indented in (ROOT / "README.md").read_text()


def test_the_overviews_are_not_stale() -> None:
    for name, text in overview(RESULTS).items():
        assert (RESULTS / name).read_text() == text, "python evaluation/tables/write_results.py"
    written = (ROOT / "benchmarks/README.md").read_text()
    assert written == speed_page(ROOT / "benchmarks/records"), "python evaluation/tables/write_results.py"


def test_bfloat16_certificates_agree_with_float32_as_the_notes_say() -> None:
    folder = RESULTS / "tables/mnist_schedules"
    said = re.sub(r"\s+", " ", (folder / "NOTES.md").read_text())
    for poison in ("clean", "published_attack"):
        cell = "clean" if poison == "clean" else f"ready_sigma_0.5_class_8_{poison}"
        float32 = folder / f"cells/gaussianaug_mnist_cnn_sigma_0.5_one_cycle/{cell}/class_8/seed_0.tsv"
        radii = [read_radii(path, 8)[0] for path in (float32, folder / f"bfloat16/{poison}/seed_0.tsv")]
        one, other = (np.maximum(of, 0) for of in radii)
        assert f"{other.mean():.4f} against {one.mean():.4f}" in said
        assert np.mean(radii[0] >= 0) == np.mean(radii[1] >= 0)
        assert f"{np.mean(radii[0] >= 0):.3f}" in said and np.abs(one - other).mean() < 0.0025
