"""Join studies of certificates against changed labels into one store, with the table of each and a figure per data set.

    python label_flipping/collect.py --studies results/label_flipping runs/label_flipping/MNIST_raw_tight

With the store alone as --studies, its tables and figures are made again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from label_flipping.report import COLUMNS, RECORD, TABLES, save_label_curves, tables_page
from runtime.artifact import Artifact
from runtime.command_line import run_script
from runtime.files import InputError, write_text
from runtime.lazy import pandas as pd
from runtime.provenance import is_in_results, printed_path, project_path, require_clean_commits
from runtime.store import POINTS, SETTINGS, Store, has_store, read_store, write_store


@dataclass(frozen=True, kw_only=True)
class Config:
    studies: tuple[Path, ...]
    """Folders of studies, or of stores with several studies. If two hold the same study and seed, the last counts."""
    results_dir: Path = project_path("results/label_flipping")
    """Folder of the store, its tables and its figures. Studies that are in it stay there."""


def main(config: Config) -> None:
    """Write the store, tables.md and a figure for each data set and choice of classes, and print the tables.

    Raises InputError where a folder holds no study, or a study without a clean commit would go into results/.
    """
    if not config.studies:
        raise InputError("studies names no folder; give at least one")
    folder = config.results_dir
    with Artifact(folder / TABLES):  # reading needs what a killed run left of the store
        here = [folder] if has_store(folder) else []
        store = joined([read_label_studies(path) for path in (*here, *config.studies)])
        if is_in_results(folder):
            for entry, by_seed in store.records.items():
                require_clean_commits(Path(entry), by_seed)
        figures = by_dataset(store)
        try:
            tables = tables_page(store)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise InputError(
                f"{config.studies[-1]}: a study's points or records cannot be read ({error}); make it again"
            ) from error
        with Artifact(*(folder / name for name in (SETTINGS, POINTS, TABLES, *figures))):
            write_store(folder, store)
            write_text(folder / TABLES, tables)
            for name, studies in figures.items():
                save_label_curves(folder / name, studies)
    print(f"{tables}\n{printed_path(folder)}: {TABLES}, figures, {SETTINGS} and, per test point, {POINTS}")


def read_label_studies(folder: Path) -> Store:
    """Read a store. Raises InputError where it is missing, damaged, or not one of studies of changed labels."""
    if not has_store(folder):
        raise InputError(f"{folder}: has no {SETTINGS}; give a folder that a script of label_flipping wrote")
    store = read_store(folder)
    runs = {(entry, seed): run for entry, by_seed in store.records.items() for seed, run in by_seed.items()}
    has_columns = {*COLUMNS} <= {*store.points}
    with_points = set(zip(store.points["entry"], map(str, store.points["seed"]), strict=True)) if has_columns else ()
    whole = all(
        isinstance(run, dict) and all(isinstance(run.get(name), kind) for name, kind in RECORD.items())
        for run in runs.values()
    )
    if not (runs and whole and with_points == runs.keys()):
        raise InputError(f"{folder}: not a store of studies of changed labels; give one that collect.py can have made")
    return store


def joined(stores: Sequence[Store]) -> Store:
    """The runs of all stores, by the studies' names. If two hold the same study and seed, the last counts."""
    points: dict[tuple[str, int], pd.DataFrame] = {}
    records: dict[str, dict[str, Any]] = {}
    for store in stores:
        points |= dict(iter(store.points.groupby(["entry", "seed"], sort=False)))
        for entry, by_seed in store.records.items():
            records[entry] = records.get(entry, {}) | by_seed
    # Lines of one test point after each other: the file is a seventh smaller.
    together = [points[key].sort_values("idx", kind="stable") for key in sorted(points)]
    return Store(pd.concat(together, ignore_index=True)[list(COLUMNS)], dict(sorted(records.items())))


def by_dataset(store: Store) -> dict[str, Store]:
    """The studies of each data set and choice of classes, by the name of their figure's file."""
    names: dict[str, list[str]] = {}
    for entry, by_seed in store.records.items():
        title = next(iter(by_seed.values()))["title"]
        names.setdefault(re.sub(r"\W+", "_", title).strip("_") + ".png", []).append(entry)
    return {
        name: Store(store.points[store.points["entry"].isin(of)], {entry: store.records[entry] for entry in of})
        for name, of in names.items()
    }


if __name__ == "__main__":
    run_script(main, Config, __doc__)
