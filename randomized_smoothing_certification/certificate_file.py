"""Certificates of points as a file: a line per point in the columns of Cohen et al.'s code, separated by tabs.

Two columns are added where a run needs them: ``votes`` where points may have different numbers of votes, and
``decided`` where accuracy is certified at fixed radii.
"""

import contextlib
import csv
import dataclasses
import io
import re
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np

from randomized_smoothing_certification.certification_config import CertificateSettings
from randomized_smoothing_certification.core import ABSTAIN, RADIUS_DIGITS, radius_ceiling, round_down
from runtime.files import InputError, file_sha256, form, read_json, read_text
from runtime.part_by_part import settings_path

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
_MEND = "certify the model first or mend the path"  # where a file is missing


class Point(NamedTuple):
    """One certified point.

    The radius is the text in the file, rounded down. A float that is rounded down again could lose its last digit.
    """

    idx: int  # number of the test image
    label: int  # its class
    predict: int  # the certified class, or ABSTAIN
    radius: str  # l2; at fixed radii the largest radius that is certified
    correct: int  # 1 where predict is label
    time: str  # time spent on the point, h:mm:ss.ffffff
    votes: int | None = None  # votes that bounded the class's probability, where the file has this column
    decided: int | None = None  # 0 where the votes were too few for the next of the fixed radii, else 1

    @property
    def line(self) -> str:
        """The point's line, without the line end."""
        return "\t".join(str(value) for value in self if value is not None)

    @property
    def certified_radius(self) -> float:
        """The radius, or -1 if the certificate abstains or is for another class than the label."""
        return float(self.radius) if self.predict == self.label != ABSTAIN else -1.0

    @property
    def seconds(self) -> float:
        """Time spent, or NaN if the text is no time."""
        days, _, clock = self.time.rpartition(", ")
        try:
            hours, minutes, seconds = clock.split(":")
            return 86_400 * int(days.split(" ")[0] or 0) + 3_600 * int(hours) + 60 * int(minutes) + float(seconds)
        except (ValueError, OverflowError):  # the latter for a number of 400 digits
            return np.nan


def header_of(settings: Mapping[str, Any]) -> str:
    """The first line of the file of a run with these settings."""
    votes_differ = settings["acr_only"] or settings["radius_loss"]
    added = ("votes", "decided") if settings["radii"] else ("votes",) if votes_differ else ()
    return "\t".join((*COLUMNS, *added))


def fixed_radius(radius: float) -> str:
    """A fixed radius as text that is read back as the same number."""
    text = f"{radius:.{RADIUS_DIGITS}f}"
    return text if float(text) == radius else repr(radius)


def read_points(path: Path, record: Mapping[str, Any] | None = None) -> list[Point]:
    """The points in a certification file, of this project or of another program. record: of a whole run of this one.

    The columns label, predict and radius are found by name in the first line. predict is -1 where the certificate
    abstains. The columns idx, time and votes are read where the file has them. Without idx, points are numbered from 0.
    A byte-order mark is skipped.
    Raises InputError if the file is missing, damaged or without a point, holds a point twice, has a radius that is
    negative or not finite, ends within a radius, or holds certified accuracies at fixed radii. With a record it raises
    InputError also as ``read_whole_points`` does.
    """
    points = read_whole_points(path, record) if record else _points_of(path, read_text(path, _MEND))
    if points[0].decided is not None or (record and record["settings"]["radii"]):
        raise InputError(f"{path}: certified accuracies at fixed radii, no certified radii; certify without --radii")
    return points


def _points_of(path: Path, text: str) -> list[Point]:
    points: list[Point] = []
    lines_of: dict[int, int] = {}
    for place, (number, row) in enumerate(_rows_of(path, text)):
        point = _point_of(f"{path}: line {number}", row, place)
        if (first := lines_of.setdefault(point.idx, number)) != number:
            raise InputError(
                f"{path}: line {number} has the point {point.idx} once more, after line {first}; certify again"
            )
        points.append(point)
    return points


