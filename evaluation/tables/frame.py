"""One DataFrame of all measurements of a plan: a row per entry, a column per number. Tables and figures are its pivots,
and results/summary.csv holds its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from attack_generation.controls import CONTROLS
from evaluation.tables.cells import CLEAN, OPTIMISED, READY, Cell, Poison
from evaluation.tables.plan import AttackVariant, Plan
from evaluation.tables.runs import MUST_AGREE, Entry, Run
from randomized_smoothing_certification.run_statistics import Reduction, mean_and_std, reduction_of
from runtime.lazy import pandas as pd
from runtime.provenance import commits
from runtime.store import POINTS, SETTINGS

Entries = dict[Cell, Entry]
CONTROL = "control"  # data_kind, beside CLEAN and OPTIMISED
DATA_KINDS = {CLEAN: CLEAN, **dict.fromkeys(CONTROLS, CONTROL)}  # by column 'poison'. All others are OPTIMISED
MEAN = "mean"  # in the column of the class: the mean over all classes of the plan. Its cell has the first class
CERTIFIED_AT = {
    "certified_accuracy": 0.0, "certified_at_half_sigma": 0.5, "certified_at_sigma": 1.0, "certified_at_2_sigma": 2.0,
}  # fmt: skip
"""Columns of approximate certified accuracy, and the radius of each divided by sigma."""
OF_VICTIMS = ("acr", *CERTIFIED_AT, "accuracy", "target_accuracy", "others_acr", "others_certified_accuracy")
"""Numbers of every victim. Each has a column <name>_mean and a column <name>_std."""


def frame_of(plan: Plan, entries: Entries) -> pd.DataFrame:
    """A row for each entry: those of other programs, then in the plan's order, then means over attack runs and classes.

    Columns: the entry (table, dataset, method, sigma, architecture, target_class, data, ...), its measurement (n,
    points, runs, commit, ...), numbers of victims (OF_VICTIMS), the share of points at the largest radius that n votes
    can certify (at_ceiling), the reduction with its interval, and the visibility of the poison. Files leave out the
    columns UNWRITTEN: reduction (a Reduction), reduction_at_sigma (of certified accuracy at sigma), data_kind (CLEAN,
    CONTROL or OPTIMISED), cell, entries (the sources of the row), clean (the entry of clean data that a reduction is
    against), and whether the row is in a transfer table.
    """
    transfers = {f"in_{over}_transfer": set(cells) for over, cells in plan.transfer_cells().items()}
    rows = [_row(plan, cell, [entry], entries) for cell, entry in entries.items()]
    rows += [_row(plan, cell, group, entries) for cell, group in _attack_runs(plan, entries).items()]
    together = _over_classes(plan, entries)
    rows += [_row(plan, cell, [entry], together) | {"target_class": MEAN} for cell, entry in together.items()]
    return pd.DataFrame([row | {name: row["cell"] in cells for name, cells in transfers.items()} for row in rows])


def _attack_runs(plan: Plan, entries: Entries) -> dict[Cell, list[Entry]]:
    """Entries that differ only in a listed seed of the attack, by a cell for all of them, where two are measured."""
    groups: dict[Cell, list[Entry]] = {}
    for cell, entry in entries.items():
        if cell.poison and (name := _attack_variant(plan, cell).over_seeds) not in ("", cell.poison.variant):
            groups.setdefault(cell._replace(poison=cell.poison._replace(variant=name)), []).append(entry)
    return {cell: group for cell, group in groups.items() if sum(bool(entry.runs) for entry in group) > 1}


def _over_classes(plan: Plan, entries: Entries) -> Entries:
    """Entries that differ only in the class, joined: each victim has its points of all classes, in the plan's order.
    Omits incomplete entries, and classes whose certificates differ in a setting of MUST_AGREE."""
    first, groups = plan.target_classes[0], dict[Cell, list[Entry]]()
    for label, (cell, entry) in product(plan.target_classes, entries.items()):
        if entry.runs and cell.target_class == label:
            poison = cell.poison and cell.poison._replace(target_class=first)
            groups.setdefault(Cell(cell.victim, first, poison), []).append(entry)
    whole = {cell: group for cell, group in groups.items() if len(group) == len(plan.target_classes) > 1}
    return {cell: _joined(cell, it) for cell, it in whole.items() if not _different_setting(one.runs for one in it)}


def _joined(cell: Cell, entries: Sequence[Entry]) -> Entry:
    """An entry whose runs hold the radii of all classes' points."""
    runs = []
    for same_seed in zip(*_runs_of_shared_seeds(entries), strict=True):
        fields = ("radii", "idx", "other_radii")
        joined = {name: np.concatenate([getattr(run, name) for run in same_seed]) for name in fields}
        records = {name: one for name, one in same_seed[0].records.items() if name in ("certificate", "foreign")}
        records["victim"] = {"accuracy": mean_and_std(run.accuracy for run in same_seed)[0]}
        runs.append(same_seed[0]._replace(**joined, records=records))
    return Entry(cell, entries[0].wanted, tuple(runs))


