"""Every number in results/ and benchmarks/ is computed again from the records beside it, and no overview is stale."""

import re
from pathlib import Path

import numpy as np
import pytest

import data
from evaluation.boundary.experiment import tables_page as boundary_page
from evaluation.label_flipping.collect import by_dataset, read_label_studies
from evaluation.label_flipping.report import curve_table, tables_page
from evaluation.store import read_store
from evaluation.survival.write_page import page, read_studies
from evaluation.tables.formats import as_text
from evaluation.tables.layout import tables_by_training_data
from evaluation.tables.make_tables import tables_as_text
from evaluation.tables.plan import read_plan
from evaluation.tables.records import read_entries, read_radii, require_clean_commits
from evaluation.tables.write_results import overview, speed_page

ROOT = Path(data.__file__).parents[1]
RESULTS = ROOT / "results"
STORES = sorted(path.parent for path in RESULTS.glob("tables/*/plan.yaml"))
LABELS, BOUNDARY = RESULTS / "label_flipping", RESULTS / "decision_boundary"


def test_nothing_lies_in_the_results_without_a_record() -> None:
    assert STORES
    known = {*STORES, LABELS, BOUNDARY, RESULTS / "which_poison_survives"}
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


def test_tables_of_changed_labels_follow_from_the_points() -> None:
    store = read_label_studies(LABELS)
    remade = "python evaluation/label_flipping/collect.py --studies results/label_flipping"
    assert (LABELS / "tables.md").read_text() == tables_page(store), remade
    assert {path.name for path in LABELS.glob("*.png")} == set(by_dataset(store)), remade
    headings = re.findall("^## (.*)$", (LABELS / "NOTES.md").read_text(), flags=re.MULTILINE)
    assert sorted(headings) == list(store.records) and len(headings) == 12
    for entry, of_seeds in store.records.items():
        require_clean_commits(LABELS / entry, of_seeds)


# study, certificate, q (0: none): accuracy without attack, at the study's number of changes, median of the changes
HEADLINES = {
    ("MNIST_1_7_raw_tight", "closed_form", 0.1): ("0.961", "0.821", None),
    ("MNIST_1_7_raw_tight", "closed_form", 0.4): ("0.960", "0.763", None),
    ("MNIST_1_7_raw_tight", "tight", 0.1): ("0.961", "0.917", None),
    ("MNIST_1_7_raw_tight", "tight", 0.4): ("0.960", "0.889", None),
    ("MNIST_1_7_raw_tight", "ridge", 0): ("0.961", "0.944", None),
    ("MNIST_1_7_raw_signed_least_squares_tight", "closed_form", 0.01): ("0.963", "0.878", 1313),
    ("MNIST_1_7_raw_signed_least_squares_tight", "signed", 0): ("0.963", "0.954", 4083),
    ("MNIST_raw_tight", "ridge", 0): ("0.718", "0.374", None),
    ("MNIST_raw_signed_least_squares_tight", "signed", 0): ("0.807", "0.471", 1096),
    ("MNIST_contrastive_neighbours_tight", "neighbours", 0): ("0.950", "0.504", 603),
    ("MNIST_contrastive_diffusion_neighbours_tight", "tight", 0.01): ("0.964", "0.795", 1828),
    ("MNIST_contrastive_diffusion_neighbours_tight", "tight", 0.475): ("0.964", "0.000", 1196),
    ("MNIST_contrastive_diffusion_neighbours_tight", "closed_form", 0.475): ("0.964", "0.000", 599),
    ("MNIST_contrastive_diffusion_neighbours_tight", "neighbours", 0): ("0.964", "0.877", 2384),
    ("MNIST_contrastive_diffusion_signed_neighbours_tight", "tight", 0.01): ("0.964", "0.613", 3149),
    ("MNIST_contrastive_diffusion_signed_neighbours_tight", "signed", 0): ("0.964", "0.874", 4490),
    ("MNIST_contrastive_diffusion_kernel_tight", "kernel", 0): ("0.956", "0.636", 1769),
    ("MNIST_patches_diffusion_neighbours_tight", "neighbours", 0): ("0.936", "0.816", 2290),
    ("MNIST_patches_diffusion_signed_neighbours_tight", "signed", 0): ("0.938", "0.809", 4368),
    ("CIFAR10_contrastive_neighbours_tight", "neighbours", 0): ("0.405", "0.149", None),
    ("CIFAR10_patches_contrastive_signed_least_squares_tight", "signed", 0): ("0.554", "0.358", 82),
}


def test_headlines_of_the_label_studies_are_those_of_their_first_tables() -> None:
    """The tables that a file for each study held; those of ridge regression had no median."""
    rows = curve_table(read_label_studies(LABELS)).fillna({"q": 0}).set_index(["entry", "certificate", "q"])
    for key, (unattacked, accuracy, median) in HEADLINES.items():
        row = rows.loc[key]
        assert (f"{row['unattacked']:.3f}", f"{row['accuracy']:.3f}") == (unattacked, accuracy), key
        assert median is None or row["median"] == median, key


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


def test_the_table_of_the_decision_boundary_follows_from_its_radii() -> None:
    store = read_store(BOUNDARY)
    table = (BOUNDARY / "tables.md").read_text()
    assert table == boundary_page(store)
    for first_printed in (
        "| linear | clean | 0.170 ± 0.000 |  | 0.970 ± 0.000 | 0.978",
        "| linear | optimised | 0.133 ± 0.000 | 22.0 % | 0.927 ± 0.006 | 0.967",
        "| network | contrast | 0.183 ± 0.003 | -32.4 % | 0.957 ± 0.006 | 0.952",
        "| network | optimised | 0.089 ± 0.009 | 35.9 % | 0.933 ± 0.012 | 0.982",
    ):
        assert first_printed in table
    for entry, of_seeds in store.records.items():
        require_clean_commits(BOUNDARY / entry, of_seeds)


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
