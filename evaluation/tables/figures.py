"""Figures of the comparisons."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attack_generation.figures import default_style, save_png
from evaluation.tables.statistics import mean_and_std

WIDEST = 14.0  # inches of bars in one row


def plain_text(text: str) -> str:
    """Text as Matplotlib draws it to the letter: no part of it is read as a formula."""
    return text.replace("$", r"\$")


@default_style()
def save_curves(path: Path, curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> None:
    """Draw certified accuracy against radius: one line per row of a table, its mean over runs, as PNG.

    curves: for each label, one curve per run, as in a certification summary: 'radius' (ascending, pixel units)
    and 'accuracy', the share of points certified at that radius or more. The band spans the runs.
    """
    from matplotlib.figure import Figure

    many = len(curves) > 6  # which would cover the curves if they were named among them
    figure = Figure(figsize=(9.5 if many else 7, 4.5), layout="constrained")
    axes = figure.subplots()
    largest = max(max(run["radius"], default=0.0) for runs in curves.values() for run in runs) or 1.0
    radii = np.linspace(0, 1.05 * largest, 400)
    for (label, runs), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        values = np.stack([_at(radii, run) for run in runs])
        axes.plot(radii, values.mean(axis=0), color=colour, label=label)
        axes.fill_between(radii, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="radius (l2, pixels in [0, 1])", ylabel="approximate certified accuracy")
    axes.set_title(textwrap.fill(title, 70))
    axes.set_xlim(0, radii[-1])
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    if many:
        figure.legend(loc="outside right upper", fontsize="small")
    else:
        axes.legend()
    save_png(path, figure)


def _colours(count: int) -> list[Any]:
    """As many different colours: Matplotlib's own ten, or where there are more, neighbours close to each other."""
    from matplotlib import colormaps

    return [f"C{i}" for i in range(count)] if count <= 10 else list(colormaps["turbo"](np.linspace(0, 1, count)))


def _at(radii: np.ndarray, curve: Mapping[str, Any]) -> np.ndarray:
    """The accuracy at each radius: a step function that falls just after each of the curve's radii."""
    known, accuracy = np.asarray(curve["radius"]), np.append(np.asarray(curve["accuracy"]), 0.0)
    return accuracy[np.searchsorted(known, radii, side="left")]


