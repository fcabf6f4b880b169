"""Write results/README.md, results/summary.csv and benchmarks/README.md from the records in both folders.

    python evaluation/tables/write_results.py

results/tables/<table>/ are stores of measured tables (see records.py); every other folder of results/ is a study with a
table.txt, figures, and a JSON record of command and commit. benchmarks/records/ has what benchmarks wrote with --out.
What a person has to say about any of them is in its NOTES.md.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from attack_generation.controls import CONTROLS
from evaluation.tables.formats import as_csv, as_markdown
from evaluation.tables.layout import Entries, tables_of
from evaluation.tables.plan import read_plan
from evaluation.tables.records import commits, missing, read_entries, require_clean_commits, require_runs
from evaluation.tables.statistics import PLUS_MINUS
from runtime.command_line import run_script
from runtime.files import InputError, read_record, read_text, write_text
from runtime.provenance import project_path, shown_path

HEAD = f"""# Results

Made by `python evaluation/tables/write_results.py` from the records in this folder; edit those, or a NOTES.md, and run
it again. `summary.csv` has all entries of all tables, `tables/*/cells/` what they are computed from: a line per test
point. "Reduction" is of the ACR, against victims of clean data of the same seeds. ACR: l2, pixels in [0, 1].
{PLUS_MINUS}.
"""

SPEED = """# Speed and memory

Made by `python evaluation/tables/write_results.py` from the records in `records/`, which are made by, for example,
`python benchmarks/speed.py --out benchmarks/records/speed.json`. `make benchmark` prints the same for your machine.
Bars are what the project asks of itself; most are in gradients, for machines differ.
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the overview."""

    results_dir: Path = project_path("results")
    """Folder of the records."""
    benchmarks_dir: Path = project_path("benchmarks")
    """Folder of records/ of speed and memory."""


def main(config: Config) -> None:
    """Write the files. Raises InputError where a record is missing, damaged or of no commit, or there is none."""
    pages = {config.results_dir / name: text for name, text in overview(config.results_dir).items()}
    pages[config.benchmarks_dir / "README.md"] = speed_page(config.benchmarks_dir / "records")
    for path, text in pages.items():
        write_text(path, text)
        print(f"{shown_path(path)}: written")


def overview(results: Path) -> dict[str, str]:
    """Content of README.md and summary.csv."""
    sections, frames = [HEAD + _notes(results)], []
    for plan_file in sorted(results.glob("tables/*/plan.yaml")):
        plan, folder = read_plan(plan_file), plan_file.parent
        entries = read_entries(plan, folder)
        require_runs(entries.values(), folder, "run the plan, and make its tables here")
        prefix = f"{folder.relative_to(results)}/"
        sections.append(f"## {plan.title}\n\n{_measured(entries)} [Plan]({prefix}plan.yaml); ")
        sections[-1] += f"[the same tables with links to every measurement]({prefix}tables.md).\n\n"
        sections[-1] += as_markdown(tables_of(plan, entries), links=False)
        if lacking := missing(list(entries.values())):
            sections[-1] += f"\n{len(lacking)} of {len(entries)} entries lack runs: [the list]({prefix}tables.md).\n"
        sections[-1] += _pictures(results, folder / "figures") + _notes(folder)
        frames.append(pd.read_csv(io.StringIO(as_csv(entries)), dtype=str, keep_default_na=False))
        frames[-1].insert(0, "table", plan.table)
    for table in sorted(results.glob("*/table.txt")):
        sections.append(_study(results, table))
    if len(sections) == 1:
        raise InputError(f"{results}: has no table (tables/*/plan.yaml) and no study (*/table.txt); make one first")
    summary = pd.concat(frames).to_csv(index=False, lineterminator="\n") if frames else ""
    return {"README.md": "\n".join(sections), "summary.csv": summary}


def _measured(entries: Entries) -> str:
    """One line of how the runs of a table were measured; several values where they differ."""
    runs = [run for entry in entries.values() for run in entry.runs]
    for run in runs:
        require_clean_commits(run.tsv, run.records)
    victims = [run.records["victim"] for run in runs]
    certificates = [run.records["certificate"].get("settings", {}) for run in runs if "certificate" in run.records]
    attacks = [run.records["poison"].get("settings", {}) for run in runs if "poison" in run.records]
    seeds, points = {run.seed for run in runs}, {len(run.radii) for run in runs}
    parts = [
        f"commit {_all(commit[:12] for run in runs for commit in commits(run.records))}",
        f"{_all(victim.get('backend') for victim in victims)}",
        f"{_all(victim.get('machine') for victim in victims)}",
        f"seeds {_all(seeds)}",
        f"victims of {_all(victim.get('settings', {}).get('epochs') for victim in victims)} epochs",
        f"attacks of {_all(attack.get('epochs') for attack in attacks)} epochs",
        f"{_all(points)} test points",
        f"n0 = {_all(one.get('n0') for one in certificates)}, n = {_all(one.get('n') for one in certificates)}",
        f"alpha = {_all(one.get('alpha') for one in certificates)}",
    ]
    return "; ".join(part for part in parts if part.strip() and "None" not in part) + "."


def _all(values: Iterable[Any]) -> str:
    """Every different value, in order, those that are None left out."""
    different = {value for value in values if value is not None}
    return ", ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in sorted(different)) or "None"


def _pictures(results: Path, folder: Path) -> str:
    curves = sorted(folder.glob("certified_accuracy*.png"))
    images = [
        path
        for path in sorted(folder.glob("images_*.png"))
        if not path.stem.removeprefix("images_").startswith(CONTROLS)
    ]
    against_gradients = sorted(folder.glob("acr_against_gradients*.png"))
    chosen = [*against_gradients, folder / "acr.png", *curves[:1], *images[:1]]
    return "".join(f"\n![{path.stem}]({path.relative_to(results)})\n" for path in chosen if path.is_file())


def _notes(folder: Path) -> str:
    path = folder / "NOTES.md"
    return f"\n{read_text(path)}" if path.is_file() else ""


def _study(results: Path, table: Path) -> str:
    """A study's first line, command and commit, table, pictures and notes."""
    records = sorted(table.parent.glob("*.json"))
    if not records:
        raise InputError(f"{table.parent}: has no JSON record of the command that made {table.name}; make it again")
    for path in records:
        require_clean_commits(path, read_record(path, commit=str))
    text, record = read_text(table), read_record(records[0], command=str, commit=str, backend=str, machine=str)
    made = f"`{record['command']}`, commit {record['commit']}, {record['backend']}, {record['machine']}."
    pictures = "".join(
        f"\n![{path.stem}]({path.relative_to(results)})\n" for path in sorted(table.parent.glob("*.png"))
    )
    return f"## {table.parent.name.replace('_', ' ')}\n\n{made}\n\n{_indented(text)}{pictures}{_notes(table.parent)}"