def _runs_of_shared_seeds(entries: Sequence[Entry]) -> list[list[Run]]:
    """For each entry its runs of the seeds that all entries have, in the order of the seeds."""
    seeds = set.intersection(*({run.seed for run in entry.runs} for entry in entries))
    return [sorted((run for run in entry.runs if run.seed in seeds), key=lambda run: run.seed) for entry in entries]


def _row(plan: Plan, cell: Cell, attack_runs: Sequence[Entry], entries: Entries) -> dict[str, Any]:
    """One line of the frame. attack_runs: an entry for each attack run, with equal seeds. entries: of the table."""
    victim, attack = cell.victim, _attack_variant(plan, cell)
    poison = cell.poison or Poison(CLEAN, "", victim.sigma, cell.target_class)
    clean = entries.get(cell._replace(poison=None))
    measured = tuple(entry for entry in attack_runs if entry.runs) or tuple(attack_runs)
    runs = [run for entry in measured for run in entry.runs]
    made_by = runs[0].attack if runs else {}
    row: dict[str, Any] = {
        "table": plan.table, "dataset": _shared_value(run.certificate.get("dataset") for run in runs) or plan.dataset,
        "method": victim.method, "victim_variant": victim.variant, "sigma": victim.sigma,
        "architecture": victim.architecture, "target_class": cell.target_class, "data": data_name(plan, cell),
        "poison": poison.against, "poison_architecture": poison.architecture, "poison_variant": poison.variant,
        "attack": attack.series, "optimiser": made_by.get("optimiser", ""),
        "parametrisation": made_by.get("parametrisation", ""), "attack_epochs": attack.flags.get("epochs", ""),
        "epsilon": "", "share": "", "data_kind": DATA_KINDS.get(poison.against, OPTIMISED), "cell": cell,
        "entries": measured, "clean": clean,
    }  # fmt: skip
    if cell.poison:
        row["epsilon"] = _shared_value(run.poison.get("epsilon") for run in runs) or plan.epsilon
        row["share"] = min([poison.share, *(run.poison.get("share") or 1.0 for run in runs)])
    for name in ("split", "n0", "n", "alpha"):
        row[name] = _shared_value(run.certificate.get(name) for run in runs)
    row["points"] = _shared_value(len(run.radii) for run in runs)
    row["runs"] = len(runs)
    row["runs_wanted"] = sum(entry.wanted for entry in attack_runs)
    entered = poison.against == READY and runs and "poison" in runs[0].records and not made_by  # not by an attack here
    row["attack_runs"] = "" if entered or row["data_kind"] != OPTIMISED else len(measured)
    row["victim_epochs"] = _shared_value(run.records["victim"].get("settings", {}).get("epochs") for run in runs)
    for name in OF_VICTIMS:
        if name in CERTIFIED_AT:
            values = [run.certified_at(CERTIFIED_AT[name] * run.sigma) for run in runs]
        else:
            values = [getattr(run, name) for run in runs]
        row[f"{name}_mean"], row[f"{name}_std"] = mean_and_std(values)
    row["at_ceiling"], _ = mean_and_std(run.at_ceiling for run in runs)
    reduction = reduction_against(measured, clean) if cell.poison else None
    for name in ("percent", "low", "high"):
        row[f"reduction_{name}"] = getattr(reduction, name, None)
    row["interval_over"] = ", ".join(reduction.over) if reduction else ""
    row["reduction"] = reduction
    row["reduction_at_sigma"] = reduction_against(measured, clean, victim.sigma) if cell.poison else None
    row["gradients"], _ = mean_and_std(run.gradients for run in runs)
    # All victims of an entry have one poison. In a store of several parts not all of them have its visibility.
    visibilities = [next(filter(None, (run.visibility for run in entry.runs)), {}) for entry in measured]
    for name in dict.fromkeys(name for one in visibilities for name in one):
        row[name], _ = mean_and_std(one.get(name) for one in visibilities)
    for name in ("backend", "machine"):
        row[name] = _shared_value(run.records["victim"].get(name) for run in runs)
    named = [commit for run in runs for commit in commits(run.records)]
    row["commit"] = _shared_value(commit[:12] + "-dirty" * commit.endswith("-dirty") for commit in named)
    return row


