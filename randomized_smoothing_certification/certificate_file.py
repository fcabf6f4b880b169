"""Certificates of points as a file: a line per point in the columns of Cohen et al.'s code, separated by tabs.

A run whose points may have different numbers of votes adds a column ``votes``.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np

from randomized_smoothing_certification.core import ABSTAIN, radius_ceiling
from runtime.files import InputError, file_sha256, read_json
from runtime.long_run import settings_path

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
RADIUS_DIGITS = 6
NOISE_OF_SEED, NOISE_OF_SEED_AND_IMAGES = "seed", "seed and images"
"""What a run's noise depends on: see core.noise_seed."""
OLDER_SETTINGS: dict[str, Any] = {
    "shared_noise": False, "acr_only": False, "radius_loss": 0.0, "radii": [], "noise_of": NOISE_OF_SEED,
}  # fmt: skip
"""What a record means that was written before these settings existed."""


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
    votes: int | None = None  # that bounded the class's probability, where the file has this column

    @property
    def line(self) -> str:
        """The point's line, without the line end."""
        return "\t".join(str(value) for value in self if value is not None)

    @property
    def certified_radius(self) -> float:
        """The radius; -1 where the certificate abstains or is of another class."""
        return float(self.radius) if self.predict == self.label != ABSTAIN else -1.0

    @property
    def seconds(self) -> float:
        """Time spent. Raises ValueError where the text is none."""
        return seconds_of(self.time)


def seconds_of(time: str) -> float:
    """Seconds of a text [d days, ]h:mm:ss.ffffff. Raises ValueError where it is none."""
    days, _, clock = time.rpartition(", ")
    hours, minutes, seconds = clock.split(":")
    of_days = 86_400 * int(days.split()[0]) if days else 0
    return of_days + 3_600 * int(hours) + 60 * int(minutes) + float(seconds)


def _is_time(text: str) -> bool:
    try:
        return 0 <= seconds_of(text) < np.inf
    except ValueError:
        return False


def header_of(settings: Mapping[str, Any]) -> str:
    """The first line of a run's file. settings: of the run."""
    return "\t".join((*COLUMNS, "votes") if _votes_differ(settings) else COLUMNS)


def _votes_differ(settings: Mapping[str, Any]) -> bool:
    return bool(settings["acr_only"] or settings["radius_loss"])


def read_points(path: Path) -> list[Point]:
    """The points in a certification file, of this project or of another program.

    The columns label, predict and radius are found by name in the first line; predict is -1 where the certificate
    abstains. The columns idx (the line's number where it is missing) and votes are read where they are there, the
    others decide nothing. A byte-order mark is passed over.
    Raises InputError where the file is missing, damaged or without a point, holds a point twice, or has a radius that
    is negative or not finite.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t")
            reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or []]
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; certify the model first or mend the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text in UTF-8; unpack it, or save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: not a certification file ({error}); mend the path") from error
    rows = [(number, row) for number, row in rows if any(str(cell or "").strip() for cell in row.values())]
    if not columns and not rows:
        raise InputError(f"{path}: has no point, it is empty; certify the model first")
    if lacking := [name for name in ("label", "predict", "radius") if name not in columns]:
        mend = "the first line must name label, predict and radius, with tabs between them"
        if "certified_at" in columns:
            mend = "it holds certified accuracies at fixed radii; certify without --radii"
        raise InputError(f"{path}: has no column {lacking[0]!r}; {mend}")
    if not rows:
        raise InputError(f"{path}: has no point, only the line of column names; certify the model first")
    points: list[Point] = []
    lines_of: dict[int, int] = {}
    for number, row in rows:
        if all(row[name] == name for name in ("label", "predict", "radius")):
            raise InputError(
                f"{path}: line {number} repeats the column names, so that two files seem to be joined; keep one of them"
            )
        if None in row.values():
            raise InputError(f"{path}: line {number} is damaged: it is cut off; delete it or certify again")
        try:
            label, predict, radius = _whole(row["label"]), _whole(row["predict"]), float(row["radius"])
            index = _whole(row["idx"]) if "idx" in columns else number - 2
        except ValueError as error:
            raise InputError(
                f"{path}: line {number} is damaged: label, predict, radius (and idx) must be numbers; certify again"
            ) from error
        if index < 0:
            raise InputError(f"{path}: line {number} has the point {index}; points are numbered from 0")
        if not (np.isfinite(radius) and radius >= 0):
            raise InputError(f"{path}: line {number} has the radius {radius}, which certifies nothing; mend it")
        if index in lines_of:
            raise InputError(
                f"{path}: line {number} has the point {index} once more, after line {lines_of[index]}; certify again"
            )
        lines_of[index] = number
        votes = _votes(row["votes"]) if "votes" in columns else None
        correct = int(predict == label != ABSTAIN)
        points.append(Point(index, label, predict, row["radius"].strip(), correct, row.get("time") or "", votes))
    return points


def _votes(text: str) -> int:
    """Votes of a point; -1 where the text is no number: only who needs them refuses it."""
    try:
        return _whole(text)
    except ValueError:
        return -1


def _whole(text: str) -> int:
    """A whole number, also one that is written as 3.0. Raises ValueError where the text is none."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():  # infinity and NaN are not
            raise
        return int(number)


