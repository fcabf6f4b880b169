"""Figures of a plan, drawn from its frame (frame.py): a panel for each kind of victims, at most 12 entries in each."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.tables.cells import CLEAN, OPTIMISED, of_share
from evaluation.tables.frame import CONTROL, MEAN, points_of
from evaluation.tables.layout import VICTIMS, dataset_name
from evaluation.tables.ranking import scored_rows, scores
from robust_training.methods import METHODS
from runtime.lazy import pandas as pd
from runtime.lazy import stats
from runtime.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, default_style, plain_text, save_png

MOST = 12  # entries of a panel
IN_A_ROW = 4  # panels. With WIDTH inches each, a figure has fewer than 2,000 pixels
WIDTH = 3.4
LEAST = -40  # smallest reduction in a ranking, %
COLOUR_OF_KIND = {CLEAN: BLACK, CONTROL: BLUE, OPTIMISED: ORANGE}  # by kind of training data
TICKS = (0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999)  # of the lower bound of p_A


def shown_entries(frame: pd.DataFrame) -> pd.DataFrame:
    """Entries with runs. Several runs of one attack are one entry."""
    together = [entry.cell for entries in frame["entries"] if len(entries) > 1 for entry in entries]
    return frame[(frame["runs"] > 0) & (frame["target_class"] != MEAN) & ~frame["cell"].isin(together)]


def has_budgets(frame: pd.DataFrame) -> bool:
    """Whether an attack was run with several budgets."""
    return bool((frame[frame["attack"] != ""].groupby("attack")["attack_epochs"].nunique() > 1).any())


@default_style()
def save_acr(path: Path, title: str, frame: pd.DataFrame) -> None:
    """Draw the average certified radius of each kind of training data, a panel for each kind of victims, as PNG.

    Small dots are victims, large dots their mean, bars the mean ± sample standard deviation.
    """
    shown = shown_entries(frame)
    places = shown.groupby(VICTIMS)["acr_mean"].rank()  # of a kind of training data within each panel, the lowest first
    order = places.groupby(shown["data"], sort=False).min()
    others = order.drop(CLEAN, errors="ignore")
    lowest = {CLEAN, *others.nsmallest(MOST - 1).index}
    rows, colours = _rows_of_panels(shown[shown["data"].isin(lowest)].fillna({"acr_std": 0.0})), _colours(shown)
    data_of = [{name for _, panel in row for name in panel["data"]} for row in rows]
    names_of = [[name for name in order.index if name in data] for data in data_of]
    figure, grid = _figure(rows, [0.8 + 0.21 * len(names) for names in names_of], sharey="row")
    for row, names, line in zip(rows, names_of, grid, strict=True):
        for (key, group), axes in zip(row, line, strict=False):
            for one in group.to_dict("records"):
                at, colour = names.index(one["data"]), colours[one["data"]]
                victims = [run.acr for entry in one["entries"] for run in entry.runs]
                axes.errorbar(one["acr_mean"], at, xerr=one["acr_std"], fmt="o", color=colour, ms=6, lw=1.5)
                axes.plot(victims, [at] * len(victims), ".", color=colour, ms=4, alpha=0.5)
            axes.set_yticks(range(len(names)), [plain_text(name.replace("_", " ")) for name in names], fontsize="small")
            for label, name in zip(axes.get_yticklabels(), names, strict=False):  # the first panel has them
                label.set_color(colours[name])
            axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, None), xlabel="ACR (l2, pixels in [0, 1])")
            _dress(axes, key, shown)
    about = "Large dots and bars: mean ± sample standard deviation over victims. Small dots: victims. Blue: controls, "
    about += "made without optimisation. Orange: all other poison"
    if len(others) >= MOST:
        about += f". Shown: the {MOST - 1} of {len(others)} kinds of training data that lower the ACR most in a panel"
    _save(path, figure, title, shown, about, colours=128)


@default_style()
def save_acr_against_gradients(path: Path, title: str, frame: pd.DataFrame) -> None:
    """Draw the average certified radius against the attack's number of gradients, a line for each attack, as PNG.

    Clean data: a black line with a band of mean ± sample standard deviation. Controls: blue lines.
    """
    shown = shown_entries(frame)
    kinds = list(dict.fromkeys(filter(None, shown["parametrisation"]))) or [""]
    panels = [(key, kind, group) for key, group in shown.groupby(VICTIMS, sort=False) for kind in kinds]
    colours = dict(zip(dict.fromkeys(shown["optimiser"]), (BLACK, ORANGE, GREEN, BLUE, PURPLE, SKY), strict=False))
    rows = [panels[at : at + 2] for at in range(0, len(panels), 2)]
    figure, grid = _figure(rows, [4.2] * len(rows), wide=6.0)
    for (key, kind, group), axes in zip(panels, grid.ravel(), strict=False):
        clean = group[group["data"] == CLEAN]
        for mean, std in zip(clean["acr_mean"], clean["acr_std"].fillna(0.0), strict=True):
            axes.axhline(mean, color=BLACK, lw=1.5)
            axes.axhspan(mean - std, mean + std, color=BLACK, alpha=0.1, lw=0)
            axes.annotate(CLEAN, (0.01, mean), xycoords=axes.get_yaxis_transform(), va="bottom", fontsize="small")
        controls = group[group["data_kind"] == CONTROL].nsmallest(2, "acr_mean")
        for name, mean in zip(controls["data"], controls["acr_mean"], strict=True):
            axes.axhline(mean, color=BLUE, lw=1, ls="--")
            axes.text(0.01, mean, name, transform=axes.get_yaxis_transform(), va="bottom", fontsize="small", color=BLUE)
        attacks = group[group["gradients"].notna() & (group["parametrisation"] == kind)].copy()
        named = attacks["attack"] + attacks["share"].map(of_share)
        attacks["attack"] = named.where(attacks["attack"] != "", attacks["data"])
        best = attacks.groupby("attack")["acr_mean"].min().nsmallest(MOST - 1 - len(controls)).index
        for number, name in enumerate(dict.fromkeys(one for one in attacks["attack"] if one in best)):
            points = attacks[attacks["attack"] == name].sort_values("gradients")
            axes.errorbar(
                points["gradients"] * 1.04**number, points["acr_mean"], yerr=points["acr_std"].fillna(0.0),
                fmt=f"{'os^Dv<>PX*hd'[number % 12]}-", color=colours.get(points["optimiser"].iloc[0], SKY), ms=5,
                label=plain_text(textwrap.fill(name.replace("_", " "), 28)),
            )  # fmt: skip
        axes.set(xscale="log", xlabel="gradients of training batches in the attack", ylabel="ACR", ylim=(0, None))
        if len(attacks):
            axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        _dress(axes, key, shown, {"per_image": "", "class_pattern": "one pattern for the class"}.get(kind, kind))
    about = "Bars and band: mean ± sample standard deviation over victims. Lines are shifted sideways to show all bars"
    about += f". Shown: the two strongest controls, and the attacks of the lowest ACR, {MOST - 1} lines at most"
    _save(path, figure, title, shown, about, colours=128)


@default_style()
def save_distributions(path: Path, title: str, frame: pd.DataFrame, *, against_radius: bool = False) -> None:
    """Draw the distribution of the lower bound of p_A over the test points, clean beside poisoned, as PNG.

    p_A is the probability of the right class under the noise. A point of radius r has the lower bound Phi(r / sigma). A
    line shows the share of points whose bound is at least x, averaged over victims. An uncertified point is below x.
    against_radius: draw certified accuracy against the radius, the usual curve.
    """
    shown = shown_entries(frame)
    colour_of = _colours(shown)
    colours = {name: colour_of[name] for name in _contrasted(shown)}
    colours |= dict.fromkeys([name for name in colours if colours[name] == COLOUR_OF_KIND[OPTIMISED]][1:], GREEN)
    rows = _rows_of_panels(shown)
    figure, grid = _figure(rows, [2.9] * len(rows), sharey="all")
    what, scale = "Lines: certified accuracy", "radius (l2, pixels in [0, 1])"
    if not against_radius:
        what = "p_A is the probability of the right class under the noise. "
        what += "Lines: share of test points whose lower bound of p_A is at least x"
        scale = "lower bound of p_A (scale: normal quantile)"
    panels = [pair for row, line in zip(rows, grid, strict=True) for pair in zip(row, line, strict=False)]
    for (key, group), axes in panels:
        sigma = group["sigma"].iloc[0]
        runs_of = {row["data"]: [run for one in row["entries"] for run in one.runs] for row in group.to_dict("records")}
        largest = max(float(run.radii.max()) for runs in runs_of.values() for run in runs)
        at = np.linspace(0, max(largest, 1e-9) * 1.02, 400)
        for name in (name for name in colours if name in runs_of):
            shares = np.mean([(run.radii[:, None] >= at).mean(axis=0) for run in runs_of[name]], axis=0)
            axes.plot(at if against_radius else at / sigma, shares, color=colours[name], lw=1.8)
        if not against_radius:
            ticks = [tick for tick in TICKS if stats.norm.ppf(tick) <= at[-1] / sigma]
            axes.set_xticks(stats.norm.ppf(ticks), [f"{tick:g}" for tick in ticks], fontsize="small")
        axes.set(ylim=(0, 1.02), xlim=(0, None), xlabel=scale, ylabel="share of points")
        _dress(axes, key, shown)
    for name, colour in colours.items():
        figure.axes[0].plot([], [], color=colour, label=plain_text(name.replace("_", " ")))
    figure.axes[0].legend(fontsize="small")
    what += ", mean over victims"
    if len(colours) < (count := shown["data"].nunique()):
        what += f". Shown: {len(colours)} of {count} kinds of training data, among them the control and the poison "
        what += "that lower the ACR most in the mean over all panels"
    _save(path, figure, title, shown, what, colours=48)


@default_style()
def save_ranking(path: Path, frames: Mapping[str, pd.DataFrame]) -> None:
    """Draw the reductions of each poison, a panel for each data set's frame, the poison with the best score on top.

    Small dots are kinds of victims. Black: the score, the smallest reduction of the poison, with its 95 % interval. An
    arrow ends an interval that goes on below LEAST.
    """
    rows = [{name: row for name, row in scored_rows(one).groupby("data") if name != CLEAN} for one in frames.values()]
    kinds = pd.concat(frames.values())["victim_variant"].unique()
    colours = dict(zip(kinds, cycle((BLUE, ORANGE, GREEN)), strict=False))
    figure, grid = _figure([list(frames)], [0.8 + 0.24 * max(map(len, rows))], 5.0)
    for groups, frame, axes in zip(rows, frames.values(), grid[0], strict=True):
        worst = scores(frame)["reduction"].dropna().to_dict()
        for y, name in enumerate(order := sorted(worst, key=lambda name: worst[name])):
            for kind, colour in colours.items():
                group = groups[name][groups[name]["victim_variant"] == kind]
                label = f"{kind} victims".strip() if y == 0 else None
                axes.plot(group["reduction_percent"], [y] * len(group), "o", color=colour, ms=4, alpha=0.8, label=label)
            score = worst[name]
            low, high = max(score.low, LEAST), min(score.high, 100)
            line, label = "<-" if low > score.low else "-", "score (95 %; ◀ goes on)" if y == 0 else None
            axes.plot([low, high], [y - 0.25] * 2, line, color=BLACK, ms=4, lw=1, markevery=[0])
            axes.plot(score.percent, y - 0.25, "D", color=BLACK, ms=3.5, label=label)
        axes.set_yticks(range(len(order)), [plain_text(name.replace("_", " ")) for name in order], fontsize="small")
        axes.set(xlim=(LEAST - 2, 102), xlabel="reduction of the ACR, %", title=dataset_name(frame))
        axes.set_ylim(len(order) - 0.4 - max(map(len, rows)), len(order) - 0.4)  # lines of all panels are equally high
        axes.axvline(0, color=BLACK, lw=0.6)
        axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize="small", loc="lower right")
    figure.suptitle("Poisons ranked by their smallest reduction of the certified radius", fontsize="large")
    save_png(path, figure, colours=48)


def _contrasted(shown: pd.DataFrame) -> list[str]:
    """Clean data, and the control and the poison that lower ACR most, among the data with the most kinds of victims."""
    names = [CLEAN] if CLEAN in set(shown["data"]) else []
    for kind in (CONTROL, OPTIMISED):
        found = shown[shown["data_kind"] == kind].groupby("data", sort=False)["acr_mean"]
        if len(ranked := found.agg(["count", "mean"])):
            names.append(str(ranked[ranked["count"] == ranked["count"].max()]["mean"].idxmin()))
    if OPTIMISED in set(shown["data"]) - set(names):
        names.append(OPTIMISED)
    return names


def _colours(shown: pd.DataFrame) -> dict[str, str]:
    return dict(zip(shown["data"], shown["data_kind"].map(COLOUR_OF_KIND), strict=True))


def _rows_of_panels(shown: pd.DataFrame) -> list[list[tuple[tuple[Any, ...], pd.DataFrame]]]:
    """A panel for each kind of victims. Rows: a method's noise levels, else the first and the other architectures."""

    def rows_by(key: Any) -> list[Any]:
        return [list(row.groupby(VICTIMS, sort=False)) for _, row in shown.groupby(key, sort=False)]

    rows = rows_by([name for name in VICTIMS if name != "sigma"])
    if len(rows) == 1 or len({len(row) for row in rows}) > 1 or len(rows[0]) == 1:
        rows = rows_by(shown["architecture"] == shown["architecture"].iloc[0])
    return [row[at : at + IN_A_ROW] for row in rows for at in range(0, len(row), IN_A_ROW)]