def _rows_of(path: Path, text: str) -> list[tuple[int, dict[Any, Any]]]:
    """A file's lines with their numbers, as dicts by column. Raises InputError if these are no certificates."""
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t")
        reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or []]
        rows = [(reader.line_num, row) for row in reader if any(str(cell or "").strip() for cell in row.values())]
    except csv.Error as error:
        raise InputError(f"{path}: not a certification file ({error}); mend the path") from error
    if not columns and not rows:
        raise InputError(f"{path}: has no point, it is empty; certify the model first")
    if lacking := [name for name in ("label", "predict", "radius") if name not in columns]:
        raise InputError(
            f"{path}: has no column {lacking[0]!r}; the first line must name label, predict and radius, with tabs "
            "between them"
        )
    if twice := next((name for name in Point._fields if columns.count(name) > 1), None):
        raise InputError(f"{path}: has the column {twice!r} twice; leave one out")
    if not rows:
        raise InputError(f"{path}: has no point, only the line of column names; certify the model first")
    number, last = rows[-1]
    if columns[-1] == "radius" and text[-1] not in "\r\n" and last["radius"] not in (None, "radius"):
        raise InputError(
            f"{path}: line {number} may be cut off: it does not end; add a line break if its radius is whole"
        )
    return rows


def _point_of(line: str, row: Mapping[Any, Any], place: int) -> Point:
    """The point in a line of a file. line: its name in errors. place: number of the point if the file has no idx."""
    if all(row[name] == name for name in ("label", "predict", "radius")):
        raise InputError(f"{line} repeats the column names, so that two files seem to be joined; keep one of them")
    if None in row.values():
        raise InputError(f"{line} is damaged: it is cut off; delete it or certify again")
    surplus = row.get(None, ())  # cells beyond the columns
    if any("\n" in cell for cell in row.values()) or any(cell.strip() for cell in surplus):
        raise InputError(f"{line} is damaged: it joins two lines or has too many cells; delete it or certify again")
    try:
        Decimal(row["radius"].strip())  # rounding_error needs it
        label, predict, radius = _whole(row["label"]), _whole(row["predict"]), _number(row["radius"])
        index = _whole(row["idx"]) if "idx" in row else place
    except (ValueError, ArithmeticError) as error:  # the latter from Decimal
        raise InputError(
            f"{line} is damaged: label, predict, radius (and idx) must be numbers; certify again"
        ) from error
    if min(label, predict) < ABSTAIN:
        raise InputError(f"{line} has a class that cannot be: label {label}, predict {predict}; certify again")
    if index < 0:
        raise InputError(f"{line} has the point {index}; points are numbered from 0")
    if not 0 <= radius <= float(np.finfo(np.float32).max):
        raise InputError(f"{line} has the radius {radius}, which certifies nothing; mend it")
    # -1 stands for text that is no number. Callers that need the number refuse it.
    votes, decided = (_whole(row[name], otherwise=-1) if name in row else None for name in ("votes", "decided"))
    correct = int(predict == label != ABSTAIN)
    return Point(index, label, predict, row["radius"].strip(), correct, row.get("time") or "", votes, decided)


def _number(text: str) -> float:
    """A number. Raises ValueError if the text is none. Python alone would read 1_0 as 10."""
    return float(text.replace("_", "?"))


def _whole(text: str, otherwise: int | None = None) -> int:
    """A whole number, which may be written as 3.0. Raises ValueError if the text is none, unless otherwise is given."""
    with contextlib.suppress(ValueError):
        if (number := _number(text)).is_integer():  # infinity and NaN are not
            return int(number)
    if otherwise is None:
        raise ValueError
    return otherwise