def read_own_points(
    path: Path,
    settings: Mapping[str, Any],
    indices: Sequence[int],
    truth: np.ndarray | None = None,
    num_classes: int = 0,
) -> list[Point]:
    """The points in a file of this project, each one that its run can have written.

    settings: of the run. indices: its test points, of which the file holds the first ones, or all. truth: class of
    every test point, int (N,), and the number of classes, where the data are at hand.
    Raises InputError naming the first line where columns, order or form are others, the label is not the data's, the
    class is none, ``correct`` is wrong, or the radius is above what the votes can show.
    That a radius was changed to another possible one cannot be seen here, but once all points are there: the summary
    holds the file's hash, see ``is_summarised``.
    """
    settings = {**OLDER_SETTINGS, **settings}
    if settings["radii"]:
        raise InputError(f"{path}: certified accuracies at fixed radii, no certified radii; certify without --radii")
    points = read_points(path)

    def wrong(point: Point, line: str) -> dict[str, bool]:
        votes = settings["n"] if point.votes is None else point.votes
        possible = range(settings["n"] + 1) if settings["radius_loss"] else (0, settings["n"])
        # Where the bound was computed by another version of SciPy, its last bits may differ.
        largest = ceiling_of(settings, votes) * (1 + 1e-9) if point.predict != ABSTAIN else 0
        return {
            "class": bool(settings["acr_only"]) and point.predict not in (ABSTAIN, point.label),
            "number of votes": _votes_differ(settings) and (point.votes is None or votes not in possible),
            "radius": not re.fullmatch(rf"\d+\.\d{{{RADIUS_DIGITS}}}", point.radius) or float(point.radius) > largest,
            "correct": line.split("\t")[4:5] != [str(point.correct)],
            "time": not _is_time(point.time),
        }

    require_own_lines(path, header_of(settings), points, wrong, settings, indices, truth, num_classes)
    return points


class OwnRow(Protocol):
    """A line of a run's file."""

    @property
    def idx(self) -> int: ...
    @property
    def label(self) -> int: ...
    @property
    def predict(self) -> int: ...
    @property
    def line(self) -> str: ...


Row = TypeVar("Row", bound=OwnRow)


