"""The measurements of a plan: collected from its work folder into a store (runtime/store.py), and read again.

Certificates have the columns of Cohen et al.'s code (idx, label, predict, radius, correct, time), so that certificates
of other code bases fit the same tables. The store keeps all columns but the time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from data.datasets import EPSILON_TOLERANCE
from data.poison_files import read_poison_file
from data.ready_poisons import poison_file, ready_names, ready_record
from evaluation.tables.cells import CLEAN, READY, Cell, Foreign, Paths
from evaluation.tables.jobs import jobs_of_run, settings_of
from evaluation.tables.plan import Plan, read_plan
from evaluation.tables.runs import MUST_AGREE, Entry, Run, read_certified, require_different_files
from randomized_smoothing_certification.certificate_file import (
    Point,
    is_summarised,
    read_certificate_record,
    read_known_points,
    require_possible_radii,
)
from runtime.artifact import Artifact
from runtime.checkpoints import different
from runtime.files import InputError, array_sha256, file_sha256, form, load_array, read_record, write_text
from runtime.lazy import pandas as pd
from runtime.provenance import is_in_results, require_clean_commits
from runtime.store import POINTS, SETTINGS, Store, has_store, read_store, write_store

NUMERIC = ("seed", "idx", "label", "predict", "radius", "correct")  # columns of a store's points, beside 'entry'


class StoredRun(NamedTuple):
    """The contents of a run's files."""

    file: Path  # of its certificates
    points: pd.DataFrame  # lines of a store
    records: dict[str, Any]  # settings, commands and commits


Runs = dict[str, dict[int, StoredRun]]
"""Runs by entry and seed."""


def _require_runs(entries: Collection[Entry], where: Path, mend: str) -> None:
    """Raise InputError where none of a table's entries has a run. where, mend: parts of the error."""
    if not any(entry.runs for entry in entries):
        lacking = missing(entries)
        first = f"{lacking[0]}, the first of {len(lacking)} entries" if lacking else "the plan names no entry"
        raise InputError(f"{where}: has no certificate of the plan ({first}); {mend}")


def require_no_other_table(plan: Plan, folder: Path) -> None:
    """Raise InputError where a folder of results holds another table."""
    if (held := folder / "plan.yaml").is_file() and (table := read_plan(held).table) != plan.table:
        raise InputError(f"{folder}: holds the table {table!r}; choose another results_dir, in the plan or as a flag")


def collect(plan: Plan, folder: Path, directory: Path = Path(), *, add: bool = False) -> None:
    """Write the measurements of the plan's jobs so far, and the certificates of other programs, as a store.

    Leaves out runs of other settings than the plan's, with a note. directory: where the plan's own paths start. add:
    keep the runs of the folder's store that are not found there. Raises InputError before anything is written: without
    a run, for a run in results/ without a clean commit, and where the plan makes a kept run in another way.
    """
    paths, ready = plan.paths_in(directory), {value: poison_file(value, directory) for value in plan.ready.values()}
    files = {value: read_poison_file(file).record["arrays_sha256"] for value, file in ready.items() if file.is_file()}
    runs = foreign_runs(plan, directory) | _measured_runs(plan, paths, files)
    with Artifact(folder / "plan.yaml") if add else nullcontext():  # two that add at once would lose runs
        kept = _kept_runs(plan, folder, files) if add else {}
        if not any(runs.values()):
            mend = "run the plan first, or give the folder that its paths start from as --directory"
            _require_runs([Entry(cell, plan.runs, ()) for cell in plan.cells()], paths.work, mend)
        stored = {entry: dict(sorted({**kept.get(entry, {}), **by_seed}.items())) for entry, by_seed in runs.items()}
        if is_in_results(folder):
            for run in (run for by_seed in stored.values() for run in by_seed.values()):
                require_clean_commits(run.file, run.records)
        _require_same_images(stored, folder)
        write_text(folder / "plan.yaml", msgspec.yaml.encode(plan).decode())  # it shows whose store the folder has
        write_runs(folder, stored)