def read_own_points(
    path: Path, record: Mapping[str, Any], truth: np.ndarray | None = None, num_classes: int = sys.maxsize
) -> list[Point]:
    """The points in a file of this project, after a check that its run can have written each line.

    record: of the run, with its 'settings' and the numbers of its 'points'. The file holds all points or the first few.
    truth, num_classes: class of every test point, int (N,), and the number of classes, if the data are available.
    Raises InputError that names the first line with wrong columns, order or form, a label that differs from the data, a
    class that does not exist, a wrong ``correct``, or a radius that its votes cannot show. If a radius was changed to
    another possible value, the file's hash in the summary of a whole run shows it.
    """
    settings, indices = record["settings"], record["points"]
    text = read_text(path, _MEND)
    points, lines = _points_of(path, text), text.split("\n")
    if lines[0] != header_of(settings) or lines[-1] or len(lines) != len(points) + 2:
        raise InputError(f"{path}: not the lines that this project writes; delete the file and certify again")
    check = _what_is_wrong_at_fixed_radii if settings["radii"] else _what_is_wrong
    only_label = settings["acr_only"] or settings["radii"]
    for number, (point, line) in enumerate(zip(points, lines[1:], strict=False), start=2):
        is_next = number - 2 < len(indices) and point.idx == indices[number - 2]
        label = int(truth[point.idx]) if truth is not None and is_next else settings["target_class"]
        wrong = {
            "point": not is_next,
            "label": label not in ("all", point.label) or point.label < 0,
            "class": point.predict not in ((ABSTAIN, point.label) if only_label else range(ABSTAIN, num_classes)),
            **check(point, settings),
            "correct": line.split("\t")[4] != str(point.correct),
            "time": not 0 <= point.seconds < np.inf,
            "form": line != point.line,
        }
        if what := next((what for what, is_wrong in wrong.items() if is_wrong), None):
            raise InputError(
                f"{path}: line {number} has a {what} that its run cannot have written; delete the file and certify "
                "again"
            )
    if len(points) == len(indices) and _hash_in_summary(path) not in (None, file_sha256(path)):
        raise InputError(f"{path}: changed since {summary_path(path).name} was made; delete both and certify again")
    return points


def largest_radius(settings: Mapping[str, Any], votes: int) -> float:
    """The largest radius that ``votes`` votes of a run with these settings can certify."""
    mass = settings["noise"].get("failure_mass", 0.0)
    return radius_ceiling(settings["sigma"], votes, settings["alpha"], mass)


def _what_is_wrong(point: Point, settings: Mapping[str, Any]) -> dict[str, bool]:
    has_class = point.predict != ABSTAIN
    votes = settings["n"] if point.votes is None else point.votes
    possible = range(settings["n"] + 1) if settings["radius_loss"] else (0, settings["n"])
    # The last bits of a bound may differ between versions of SciPy.
    largest = largest_radius(settings, votes) * (1 + 1e-9) if has_class and votes in possible else 0.0
    return {
        "number of votes": votes not in possible or (has_class and not votes),
        "radius": not re.fullmatch(rf"\d+\.\d{{{RADIUS_DIGITS}}}", point.radius) or float(point.radius) > largest,
    }


def _what_is_wrong_at_fixed_radii(point: Point, settings: Mapping[str, Any]) -> dict[str, bool]:
    has_class = point.predict != ABSTAIN
    possible = [fixed_radius(radius) for radius in settings["radii"]] if has_class else [fixed_radius(0.0)]
    votes = point.votes or 0
    has_votes = 0 <= votes <= settings["n"]
    is_undecided_at_the_last = not point.decided and has_class and point.radius == possible[-1]
    return {
        "radius": point.radius not in possible,
        "decision": point.decided not in (0, 1) or is_undecided_at_the_last,
        "number of votes": not has_votes or (has_class and float(point.radius) >= largest_radius(settings, votes)),
    }


def rounding_error(radius: str) -> float:
    """The largest rounding error of a radius in a file.

    Other programs round up or down. They also write float32 radii with more digits than float32 holds. Cohen et al.'s
    code writes three digits and drops zeros at the end, so that 1.7 stands for 1.70. So a radius with fewer than two
    decimals counts as one with two.
    """
    return 1.01 * 10.0 ** min(int(Decimal(radius).as_tuple().exponent), -2) + 2.0**-23 * float(radius)


