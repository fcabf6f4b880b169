"""What was measured for the entries of a table: one run per victim, read from its certificates.

Certificates are read as Cohen et al.'s code writes them (columns idx, label, predict, radius, correct, time), so that
those of other code bases fill the same tables.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.table_plan import Cell, Plan
from evaluation.tables import mean_and_std
from runtime.files import InputError, read_json


class Run(NamedTuple):
    """One victim of an entry."""

    seed: int
    radii: np.ndarray  # float (points,), as of read_radii
    accuracy: float | None  # of the clean test images without noise, where known
    target_accuracy: float | None  # of those of the certified class
    tsv: Path
    records: dict[str, Any]  # how it was made: settings of certificate, victim and poison

    @property
    def acr(self) -> float:
        """Average certified radius: abstentions and wrong classes count 0."""
        return float(np.maximum(self.radii, 0).mean())

    @property
    def certified_accuracy(self) -> float:
        """Approximate certified accuracy at radius 0."""
        return float(np.mean(self.radii >= 0))


class Entry(NamedTuple):
    """One entry of a table with the runs that are there."""

    cell: Cell
    wanted: int  # runs that it should have
    runs: tuple[Run, ...]

    def values(self, name: str) -> list[float]:
        """One property of all runs, those without it left out."""
        values = [getattr(run, name) for run in self.runs]
        return [value for value in values if value is not None]

    def mean_and_std(self, name: str) -> tuple[float, float] | None:
        """Mean and sample standard deviation over runs of one property, None without a run that has it."""
        values = self.values(name)
        return mean_and_std(values) if values else None


def read_radii(path: Path, target_class: int) -> np.ndarray:
    """Radii of one class's points from a certification file, float (points,); -1 where not certified correctly.

    The columns label, predict and radius are found by name in a line of names, separated by tabs; predict is -1
    where the certificate abstains. Raises InputError where the file is missing, damaged, has no point of the class,
    or a radius that is negative or not finite.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; certify the model first or mend the path") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a certification file ({error})") from error
    radii = []
    for number, row in enumerate(rows, start=2):
        try:
            label, predict, radius = int(row["label"]), int(row["predict"]), float(row["radius"])
        except KeyError as error:
            raise InputError(
                f"{path}: has no column {error}; label, predict and radius are needed"
            ) from error
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: line {number} is damaged; certify again") from error
        if not (np.isfinite(radius) and radius >= 0):
            raise InputError(
                f"{path}: line {number} has the radius {radius}, which certifies nothing; mend it"
            )
        if label == target_class:
            radii.append(radius if predict == label else -1.0)
    if not radii:
        raise InputError(f"{path}: has no point of class {target_class}; choose another file")
    return np.array(radii)


def read_entries(plan: Plan) -> dict[Cell, Entry]:
    """The entries of every table of the plan, each with the runs that are complete."""
    entries = {}
    for cell in plan.cells():
        runs = [_own_run(plan, cell, seed) for seed in plan.seeds]
        entries[cell] = Entry(cell, plan.runs, tuple(run for run in runs if run is not None))
    for foreign in plan.foreign:
        if foreign.cell in entries:
            raise InputError(f"foreign: the plan makes the entry itself: {foreign.cell}")
        paths = [Path(name) for name in foreign.files]
        read = tuple(
            Run(
                seed,
                read_radii(path, foreign.target_class),
                foreign.accuracy,
                None,
                path,
                {"file": str(path)},
            )
            for seed, path in enumerate(paths)
        )
        entries[foreign.cell] = Entry(foreign.cell, len(paths), read)
    return entries


def _own_run(plan: Plan, cell: Cell, seed: int) -> Run | None:
    tsv, record = plan.certificate_file(cell, seed), plan.model_file(cell, seed).with_suffix(".json")
    if not (tsv.is_file() and tsv.with_suffix(".summary.json").is_file() and record.is_file()):
        return None
    victim = read_json(record)
    records = {"victim": victim, "certificate": read_json(tsv.with_suffix(".settings.json"))}
    poison = plan.poison_file(cell.poison).with_suffix(".json") if cell.poison else None
    if poison is not None and poison.is_file():
        records["poison"] = read_json(poison)
    of_class = victim.get(f"accuracy_class_{cell.target_class}")
    return Run(seed, read_radii(tsv, cell.target_class), victim.get("accuracy"), of_class, tsv, records)


def missing(entries: Sequence[Entry]) -> list[str]:
    """A line for each entry that lacks runs."""
    return [
        f"{entry.cell}: {len(entry.runs)} of {entry.wanted} runs"
        for entry in entries
        if len(entry.runs) < entry.wanted
    ]


class JobTimes(NamedTuple):
    """What the jobs of one rule took, each in its last attempt."""

    rule: str
    jobs: int
    hours: float  # of all jobs together
    longest_minutes: float
    peak_mib: float  # resident memory of the largest job; NaN where no job was long enough to be measured


def job_times(plan: Plan) -> list[JobTimes]:
    """Run times and memory of the long rules, from the files that Snakemake writes about its jobs."""
    times = []
    for folder in sorted((plan.folders["work"] / "benchmarks").glob("*")):
        rows = []
        for path in sorted(folder.rglob("*.tsv")):
            with path.open(newline="", encoding="utf-8") as file:
                rows += list(csv.DictReader(file, delimiter="\t"))
        if rows:
            seconds = [float(row["s"]) for row in rows]
            memory = [float(row["max_rss"]) for row in rows if row["max_rss"] not in ("-", "NA", "")]
            peak = max(memory, default=float("nan"))
            times.append(JobTimes(folder.name, len(rows), sum(seconds) / 3600, max(seconds) / 60, peak))
    return times


def certified_curve(radii: np.ndarray) -> dict[str, list[float]]:
    """Certified accuracy against radius of one run: 'radius' ascending, 'accuracy' the share certified there."""
    at = np.unique(np.concatenate([[0.0], radii[radii >= 0]]))
    return {"radius": at.tolist(), "accuracy": [float(np.mean(radii >= radius)) for radius in at]}