def _measured_runs(plan: Plan, paths: Paths, files: dict[str, Any]) -> Runs:
    """The runs of the plan's jobs so far. Those of other settings or images are left out, with a note."""
    runs, left_out = Runs(), list[str]()
    hashes_of = cache(lambda poison: (file_sha256(poison), array_sha256(load_array(poison))))  # of file and images
    arrays = read_record(paths.manifest, arrays=dict)["arrays"] if paths.manifest.is_file() else {}
    held = {name: arrays.get(f"X_{name[2:]}.npy", {}) for name in ("x_train", "x_test")}
    prepared = {name: one.get("sha256") for name, one in held.items() if one.get("dtype", "float32") == "float32"}
    for cell in plan.cells():
        runs[cell.key] = {}
        for seed in plan.seeds:
            if run := _measured_run(plan, paths, cell, seed, hashes_of):
                other = _differences_from_plan(plan, cell, seed, run.records, files)
                for name, used in _clean_images(cell.poison is None, run.records).items():
                    if prepared.get(name) not in (None, used):  # of other dtypes than float32 a run has a cast copy
                        other.append(f"images {name} {used}, {paths.data} has others now")
                if other:
                    left_out.append(f"{cell}, seed {seed}: {other[0]}")
                else:
                    runs[cell.key][seed] = run
    if left_out:
        print(f"note: {len(left_out)} runs of other settings are left out, run the plan again. First: {left_out[0]}")
    return runs


def write_runs(folder: Path, runs: Runs) -> None:
    """Write runs as a store."""
    points = pd.concat([run.points for by_seed in runs.values() for run in by_seed.values()], ignore_index=True)
    records = {
        entry: {str(seed): run.records for seed, run in by_seed.items()} for entry, by_seed in runs.items() if by_seed
    }
    write_store(folder, Store(points, records))


def _kept_runs(plan: Plan, folder: Path, files: dict[str, Any]) -> Runs:
    """The runs in a folder's store. Raises InputError for one that the plan lacks, or makes with other settings."""
    if not has_store(folder):
        return {}
    runs, cells = read_runs(folder), {cell.key: cell for cell in plan.cells()}
    wanted = dict.fromkeys(cells, plan.seeds) | {one.cell.key: range(2**31) for one in plan.foreign}
    for entry, seed in sorted((entry, seed) for entry, by_seed in runs.items() for seed in by_seed):
        if seed not in wanted.get(entry, ()):
            raise InputError(f"{folder}: has {entry}, seed {seed}, which the plan lacks; add it to the plan")
        if cell := cells.get(entry):
            run = _run(plan, folder, cell, seed, runs[entry][seed])
            if other := _differences_from_plan(plan, cell, seed, run.records, files):
                raise InputError(f"{folder}: {cell}, seed {seed}: has {other[0]}; write the same, or give a new folder")
    return runs


def _differences_from_plan(plan: Plan, cell: Cell, seed: int, records: dict, files: dict | None = None) -> list[str]:
    """Settings, and a ready poison, in which the given records of a run differ from the plan.

    files: hashes of the arrays of ready poisons that are files, by the plan's path, as far as they are there.
    """
    jobs = {name: job for name, job in jobs_of_run(plan, cell, seed).items() if name in records}
    other = [
        f"{record} with {name} {found}, where the plan says {wanted}"
        for record, job in jobs.items()
        for name, found, wanted in different(records[record].get("settings", {}), settings_of(job))
    ]
    if "poison" in records and cell.poison and cell.poison.against == READY:
        name = plan.ready[cell.poison.variant]
        arrays = ready_record(name)["arrays_sha256"] if name in ready_names() else (files or {}).get(name)
        if arrays and records["poison"].get("arrays_sha256", arrays) != arrays:  # older records have none
            other.append(f"other poison than {name}, which the plan names")
    return other


