"""The picture of a decision boundary before and after poisoning, as in arXiv 2012.01274."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attack_generation.figures import default_style, save_png
from evaluation.boundary.study import BoundaryConfig, Plane
from runtime.lazy import stats


class Panel(NamedTuple):
    """One picture of a classifier. target: clean training points of the target class. moved: the points in training."""

    title: str
    others: np.ndarray  # training points of the other class, (N, 1, 1, 2). All points have this shape
    target: np.ndarray
    moved: np.ndarray
    plane: Plane
    clean_plane: Plane  # of the classifier trained on clean points


@default_style()
def save_boundaries(path: Path, panels: Sequence[Sequence[Panel]], config: BoundaryConfig) -> None:
    """Draw a row of panels per classifier as PNG: training points, boundaries, and the smoothed radius as shading."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    red, blue, green = "#b2182b", "#2166ac", "#33a02c"
    sigma = config.sigma
    levels = sigma * np.arange(0, 3.5, 0.5)
    shades = colormaps["Reds"](np.linspace(0.04, 0.42, len(levels)))
    figure = Figure(figsize=(9.2, 4.4 * len(panels) + 1), layout="constrained")
    grid = figure.subplots(len(panels), len(panels[0]), squeeze=False, sharex=True, sharey=True)
    for axes, panel in zip(grid.flat, [panel for row in panels for panel in row], strict=True):
        axis, margin, share = panel.plane
        others, target, moved = (points.reshape(-1, 2) for points in (panel.others, panel.target, panel.moved))
        radius = np.minimum(sigma * stats.norm.ppf(share), 2 * levels[-1])  # finite where every vote agrees
        shading = axes.contourf(axis, axis, radius, levels=levels, colors=shades, extend="max")
        if not np.array_equal(moved, target):
            for way in np.stack([target, moved], axis=1):
                axes.plot(*way.T, color=red, lw=0.5, alpha=0.6, zorder=2)
            axes.plot(*target.T, "o", mfc="none", mec=red, mew=0.5, ms=3, alpha=0.7, zorder=2)
            axes.contour(axis, axis, panel.clean_plane.share, [0.5], colors="0.35", linewidths=2, linestyles=":")
        axes.plot(*others.T, "s", color=blue, ms=3.5, mec="white", mew=0.3, zorder=3)
        axes.plot(*moved.T, "o", color=red, ms=4, mec="white", mew=0.3, zorder=3, clip_on=False)
        axes.contour(axis, axis, share, [0.5], colors="black", linewidths=3, zorder=4)
        axes.contour(axis, axis, margin, [0.0], colors=green, linewidths=1.1, zorder=4)
        axes.set_title(panel.title, fontsize=10.5)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        ticks = ([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_xticks(*ticks)
        axes.set_yticks(*ticks)
    bar = figure.colorbar(shading, ax=grid, shrink=0.6, pad=0.02)
    bar.set_label(f"radius of the smoothed classifier in the target class (l2), σ = {sigma:g}")
    marks = {
        "training points of the other class": Line2D([], [], color=blue, marker="s", ls="", ms=5),
        "training points of the target class": Line2D([], [], color=red, marker="o", ls="", ms=5),
        f"clean position of a poisoned point (l∞, ε = {config.epsilon:g})": Line2D(
            [], [], color=red, marker="o", mfc="none", mew=0.7, lw=0.7, ms=4
        ),
        "smoothed boundary": Line2D([], [], color="black", lw=3),
        "base classifier's boundary": Line2D([], [], color=green, lw=1.1),
        "smoothed boundary, clean training points": Line2D([], [], color="0.35", lw=2, ls=":"),
    }
    figure.legend(
        list(marks.values()), list(marks), loc="outside lower center", ncols=2, fontsize=9, frameon=False,
        title=f"ACR: mean ± standard deviation of {config.runs} victims, {config.test_points} test points; "
        "one victim is drawn",
        title_fontsize=9,
    )  # fmt: skip
    save_png(path, figure, dpi=150, colours=256)
