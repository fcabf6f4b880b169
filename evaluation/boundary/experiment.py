"""The whole experiment in the plane: poison, train and certify, then picture, numbers and table."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data.datasets import split_target_class
from evaluation.boundary.picture import Panel, save_boundaries
from evaluation.boundary.study import KINDS, BoundaryConfig, Row, Study, control_points, smoothed_plane
from evaluation.tables.formats import aligned
from evaluation.tables.statistics import PLUS_MINUS, mean_and_std, mean_and_std_text, reduction_percent
from runtime.files import remove, require_no_folder, write_json, write_text
from runtime.lock import Lock
from runtime.progress import progress
from runtime.provenance import provenance, shown_path


def draw_boundaries(config: BoundaryConfig) -> dict[str, dict[str, Row]]:
    """Poison, train and certify both kinds of classifiers; write picture and numbers, print the table.

    Returns for each kind's name the rows by name of the training points, 'clean' first and 'optimised' last.

    Raises InputError on bad settings or where another run writes the same files, FloatingPointError where training or
    attack diverges.
    """
    config.check()
    picture, record = (config.out_dir / f"decision_boundary.{suffix}" for suffix in ("png", "json"))
    table = config.out_dir / "table.txt"
    require_no_folder(picture, record, table)
    with Lock(record):
        results, panels = _measured(config)
        remove(record)  # of an earlier picture and table: it comes last
        save_boundaries(picture, panels, config)
        text = text_table(results, config)
        write_text(table, text + "\n")
        numbers = {
            kind: {name: _numbers(row, rows["clean"]) for name, row in rows.items()} for kind, rows in results.items()
        }
        write_json(record, {"results": numbers, **provenance(config)})
    print(f"{text}\n\n{shown_path(picture)}, {record.name} and {table.name}")
    return results


def _measured(config: BoundaryConfig) -> tuple[dict[str, dict[str, Row]], list[list[Panel]]]:
    """The rows of both kinds, and what the picture shows of them."""
    results: dict[str, dict[str, Row]] = {}
    panels: list[list[Panel]] = []
    for kind in KINDS:
        study = Study(config, kind)
        points = {"clean": study.x_target, **control_points(study.x_target, config.epsilon, config.seed)}
        points["optimised"] = study.optimised_poison()
        rows = {
            name: study.measured(x) for name, x in progress(points.items(), desc=kind.title, unit="row", leave=False)
        }
        results[kind.name] = rows
        x_others = split_target_class(*study.train, config.target_class).x_others
        planes = {
            name: smoothed_plane(study.classifier(rows[name].weights), config.sigma, config.target_class)
            for name in ("clean", "optimised")
        }
        clean, poisoned = rows["clean"], rows["optimised"]
        clean_acr, poisoned_acr = f"ACR {mean_and_std_text(clean.acr)}", mean_and_std_text(poisoned.acr)
        before, after = (
            Panel(title, x_others, study.x_target, row.points, plane, planes["clean"])
            for title, row, plane in (
                (f"{kind.title}, clean training points\ntarget class {clean_acr}", clean, planes["clean"]),
                (
                    f"{kind.title}, poisoned training points\ntarget class {clean_acr} → {poisoned_acr}",
                    poisoned,
                    planes["optimised"],
                ),
            )
        )
        panels.append([before, after])
    return results, panels


def _reduction(row: Row, clean: Row) -> float | None:
    """Percent by which the mean ACR is below that of clean points; None where that is 0."""
    return reduction_percent(float(np.mean(row.acr)), float(np.mean(clean.acr)))


def _numbers(row: Row, clean: Row) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for name in ("acr", "certified_accuracy", "accuracy"):
        values = getattr(row, name)
        numbers[f"{name}_mean"], numbers[f"{name}_std"] = mean_and_std(values)
        numbers[name] = values
    change = row.points - clean.points
    return {
        **numbers,
        "radii": row.radii,
        "reduction_percent": None if row is clean else _reduction(row, clean),
        "largest_change": float(np.abs(change).max()),
        "mean_change": [float(value) for value in change.mean(axis=0)],
    }


def text_table(results: Mapping[str, Mapping[str, Row]], config: BoundaryConfig) -> str:
    """The rows of both kinds for the screen."""
    header = ("classifier", "training points", "ACR", "reduction", "certified accuracy", "test accuracy")
    lines = [
        (
            kind, name, mean_and_std_text(row.acr),
            "" if (less := _reduction(row, rows["clean"])) is None or name == "clean" else f"{less:.1f} %",
            mean_and_std_text(row.certified_accuracy), f"{np.mean(row.accuracy):.3f}",
        )
        for kind, rows in results.items()
        for name, row in rows.items()
    ]  # fmt: skip
    return (
        f"target class {config.target_class}, Gaussian augmentation, sigma {config.sigma:g}, epsilon "
        f"{config.epsilon:g}, {config.runs} victims per row\ncertified: {config.test_points} test points of the class, "
        f"n0 = {config.n0}, n = {config.n}, alpha = {config.alpha:g}\n{PLUS_MINUS}\n\n{aligned(header, lines)}"
    )