def require_possible_radii(path: Path, points: Sequence[Point], n: int, alpha: float, sigma: float) -> None:
    """Raise InputError naming the first point of another program's file whose radius n votes cannot certify."""
    for point in points:
        votes = n if point.votes is None else point.votes
        if not 0 <= votes <= n:
            raise InputError(
                f"{path}: point {point.idx} has {votes} votes of {n} (-1: no number); mend the column or give its n"
            )
        ceiling = radius_ceiling(sigma, votes, alpha)
        if point.predict != ABSTAIN and float(point.radius) > ceiling + rounding_error(point.radius):
            raise InputError(
                f"{path}: point {point.idx} has the radius {point.radius}, but {votes} votes certify at most "
                f"{round_down(ceiling)} with sigma {sigma:g} and alpha {alpha:g}; give the n, sigma and alpha that the "
                "file was made with"
            )


_NOISE: Any = form("mode", mode=Literal["float32", "grid"], failure_mass=Annotated[float, msgspec.Meta(ge=0, lt=0.5)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings(CertificateSettings):
    dataset: str
    noise: _NOISE
    model_sha256: str
    noise_of: Literal["seed and images"]  # the inputs of a run's noise: see runtime.noise.noise_seed


_RECORD = form(
    "settings", "points", "provenance",
    settings=_Settings, points=list[int], provenance=form(config=form(model=str)),
)  # fmt: skip


def read_certificate_record(path: Path) -> dict[str, Any]:
    """The record beside certificates: 'settings' of the run, its test 'points', 'provenance'.

    Raises InputError if the record is missing, has another form, or holds a value that no run has.
    """
    file = settings_path(path)
    record = read_json(file)
    try:
        found = msgspec.convert(record, _RECORD).settings
        dataclasses.replace(found, noise=found.noise.mode).check()
        if lacking := {field.name for field in dataclasses.fields(_Settings)} - record["settings"].keys():
            raise InputError(f"no {min(lacking)}")
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{file}: not a record of certificates ({error}); certify again") from error
    return record


def read_whole_points(path: Path, record: Mapping[str, Any]) -> list[Point]:
    """The points of a whole run. record: from ``read_certificate_record``.

    Raises InputError as ``read_own_points``, and if points are missing.
    """
    points = read_own_points(path, record)
    if len(points) < len(record["points"]):
        raise InputError(f"{path}: has {len(points)} of {len(record['points'])} points; run its certification again")
    return points


def read_known_points(path: Path) -> list[Point]:
    """The points of a file. Raises InputError for a run of this project that is not whole or has fixed radii."""
    return read_points(path, read_certificate_record(path) if settings_path(path).exists() else None)


def require_result_name(path: Path) -> None:
    """Raise InputError unless a file of certificates has the ending .tsv. Other endings name the files beside it."""
    if path.suffix != ".tsv":
        raise InputError(f"{path}: the name of the result file ends in .tsv; rename it")


def as_text(points: Sequence[Point]) -> str:
    """The text of a whole file. It has the columns votes and decided where the points have them."""
    columns = [name for name in Point._fields if getattr(points[0], name) is not None]
    return "\n".join(["\t".join(columns), *(point.line for point in points)]) + "\n"


def certified_radii(points: Sequence[Point]) -> np.ndarray:
    """Radii, float64 (points,), with -1 where a point is not certified for its label."""
    return np.array([point.certified_radius for point in points])


def summary_path(path: Path) -> Path:
    """Path of the summary, which is written beside certificates when all points are certified."""
    return Path(path).with_suffix(".summary.json")


def is_summarised(path: Path) -> bool:
    """Whether a summary beside certificates has the hash of their file: then they are whole and unchanged."""
    return path.is_file() and _hash_in_summary(path) == file_sha256(path)


def _hash_in_summary(path: Path) -> str | None:
    summary = read_json(summary_path(path)) if summary_path(path).is_file() else None
    return summary.get("tsv_sha256") if isinstance(summary, dict) else None
