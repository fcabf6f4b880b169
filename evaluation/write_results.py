"""Write benchmarks/README.md and, in results/, README.md, claims.md, ranking.md, ranking.png and summary.csv.

    python evaluation/write_results.py

Every folder of results/ holds a store (runtime/store.py) of a plan (with its plan.yaml), of studies of changed
labels, or of the experiment in the plane. results/claims.yaml has the papers' claims. The numbers beside them come from
the stores. A person's remarks are in a folder's NOTES.md and in results/NOTES.md. Headlines of claims are written as a
table into README.md beside results/, between two marks. benchmarks/records/ holds what benchmarks wrote with --out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from evaluation.boundary.experiment import plane_frame
from evaluation.tables.claims import Judged, claims_page, claims_table, headlines, judged, read_claims
from evaluation.tables.figures import save_ranking
from evaluation.tables.formats import ABOUT
from evaluation.tables.frame import as_csv, frame_of, measured_line
from evaluation.tables.plan import read_plan
from evaluation.tables.ranking import ranked, ranking_page
from evaluation.tables.records import read_entries, require_clean_entries
from label_flipping.collect import read_label_studies
from label_flipping.report import curve_table
from runtime.command_line import run_script
from runtime.files import InputError, read_record, read_text, write_text
from runtime.lazy import pandas as pd
from runtime.provenance import printed_path, project_path, require_clean_commits
from runtime.store import POINTS, read_store
from runtime.text_tables import markdown_table, rows_as_text

HEAD = f"""# Results

Made by `python evaluation/write_results.py`. To change it, edit `claims.yaml` or a `NOTES.md` and run it again.
ACR is the average certified radius, in l2, with pixels in [0, 1]. {ABOUT}

Each folder holds `tables.md`, figures (some: `acr.png`), `NOTES.md` where there are findings to tell, and the
store that they are made from: `points.csv.xz`, a line per certified point, and `settings.json.xz`, settings, commands
and commits of every run. `summary.csv` has every entry of every plan. [How to read them](../docs/results.md).
"""

SPEED = """# Speed and memory

`python evaluation/write_results.py` writes this page from `records/`. The commands below made the records.
`make benchmark` prints the same for your machine. The column `bar` has the project's own goal, mostly in gradients of
1,000 images, and `met` says whether it is met. `price` computes hours from the time of one step, for 25
victims, 974 points and n = 10,000 (paper: 500 points, n = 100,000). Its column `cheap` has the settings of
`config/mnist_row.yaml`, and `ratio` is `published` over `cheap`. The script of
`label_certificates` was `benchmarks/label_flipping.py` when it was run.
"""

CLAIMS = f"""# The claims of the papers and our own questions, with every number

