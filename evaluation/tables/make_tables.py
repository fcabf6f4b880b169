"""Make the tables and figures of a plan's measurements, and list the missing entries.

This is the last job of a plan. It can also be run by hand at any time:

    python evaluation/tables/make_tables.py --plan config/digits.yaml

It first writes the measurements into the results folder as a store (runtime/store.py). This command makes the same
tables and figures again from the store alone:

    python evaluation/tables/make_tables.py --plan results/digits/plan.yaml --from-results --results-dir runs/digits

A folder in results/ gets the store, tables.md and three figures. Others also get LaTeX, HTML, CSV and curves.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from attack_generation.controls import CONTROLS
from attack_generation.visibility import save_image_grids
from data.datasets import load_dataset, split_target_class
from data.poison_files import training_poison
from evaluation.tables import records
from evaluation.tables.cells import FIGURES, PAGES, Paths
from evaluation.tables.figures import has_budgets, save_acr, save_acr_against_gradients, save_distributions
from evaluation.tables.formats import as_html, as_latex, as_markdown, as_text
from evaluation.tables.frame import as_csv, cautions, frame_of, measured_line
from evaluation.tables.layout import tables_by_victims, tables_of
from evaluation.tables.plan import Plan, read_plan
from runtime.command_line import run_script
from runtime.files import InputError, require_no_folder, write_text
from runtime.lazy import pandas as pd
from runtime.provenance import commits, is_in_results, printed_path, project_path
from runtime.store import POINTS, has_store

MOST_POISONS = 4  # most poisons in images.png


@dataclass(frozen=True, kw_only=True)
class Config:
    plan: Path
    """Plan of the table, one of config/*.yaml."""
    results_dir: Path | None = None
    """Folder of tables and figures, by default the plan's results folder, or with --from-results the plan file's."""
    directory: Path = project_path("")
    """Folder to which the plan's own paths are relative."""
    from_results: bool = False
    """Make tables and figures again from the store in the plan file's folder, and write no store."""
    add: bool = False
    """Keep the runs that the results folder's store has and --directory has not. So a table can be measured in parts,
    also on several machines."""


def main(config: Config) -> None:
    """Write store, tables and figures, print the tables. Raises InputError before it writes, if no entry has a run."""
    if config.add and config.from_results:
        raise InputError("--add: adds new runs to a store, and --from-results makes no store; leave one of the two out")
    plan = read_plan(config.plan)
    paths = plan.paths_in(config.directory)
    folder = config.results_dir or (config.plan.parent if config.from_results else paths.results)
    is_published = is_in_results(folder)
    written = ["tables.md", "acr.png", "p_a.png"] if is_published else [*PAGES, *FIGURES]
    require_no_folder(*(folder / name for name in written))
    records.require_no_other_table(plan, folder)
    is_other = config.from_results and folder.resolve() != config.plan.parent.resolve()
    if has_store(folder) and (is_other or not (folder / "plan.yaml").is_file()):
        raise InputError(f"{folder}: holds other measurements ({POINTS}); choose another --results-dir")
    if config.from_results:
        entries = records.read_entries(plan, config.plan.parent)
        if is_published:
            records.require_clean_entries(entries.values(), folder)
    else:
        title, grids = _images(plan, paths)  # read before anything is written
        before = Counter[str]()
        with suppress(InputError):  # there is no whole store yet
            before.update({entry: len(by_seed) for entry, by_seed in records.read_runs(folder).items()})
        records.collect(plan, folder, config.directory, add=config.add)
        entries = records.read_entries(plan, folder)
        for entry, gone in (before - Counter({one.cell.key: len(one.runs) for one in entries.values()})).items():
            loss = f"{printed_path(folder)} loses {gone} of its runs, which were not found again"
            mend = "make_tables.py --add keeps runs that the plan names. Import files of other programs again"
            print(f"note: {entry}: {loss}. {mend}")
        if grids:
            save_image_grids(folder / "images.png", grids, plan.epsilon, title)
        elif (folder / "images.png").is_file():
            print("note: images.png shows poison of an earlier run")
    frame, lacking = frame_of(plan, entries), records.missing(entries.values())
    times = pd.DataFrame() if config.from_results else job_times(paths)
    for name, text in tables_as_text(plan, frame, lacking, times).items():
        if name in written:
            write_text(folder / name, text)
    draw_figures(plan.title, frame, folder, curves=not is_published)
    print(f"{plan.title}\n\n{as_text(tables_by_victims(frame))}")
    for line in [*records.differences(plan, entries.values()), *cautions(frame)]:
        print(f"note: {line}")
    if lacking:
        print("\nmissing:\n  " + "\n  ".join(lacking))
    stored = "" if config.from_results else " and, per point, points.csv.xz"
    print(f"\n{printed_path(folder)}: {', '.join(written)}{stored}")


def tables_as_text(plan: Plan, frame: pd.DataFrame, lacking: list[str], times: pd.DataFrame) -> dict[str, str]:
    """Content of every file of tables, computed only from plan and store. times: run times of the jobs, if known."""
    tables = tables_of(plan.title, frame)
    notes = [f"Measured: {measured_line(frame)}."]
    notes += ["Note:\n\n" + "\n".join(f"- {line}" for line in lines)] if (lines := cautions(frame)) else []
    notes += ["Missing:\n\n" + "\n".join(f"- {line}" for line in lacking)] if lacking else []
    return {
        "tables.md": as_markdown(tables, notes),
        "tables.tex": as_latex(tables, notes),
        "tables.csv": as_csv(frame),
        "tables.html": as_html(plan.title, tables, notes, msgspec.yaml.encode(plan).decode(), _versions(frame), times),
    }


def _versions(frame: pd.DataFrame) -> pd.DataFrame:
    """What the runs were made with: commits, backends, machines and versions of packages."""
    found = list[tuple[str, str]]()
    for run in (run for entries in frame["entries"] for entry in entries for run in entry.runs):
        victim = run.records["victim"]
        found += [("commit", one) for one in commits(run.records)]
        found += [(name, victim[name]) for name in ("backend", "machine") if victim.get(name)]
        found += victim.get("versions", {}).items()
    pairs = pd.DataFrame(found, columns=["", "version"]).drop_duplicates()
    return pairs.groupby("", sort=False)["version"].agg(", ".join).reset_index()


def draw_figures(title: str, frame: pd.DataFrame, folder: Path, *, curves: bool) -> None:
    """Draw the figures of a frame."""
    draw = save_acr_against_gradients if has_budgets(frame) else save_acr
    draw(folder / "acr.png", title, frame)
    save_distributions(folder / "p_a.png", title, frame)
    if curves:
        save_distributions(folder / "certified_accuracy.png", title, frame, against_radius=True)


def _images(plan: Plan, paths: Paths) -> tuple[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """A title, and by name the clean and the poisoned images of the first existing poisons, optimised ones first."""
    made = [poison for poison in plan.poisons() if paths.poison(poison).is_file()]
    if not made or not paths.manifest.is_file():
        return "", {}
    dataset, grids = load_dataset(paths.data), {}
    for poison in sorted(made, key=lambda poison: poison.against in CONTROLS)[:MOST_POISONS]:
        clean = split_target_class(dataset.x_train, dataset.y_train, poison.target_class).x_target
        grids[str(poison)] = clean, training_poison(paths.poison(poison), dataset, paths.data, poison.target_class)
    return f"{dataset.label}: training images of the class, clean and poisoned", grids


def job_times(paths: Paths) -> pd.DataFrame:
    """Run times and memory of long rules, from the files that Snakemake writes. Only a job's last attempt counts."""
    folder = paths.work / "benchmarks"
    jobs = [
        pd.read_csv(path, sep="\t", na_values="-").assign(rule=path.relative_to(folder).parts[0])
        for path in sorted(folder.rglob("*.tsv"))
        if path.stat().st_size  # not of a job that was killed
    ]
    if not jobs:
        return pd.DataFrame()
    by_rule = pd.concat(jobs).groupby("rule")
    times = {
        "jobs": by_rule.size(), "hours together": by_rule["s"].sum() / 3600,
        "longest, minutes": by_rule["s"].max() / 60, "peak memory, MiB": by_rule["max_rss"].max(),
    }  # fmt: skip
    return pd.DataFrame(times).reset_index()


if __name__ == "__main__":
    run_script(main, Config, __doc__)
