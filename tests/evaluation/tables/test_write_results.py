"""The overview of all tables keeps every entry of every one of them."""

import csv
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evaluation.tables.plan import Plan, plan_of
from evaluation.tables.records import cell_folder, read_entries, require_clean_commits
from evaluation.tables.write_results import Config, main, overview
from runtime.files import InputError, file_sha256, read_json, write_json, write_text

ROWS = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t8\t8\t{radius}\t1\t0:00:01.1\n"
PLAIN: dict[str, Any] = {
    "table": "plain", "title": "Plain", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 1,
    "methods": {"macer": [0.5]}, "rows": ["clean", "optimised"],
}  # fmt: skip
CROSSED = {**PLAIN, "table": "crossed", "attacks": {"soba": {"epochs": [1, 5]}}, "victims": {"slow": {}, "fast": {}}}


def write_store(results: Path, values: dict[str, Any]) -> Plan:
    """A table's store in which every entry has a radius of its own."""
    plan = plan_of(values)
    store = results / "tables" / plan.table
    write_text(store / "plan.yaml", msgspec.yaml.encode(plan).decode())
    for number, cell in enumerate(plan.cells()):
        tsv = store / cell_folder(cell) / "seed_0.tsv"
        write_text(tsv, ROWS.format(radius=f"{1 + number / 10:.6f}"))
        poison = {"poison": {"gradients": 100.0 + number}} if cell.poison and cell.poison.variant else {}
        record = {"victim": {}, **poison, "tsv_sha256": file_sha256(tsv)}
        write_json(tsv.parent / "settings.json", {"0": record})
    return plan


def test_a_table_of_variants_leaves_the_rows_of_others_as_they_are(tmp_path: Path) -> None:
    plain = write_store(tmp_path, PLAIN)
    before = list(csv.DictReader(overview(tmp_path)["summary.csv"].splitlines()))
    crossed = write_store(tmp_path, CROSSED)
    after = list(csv.DictReader(overview(tmp_path)["summary.csv"].splitlines()))
    assert len(before) == len(plain.cells()) and len(after) == len(plain.cells()) + len(crossed.cells())
    of_plain = [row for row in after if row["table"] == "plain"]
    assert [{name: row[name] for name in before[0]} for row in of_plain] == before
    assert all(row["victim_variant"] == row["poison_variant"] == row["gradients"] == "" for row in of_plain)
    names = ("table", "method", "sigma", "target_class", "poison", "poison_variant", "victim_variant")
    assert len({tuple(row[name] for name in names) for row in after}) == len(after)
    radii = {cell: entry.runs[0].acr for cell, entry in read_entries(crossed, tmp_path / "tables/crossed").items()}
    (row,) = (row for row in after if row["poison_variant"] == "soba_epochs_5" and row["victim_variant"] == "fast")
    (cell,) = (cell for cell in radii if cell.row == "soba_epochs_5" and cell.victim.variant == "fast")
    assert float(row["acr_mean"]) == radii[cell] and row["gradients"] == f"{100 + list(radii).index(cell)}.0"


def test_the_page_shows_what_the_attacks_spent(tmp_path: Path) -> None:
    write_store(tmp_path, CROSSED)
    folder = tmp_path / "tables/crossed/figures"
    folder.mkdir()
    (folder / "acr_against_gradients_x.png").touch()
    page = overview(tmp_path)["README.md"]
    assert "| macer, fast | 0.5 | 8 | soba | 5 | 107 |" in page
    assert "![acr_against_gradients_x](tables/crossed/figures/acr_against_gradients_x.png)" in page


def test_pages_are_not_written_of_nothing(tmp_path: Path) -> None:
    results, benchmarks = tmp_path / "results", tmp_path / "benchmarks"
    config = Config(results_dir=results, benchmarks_dir=benchmarks)

    def refused(message: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=message):
            main(config)
        assert sorted(tmp_path.rglob("*")) == before

    refused(rf"{results}: has no table .* and no study")
    write_text(results / "tables/cells/a.txt", "not where a table's plan is")
    refused(rf"{results}: has no table .* and no study")
    write_text(results / "tables/plain/plan.yaml", msgspec.yaml.encode(plan_of(PLAIN)).decode())
    refused(rf"{results}/tables/plain: has no certificate of the plan \(macer .*: 0 of 1 runs, the first of 2 entries")
    write_store(results, PLAIN)
    refused(rf"{benchmarks}/records: has no record")


NO_COMMITS = ["unknown", "unknown (fatal: not a git repository)", "0123456789ab-dirty", "", "0123ab", "HEAD"]
ABOUT = {"command": "python x.py", "commit": "0123456789ab", "backend": "jax", "machine": "x86_64"}


def write_records(folder: Path) -> dict[str, Path]:
    """A table, a study of two records and a benchmark, as write_results.py takes them; a file of each."""
    plan = write_store(folder / "results", PLAIN)
    cell = folder / "results/tables/plain" / cell_folder(plan.cells()[0]) / "settings.json"
    write_json(cell, {"0": {**read_json(cell)["0"], "victim": ABOUT}})
    write_text(folder / "results/study/table.txt", "1 2\n")
    study, of_features = folder / "results/study/settings.json", folder / "results/study/features.json"
    benchmark = folder / "benchmarks/records/speed.json"
    for path in (study, of_features, benchmark):
        write_json(path, {**ABOUT, "about": {}, "rows": [{"seconds": 1.0}]})
    return {"table": cell, "study": study, "features": of_features, "benchmark": benchmark}


@pytest.mark.parametrize("kind", ["table", "study", "features", "benchmark"])
def test_what_is_of_no_clean_commit_is_refused_before_anything_is_written(kind: str, tmp_path: Path) -> None:
    config = Config(results_dir=tmp_path / "results", benchmarks_dir=tmp_path / "benchmarks")
    path = write_records(tmp_path)[kind]
    whole = path.read_text()
    for commit in NO_COMMITS:
        path.write_text(whole.replace(ABOUT["commit"], commit))
        with pytest.raises(InputError, match="which is no commit that others can check out") as caught:
            main(config)
        assert f"measured at {commit}," in str(caught.value) and str(path.parent) in str(caught.value)
    if kind != "table":  # where certificates of other programs name none
        path.write_text(whole.replace('"commit"', '"other"'))
        with pytest.raises(InputError, match="'commit' is missing"):
            main(config)
    assert not list(tmp_path.rglob("README.md"))
    path.write_text(whole)
    main(config)
    assert "0123456789ab" in (tmp_path / "benchmarks/README.md").read_text()


def test_a_run_of_this_project_names_a_commit_and_another_programs_need_not(tmp_path: Path) -> None:
    require_clean_commits(tmp_path, {"victim": {"accuracy": 0.9}, "file": "a.tsv"})
    with pytest.raises(InputError, match="its records name no commit"):
        require_clean_commits(tmp_path, {"victim": {}, "certificate": {"settings": {}, "points": []}})
    with pytest.raises(InputError, match="measured at None, which is no commit"):
        require_clean_commits(tmp_path, {"victim": {"commit": None}})
