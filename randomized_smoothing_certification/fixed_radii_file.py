"""Certified accuracies at fixed radii as a file, a line per point, and what they amount to.

The columns are others than those of certified radii, and none is called radius: no table takes one for the other.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from randomized_smoothing_certification.certificate_file import require_own_lines, seconds_of
from randomized_smoothing_certification.certificate_summary import (
    of_each_class,
    point_set,
    points_in_words,
    votes_drawn,
)
from randomized_smoothing_certification.core import ABSTAIN
from randomized_smoothing_certification.fixed_radii import Decision
from runtime.files import InputError

HEADER = "\t".join(("idx", "label", "predict", "certified_at", "undecided_at", "votes", "time"))
NONE = "-"


class DecidedPoint(NamedTuple):
    """One point."""

    idx: int  # in the test set
    label: int  # its class
    predict: int  # the certified class, ABSTAIN where no radius is certified
    certified_at: str  # the largest of the radii that is certified, or NONE
    undecided_at: str  # the radius that the votes were too few for, or NONE
    votes: int  # fresh ones
    time: str  # spent on it, h:mm:ss.ffffff

    @property
    def line(self) -> str:
        """The point's line, without the line end."""
        return "\t".join(map(str, self))

    @property
    def seconds(self) -> float:
        """Time spent. Raises ValueError where the text is none."""
        return seconds_of(self.time)

    @property
    def certified(self) -> float:
        """The largest certified radius; -1 where there is none or the class is another."""
        return float(self.certified_at) if self.predict == self.label and self.certified_at != NONE else -1.0

    @property
    def undecided(self) -> float:
        """The radius that is undecided, infinite where there is none."""
        return np.inf if self.undecided_at == NONE else float(self.undecided_at)


def row_of(index: int, label: int, decision: Decision, radii: Sequence[float], time: str) -> DecidedPoint:
    """A point's row."""
    certified_at = str(radii[decision.certified - 1]) if decision.certified else NONE
    undecided_at = NONE if decision.decided else str(radii[decision.certified])
    return DecidedPoint(index, label, decision.prediction, certified_at, undecided_at, decision.votes, time)


def read_own_decisions(
    path: Path,
    settings: Mapping[str, Any],
    indices: Sequence[int],
    truth: np.ndarray | None = None,
    num_classes: int = 0,
) -> list[DecidedPoint]:
    """The points in a file of this project, each one that its run can have written; see ``read_own_points``."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
        rows = [
            DecidedPoint(
                int(line["idx"]), int(line["label"]), int(line["predict"]), line["certified_at"], line["undecided_at"],
                int(line["votes"]), line["time"],
            )
            for line in lines
        ]  # fmt: skip
        if not all(0 <= row.seconds < np.inf for row in rows):
            raise ValueError("time")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; certify the model first or mend the path") from error
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a file of decisions at fixed radii, or damaged; certify again") from error
    radii = [str(radius) for radius in settings["radii"]]

    def wrong(row: DecidedPoint, _: str) -> dict[str, bool]:
        number = radii.index(row.certified_at) + 1 if row.certified_at in radii else 0
        after = radii[number : number + 1]
        return {
            "class": row.predict not in (ABSTAIN, row.label) or (row.predict == ABSTAIN) != (row.certified_at == NONE),
            "radius that is certified": row.certified_at not in (*radii, NONE),
            "radius that is undecided": row.undecided_at not in (*after, NONE),
            "number of votes": not 0 <= row.votes <= settings["n"] or (not row.votes and row.certified_at != NONE),
        }

    require_own_lines(path, HEADER, rows, wrong, settings, indices, truth, num_classes)
    return rows


def summarise_decisions(points: Sequence[DecidedPoint], what: dict[str, Any]) -> dict[str, Any]:
    """Certified accuracies at the run's radii, and the votes that they took. what: the settings of the run.

    'undecided' is the share of points for which n votes settle nothing at a radius: with more votes the certified
    accuracy there may be higher by at most that. With several classes every number is also given per class.
    """
    return {
        "point_set": {**point_set(what, len(points)), "radii": what["radii"]},
        **_accuracies(points, what["radii"]),
        "per_class": of_each_class(points, lambda of_class: _accuracies(of_class, what["radii"])),
        **votes_drawn(what, [point.votes for point in points], [point.seconds for point in points]),
    }


def _accuracies(points: Sequence[DecidedPoint], radii: Sequence[float]) -> dict[str, Any]:
    certified = np.array([point.certified for point in points])
    undecided = np.array([point.undecided for point in points])
    return {
        "count": len(points),
        "certified_accuracy": {f"{radius:g}": float(np.mean(certified >= radius)) for radius in radii},
        "undecided": {f"{radius:g}": float(np.mean(undecided <= radius)) for radius in radii},
    }


def describe_decisions(summary: dict[str, Any]) -> str:
    """The summary as a few lines of text."""

    def row(name: str, values: Sequence[Any]) -> str:
        return f"  {name:<20} " + "".join(f"{value:>8}" for value in values)

    accuracies, undecided = summary["certified_accuracy"], summary["undecided"]
    lines = [
        points_in_words(summary["point_set"]) + ", alpha for all radii together",
        row("radius", list(accuracies)),
        row("certified accuracy", [f"{value:.3f}" for value in accuracies.values()]),
        row("undecided", [f"{value:.3f}" for value in undecided.values()]),
    ]
    for label, values in (summary["per_class"] or {}).items():
        lines.append(row(f"class {label}", [f"{value:.3f}" for value in values["certified_accuracy"].values()]))
    lines.append(f"  {summary['votes']['per_point']:,.0f} votes a point, {summary['votes_per_second']:,.0f} per second")
    return "\n".join(lines)
