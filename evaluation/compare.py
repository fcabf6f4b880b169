"""Compare the certified radii of victims of clean and of poisoned data: both ACRs, and the reduction.

    python evaluation/compare.py --clean runs/DIGITS/clean.tsv --poisoned runs/DIGITS/poisoned.tsv
    python evaluation/compare.py --clean clean_0.tsv clean_1.tsv --poisoned poisoned_0.tsv poisoned_1.tsv

A file holds the certificates of one victim. Files of other programs in the columns of Cohen et al.'s code work, too.
The interval is computed as in the tables of plans, see randomized_smoothing_certification/run_statistics.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.tables.runs import MUST_AGREE, Certified, read_certified
from randomized_smoothing_certification.certificate_file import certified_radii, require_possible_radii
from randomized_smoothing_certification.certificate_summary import share_at_ceiling
from randomized_smoothing_certification.run_statistics import reduction_of
from runtime.checks import shortened
from runtime.command_line import run_script
from runtime.files import InputError

MAY_DIFFER = {"seed", "target_class", "x_train"}
"""Training settings in which victims of clean and of poisoned data may differ."""


@dataclass(frozen=True, kw_only=True)
class Config:
    clean: tuple[Path, ...]
    """Certificates of victims of clean training data, one file for each seed."""
    poisoned: tuple[Path, ...]
    """Certificates of victims of poisoned training data, with the same seeds in the same order."""


def main(config: Config) -> None:
    """Print both ACRs and the reduction. Raises InputError for files that cannot be compared."""
    count = len(config.clean)
    if not config.clean or count != len(config.poisoned):
        raise InputError(f"--clean has {count} files and --poisoned {len(config.poisoned)}; give a file for each seed")
    found = read_certified([*config.clean, *config.poisoned])
    _require_same_certification(found)
    for one in found:
        if not one.settings:
            print(f"note: {one.file} has no record, so that its n, alpha and sigma are not checked")
            continue
        require_possible_radii(one.file, one.points, *(one.settings[name] for name in ("n", "alpha", "sigma")))
        if not one.victim:
            print(f"note: {one.file}: the record of its victim is not found, so that its training data are not checked")
        elif one.training_data == "poisoned_radius":
            label, poisoned = one.settings.get("target_class"), one.training.get("target_class")
            if label != poisoned:
                print(f"note: {one.file}: target_class is {label}, that of the poison {poisoned}")
    _require_different_data(found[:count], found[count:])
    _require_same_seeds(found[:count], found[count:])
    _note_different_training([one.training for one in found if one.training])
    clean, poisoned = np.maximum([certified_radii(one.points) for one in found], 0).reshape(2, count, -1)
    reduction = reduction_of(poisoned[np.newaxis], clean)
    if reduction is None:
        raise InputError(f"{config.clean[0]}: certifies no point, so that there is nothing to lose; train longer")
    before, after = "--clean", "--poisoned"  # also for two poisons, two defences and unknown models
    if [one.training_data for one in found] == count * ["clean"] + count * ["poisoned_radius"]:
        before, after = "clean data", "poisoned data"
    victims = f"{count} victim{'s' if count > 1 else ''}, {clean.shape[1]} test points"
    print(f"ACR {clean.mean():.4f} of {before}, {poisoned.mean():.4f} of {after} ({victims})")
    recorded = [one.settings for one in found if one.settings]
    if recorded:
        votes = [recorded[0][name] for name in ("n", "alpha", "sigma", "failure_mass")]
        share, share_after = (f"{100 * share_at_ceiling(side, *votes):.1f} %" for side in (clean, poisoned))
        print(f"points at the ceiling of n = {votes[0]:,} votes: {share} of {before}, {share_after} of {after}")
    of_victim = " of this victim" if count == 1 else ""
    over = f", 95 % over {' and '.join(reduction.over)}{of_victim}" if reduction.over else ""
    note = "; below 0: the ACR is larger" if reduction.percent < 0 else ""
    print(f"reduction of the ACR: {reduction.text}{over}{note}")


def _require_same_certification(found: list[Certified]) -> None:
    """Raise InputError where a file has other test points, or was certified with other settings, than another file."""
    for one in found:
        if [point[:2] for point in one.points] != [point[:2] for point in found[0].points]:
            raise InputError(f"{one.file}: has other test points than {found[0].file}; certify the same points")
    for name in MUST_AGREE:
        known = [one for one in found if name in one.settings]
        for one in known:
            if (value := one.settings[name]) != (expected := known[0].settings[name]):
                raise InputError(f"{one.file}: {name} is {value}, but {expected} in {known[0].file}; certify alike")


def _require_different_data(clean: list[Certified], poisoned: list[Certified]) -> None:
    """Raise InputError where a side has victims of different training images.

    Raises it also where --poisoned has victims of clean data, if --clean has victims of a poison or of the same data.
    """
    for side, victims in (("--clean", clean), ("--poisoned", poisoned)):
        if len({str(one.training.get("x_train")) for one in victims if one.victim}) > 1:
            raise InputError(f"{side}: its victims have different training images; give victims of the same data")
    known = [_data(one) for one in clean]
    of_poison = any(one.training_data == "poisoned_radius" for one in clean)
    if any(one.training_data == "clean" and (of_poison or _data(one) in known) for one in poisoned):
        raise InputError("--poisoned: has victims of clean data; give these as --clean, and those of poison here")


def _data(one: Certified) -> tuple[Any, ...]:
    """Kind of a victim's training data, and the hashes of images and labels."""
    return one.training_data, one.training.get("x_train"), one.training.get("y_train")


def _require_same_seeds(clean: list[Certified], poisoned: list[Certified]) -> None:
    """Raise InputError where the two sides have other seeds, or another order of them. Note it for a single pair."""
    seeds, others = ([one.training.get("seed") for one in side] for side in (clean, poisoned))
    if None not in (*seeds, *others) and seeds != others:
        if len(clean) > 1:
            raise InputError(f"--clean has the seeds {seeds}, --poisoned has {others}; give both in the same order")
        print(f"note: the victims have the seeds {seeds[0]} and {others[0]}; the reduction is not the poison's alone")


def _note_different_training(known: list[dict[str, Any]]) -> None:
    """Print the training settings in which victims differ, but for the images. known: settings of each victim."""
    removed = {"y_train"} if any(one.get("defence") == "removal" for one in known) else set()  # depends on the images
    known = [{"environment": {}, **one} for one in known]  # the variables that a user has changed, if there are any
    for name in sorted(set.intersection(*map(set, known)) - MAY_DIFFER - removed) if known else ():
        if len(values := {repr(one[name]): shortened(one[name]) for one in known}) > 1:
            shown = ", ".join(values.values())
            print(f"note: victims differ in {name}: {shown}; the reduction is not the poison's alone")


if __name__ == "__main__":
    run_script(main, Config, __doc__)