Made by `python evaluation/write_results.py` from `claims.yaml`. {ABOUT} "Lower by" a negative number means higher.
[How verdicts and intervals are made](README.md#how-the-numbers-are-made)."""

MARKS = "<!-- claims: begin -->", "<!-- claims: end -->"


@dataclass(frozen=True, kw_only=True)
class Config:
    results_dir: Path = project_path("results")
    """Folder of the stores and of claims.yaml."""
    benchmarks_dir: Path = project_path("benchmarks")
    """Folder of records/ of speed and memory."""


def main(config: Config) -> None:
    """Write the files. Raises InputError where a record is missing, damaged or without a clean commit."""
    frames = read_frames(config.results_dir)
    claims = config.results_dir / "claims.yaml"
    found = judged(read_claims(claims), frames) if claims.is_file() else []
    pages = {config.results_dir / name: text for name, text in overview(config.results_dir, frames, found).items()}
    pages[config.benchmarks_dir / "README.md"] = speed_page(config.benchmarks_dir / "records")
    readme = config.results_dir.parent / "README.md"
    if readme.is_file() and claims.is_file():
        pages[readme] = with_headlines(read_text(readme), found)
    if rankings := ranked(frames):
        save_ranking(config.results_dir / "ranking.png", rankings)
    for path, text in pages.items():
        write_text(path, text)
        print(f"{printed_path(path)}: written")


def read_frames(results: Path) -> dict[str, pd.DataFrame]:
    """The frame of every plan (frame.py), of the studies of changed labels and of the plane, by folder.

    Raises InputError where a store is missing, damaged or without a clean commit.
    """
    frames = {}
    others = {"label_flipping": (read_label_studies, curve_table), "decision_boundary": (read_store, plane_frame)}
    for folder in sorted(path.parent for path in results.glob(f"*/{POINTS}")):
        if folder.name not in others and not (folder / "plan.yaml").exists():
            raise InputError(f"{folder}: has a store and no plan.yaml; fetch it, or make its tables again")
    for path in sorted(results.glob("*/plan.yaml")):
        plan, folder = read_plan(path), path.parent
        entries = read_entries(plan, folder)
        require_clean_entries(entries.values(), folder)
        frames[folder.name] = frame_of(plan, entries).assign(title=plan.title)
    for name, (read, frame_of_store) in others.items():
        if (folder := results / name).is_dir():
            store = read(folder)
            for key, by_seed in store.records.items():
                require_clean_commits(folder / key, by_seed)
            frames[name] = frame_of_store(store)
    if not any("title" in frame for frame in frames.values()):
        raise InputError(f"{results}: has no store with a plan.yaml; run a plan, and make its tables there")
    return frames


def overview(results: Path, frames: dict[str, pd.DataFrame], found: list[Judged]) -> dict[str, str]:
    """Content of README.md and summary.csv, of claims.md, and of ranking.md where poisons were ranked."""
    readme, claim_sections = [HEAD], [CLAIMS]
    for heading, is_of_paper in (("Claims of the papers", True), ("Our own questions", False)):
        claims = [one for one in found if bool(one.claim.source) == is_of_paper]
        if claims:
            readme.append(f"## {heading}\n\n{claims_table(claims)}\n")
            claim_sections.append(claims_page(claims))
    if (results / "NOTES.md").is_file():
        readme.append(read_text(results / "NOTES.md"))
    plans = {name: frame for name, frame in frames.items() if "title" in frame}
    rows = [(f"[{name}]({name}/tables.md)", one["title"].iloc[0], measured_line(one)) for name, one in plans.items()]
    readme.append(f"## All plans\n\n{markdown_table(('folder', 'what', 'measured'), rows)}\n")
    pages = {"ranking.md": ranking_page(frames)} if ranked(frames) else {}
    if found:
        pages["claims.md"] = "\n\n".join(claim_sections) + "\n"
    summary = pd.concat([frame.drop(columns="title") for frame in plans.values()], ignore_index=True)
    return {**pages, "README.md": "\n".join(filter(None, readme)), "summary.csv": as_csv(summary)}


def with_headlines(page: str, found: list[Judged]) -> str:
    """The page with the claims' headlines between its two marks. A page without marks is unchanged."""
    begin, end = MARKS
    before, *marked = re.split(f"({begin}|{end})", page)
    if not marked:
        return page
    if marked[::2] != [begin, end]:
        raise InputError(f"the page of the headlines: must have {begin} and then {end}, each once; mend it")
    return f"{before}{begin}\n{headlines(found)}\n{end}{marked[-1]}"


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
        made = f"`{record['command']}`, commit {record['commit']}; {about}."
        indented = "".join(f"    {line}".rstrip() + "\n" for line in rows_as_text(record["rows"]).splitlines())
        sections.append(f"## {path.stem}\n\n{made}\n\n{indented}")
    notes = records / "NOTES.md"
    return "\n".join([*sections, f"\n{read_text(notes)}" if notes.is_file() else ""])


if __name__ == "__main__":
    run_script(main, Config, __doc__)