def data_name(plan: Plan, cell: Cell) -> str:
    """Name of the training data, as in the plan. In a transfer it also names the poison's method or model."""
    poison, victim = cell.poison, cell.victim
    if poison is None or cell.row != OPTIMISED:
        return cell.row
    if poison.against != victim.method:
        return f"{OPTIMISED} against {poison.against}"
    attacked = plan.architecture if plan.architecture_transfer else victim.architecture
    own = poison.architecture == victim.architecture == attacked
    return OPTIMISED if own else f"{OPTIMISED} with {poison.architecture or 'an unknown network'}"


def _attack_variant(plan: Plan, cell: Cell) -> AttackVariant:
    """The named attack of an entry or of all its seeds. Other training data get a variant without name and flags."""
    name = cell.poison.variant if cell.poison else ""
    named = (one for key, one in plan.attack_variants().items() if name and name in (key, one.over_seeds))
    return next(named, AttackVariant("", {}))


def reduction_against(attack_runs: Sequence[Entry], clean: Entry | None, at: float | None = None) -> Reduction | None:
    """Reduction against clean runs with the same seeds, of the ACR, or of certified accuracy at the radius ``at`` > 0.

    None: there is no clean run, the clean mean is 0, or numbers of points or certificates' settings MUST_AGREE differ.
    """
    if (pair := paired_radii(attack_runs, clean)) is None:
        return None
    poisoned_radii, clean_radii = pair.poisoned, pair.clean
    if at is not None:
        poisoned_radii, clean_radii = 1.0 * (poisoned_radii >= at), 1.0 * (clean_radii >= at)
    return reduction_of(poisoned_radii, clean_radii, same_points=pair.same_points)


class PairedRadii(NamedTuple):
    """Radii of victims of poisoned and of clean data with the same seeds, 0 where a point is not certified."""

    poisoned: np.ndarray  # float64 (attack runs, victims, points)
    clean: np.ndarray  # float64 (victims, points)
    same_points: bool  # whether all victims have the same points


def paired_radii(attack_runs: Sequence[Entry], clean: Entry | None) -> PairedRadii | None:
    """The radii that reduction_against compares. None: as there."""
    if clean is None:
        return None
    clean_runs, *poisoned_runs = _runs_of_shared_seeds([clean, *attack_runs])
    if not clean_runs or _different_setting([clean_runs, *poisoned_runs]):
        return None
    all_poisoned = [run for runs in poisoned_runs for run in runs]
    for runs in (clean_runs, all_poisoned):
        if len({len(run.radii) for run in runs}) > 1:
            return None
    poisoned = np.array([[run.radii for run in runs] for runs in poisoned_runs])
    same_points = all(np.array_equal(run.idx, clean_runs[0].idx) for run in (*clean_runs, *all_poisoned))
    return PairedRadii(np.maximum(poisoned, 0), np.maximum([run.radii for run in clean_runs], 0), same_points)


def _different_setting(groups: Iterable[Iterable[Run]]) -> str:
    """The first setting of MUST_AGREE in which certificates of runs differ, as far as these are known. '': none."""
    certificates = [run.certificate for runs in groups for run in runs]
    for name in MUST_AGREE:
        known = [one[name] for one in certificates if one.get(name) is not None]
        if any(value != known[0] for value in known):
            return name
    return ""


