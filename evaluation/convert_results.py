"""Once: move results/tables/<table>/cells into results/<table>/ as a store, and show that every number is reproduced.

    python evaluation/convert_results.py

Compared to the printed digit: every row of summary.csv and of each tables.csv, and every table of each tables.md.
"""

import csv
import io
import json
import lzma
import re
import shutil
from pathlib import Path

import pandas as pd

from evaluation.store import Store, write_store
from evaluation.tables import records
from evaluation.tables.plan import read_plan
from randomized_smoothing_certification.certificate_file import read_points
from runtime.files import read_json, read_text
from runtime.provenance import project_path

records.cell_folder = lambda cell: f"cells/{cell.key}"  # type: ignore[attr-defined]
from evaluation.tables.formats import as_csv, as_markdown  # noqa: E402
from evaluation.tables.layout import tables_of  # noqa: E402
from evaluation.tables.records import missing, points_table, read_entries  # noqa: E402
from evaluation.tables.statistics import PLUS_MINUS  # noqa: E402

RESULTS = project_path("results")


def stored(old: Path) -> Store:
    """All points and records of an old folder, those of n_10000/ and bfloat16/ too."""
    tables, of_entries = [], {}
    for path in sorted(old.rglob("seed_*.tsv")):
        folder = path.parent.relative_to(old)
        entry = str(folder.relative_to("cells")) if folder.parts[0] == "cells" else str(folder)
        seed = path.stem.removeprefix("seed_")
        settings = path.parent / "settings.json"
        of_run = read_json(settings)[seed] if settings.is_file() else {"victim": {}, "see": "NOTES.md"}
        of_run.pop("tsv_sha256", None)
        points = read_points(path)
        if "certificate" in of_run:
            assert of_run["certificate"].pop("points") == [point.idx for point in points], path
        of_entries.setdefault(entry, {})[seed] = of_run
        tables.append(points_table(entry, int(seed), points))
    return Store(pd.concat(tables, ignore_index=True), of_entries)


def without_links(text: str) -> str:
    return re.sub(r"\[([^]]*)]\(cells/[^)]*\)", r"\1", re.sub(r" <sup>.*?</sup>", "", text))


def rows_of(text: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    return [{name: value for name, value in row.items() if name not in ("settings", "tsv", "table")} for row in rows]


def main() -> None:
    summary, checked = read_text(RESULTS / "summary.csv"), []
    for old in sorted(path.parent for path in RESULTS.glob("tables/*/plan.yaml")):
        new = RESULTS / old.name
        new.mkdir(exist_ok=True)
        write_store(new, stored(old))
        for name in ("plan.yaml", "NOTES.md"):
            if (old / name).is_file():
                shutil.copy(old / name, new / name)
        if (scalars := old / "attack_scalars.csv").is_file():
            (new / "attack_scalars.csv.xz").write_bytes(lzma.compress(scalars.read_bytes(), preset=9))
        plan = read_plan(new / "plan.yaml")
        entries = read_entries(plan, new)
        lacking = missing(list(entries.values()))
        notes = ["Missing:\n\n" + "\n".join(f"- {line}" for line in lacking)] if lacking else []
        text = as_markdown(tables_of(plan, entries), [f"{PLUS_MINUS}.", *notes], links=False)
        assert text == without_links(read_text(old / "tables.md")), old
        rows = rows_of(as_csv(entries))
        assert rows == rows_of(read_text(old / "tables.csv")), old
        checked += [(old.name, row) for row in rows]
        for row in entries.values():
            for run in row.runs:
                before = read_json(old / "cells" / row.cell.key / "settings.json")[str(run.seed)]
                assert json.dumps(without(before)) == json.dumps(run.records)
        print(f"{new.name}: {len(rows)} rows, {len(text.splitlines())} lines of tables as before")
    of_summary = list(csv.DictReader(io.StringIO(summary)))
    assert len(of_summary) == len(checked)
    for row, (table, found) in zip(of_summary, checked, strict=True):
        assert row["table"] == table
        assert all(row[name] == value for name, value in found.items()), (table, found)
    print(f"summary.csv: all {len(checked)} rows as before")


def without(of_run: dict) -> dict:
    of_run.pop("tsv_sha256", None)
    of_run.get("certificate", {}).pop("points", None)
    return of_run


if __name__ == "__main__":
    main()