def _indented(text: str) -> str:
    return "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())


def speed_page(records: Path) -> str:
    """Content of benchmarks/README.md: a section per record, with its command, commit, machine and rows."""
    sections, files = [SPEED], sorted(records.glob("*.json"))
    if not files:
        raise InputError(f"{records}: has no record; make one by python benchmarks/speed.py --out {records}/speed.json")
    for path in files:
        record = read_record(path, about=dict, rows=list, command=str, commit=str)
        require_clean_commits(path, record)
        if not all(isinstance(row, dict) for row in record["rows"]):
            raise InputError(f"{path}: 'rows' must be a list of objects; make it again")
        about = "; ".join(f"{name}: {value}" for name, value in record["about"].items())
        rows = pd.json_normalize(record["rows"], sep=" ")
        for name in rows.select_dtypes(exclude="number"):
            rows[name] = (text := rows[name].fillna("").astype(str)).str.ljust(int(text.str.len().max()))
        shown = rows.to_string(index=False, na_rep="", justify="left", float_format=lambda value: f"{value:,.4g}")
        made = f"`{record['command']}`, commit {record['commit']}; {about}."
        sections.append(f"## {path.stem}\n\n{made}\n\n{_indented(shown)}")
    return "\n".join([*sections, _notes(records)])


if __name__ == "__main__":
    run_script(main, Config, __doc__)