@default_style()
def save_acr_bars(path: Path, acr: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> None:
    """Draw the average certified radius per method and noise level, a bar per kind of training data, as PNG.

    acr: for each group ('macer\nσ = 0.5'), for each kind of training data, the ACR of every run. A bar is their mean;
    the runs are points on it. Groups that one row of WIDEST inches cannot hold go to rows below it.
    """
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(kind for group in acr.values() for kind in group))
    width = 0.8 / max(len(kinds), 1)
    wide = max(1.9, 0.25 * len(kinds))
    rows = -(-len(acr) // max(1, int(WIDEST / wide))) or 1
    in_row = max(1, -(-len(acr) // rows))
    figure = Figure(figsize=(max(6.0, 2.2 + wide * in_row), 1.2 + 3.3 * rows), layout="constrained")
    for row, axes in enumerate(figure.subplots(rows, sharey=True, squeeze=False)[:, 0]):
        groups = dict(list(acr.items())[row * in_row : (row + 1) * in_row])
        for number, (kind, colour) in enumerate(zip(kinds, _colours(len(kinds)), strict=True)):
            at = [i + (number - (len(kinds) - 1) / 2) * width for i in range(len(groups))]
            runs = [group.get(kind, ()) for group in groups.values()]
            bars = axes.bar(
                at, np.array([np.mean(values) if len(values) else 0.0 for values in runs]), 0.9 * width, color=colour,
                label=None if row else kind,
            )  # fmt: skip
            for x, values, bar in zip(at, runs, bars, strict=True):
                axes.plot([x] * len(values), values, ".", color="black", ms=4, zorder=3)
                if not len(values):
                    bar.set_visible(False)
        axes.set_xticks(range(len(groups)), list(groups))
        axes.set_xlim(-0.6, in_row - 0.4)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.supylabel("average certified radius (l2, pixels in [0, 1])", fontsize="medium")
    figure.suptitle(textwrap.fill(title, 45 if rows == 1 else 90), fontsize="large")
    if len(kinds) > 6:
        figure.legend(loc="outside right upper", fontsize="small")
    elif kinds:
        figure.legend(loc="outside lower center", ncols=len(kinds), fontsize="small")
    save_png(path, figure)


@default_style()
def save_acr_against_gradients(
    path: Path,
    series: Mapping[str, Sequence[tuple[float, Sequence[float]]]],
    clean: Sequence[float],
    controls: Mapping[str, Sequence[float]],
    title: str,
) -> None:
    """Draw the average certified radius after retraining against what the attack cost, a curve per attack, as PNG.

    series: for each attack, per budget the gradients of a batch of training images that it spent, and the ACR of every
    run; a curve goes through their means, the runs are points. clean, controls: ACR of every run of training data that
    costs no gradients: a horizontal line at the mean, for clean with a band of mean ± sample standard deviation.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    if clean:
        mean, std = mean_and_std(clean)
        axes.axhline(mean, color="black", lw=1.5, label="clean")
        axes.axhspan(mean - (std or 0), mean + (std or 0), color="black", alpha=0.1, lw=0)
    styles = ["--", ":", "-.", *((0, (length, 2)) for length in (8, 12, 18, 26))]
    for (label, of_control), style in zip(controls.items(), styles, strict=False):
        axes.axhline(mean_and_std(of_control)[0], color="grey", lw=0.9, ls=style, label=label)
    for number, (label, budgets) in enumerate(series.items()):
        colour, marker = f"C{number}", "osD^vPX*"[number % 8]
        spent, means = [gradients for gradients, _ in sorted(budgets)], [np.mean(runs) for _, runs in sorted(budgets)]
        axes.plot(spent, means, f"{marker}-", color=colour, ms=6, label=label)
        for gradients, runs in budgets:
            axes.plot([gradients] * len(runs), runs, ".", color=colour, ms=5, alpha=0.5)
    axes.set_xscale("log")
    axes.set(xlabel="gradients of a batch of training images spent on the poison", ylabel="average certified radius")
    axes.set_title(textwrap.fill(title, 70))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    save_png(path, figure)


@default_style()
def save_radii(path: Path, radii: Mapping[str, np.ndarray], title: str) -> None:
    """Draw how the certified radii of the points are distributed, a column per kind of training data, as PNG.

    radii: for each kind, of every point of every run; -1 where a point is not certified correctly. Those are counted
    below the axis, where no radius can be.
    """
    from matplotlib.figure import Figure

    wide = max([1.3, *(0.09 * len(kind) for kind in radii)])
    figure = Figure(figsize=(max(5.0, 1.6 + wide * len(radii)), 4.5), layout="constrained")
    axes = figure.subplots()
    largest = max((float(values.max(initial=0.0)) for values in radii.values()), default=0.0) or 1.0
    spread = np.random.default_rng(0)
    names = []
    for column, ((kind, values), colour) in enumerate(zip(radii.items(), _colours(len(radii)), strict=True)):
        certified = values[values >= 0]
        offset = spread.uniform(-0.3, 0.3, len(certified))
        axes.plot(column + offset, certified, ".", ms=3, alpha=0.5, color=colour)
        if len(certified):
            axes.hlines(np.median(certified), column - 0.35, column + 0.35, color="black", lw=2, zorder=3)
        names.append(f"{kind}\n{np.mean(values < 0):.0%} not certified")
    axes.set_xticks(range(len(names)), names, fontsize="small")
    axes.set(ylabel="certified radius of a test point (l2)", title=title, ylim=(-0.03 * largest, 1.05 * largest))
    axes.text(
        0.995, 0.985, "line: median of the certified", transform=axes.transAxes, ha="right", va="top", size="small"
    )
    axes.grid(axis="y", alpha=0.3)
    save_png(path, figure)
