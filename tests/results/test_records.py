"""Every number in results/ and benchmarks/ is computed again from the records beside it, and no overview is stale."""

import json
import lzma
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

import data
from evaluation.boundary.experiment import tables_page as boundary_page
from evaluation.tables.claims import judged, read_claims
from evaluation.tables.formats import as_text
from evaluation.tables.frame import frame_of
from evaluation.tables.layout import tables_by_victims
from evaluation.tables.make_tables import tables_as_text
from evaluation.tables.plan import read_plan
from evaluation.tables.records import missing, read_entries
from evaluation.write_results import overview, read_frames, speed_page, with_headlines
from label_flipping.collect import by_dataset, read_label_studies
from label_flipping.report import _drawn, curve_table, tables_page, trusted_labels
from runtime.provenance import require_clean_commits
from runtime.store import SETTINGS, read_store

ROOT = Path(data.__file__).parents[1]
RESULTS = ROOT / "results"
PLANS = sorted(path.parent for path in RESULTS.glob("*/plan.yaml"))
LABELS, BOUNDARY = OTHERS = RESULTS / "label_flipping", RESULTS / "decision_boundary"
BEFORE = Path(__file__).with_name("summary_before.csv.xz")


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    return read_frames(RESULTS)


def test_the_results_fit_in_the_hand() -> None:
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert len(files) <= 250 and sum(path.stat().st_size for path in files) <= 8_192 * 1_024  # a clone stays small
    assert {path for path in RESULTS.iterdir() if path.is_dir()} == {*PLANS, *OTHERS} and len(PLANS) > 20
    assert len((RESULTS / "README.md").read_text().splitlines()) <= 150
    for folder in (*PLANS, *OTHERS):
        pictures = sorted(folder.glob("*.png"))
        most = 4 if folder == LABELS else 3  # label_flipping has one for each data set and choice of classes
        assert len(pictures) <= most and all(imread(picture).shape[1] <= 2_000 for picture in pictures), folder
        assert {"points.csv.xz", "settings.json.xz", "tables.md"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("folder", PLANS, ids=lambda path: path.name)
def test_tables_follow_from_the_store(folder: Path) -> None:
    plan = read_plan(folder / "plan.yaml")
    entries = read_entries(plan, folder)
    lacking = missing(list(entries.values()))
    text = tables_as_text(plan, frame_of(plan, entries), lacking, pd.DataFrame())["tables.md"]
    assert (folder / "tables.md").read_text() == text, f"make_tables.py --plan {folder}/plan.yaml --from-results"


def test_every_row_of_the_summary_before_the_stores_is_reproduced() -> None:
    """All 511 rows that the certificates gave when each lay in a file of its own, to the printed digit."""
    before = pd.read_csv(BEFORE, dtype=str, keep_default_na=False)
    after = pd.read_csv(RESULTS / "summary.csv", dtype=str, keep_default_na=False)
    key = ["table", "method", "sigma", "architecture", "target_class"]
    key += ["poison", "poison_architecture", "poison_variant", "victim_variant"]
    assert {*before} <= {*after} and len(before) == 511
    rows = {tuple(row[name] for name in key): row for row in after.to_dict("records")}
    for row in before.to_dict("records"):
        found = rows[tuple(row[name] for name in key)]
        # Gradients stand where attacks have no name, too.
        assert {name: found[name] for name in row if row[name] or name != "gradients"} == {
            name: value for name, value in row.items() if value or name != "gradients"
        }


def test_linked_numbers_stand_in_the_tables_that_they_link_to() -> None:
    """What is written by hand; results/claims.md and README.md's headlines are computed, see below."""
    page = RESULTS / "which_poison_survives.md"
    linked = re.findall(r"\[([^]]*)]\(([^)]*/tables\.md)\)", page.read_text())
    numbers = [(number, path) for text, path in linked for number in re.findall(r"\d[\d.,]*\d", text)]
    assert len(numbers) > 20
    texts = {path: (page.parent / path).read_text() for _, path in numbers}
    for number, path in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", texts[path]), (number, path)


def test_tables_of_changed_labels_follow_from_the_points() -> None:
    store = read_label_studies(LABELS)
    remade = "python label_flipping/collect.py --studies results/label_flipping"
    assert (LABELS / "tables.md").read_text() == tables_page(store), remade
    assert {path.name for path in LABELS.glob("*.png")} == set(by_dataset(store)), remade
    headings = re.findall("^## (.*)$", (LABELS / "NOTES.md").read_text(), flags=re.MULTILINE)
    assert sorted(headings) == list(store.records) and len(headings) == 14
    for entry, of_seeds in store.records.items():
        require_clean_commits(LABELS / entry, of_seeds)
        exact = store.points[(store.points["entry"] == entry) & store.points["q"].isna()]
        assert exact.groupby("seed").size().to_dict() == {
            int(seed): record["test_points"] for seed, record in of_seeds.items()
        }, entry
    figure = _drawn(by_dataset(store)["MNIST_1_against_7.png"])
    assert sum(curve.kind == "network" for curve in figure) == 3  # undefended, so never left out
    curves = curve_table(store)
    without_points = curves["certificate"][curves["points"].isna()]
    assert without_points.str.startswith("network_").sum() + (without_points == "signed_together").sum() == len(
        without_points
    )


def test_the_comparison_says_where_a_published_number_is_not_at_hand() -> None:
    """In words. SS-DPA has other features on CIFAR10 than on the digits."""
    rows = [line for line in (LABELS / "NOTES.md").read_text().splitlines() if line.startswith("| ")]
    assert not [row for row in rows if "?" in row] and sum("not at hand" in row for row in rows) == 4
    (ss_dpa,) = (row for row in rows if row.startswith("| SS-DPA"))
    assert "RotNet (digits), SimCLR (CIFAR10)" in ss_dpa


def test_the_notes_count_the_trusted_labels_of_every_study() -> None:
    notes = " ".join((LABELS / "NOTES.md").read_text().split())
    for entry, of_seeds in read_label_studies(LABELS).records.items():
        trusted = trusted_labels(of_seeds["0"])
        assert (f"{entry} ({trusted:,} " in notes) == (trusted > 0), entry


# study, certificate, q (0: none): accuracy without attack, at the study's number of changes, median of the changes
HEADLINES = {
    ("MNIST_1_7_raw_tight", "closed_form", 0.1): ("0.961", "0.821", None),
    ("MNIST_1_7_raw_tight", "closed_form", 0.4): ("0.960", "0.763", None),
    ("MNIST_1_7_raw_tight", "tight", 0.1): ("0.961", "0.917", None),
    ("MNIST_1_7_raw_tight", "tight", 0.4): ("0.960", "0.889", None),
    ("MNIST_1_7_raw_tight", "ridge", 0): ("0.961", "0.944", None),
    ("MNIST_1_7_raw_signed_least_squares_tight", "signed", 0): ("0.909", "0.357", 408),
    ("MNIST_1_7_raw_signed_least_squares_every_tight", "signed", 0): ("0.916", "0.821", 1364),
    ("MNIST_1_7_raw_signed_clusters_tight", "signed", 0): ("0.955", "0.955", 5952),
    ("MNIST_1_7_deskewed_diffusion_signed_clusters_tight", "signed", 0): ("0.993", "0.993", 6342),
    ("MNIST_deskewed_diffusion_signed_clusters_tight", "signed", 0): ("0.971", "0.971", 5578),
    ("FASHION_patches_diffusion_signed_neighbours_tight", "signed", 0): ("0.683", "0.613", 2686),
    ("MNIST_raw_tight", "ridge", 0): ("0.744", "0.367", 360),
    ("MNIST_raw_signed_least_squares_tight", "signed", 0): ("0.885", "0.563", 694),
    ("MNIST_patches_diffusion_neighbours_tight", "tight", 0.475): ("0.916", "0.691", 1073),
    ("MNIST_patches_diffusion_neighbours_tight", "closed_form", 0.475): ("0.916", "0.435", 538),
    ("MNIST_patches_diffusion_neighbours_tight", "neighbours", 0): ("0.918", "0.882", 2389),
    ("MNIST_patches_diffusion_signed_neighbours_tight", "signed", 0): ("0.919", "0.904", 4784),
    ("CIFAR10_root_patches_signed_least_squares_tight", "signed", 0): ("0.625", "0.101", 92),
    ("CIFAR10_imagenet_diffusion_signed_neighbours_tight", "signed", 0): ("0.647", "0.584", 1039),
    ("CIFAR10_imagenet_signed_least_squares_tight", "signed", 0): ("0.763", "0.352", 312),
}


def test_headlines_of_the_label_studies_are_those_of_their_first_tables() -> None:
    """The tables that a file for each study held; those of ridge regression had no median."""
    rows = curve_table(read_label_studies(LABELS)).fillna({"q": 0}).set_index(["entry", "certificate", "q"])
    for key, (unattacked, accuracy, median) in HEADLINES.items():
        row = rows.loc[key]
        assert (f"{row['unattacked']:.3f}", f"{row['accuracy']:.3f}") == (unattacked, accuracy), key
        assert median is None or row["median"] == median, key


def test_every_test_point_of_a_cluster_study_is_certified() -> None:
    """What its notes say of the least certificate, and that nothing was held out."""
    store = read_label_studies(LABELS)
    exact = store.points[store.points["certificate"] == "signed"].groupby("entry")["flips"].min()
    least = {"MNIST_1_7_raw": 5952, "MNIST_1_7_deskewed_diffusion": 6342, "MNIST_deskewed_diffusion": 5117}
    for study, flips in least.items():
        entry = f"{study}_signed_clusters_tight"
        assert exact[entry] == flips and store.records[entry]["0"]["choice"]["held_out"] == 0


def test_the_table_of_the_decision_boundary_follows_from_its_radii() -> None:
    store = read_store(BOUNDARY)
    table = (BOUNDARY / "tables.md").read_text()
    assert table == boundary_page(store)
    for first_printed in (
        "| linear | clean | 0.170 ± 0.001 |  | 0.970 ± 0.000 | 0.975",
        "| linear | optimised | 0.131 ± 0.001 | 22.5 % (",
        "| network | contrast | 0.181 ± 0.004 | -27.9 % (",
        "| network | optimised | 0.088 ± 0.005 | 37.6 % (",
    ):
        assert first_printed in table
    for entry, of_seeds in store.records.items():
        require_clean_commits(BOUNDARY / entry, of_seeds)


def test_every_record_names_a_commit() -> None:
    checked = 0
    for folder in (*PLANS, *OTHERS):
        text = lzma.decompress((folder / SETTINGS).read_bytes()).decode()
        commits = re.findall(r'"commit": "(.*?)"', text)
        assert commits and all(re.fullmatch("[0-9a-f]{7,12}", commit) for commit in commits), folder
        checked += len(commits)
    assert checked > 2_000
    for path in (ROOT / "benchmarks/records").glob("*.json"):
        assert re.fullmatch("[0-9a-f]{7,12}", json.loads(path.read_text())["commit"]), path


def test_the_readme_shows_the_demo_as_it_was_measured() -> None:
    plan = read_plan(RESULTS / "demo/plan.yaml")
    tables = as_text(tables_by_victims(frame_of(plan, read_entries(plan, RESULTS / "demo"))))
    shown = tables[: tables.index("\n\n", tables.index("clean"))]  # of the method that make demo runs by default
    indented = "\n".join(f"    {line}".rstrip() for line in shown.splitlines())
    assert indented in (ROOT / "README.md").read_text()


def test_the_overviews_are_not_stale(frames: dict[str, pd.DataFrame]) -> None:
    found = judged(read_claims(RESULTS / "claims.yaml"), frames)
    for name, text in overview(RESULTS, frames, found).items():
        assert (RESULTS / name).read_text() == text, "python evaluation/write_results.py"
    readme = (ROOT / "README.md").read_text()
    assert readme == with_headlines(readme, found) and "| 3 victims of 101 epochs, 1 attack run," in readme
    written = (ROOT / "benchmarks/README.md").read_text()
    assert written == speed_page(ROOT / "benchmarks/records"), "python evaluation/write_results.py"


def test_bfloat16_certificates_agree_with_float32_as_the_notes_say() -> None:
    folder = RESULTS / "mnist_schedules"
    said, points = re.sub(r"\s+", " ", (folder / "NOTES.md").read_text()), read_store(folder).points
    for poison in ("clean", "published_attack"):
        cell = "clean" if poison == "clean" else f"ready_sigma_0.5_class_8_{poison}"
        radii = [
            np.where(run["correct"] == 1, run["radius"], -1.0)
            for entry in (f"gaussianaug_mnist_cnn_sigma_0.5_one_cycle/{cell}/class_8", f"bfloat16/{poison}")
            for run in [points[(points["entry"] == entry) & (points["seed"] == 0)]]
        ]
        one, other = (np.maximum(of, 0) for of in radii)
        assert f"{other.mean():.4f}" in said and f"{one.mean():.4f}" in said
        assert np.mean(radii[0] >= 0) == np.mean(radii[1] >= 0)
        assert f"{np.mean(radii[0] >= 0):.3f}" in said and np.abs(one - other).mean() < 0.0025
