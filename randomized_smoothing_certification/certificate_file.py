"""Certificates of points as a file: a line per point in the columns of Cohen et al.'s code, separated by tabs."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from runtime.files import InputError, write_text

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
RADIUS_DIGITS = 6


class Point(NamedTuple):
    """One certified point.

    The radius is kept as the text in the file, rounded down: a float read from it and rounded down again
    could lose its last digit.
    """

    idx: int  # in the test set
    label: int  # its class
    predict: int  # the certified class, ABSTAIN where there is none
    radius: str  # l2
    correct: int  # 1 where predict is label
    time: str  # spent on it, h:mm:ss.ffffff

    @property
    def line(self) -> str:
        """The point's line, without the line end."""
        return "\t".join(map(str, self))

    @property
    def certified_radius(self) -> float:
        """The radius; -1 where the certificate abstains or is of another class."""
        return float(self.radius) if self.predict == self.label else -1.0

    @property
    def seconds(self) -> float:
        """Time spent. Raises ValueError where the text is none."""
        days, _, clock = self.time.rpartition(", ")
        hours, minutes, seconds = clock.split(":")
        of_days = 86_400 * int(days.split()[0]) if days else 0
        return of_days + 3_600 * int(hours) + 60 * int(minutes) + float(seconds)


def read_points(path: Path) -> list[Point]:
    """The points in a certification file, of this project or of another program.

    The columns label, predict and radius are found by name in the first line; predict is -1 where the certificate
    abstains. Raises InputError where the file is missing, damaged, or has a radius that is negative or not finite.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; certify the model first or mend the path") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a certification file ({error})") from error
    points = []
    for number, row in enumerate(rows, start=2):
        try:
            label, predict, radius = int(row["label"]), int(row["predict"]), float(row["radius"])
            index, spent = int(row.get("idx", number - 2)), row.get("time", "0:00:00")
            point = Point(index, label, predict, row["radius"], int(predict == label), spent)
            _ = point.seconds
        except KeyError as error:
            raise InputError(f"{path}: has no column {error}; label, predict and radius are needed") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: line {number} is damaged; certify again") from error
        if not (np.isfinite(radius) and radius >= 0):
            raise InputError(f"{path}: line {number} has the radius {radius}, which certifies nothing; mend it")
        points.append(point)
    return points


def write_points(path: Path, points: Sequence[Point]) -> None:
    """Write a whole file, over what is there."""
    write_text(path, "\n".join(["\t".join(COLUMNS), *(point.line for point in points)]) + "\n")


def radii(points: Sequence[Point]) -> np.ndarray:
    """Radii, float64 (points,); -1 where a point is certified at none."""
    return np.array([point.certified_radius for point in points])


def certified_curve(radii: np.ndarray) -> dict[str, list[float]]:
    """Certified accuracy against radius: 'radius' ascending, 'accuracy' the share certified there."""
    at = np.unique(np.concatenate([[0.0], radii[radii >= 0]]))
    return {"radius": at.tolist(), "accuracy": [float(np.mean(radii >= radius)) for radius in at]}


def summary_path(path: Path) -> Path:
    """The file that appears beside certificates when they are whole."""
    return Path(path).with_suffix(".summary.json")
