"""The whole experiment in the plane: poison, train and certify, then store, table and picture.

The store (runtime/store.py) has an entry for each classifier and kind of training points, for example linear/clean.
A seed is a victim. A line is a test point of the target class: its index in the class, its label and its certified
radius, 0 where not certified. A record holds the victim's test accuracy and the change of its training points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.boundary.study import KINDS, BoundaryConfig, Row, Study, control_points, smoothed_plane
from evaluation.tables.formats import ABOUT
from randomized_smoothing_certification.run_statistics import mean_and_std_text, reduction_of
from runtime.artifact import Artifact
from runtime.files import InputError, remove, write_text
from runtime.lazy import pandas as pd
from runtime.lazy import stats
from runtime.plots import default_style, save_png
from runtime.progress import progress
from runtime.provenance import printed_path, provenance
from runtime.store import POINTS, SETTINGS, Store, read_store, write_store
from runtime.text_tables import markdown_table

TABLES, PICTURE = "tables.md", "decision_boundary.png"


def draw_boundaries(config: BoundaryConfig) -> dict[str, dict[str, Row]]:
    """Poison, train and certify both kinds of classifiers. Write picture, store and table, and print the table.

    Returns {kind: {training points: row}}, with 'clean' first and 'optimised' last. Raises InputError on bad settings,
    for a folder that another run writes or with another store, FloatingPointError where training or attack diverges.
    """
    config.check()
    folder = config.out_dir
    with Artifact(*(folder / name for name in (SETTINGS, POINTS, TABLES, PICTURE))):
        has_settings = (folder / SETTINGS).is_file()  # a killed run may leave points alone
        if has_settings and f"{KINDS[0].name}/clean" not in read_store(folder).records:
            raise InputError(f"{folder}: holds other measurements ({POINTS}); choose another --out-dir")
        studies = [Study(config, kind) for kind in KINDS]
        results: dict[str, dict[str, Row]] = {}
        for study in studies:
            points = {"clean": study.x_to_poison, **control_points(study.x_to_poison, config.epsilon, config.seed)}
            points["optimised"] = study.optimised_poison()
            named = progress(points.items(), desc=study.kind.title, unit="row", leave=False)
            results[study.kind.name] = {name: study.measured(x) for name, x in named}
        store = _store(results, config)
        table = tables_page(store)
        remove(folder / SETTINGS)  # of earlier files. The new record is written last
        save_boundaries(folder / PICTURE, studies, results, config)
        write_text(folder / TABLES, table)
        write_store(folder, store)
    print(f"{table}\n{printed_path(folder / SETTINGS)}, {POINTS}, {TABLES}, {PICTURE}")
    return results


def _store(results: dict[str, dict[str, Row]], config: BoundaryConfig) -> Store:
    made, points = provenance(config), []
    records: dict[str, dict[str, Any]] = {}
    for kind, rows in results.items():
        for name, row in rows.items():
            entry = f"{kind}/{name}"
            change = (row.points - rows["clean"].points).reshape(-1, 2)
            moved = {"largest_change": float(np.abs(change).max()), "mean_change": change.mean(axis=0).tolist()}
            for seed, (radii, accuracy) in enumerate(zip(row.radii, row.accuracy, strict=True), config.seed):
                named = {"entry": entry, "seed": seed, "idx": range(len(radii)), "label": config.target_class}
                points.append(pd.DataFrame({**named, "radius": radii}))
                records.setdefault(entry, {})[str(seed)] = {"accuracy": accuracy, **moved, **made}
    return Store(pd.concat(points, ignore_index=True), records)


def plane_frame(store: Store) -> pd.DataFrame:
    """A row per classifier and kind of training points: entry, classifier, data, and the results of its victims.

    Columns acr, certified and accuracy are texts of mean ± sample standard deviation. reduction is a Reduction or None.
    runs and points are the numbers of victims and of test points.
    """
    entries = list(store.records)
    if "radius" not in store.points or any(f"{entry.partition('/')[0]}/clean" not in entries for entry in entries):
        lacking = f"no radii of {', '.join(entries[:3])}, or none of clean points"
        raise InputError(f"the store of the plane: {lacking}; draw it again")
    all_radii = store.points.pivot_table("radius", ["entry", "seed"], "idx")
    rows: list[dict[str, Any]] = []
    for entry in store.points["entry"].unique():
        kind, _, name = entry.partition("/")
        radii, clean = (all_radii.loc[one] for one in (entry, f"{kind}/clean"))  # (victims, points)
        accuracies = [store.records[entry][str(seed)]["accuracy"] for seed in radii.index]
        rows.append({
            "entry": entry, "classifier": kind, "data": name,
            "acr": mean_and_std_text(list(radii.mean(axis=1))),
            "reduction": None if name == "clean" else reduction_of(radii.to_numpy()[None], clean.to_numpy()),
            "certified": mean_and_std_text(list((radii > 0).mean(axis=1))),
            "accuracy": mean_and_std_text(accuracies),
            "runs": len(radii), "points": radii.shape[1],
        })  # fmt: skip
    return pd.DataFrame(rows)


def tables_page(store: Store) -> str:
    """The table of every classifier and kind of training points, below the settings, in Markdown."""
    frame = plane_frame(store)
    frame["reduction"] = [less.text if less else "" for less in frame["reduction"]]
    made = next(iter(next(iter(store.records.values())).values()))
    config = made["config"]
    header = ("classifier", "training points", "ACR", "reduction", "certified accuracy", "test accuracy")
    return (
        f"Points in the plane, target class {config['target_class']}, Gaussian augmentation, sigma "
        f"{config['sigma']:g}, epsilon {config['epsilon']:g}, {config['runs']} victims per row.\n"
        f"Certified: {config['test_points']} test points of the class, n0 = {config['n0']}, n = {config['n']}, "
        f"alpha = {config['alpha']:g}. {ABOUT}\n\n"
        f"    {made['command']}\n\nCommit {made['commit']}.\n\n"
        f"{markdown_table(header, frame.drop(columns=['entry', 'runs', 'points']).to_numpy())}\n"
    )


@default_style()
def save_boundaries(
    path: Path, studies: Sequence[Study], results: Mapping[str, Mapping[str, Row]], config: BoundaryConfig
) -> None:
    """Draw each classifier before and after poisoning as PNG: training points, boundaries, smoothed radius as shading.

    results: {kind: {training points: row}}, as from draw_boundaries.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    red, blue, green = "#b2182b", "#2166ac", "#33a02c"
    levels = config.sigma * np.arange(0, 3.5, 0.5)
    shades = colormaps["Reds"](np.linspace(0.04, 0.42, len(levels)))
    figure = Figure(figsize=(9.2, 4.4 * len(studies) + 1), layout="constrained")
    grid = figure.subplots(len(studies), 2, squeeze=False, sharex=True, sharey=True)
    for study, row_of_axes in zip(studies, grid, strict=True):
        clean, poisoned = (results[study.kind.name][name] for name in ("clean", "optimised"))
        others, target = study.x_others.reshape(-1, 2), clean.points.reshape(-1, 2)
        acr, lower_acr = (mean_and_std_text(row.acr) for row in (clean, poisoned))
        drawn = (("clean", clean, acr), ("poisoned", poisoned, f"{acr} → {lower_acr}"))
        for axes, (name, row, acr_text) in zip(row_of_axes, drawn, strict=True):
            axis, margin, share = smoothed_plane(study.classifier(row.weights), config.sigma, config.target_class)
            radius = np.minimum(config.sigma * stats.norm.ppf(share), 2 * levels[-1])  # finite where every vote agrees
            shading = axes.contourf(axis, axis, radius, levels=levels, colors=shades, extend="max")
            moved = row.points.reshape(-1, 2)
            if row is clean:
                clean_share = share
            else:
                for way in np.stack([target, moved], axis=1):
                    axes.plot(*way.T, color=red, lw=0.5, alpha=0.6, zorder=2)
                axes.plot(*target.T, "o", mfc="none", mec=red, mew=0.5, ms=3, alpha=0.7, zorder=2)
                axes.contour(axis, axis, clean_share, [0.5], colors="0.35", linewidths=2, linestyles=":")
            axes.plot(*others.T, "s", color=blue, ms=3.5, mec="white", mew=0.3, zorder=3)
            axes.plot(*moved.T, "o", color=red, ms=4, mec="white", mew=0.3, zorder=3, clip_on=False)
            axes.contour(axis, axis, share, [0.5], colors="black", linewidths=3, zorder=4)
            axes.contour(axis, axis, margin, [0.0], colors=green, linewidths=1.1, zorder=4)
            axes.set_title(f"{study.kind.title}, {name} training points\ntarget class ACR {acr_text}", fontsize=10.5)
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    bar = figure.colorbar(shading, ax=grid, shrink=0.6, pad=0.02)
    bar.set_label(f"radius of the smoothed classifier in the target class (l2), σ = {config.sigma:g}")
    clean_position = f"clean position of a poisoned point (l∞, ε = {config.epsilon:g})"
    marks = [
        Line2D([], [], color=blue, marker="s", ls="", ms=5, label="training points of the other class"),
        Line2D([], [], color=red, marker="o", ls="", ms=5, label="training points of the target class"),
        Line2D([], [], color=red, marker="o", mfc="none", mew=0.7, lw=0.7, ms=4, label=clean_position),
        Line2D([], [], color="black", lw=3, label="smoothed boundary"),
        Line2D([], [], color=green, lw=1.1, label="base classifier's boundary"),
        Line2D([], [], color="0.35", lw=2, ls=":", label="smoothed boundary, clean training points"),
    ]
    title = f"ACR: mean ± standard deviation of {config.runs} victims, {config.test_points} test points"
    title += "; one victim is drawn"
    figure.legend(
        handles=marks, title=title, title_fontsize=9, loc="outside lower center", ncols=2, fontsize=9, frameon=False
    )
    save_png(path, figure, dpi=150, colours=256)
