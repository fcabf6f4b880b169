"""Arrange what a plan's runs measured as tables and figures; entries that are missing are named.

Called by the Snakefile when the runs are done, and by hand at any time:

    python evaluation/make_tables.py --plan config/digits.yaml
"""

import platform
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from attack_generation.controls import CONTROLS
from attack_generation.figures import save_image_grid
from data.datasets import load_dataset, load_poison, split_target_class
from evaluation.cell_results import Entry, certified_curve, job_times, missing, read_entries
from evaluation.figures import save_acr_bars, save_curves, save_radii
from evaluation.paper_tables import (
    as_csv,
    as_html,
    as_latex,
    as_markdown,
    configuration_page,
    tables_of,
    write_cells,
)
from evaluation.table_plan import CLEAN, OPTIMISED, Cell, Plan, read_plan
from runtime.command_line import run_script
from runtime.files import write_text
from runtime.provenance import provenance, shown_path


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the arrangement."""

    plan: Path
    """Plan of the table, one of config/*.yaml."""
    results_dir: Path | None = None
    """Folder of tables and figures; that of the plan when not given."""


def main(config: Config) -> None:
    """Write tables.md, .tex, .csv, .html, configuration.html, cells/ and figures/."""
    plan = read_plan(config.plan)
    folder = config.results_dir or plan.folders["results"]
    entries = read_entries(plan)
    tables, lacking = tables_of(plan, entries), missing(list(entries.values()))
    notes = ["Missing:\n\n" + "\n".join(f"- {line}" for line in lacking)] if lacking else []

    write_cells(folder, entries)
    _figures(plan, entries, folder / "figures")
    record = provenance(config)
    versions = {
        "commit": record["commit"], "backend": record["backend"], **record["versions"],
        "machine": f"{record['machine']}, {platform.processor() or platform.machine()}", "written": record["written"],
    }  # fmt: skip
    plan_text = msgspec.yaml.encode(plan).decode()
    write_text(
        folder / "configuration.html", configuration_page(plan.title, plan_text, versions, job_times(plan))
    )
    write_text(folder / "tables.csv", as_csv(entries))
    write_text(folder / "tables.tex", as_latex(tables, notes))
    write_text(folder / "tables.html", as_html(plan.title, tables, notes))
    write_text(folder / "tables.md", as_markdown(tables, notes))
    done = sum(len(entry.runs) for entry in entries.values())
    print(f"{shown_path(folder)}: {len(tables)} tables of {done} victims")
    if lacking:
        print("missing:\n  " + "\n  ".join(lacking))


def _figures(plan: Plan, entries: dict[Cell, Entry], folder: Path) -> None:
    """Figures of the plan for which something was measured."""
    shown = {cell: entries[cell] for cell in plan.shown_cells() if entries[cell].runs}
    groups: dict[str, dict[str, list[float]]] = {}
    for victim, target_class in dict.fromkeys((cell.victim, cell.target_class) for cell in shown):
        group = {
            _kind(cell): entry
            for cell, entry in shown.items()
            if (cell.victim, cell.target_class) == (victim, target_class)
        }
        name = f"{victim.key}_class_{target_class}.png"
        title = f"{plan.dataset}, class {target_class}, {victim.method}, σ = {victim.sigma:g}"
        curves = {kind: [certified_curve(run.radii) for run in entry.runs] for kind, entry in group.items()}
        save_curves(folder / f"certified_accuracy_{name}", curves, f"{title}, mean and range of runs")
        radii = {kind: np.concatenate([run.radii for run in entry.runs]) for kind, entry in group.items()}
        save_radii(folder / f"radii_{name}", radii, title)
        label = f"{victim.method}\nσ = {victim.sigma:g}" + (
            f", class {target_class}" if len(plan.target_classes) > 1 else ""
        )
        groups[label] = {kind: entry.values("acr") for kind, entry in group.items()}
    save_acr_bars(
        folder / "acr.png", groups, f"{plan.dataset}: average certified radius of the poisoned class"
    )

    made = {key: poison for key, poison in plan.poisons().items() if plan.poison_file(poison).is_file()}
    if made:
        dataset = load_dataset(plan.folders["data"])
        for key, poison in made.items():
            clean = split_target_class(dataset.x_train, dataset.y_train, poison.target_class).x_target
            images = load_poison(plan.poison_file(poison), dataset, poison.target_class)
            save_image_grid(folder / f"images_{key}.png", clean, images, plan.epsilon)


def _kind(cell: Cell) -> str:
    """Kind of training data as figures name it."""
    if cell.poison is None:
        return CLEAN
    return cell.poison.against if cell.poison.against in CONTROLS else OPTIMISED


if __name__ == "__main__":
    run_script(main, Config, __doc__)
