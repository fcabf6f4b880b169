"""The record of what was measured: results/summary.csv, and the table on the screen."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from runtime.files import InputError, write_text


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One measured combination: a victim method trained on one kind of data, over several runs.

    Means and sample standard deviations are over the runs. acr: average certified radius (l2, pixels in [0, 1]).
    certified_accuracy: approximate certified accuracy at radius 0. accuracy, target_accuracy: of the clean test
    images without noise, overall and of the target class. reduction_percent: of the ACR against the clean row of
    the same victim. None where it does not apply.
    """

    dataset: str
    victim: str
    poison: str
    sigma: float
    epsilon: float | None
    target_class: int
    architecture: str
    runs: int
    attack_epochs: int | None
    victim_epochs: int
    points: int
    n: int
    alpha: float
    acr_mean: float
    acr_std: float
    certified_accuracy_mean: float
    certified_accuracy_std: float
    accuracy_mean: float
    target_accuracy_mean: float
    reduction_percent: float | None
    backend: str
    commit: str
    command: str


COLUMNS = tuple(field.name for field in fields(SummaryRow))
# A row measured again replaces the one that agrees on all of these.
_KEY = COLUMNS[: COLUMNS.index("acr_mean")]
_PERCENTAGES = 1  # digits after the point
_DIGITS = 4


def mean_and_std(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def reduction_percent(value: float, reference: float) -> float | None:
    """By how much a value is below the reference, in percent; None where the reference is 0."""
    return 100 * (1 - value / reference) if reference else None


def mean_and_std_text(values: list[float]) -> str:
    """Mean ± sample standard deviation; the mean alone of a single value."""
    mean, std = mean_and_std(values)
    return f"{mean:.3f} ± {std:.3f}" if len(values) > 1 else f"{mean:.3f}"


def update_summary(path: Path, rows: list[SummaryRow]) -> None:
    """Add rows to the CSV file of measured combinations, replacing those measured before.

    Raises InputError where the file that is there has other columns.
    """
    old: list[dict[str, str]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise InputError(f"{path}: its columns are not those of a summary; move it away")
            old = list(reader)
    new = [_as_text(row) for row in rows]
    measured_again = {_key(row) for row in new}
    kept = [row for row in old if _key(row) not in measured_again]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*kept, *new])
    write_text(path, buffer.getvalue())


def _as_text(row: SummaryRow) -> dict[str, str]:
    def text(name: str, value: object) -> str:
        if value is None:
            return ""
        if name == "reduction_percent":
            return f"{value:.{_PERCENTAGES}f}"
        if name.endswith(("_mean", "_std")):
            return f"{value:.{_DIGITS}f}"
        return str(value)

    return {name: text(name, value) for name, value in asdict(row).items()}


def _key(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in _KEY)


def text_table(rows: list[SummaryRow]) -> str:
    """The rows as an aligned table for the screen: ACR and accuracies, mean ± standard deviation over runs."""
    header = (
        "training data",
        "epsilon",
        "ACR",
        "reduction",
        "certified accuracy",
        "test accuracy",
        "of the class",
    )
    lines = [header]
    for row in rows:
        lines.append(
            (
                row.poison,
                "" if row.epsilon is None else f"{row.epsilon:g}",
                f"{row.acr_mean:.3f} ± {row.acr_std:.3f}",
                "" if row.reduction_percent is None else f"{row.reduction_percent:.1f} %",
                f"{row.certified_accuracy_mean:.3f} ± {row.certified_accuracy_std:.3f}",
                f"{row.accuracy_mean:.3f}",
                f"{row.target_accuracy_mean:.3f}",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    aligned = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    ]
    return "\n".join([aligned[0], "  ".join("-" * width for width in widths), *aligned[1:]])