def _clean_images(is_clean: bool, records: dict[str, Any]) -> dict[str, str]:
    """Hashes of the data set's own images that a run used, by name. is_clean: whether no class was poisoned."""
    victim, poison = (records.get(name, {}).get("settings", {}) for name in ("victim", "poison"))
    trained = victim if is_clean and victim.get("defence", "none") == "none" else poison
    used = {"x_test": victim.get("x_test"), "x_train": trained.get("x_train")}
    return {name: images for name, images in used.items() if images}


def _require_same_images(runs: Runs, folder: Path) -> None:
    """Raise InputError where runs had different clean images, or the victims of an entry different training images."""
    used: dict[str, set[str]] = {}  # hashes of clean images by 'x_train' and 'x_test', of victims' images by entry
    for entry, by_seed in runs.items():
        for run in by_seed.values():
            for name, images in _clean_images(entry.split("/")[1:2] == [CLEAN], run.records).items():
                used.setdefault(name, set()).add(images)
            if images := run.records.get("victim", {}).get("settings", {}).get("x_train"):
                used.setdefault(entry, set()).add(images)
    if any(len(images) > 1 for images in used.values()):
        raise InputError(f"{folder}: has runs of other training or test images; run the plan again, or elsewhere")


def points_table(entry: str, seed: int, points: Sequence[Point]) -> pd.DataFrame:
    """Certified points as lines of a store."""
    columns = pd.DataFrame(points, columns=Point._fields).drop(columns=["time", "decided"]).astype({"radius": float})
    return pd.DataFrame({"entry": entry, "seed": seed, **columns.dropna(axis="columns", how="all")})


def foreign_runs(plan: Plan, directory: Path) -> Runs:
    """The runs of other programs. directory: where the plan's own paths start.

    Raises InputError where a file cannot be used or is in two entries, or where the plan itself makes the entry.
    """
    keys = {cell.key for cell in plan.cells()}
    for cell in (foreign.cell for foreign in plan.foreign):
        if cell.key in keys:
            raise InputError(f"foreign: the plan makes the entry itself, or names it twice: {cell}; leave it out")
        keys.add(cell.key)
    require_different_files(directory / file for foreign in plan.foreign for file in foreign.files)
    return {foreign.cell.key: runs_of(foreign, directory) for foreign in plan.foreign}


def runs_of(foreign: Foreign, directory: Path) -> dict[int, StoredRun]:
    """The runs of an entry of another program, by the seeds of their victims where these are known, else by number.

    directory: where the files' paths start. Raises InputError where a file is damaged, unfinished or without the class,
    or has other points, another record than the entry's, or impossible radii.
    """
    runs, places = {}, list[list[int]]()
    found = read_certified([directory / file for file in foreign.files])
    known: list[Any] = [one.training.get("seed") for one in found]
    seeds = known if None not in known and len(set(known)) == len(known) else range(len(known))
    for seed, file, one in zip(seeds, foreign.files, found, strict=True):
        path, points, recorded = one.file, one.points, one.settings
        training = one.training_data or foreign.poison
        if (training == CLEAN) != (foreign.poison == CLEAN):
            raise InputError(f"{path}: its victim was trained on {training} data, not on {foreign.poison}; mend poison")
        for name, value in recorded.items():
            if name in ("n", "sigma", "alpha") and (given := getattr(foreign, name)) not in (None, value):
                raise InputError(f"{path}: {name} is {given}, but the record beside it says {value}; give that")
        places.append([point.idx for point in points if point.label == foreign.target_class])
        if not places[-1]:
            raise InputError(f"{path}: has no point of class {foreign.target_class}; choose another file")
        if places[-1] != places[0]:
            raise InputError(f"{path}: has other test points than {found[0].file}; certify the same points")
        if foreign.n:
            require_possible_radii(path, points, n=foreign.n, alpha=foreign.alpha, sigma=foreign.sigma)
        known_settings = {"n": foreign.n, "alpha": foreign.alpha, "sigma": foreign.sigma} if foreign.n else {}
        known_settings |= {name: recorded[name] for name in MUST_AGREE if name in recorded}
        records = {"file": file, "victim": {"accuracy": foreign.accuracy}, "foreign": known_settings}
        runs[seed] = StoredRun(path, points_table(foreign.cell.key, seed, points), records)
    return runs


