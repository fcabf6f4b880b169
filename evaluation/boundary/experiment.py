"""The whole experiment in the plane: poison, train and certify, then picture, store and table.

The store (evaluation/store.py) has an entry for each classifier and kind of training points, for example linear/clean.
A seed is a victim. A line is a test point of the target class: its index in the class, its label and its certified
radius, 0 where not certified. A record holds the victim's test accuracy and the change of its training points.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation.boundary.picture import Panel, save_boundaries
from evaluation.boundary.study import KINDS, BoundaryConfig, Row, Study, control_points, smoothed_plane
from evaluation.store import POINTS, SETTINGS, Store, write_store
from evaluation.tables.formats import ABOUT, markdown_table
from evaluation.tables.statistics import mean_and_std_text, reduction_of
from runtime.artifact import Artifact
from runtime.files import InputError, remove, write_text
from runtime.lazy import pandas as pd
from runtime.progress import progress
from runtime.provenance import printed_path, provenance

TABLES, PICTURE = "tables.md", "decision_boundary.png"


def draw_boundaries(config: BoundaryConfig) -> dict[str, dict[str, Row]]:
    """Poison, train and certify both kinds of classifiers. Write picture, store and table, and print the table.

    Returns {kind: {training points: row}}, with 'clean' first and 'optimised' last.

    Raises InputError on bad settings or where another run writes the same files, FloatingPointError where training or
    attack diverges.
    """
    config.check()
    record, *others = files = [config.out_dir / name for name in (SETTINGS, POINTS, TABLES, PICTURE)]
    with Artifact(*files):
        studies = [Study(config, kind) for kind in KINDS]
        results = {study.kind.name: _rows(study) for study in studies}
        store = _store(results, config)
        remove(record)  # of earlier files. The new record is written last
        panels = [_panels(study, results[study.kind.name]) for study in studies]
        save_boundaries(config.out_dir / PICTURE, panels, config)
        write_text(config.out_dir / TABLES, table := tables_page(store))
        write_store(config.out_dir, store)
    print(f"{table}\n{printed_path(record)}, {', '.join(path.name for path in others)}")
    return results


def _rows(study: Study) -> dict[str, Row]:
    """Measured victims of clean, control and poisoned points, by name."""
    config = study.constants
    points = {"clean": study.x_target, **control_points(study.x_target, config.epsilon, config.seed)}
    points["optimised"] = study.optimised_poison()
    named = progress(points.items(), desc=study.kind.title, unit="row", leave=False)
    return {name: study.measured(x) for name, x in named}


def _panels(study: Study, rows: dict[str, Row]) -> list[Panel]:
    """A classifier before and after poisoning."""
    config, clean, poisoned = study.constants, rows["clean"], rows["optimised"]
    before, after = (
        smoothed_plane(study.classifier(row.weights), config.sigma, config.target_class) for row in (clean, poisoned)
    )
    acr, lower_acr = (mean_and_std_text(row.acr) for row in (clean, poisoned))
    title = f"{study.kind.title}, clean training points\ntarget class ACR {acr}"
    first = Panel(title, study.x_others, clean.points, clean.points, before, before)
    title = f"{study.kind.title}, poisoned training points\ntarget class ACR {acr} → {lower_acr}"
    return [first, first._replace(title=title, moved=poisoned.points, plane=after)]


def _store(results: dict[str, dict[str, Row]], config: BoundaryConfig) -> Store:
    """The certified points and records of every victim."""
    made, points = provenance(config), []
    records: dict[str, dict[str, Any]] = {}
    for kind, rows in results.items():
        for name, row in rows.items():
            change = (row.points - rows["clean"].points).reshape(-1, 2)
            moved = {"largest_change": float(np.abs(change).max()), "mean_change": change.mean(axis=0).tolist()}
            entry = records.setdefault(f"{kind}/{name}", {})
            for seed, (radii, accuracy) in enumerate(zip(row.radii, row.accuracy, strict=True), config.seed):
                lines = {"seed": seed, "idx": range(len(radii)), "label": config.target_class, "radius": radii}
                points.append(pd.DataFrame({"entry": f"{kind}/{name}", **lines}))
                entry[str(seed)] = {"accuracy": accuracy, **moved, **made}
    return Store(pd.concat(points, ignore_index=True), records)


def plane_frame(store: Store) -> pd.DataFrame:
    """A row per classifier and kind of training points: entry, classifier, data, and the results of its victims.

    Columns acr, certified and accuracy are texts of mean ± sample standard deviation. reduction is a Reduction or None.
    runs and points are the numbers of victims and of test points.
    """
    entries = list(store.records)
    if "radius" not in store.points or any(f"{entry.partition('/')[0]}/clean" not in entries for entry in entries):
        raise InputError(
            f"the store of the plane: no radii of {', '.join(entries[:3])}, or none of clean points; draw it again"
        )
    runs = store.points.assign(certified=store.points["radius"] > 0)
    runs = runs.groupby(["entry", "seed"], sort=False)[["radius", "certified"]].mean()
    runs["accuracy"] = [store.records[entry][str(seed)]["accuracy"] for entry, seed in runs.index]
    texts = runs.groupby("entry", sort=False).agg(lambda values: mean_and_std_text(list(values)))
    radii = {  # (victims, points)
        entry: lines.pivot_table("radius", "seed", "idx").to_numpy() for entry, lines in store.points.groupby("entry")
    }
    rows: list[dict[str, Any]] = []
    for entry, (radius, certified, accuracy) in zip(texts.index, texts.to_numpy(), strict=True):
        kind, _, name = entry.partition("/")
        less = None if name == "clean" else reduction_of(radii[entry][None], radii[f"{kind}/clean"])
        row = {"entry": entry, "classifier": kind, "data": name, "acr": radius, "reduction": less}
        victims, points = radii[entry].shape
        rows.append({**row, "certified": certified, "accuracy": accuracy, "runs": victims, "points": points})
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
