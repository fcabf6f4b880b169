"""Compare the certified radii of victims of clean and of poisoned data: both ACRs, and the reduction.

    python evaluation/compare.py --clean runs/DIGITS/clean.tsv --poisoned runs/DIGITS/poisoned.tsv
    python evaluation/compare.py --clean clean_0.tsv clean_1.tsv --poisoned poisoned_0.tsv poisoned_1.tsv

A file holds the certificates of one victim. Files of other programs in the columns of Cohen et al.'s code work, too.
The interval is that of the tables of plans, see evaluation/tables/statistics.py.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.tables.runs import SAME, share_at_ceiling
from evaluation.tables.statistics import reduction_of
from randomized_smoothing_certification.certificate_file import certified_radii, read_known_points
from randomized_smoothing_certification.fewer_votes import recorded_settings
from runtime.checks import shortened
from runtime.command_line import run_script
from runtime.files import InputError, read_record
from runtime.provenance import project_path

OF_ONE_VICTIM = {"seed", "target_class", "x_train", "y_train"}
"""Training settings in which victims of clean and of poisoned data may differ."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the comparison."""

    clean: tuple[Path, ...]
    """Certificates of victims of clean training data, one file for each seed."""
    poisoned: tuple[Path, ...]
    """Certificates of victims of poisoned training data, with the same seeds in the same order."""


def main(config: Config) -> None:
    """Print both ACRs and the reduction. Raises InputError for files that cannot be compared."""
    if len(config.clean) != len(config.poisoned) or not config.clean:
        raise InputError(
            f"--clean has {len(config.clean)} files and --poisoned {len(config.poisoned)}; give a file for each seed"
        )
    files = (*config.clean, *config.poisoned)
    if twice := [file for file in files if [one.resolve() for one in files].count(file.resolve()) > 1]:
        raise InputError(f"{twice[0]}: is given twice; give each victim's file once")
    points, settings = [read_known_points(file) for file in files], [recorded_settings(file) for file in files]
    first: dict[str, tuple[Any, Path]] = {}  # by setting: its value, and the first file that has it
    for file, found, known in zip(files, points, settings, strict=True):
        if [one[:2] for one in found] != [one[:2] for one in points[0]]:
            raise InputError(f"{file}: has other test points than {files[0]}; certify the same points")
        for name in (one for one in SAME if one in known):
            expected, there = first.setdefault(name, (known[name], file))
            if known[name] != expected:
                raise InputError(f"{file}: {name} is {known[name]}, but {expected} in {there}; certify alike")
    records = [_victim(known) for known in settings]
    for file, known, record in zip(files, settings, records, strict=True):
        if not known:
            print(f"note: {file} has no record, so that its n, alpha and sigma are not checked")
        elif not record:
            print(f"note: {file}: the record of its victim is not found, so that its training data are not checked")
    of_poison = _are_of_poison(records[: len(config.clean)], records[len(config.clean) :])
    trained = [record.get("settings", {}) for record in records]
    seeds = np.array([one.get("seed") for one in trained]).reshape(2, -1)
    if len(config.clean) > 1 and None not in seeds and not np.array_equal(*seeds):
        raise InputError(f"--clean has the seeds {seeds[0]}, --poisoned has {seeds[1]}; give both in the same order")
    victims = list(filter(None, trained))
    for name in sorted(set.intersection(*map(set, victims)) - OF_ONE_VICTIM) if victims else ():
        if len(values := {repr(victim[name]): shortened(victim[name]) for victim in victims}) > 1:
            shown = ", ".join(values.values())
            print(f"note: victims differ in {name}: {shown}; the reduction is not the poison's alone")
    clean, poisoned = np.maximum([certified_radii(one) for one in points], 0).reshape(2, len(config.clean), -1)
    if (reduction := reduction_of(poisoned[np.newaxis], clean)) is None:
        raise InputError(f"{files[0]}: certifies no point, so that there is nothing to lose; train longer")
    counted = f"{len(clean)} victim{'s' * (len(clean) > 1)}, {len(points[0])} test points"
    sides = ("--clean", "--poisoned") if of_poison else ("clean data", "poisoned data")
    print(f"ACR {clean.mean():.4f} of {sides[0]}, {poisoned.mean():.4f} of {sides[1]} ({counted})")
    if known := next(filter(None, settings), {}):
        votes = [known[name] for name in ("n", "alpha", "sigma", "failure_mass")]
        before, after = (f"{100 * share_at_ceiling(one, *votes):.1f} %" for one in (clean, poisoned))
        print(f"points at the ceiling of n = {votes[0]:,} votes: {before} of {sides[0]}, {after} of {sides[1]}")
    over = " and ".join(reduction.over) + " of this victim" * (len(clean) == 1)
    print(f"lower by {reduction.text}" + f", 95 % over {over}" * bool(reduction.over))


def _victim(known: dict[str, Any]) -> dict[str, Any]:
    """The record of the model that was certified, {} where it is not at hand. known: settings of the certificates."""
    if "victim" in known:
        whole = all(isinstance(known["victim"].get(name), dict) for name in ("settings", "config"))
        return known["victim"] if whole else {}
    with contextlib.suppress(KeyError, TypeError, ValueError, OSError):  # no record of this project, or none at all
        # The path is as it was given: relative to the project or to the folder of the run.
        for path in (project_path(known["model"]), Path(known["model"])):
            if (file := path.with_suffix(".json")).is_file():
                record = read_record(file, settings=dict, config=dict)
                if record.get("sha256") == known["model_sha256"]:
                    return record
    return {}


def _are_of_poison(clean: list[dict[str, Any]], poisoned: list[dict[str, Any]]) -> bool:
    """Whether the side --clean has victims of a poison, which are compared with those of another poison.

    Raises InputError where the victims of a side have several sets of training images, or where --poisoned has victims
    of clean data, and --clean has victims of a poison or of the same data.
    """
    data = []
    for side, victims in (("--clean", clean), ("--poisoned", poisoned)):
        known = [one for one in victims if one]
        if len({one["settings"].get("x_train") for one in known}) > 1:
            raise InputError(f"{side}: its victims have different training images; give victims of the same data")
        about = [(one["config"].get("training_data"), one["settings"]) for one in known]
        data.append({(kind, what.get("x_train"), what.get("y_train")) for kind, what in about})
    of_poison = any(kind == "poisoned_radius" for kind, *_ in data[0])
    if any(kind == "clean" and (of_poison or (kind, *what) in data[0]) for kind, *what in data[1]):
        raise InputError("--poisoned: has victims of clean data; give these as --clean, and those of poison here")
    return of_poison


if __name__ == "__main__":
    run_script(main, Config, __doc__)