def _shared_value(values: Iterable[Any]) -> Any:
    """The value that all share. Different values are joined as sorted text. '': no value is known."""
    named = {str(value): value for value in values if value is not None}
    numbers = [value for value in named.values() if isinstance(value, int | float)]
    different = [*sorted(numbers), *sorted(text for text, value in named.items() if not isinstance(value, int | float))]
    return different[0] if len(different) == 1 else ", ".join(map(str, different))


def cautions(frame: pd.DataFrame) -> list[str]:
    """A line for each reduction that is missing, leaves out victims, compares unknown votes or has unchanged images."""
    lines = []
    for row in frame[(frame["target_class"] != MEAN) & (frame["poison"] != CLEAN)].to_dict("records"):
        if row["reduction"] is None:
            if row["clean"] is None:
                lines.append(f"{row['cell']}: no reduction, because the table has no clean data with these victims")
            elif name := _different_setting(entry.runs for entry in (row["clean"], *row["entries"])):
                lines.append(f"{row['cell']}: no reduction, because certificates of clean data differ in {name}")
            continue
        votes = [row["n"], _shared_value(run.certificate.get("n") for run in row["clean"].runs)]
        if (runs := row["reduction"].runs) < row["runs"]:
            about = "the seeds of the others are not among those of clean victims or of another attack run"
            lines.append(f"{row['cell']}: its reduction is over {runs} of {row['runs']} victims: {about}")
        if "" in votes and votes != ["", ""]:
            lines.append(f"{row['cell']}: its reduction compares radii of known and of unknown n")
        if _training_images(row["entries"]) & _training_images([row["clean"]]):
            lines.append(f"{row['cell']}: its training images are those of clean data")
    return lines


def _training_images(entries: Iterable[Entry]) -> set[str]:
    """Hashes of the images that the entries' victims were trained on, where they are known."""
    settings = [run.records["victim"].get("settings", {}) for entry in entries for run in entry.runs]
    return {one["x_train"] for one in settings if one.get("x_train")}


def points_of(frame: pd.DataFrame) -> str:
    """The name of a frame's certified points: validation points or test points."""
    return "validation points" if set(frame["split"]) - {""} == {"val"} else "test points"


def measured_line(frame: pd.DataFrame) -> str:
    """One line about the measurement of a frame's runs. Where runs differ, it lists all values."""
    names = {
        "commit": "commit", "backend": "", "machine": "", "victim_epochs": "epochs of victims",
        "points": points_of(frame), "n": "n", "runs": "victims of an entry", "epsilon": "epsilon",
    }  # fmt: skip
    single = frame[(frame["runs"] > 0) & (frame["entries"].map(len) == 1) & (frame["target_class"] != MEAN)]
    parts = []
    for name, text in names.items():
        values = {part for value in single[name] for part in str(value).split(", ") if part}
        shown = ", ".join(sorted(values, key=lambda value: (len(value), value)))
        parts += [f"{text} {shown}".strip()] if shown else []
    return "; ".join(parts)


UNWRITTEN = [
    "reduction", "reduction_at_sigma", "data_kind", "cell", "entries", "clean", "in_method_transfer",
    "in_architecture_transfer",
]  # fmt: skip
DECIMALS = {"reduction": 1, "gradients": 1}  # decimals in files, by the start of the column's name. Default: 4
AS_THEY_ARE = ("sigma", "epsilon", "share", "alpha")


def as_csv(frame: pd.DataFrame) -> str:
    """The frame's numbers as text, with the files and the entry that they come from."""
    table = frame.drop(columns=UNWRITTEN).copy()
    for name in table.columns:
        if name not in AS_THEY_ARE and any(isinstance(value, float) for value in table[name]):
            form = f"{{:.{DECIMALS.get(name.partition('_')[0], 4)}f}}"
            table[name] = ["" if pd.isna(value) else form.format(value) for value in table[name]]
    for name, file in {"settings": SETTINGS, "tsv": POINTS}.items():
        table[name] = np.where(frame["runs"] > 0, frame["table"] + f"/{file}", "")
    table["entry"] = [", ".join(entry.cell.key for entry in entries) for entries in frame["entries"]]
    table.loc[frame["target_class"] == MEAN, "entry"] = ""
    return table.to_csv(index=False, lineterminator="\n")
