"""Figures of the comparisons."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.files import atomic_path


def save_curves(path: Path, curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> None:
    """Draw certified accuracy against radius: one line per row of a table, its mean over runs, as PNG.

    curves: for each label, one curve per run, as in a certification summary: 'radius' (ascending, pixel units)
    and 'accuracy', the share of points certified at that radius or more. The band spans the runs.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    largest = max(max(run["radius"], default=0.0) for runs in curves.values() for run in runs)
    radii = np.linspace(0, 1.05 * largest, 400)
    for label, runs in curves.items():
        values = np.stack([_at(radii, run) for run in runs])
        (line,) = axes.plot(radii, values.mean(axis=0), label=label)
        axes.fill_between(
            radii, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.15, lw=0
        )
    axes.set(xlabel="radius (l2, pixels in [0, 1])", ylabel="approximate certified accuracy", title=title)
    axes.set_xlim(0, radii[-1])
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _at(radii: np.ndarray, curve: Mapping[str, Any]) -> np.ndarray:
    """The accuracy at each radius: a step function that falls just after each of the curve's radii."""
    known, accuracy = np.asarray(curve["radius"]), np.append(np.asarray(curve["accuracy"]), 0.0)
    return accuracy[np.searchsorted(known, radii, side="left")]


class LabelCurve(NamedTuple):
    """Accuracy against changed training labels."""

    name: str  # tight, closed_form, ridge, network_random, network_greedy, network_pointwise
    q: float | None
    flips: np.ndarray  # ascending
    accuracy: np.ndarray


def save_label_curves(path: Path, curves: Mapping[str, LabelCurve], size: int, title: str) -> None:
    """Draw accuracy against changed training labels, as PNG; the top axis gives them in percent of ``size``.

    curves: for each label, a certificate (falling in steps; plain ridge regression's is black) or a network's measured
    accuracy (points joined by lines).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    markers = itertools.cycle("os^v")
    for label, curve in curves.items():
        if curve.name.startswith("network"):
            axes.plot(
                curve.flips, curve.accuracy, "--", marker=next(markers), color="0.45", ms=4, label=label
            )
        else:
            style: dict[str, Any] = {"color": "black", "lw": 1.2} if curve.name == "ridge" else {}
            # The accuracy at a number of flips holds from the number before it on, excluded.
            axes.step(curve.flips, curve.accuracy, where="pre", label=label, **style)
    axes.set(xlabel="changed training labels", ylabel="certified (network: measured) accuracy", title=title)
    # As far as there are certificates, and somewhat on.
    certified = [curve for curve in curves.values() if not curve.name.startswith("network")]
    axes.set_xlim(0, 1.3 * max(max(curve.flips) for curve in certified))
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")

    def in_percent(flips: Any) -> Any:
        return 100 * flips / size

    def in_flips(percent: Any) -> Any:
        return percent * size / 100

    percent = axes.secondary_xaxis("top", functions=(in_percent, in_flips))
    percent.set_xlabel(f"in percent of the {size:,} training labels")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
