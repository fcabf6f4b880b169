"""What tables say of several runs, and how they say it."""

from collections.abc import Sequence

import numpy as np

PLUS_MINUS = "± is the sample standard deviation over victims"


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; a single value has no spread, None."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def mean_and_std_text(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation; the mean alone of a single value."""
    mean, std = mean_and_std(values)
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"


def reduction_percent(value: float, reference: float) -> float | None:
    """By how much a value is below the reference, in percent; None where the reference is 0."""
    return 100 * (1 - value / reference) if reference else None