@default_style()
def _figure(rows: Sequence[Sequence[Any]], heights: Sequence[float], wide: float = WIDTH, sharey: Any = False) -> Any:
    """A figure and its grid of axes. Axes without a panel are invisible. heights of rows, wide of a panel: inches."""
    from matplotlib.figure import Figure

    columns = max(map(len, rows))
    figure = Figure(figsize=(max(5.5, 1.2 + wide * columns), 1.4 + sum(heights)), layout="constrained")
    grid = figure.subplots(len(rows), columns, sharey=sharey, squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, line in zip(rows, grid, strict=True):
        for axes in line[len(row) :]:
            axes.set_visible(False)
    return figure, grid


def _dress(axes: Any, key: tuple[Any, ...], shown: pd.DataFrame, more: str = "") -> None:
    named = dict(zip(VICTIMS, key, strict=True))
    method = METHODS[named["method"]].label if named["method"] in METHODS else named["method"]
    parts = [method, named["victim_variant"].replace("_", " "), f"σ = {named['sigma']:g}"]
    parts += [named["architecture"]] if shown["architecture"].nunique() > 1 else []
    parts += [f"class {named['target_class']}"] if shown["target_class"].nunique() > 1 else []
    axes.set_title(plain_text(textwrap.fill(", ".join(filter(None, (*parts, more))), 44)), fontsize="small")
    axes.grid(alpha=0.3)


@default_style()
def _save(path: Path, figure: Any, title: str, shown: pd.DataFrame, about: str, *, colours: int) -> None:
    """Save with a heading, and below all panels the explanation and the numbers of points, victims and votes."""
    measured = {
        "Class": shown["target_class"], points_of(shown): shown["points"], "victims per entry": shown["runs"],
        "votes n": shown["n"],
    }  # fmt: skip
    counts = "; ".join(f"{name}: {', '.join(_different(values))}" for name, values in measured.items())
    wide = int(13 * figure.get_figwidth())
    name = dataset_name(shown)
    title = title if name.lower() in title.lower() else f"{name}: {title}"
    heading, below = textwrap.wrap(title, wide), textwrap.wrap(f"{about}. {counts}", int(1.35 * wide))
    # The figure grows with the texts, so that the panels keep their height.
    figure.set_figheight(figure.get_figheight() + 0.25 * max(0, len(heading) - 2) + 0.18 * max(0, len(below) - 3))
    figure.suptitle(plain_text("\n".join(heading)), fontsize="large")
    figure.supxlabel(plain_text("\n".join(below)), fontsize="small")
    save_png(path, figure, colours=colours)


def _different(values: pd.Series) -> list[str]:
    known = sorted({value for value in values if value != ""}, key=str)
    return [f"{value:,}" if isinstance(value, int) else str(value) for value in known] or ["not known"]