def _measured_run(plan: Plan, paths: Paths, cell: Cell, seed: int, hashes_of: Callable) -> StoredRun | None:
    """A run whose files are complete and belong together, else None.

    Raises InputError for a row that the run cannot have written.
    """
    tsv, record = paths.certificate(cell, seed), paths.model(cell, seed).with_suffix(".json")
    if not (is_summarised(tsv) and record.is_file()):
        return None
    records = {"victim": read_record(record, settings=dict), "certificate": read_certificate_record(tsv)}
    if records["victim"].get("sha256") != records["certificate"]["settings"]["model_sha256"]:
        return None  # the victim was trained again since
    points = read_known_points(tsv)
    del records["certificate"]["points"]  # the store keeps them with their certificates
    if cell.poison:
        poison = paths.poison(cell.poison)
        if not poison.with_suffix(".json").is_file():
            return None  # the poison is being made again
        records["poison"] = read_record(poison.with_suffix(".json"), settings=dict)
        if plan.visibility and (seen := paths.visibility(cell.poison)).is_file():
            records["visibility"] = read_record(seen, settings=dict, measured=dict)
        file_hash, images = hashes_of(poison) if poison.is_file() else (None, None)
        trained_on = records["victim"].get("poison_sha256")
        measured_on = records.get("visibility", {}).get("settings", {}).get("poison_sha256")
        is_other_file = file_hash not in (None, records["poison"].get("sha256"))
        if is_other_file or len({images, trained_on, measured_on} - {None}) > 1:
            return None  # the poison is being made again, or was since
    return StoredRun(tsv, points_table(cell.key, seed, points), records)


def require_clean_entries(entries: Iterable[Entry], folder: Path) -> None:
    """Raise InputError naming the first run of a folder that has no clean commit."""
    for entry in entries:
        for run in entry.runs:
            require_clean_commits(f"{folder}: {entry.cell}, seed {run.seed}", run.records)


def read_entries(plan: Plan, folder: Path) -> dict[Cell, Entry]:
    """The entries of every table of the plan, each with the runs that are in the store of the folder.

    Raises InputError where the store is missing or damaged, has points without records or records without points, or
    has no run of the plan.
    """
    stored = read_runs(folder)
    # Foreign entries come first, so that the table of kinds of victims compares the other kinds with theirs.
    wanted = {foreign.cell: len(foreign.files) for foreign in plan.foreign}
    wanted |= dict.fromkeys(plan.cells(), plan.runs)
    runs = {cell: [_run(plan, folder, cell, *one) for one in stored.get(cell.key, {}).items()] for cell in wanted}
    entries = {cell: Entry(cell, count, tuple(runs[cell])) for cell, count in wanted.items()}
    _require_runs(entries.values(), folder, f"give the plan.yaml beside {POINTS}, or run the plan and make its tables")
    return entries


def _run(plan: Plan, folder: Path, cell: Cell, seed: int, stored: StoredRun) -> Run:
    """A run of a store. Raises InputError where its records or points are no run of the plan's entry."""
    where, points, records = f"{cell.key}, seed {seed},", stored.points, stored.records
    if not _are_records(records):
        raise InputError(f"{folder / SETTINGS}: {where} is no run of this project; make it again")
    in_class = (points["label"] == cell.target_class).to_numpy()
    if not in_class.any():
        raise InputError(f"{folder / POINTS}: {where} has no point of class {cell.target_class}; make it again")
    radii, idx = np.where(points["correct"] == 1, points["radius"], -1.0), points["idx"].to_numpy()
    run = Run(seed, radii[in_class], records, cell.victim.sigma, cell.target_class, idx[in_class], radii[~in_class])
    made_with = run.poison.get("epsilon", plan.epsilon)
    excess, may_be_smaller = made_with - plan.epsilon, not cell.poison or cell.poison.against == READY
    if excess > EPSILON_TOLERANCE or (excess < -EPSILON_TOLERANCE and not may_be_smaller):
        raise InputError(f"{folder}: {where} has poison of epsilon {made_with}, not {plan.epsilon}; give its own plan")
    return run