def require_own_lines(
    path: Path,
    header: str,
    rows: Sequence[Row],
    more: Callable[[Row, str], Mapping[str, bool]],
    settings: Mapping[str, Any],
    indices: Sequence[int],
    truth: np.ndarray | None,
    num_classes: int,
) -> None:
    """Raise InputError naming the first line that the run cannot have written.

    rows: what was read from the file. more(row, line): what else is wrong about a row. The others as in
    ``read_own_points``.
    """
    lines = Path(path).read_bytes().decode().split("\n")  # as they are: reading as text takes other line ends too
    if lines[0] != header or lines[-1] or len(lines) != len(rows) + 2:
        raise InputError(f"{path}: not the lines that this project writes; delete the file and certify again")
    for number, (row, line) in enumerate(zip(rows, lines[1:], strict=False), start=2):
        is_next = number - 2 < len(indices) and row.idx == indices[number - 2]
        label = settings["target_class"] if truth is None else int(truth[row.idx]) if is_next else None
        wrong = {
            "point": not is_next,
            "label": label not in ("all", row.label) or row.label < 0,
            "class": row.predict < ABSTAIN or (num_classes and row.predict >= num_classes),
        }
        for found in (wrong, more(row, line), {"form": line != row.line}):
            for what, is_wrong in found.items():
                if is_wrong:
                    raise InputError(
                        f"{path}: line {number} has a {what} that its run cannot have written; delete the file and "
                        "certify again"
                    )


@cache
def _ceiling(sigma: float, votes: int, alpha: float, failure_mass: float) -> float:
    return radius_ceiling(sigma, votes, alpha, failure_mass) if votes else 0.0


def ceiling_of(settings: Mapping[str, Any], votes: int, failure_mass: float = 0.0) -> float:
    """The largest radius that a run's point can have whose probability was bounded by so many votes."""
    return _ceiling(settings["sigma"], votes, settings["alpha"], failure_mass)


class _Settings(msgspec.Struct):
    dataset: str
    split: str
    target_class: int | Literal["all"]
    seed: Annotated[int, msgspec.Meta(ge=0)]
    n0: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    n: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    sigma: Annotated[float, msgspec.Meta(gt=0, lt=1e6)]
    precision: str
    noise: dict[str, Any]
    shard: str | None
    model_sha256: str
    shared_noise: bool
    acr_only: bool
    radius_loss: Annotated[float, msgspec.Meta(ge=0, lt=1e6)]
    radii: list[Annotated[float, msgspec.Meta(ge=0, lt=1e6)]]
    noise_of: Literal["seed", "seed and images"]


class _Record(msgspec.Struct):
    settings: _Settings
    points: list[int]
    provenance: dict[str, Any]


def read_certificate_record(path: Path) -> dict[str, Any]:
    """The record beside certificates: 'settings' of the run, its test 'points', 'provenance'.

    Raises InputError where it is missing, of another form, or holds a value that no run has.
    """
    file = settings_path(path)
    record = read_json(file)
    if isinstance(record, dict) and isinstance(record.get("settings"), dict):
        record["settings"] = {**OLDER_SETTINGS, **record["settings"]}
    try:
        msgspec.convert(record, _Record)
    except msgspec.ValidationError as error:
        raise InputError(f"{file}: not a record of certificates ({error}); certify again") from error
    return record


def as_text(rows: Sequence[OwnRow], header: str = "\t".join(COLUMNS)) -> str:
    """A whole file."""
    return "\n".join([header, *(row.line for row in rows)]) + "\n"


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


def is_summarised(path: Path) -> bool:
    """Whether the summary beside certificates is there and of this very file: then they are whole and unchanged."""
    return summary_path(path).is_file() and Path(path).is_file() and _hash_in_summary(path) == file_sha256(path)


def require_unchanged(path: Path) -> None:
    """Raise InputError where whole certificates differ from those that the summary beside them was made of."""
    if summary_path(path).is_file() and _hash_in_summary(path) not in (None, file_sha256(path)):
        raise InputError(f"{path}: changed since {summary_path(path).name} was made; delete both and certify again")


def _hash_in_summary(path: Path) -> str | None:
    summary = read_json(summary_path(path))
    return summary.get("tsv_sha256") if isinstance(summary, dict) else None