def differences(plan: Plan, entries: Iterable[Entry]) -> list[str]:
    """A line for each entry whose runs differ from the plan: other settings, other poison or more runs."""
    lines = []
    for entry in entries:
        own = [run for run in entry.runs if "certificate" in run.records]  # not of another program
        found = {one for run in own for one in _differences_from_plan(plan, entry.cell, run.seed, run.records)}
        if len(entry.runs) > entry.wanted:
            found.add(f"{len(entry.runs)} runs, where the plan says {entry.wanted}")
        lines += [f"{entry.cell}: has {one}" for one in sorted(found)]
    return lines


def missing(entries: Iterable[Entry]) -> list[str]:
    """A line for each entry that lacks runs."""
    lacking = (entry for entry in entries if len(entry.runs) < entry.wanted)
    return [f"{entry.cell}: {len(entry.runs)} of {entry.wanted} runs" for entry in lacking]


def read_runs(folder: Path) -> Runs:
    """The runs of a folder's store.

    Raises InputError where the store is missing or damaged, where a column is missing or holds no numbers, and where a
    run has points without records or records without points.
    """
    store, file = read_store(folder), folder / POINTS
    try:
        points = store.points[["entry", *NUMERIC]].astype(dict.fromkeys(NUMERIC, float))
        recorded = [(entry, seed) for entry, by_seed in store.records.items() for seed in by_seed]
        right = (points["predict"] == points["label"]) & (points["predict"] >= 0)
        for what, wrong in (
            ("a value is missing", points.isna().any(axis=None)),
            ("a radius is negative or not finite", not points["radius"].between(0, np.finfo(np.float32).max).all()),
            ("'correct' is not 1 where predict is the label and 0 elsewhere", not points["correct"].eq(right).all()),
            ("a run has a point twice", points.duplicated(["entry", "seed", "idx"]).any()),
            ("a seed is written in two ways", any(str(int(seed)) != seed for _, seed in recorded)),
        ):
            if wrong:
                raise ValueError(what)
        tables = dict(iter(store.points.groupby(["entry", "seed"], sort=False)))
        named = {(entry, int(seed)) for entry, seed in recorded}
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{file}: not the points of a plan ({error}); make the tables again") from error
    if named != tables.keys():
        (entry, seed), *_ = named ^ tables.keys()
        raise InputError(f"{folder / SETTINGS}: {entry}, seed {seed}, is not in both files; make the tables again")
    return {
        entry: {int(seed): StoredRun(file, tables[entry, int(seed)], records) for seed, records in by_seed.items()}
        for entry, by_seed in store.records.items()
    }


_VOTES = form(
    dataset=str | None,
    n=Annotated[int, msgspec.Meta(ge=1, lt=2**31)] | None,
    alpha=Annotated[float, msgspec.Meta(gt=0, lt=1)] | None,
    sigma=Annotated[float, msgspec.Meta(gt=0, lt=1e6)] | None,
    noise=form("mode", mode=str, failure_mass=Annotated[float, msgspec.Meta(ge=0, lt=1)]) | None,
)
_RECORDS = form(
    "victim",
    victim=form(settings=dict, versions=dict[str, str], backend=str | None, machine=str | None),
    certificate=form(settings=_VOTES),
    foreign=_VOTES,
    poison=form(settings=form(epsilon=float, share=float | None), gradients=float | None),
    visibility=form(measured=form("auc", auc=dict[str, float]) | None),
)


def _are_records(record: dict[str, Any]) -> bool:
    """Whether a run's records have the form that tables need."""
    try:
        msgspec.convert(record, _RECORDS)
    except (msgspec.ValidationError, OverflowError):
        return False
    measured = record.get("visibility", {}).get("measured") or {}
    numbers = [value for name, value in record["victim"].items() if name.startswith("accuracy")]
    numbers += [value for name, value in measured.items() if name != "auc"]
    return all(value is None or isinstance(value, int | float) for value in numbers)
