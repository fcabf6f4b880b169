"""Arrange what a plan's runs measured as tables and figures; entries that are missing are named.

Called when the plan's other jobs are done, and by hand at any time:

    python evaluation/tables/make_tables.py --plan config/digits.yaml

What was measured is copied into the results folder first. From there alone, the same tables are made again by

    python evaluation/tables/make_tables.py --plan results/tables/digits/plan.yaml --from-results
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from attack_generation.controls import CONTROLS
from attack_generation.figures import save_image_grid
from data.datasets import load_dataset, load_poison, split_target_class
from evaluation.tables.figures import plain_text, save_acr_against_gradients, save_acr_bars, save_curves, save_radii
from evaluation.tables.formats import as_csv, as_html, as_latex, as_markdown, as_text, configuration_page
from evaluation.tables.layout import Entries, attack_series, dataset_name, tables_by_training_data, tables_of
from evaluation.tables.plan import CLEAN, PAGES, Plan, read_plan
from evaluation.tables.records import (
    Entry,
    collect,
    commits,
    is_of_record,
    job_times,
    missing,
    read_entries,
    require_clean_commits,
    require_measured,
    require_runs,
)
from evaluation.tables.statistics import PLUS_MINUS
from randomized_smoothing_certification.certificate_file import certified_curve
from runtime.command_line import run_script
from runtime.files import write_text
from runtime.provenance import project_path, shown_path


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the arrangement."""

    plan: Path
    """Plan of the table, one of config/*.yaml."""
    results_dir: Path | None = None
    """Folder of tables and figures; that of the plan when not given."""
    directory: Path = project_path("")
    """Folder that the plan's own paths start from."""
    from_results: bool = False
    """Make tables and figures again from the certificates in the plan file's folder, and copy nothing there."""


def main(config: Config) -> None:
    """Write tables.md, .tex, .csv, .html, configuration.html, cells/ and figures/, and print the tables.

    Raises InputError where not one entry of the plan has a run, before anything is written.
    """
    plan = read_plan(config.plan)
    if config.from_results:
        folder = config.results_dir or config.plan.parent
        entries = read_entries(plan, config.plan.parent)
        require_runs(entries.values(), config.plan.parent, "give the plan.yaml beside cells/")
        for run in (run for entry in entries.values() for run in entry.runs if is_of_record(folder)):
            require_clean_commits(run.tsv, run.records)
    else:
        here = plan.placed_in(config.directory)
        folder = config.results_dir or here.folders["results"]
        require_measured(plan, config.directory)
        collect(plan, folder, config.directory)
        entries = read_entries(plan, folder)
        _images(here, folder / "figures")
        plan_text = msgspec.yaml.encode(plan).decode()
        page = configuration_page(plan.title, plan_text, _versions(entries), job_times(here))
        write_text(folder / "configuration.html", page)
    for name, text in tables_as_text(plan, entries).items():
        write_text(folder / name, text)
    draw_figures(plan, entries, folder / "figures")
    print(f"{plan.title}\n\n{as_text(tables_by_training_data(plan, entries))}")
    if lacking := missing(list(entries.values())):
        print("\nmissing:\n  " + "\n  ".join(lacking))
    print(f"\n{shown_path(folder)}: {', '.join(PAGES)}, figures/ and, per point, cells/")


def tables_as_text(plan: Plan, entries: Entries) -> dict[str, str]:
    """Content of every file of tables, a function of plan and certificates alone."""
    tables, lacking = tables_of(plan, entries), missing(list(entries.values()))
    notes = ["Missing:\n\n" + "\n".join(f"- {line}" for line in lacking)] if lacking else []
    return {
        "tables.md": as_markdown(tables, [f"{PLUS_MINUS}.", *notes]),
        "tables.tex": as_latex(tables, notes),
        "tables.csv": as_csv(entries),
        "tables.html": as_html(plan.title, tables, notes),
    }


def _versions(entries: Entries) -> dict[str, str]:
    """What the runs' records say of commit, backend, machine and versions."""
    found: dict[str, dict[str, None]] = {}
    for run in (run for entry in entries.values() for run in entry.runs):
        victim = run.records["victim"]
        of_run = [("commit", one) for one in commits(run.records)]
        of_run += [(name, victim[name]) for name in ("backend", "machine") if name in victim]
        for name, value in [*of_run, *victim.get("versions", {}).items()]:
            found.setdefault(name, {})[value] = None
    return {name: ", ".join(values) for name, values in found.items()}


def draw_figures(plan: Plan, entries: Entries, folder: Path) -> None:
    """Figures of the plan for which something was measured."""
    shown = {cell: entries[cell] for cell in plan.shown_cells() if entries[cell].runs}
    dataset = plain_text(dataset_name(plan, entries.values()))
    groups: dict[str, dict[str, list[float]]] = {}
    for victim, target_class in dict.fromkeys((cell.victim, cell.target_class) for cell in shown):
        group = {
            cell.row: entry
            for cell, entry in shown.items()
            if (cell.victim, cell.target_class) == (victim, target_class)
        }
        name = f"{victim.key}_class_{target_class}.png"
        title = f"{dataset}, class {target_class}, {victim.name}, σ = {victim.sigma:g}"
        curves = {kind: [certified_curve(run.radii) for run in entry.runs] for kind, entry in group.items()}
        save_curves(folder / f"certified_accuracy_{name}", curves, f"{title}, mean and range of runs")
        radii = {kind: np.concatenate([run.radii for run in entry.runs]) for kind, entry in group.items()}
        save_radii(folder / f"radii_{name}", radii, title)
        if plan.attacks and victim in plan.main_victims():
            series = {
                attack: _budgets([entries[cell] for _, cell in budgets])
                for attack, budgets in attack_series(plan, victim, target_class).items()
            }
            acr = {row: entry.values("acr") for row, entry in group.items()}
            controls = {row: acr[row] for row in CONTROLS if row in acr}
            path = folder / f"acr_against_gradients_{name}"
            save_acr_against_gradients(path, series, acr.get(CLEAN, []), controls, title)
        several = f", class {target_class}" if len(plan.target_classes) > 1 else ""
        label = f"{victim.name}\nσ = {victim.sigma:g}{several}"
        groups[label] = {kind: entry.values("acr") for kind, entry in group.items()}
    title = f"{dataset}: average certified radius of the poisoned class"
    save_acr_bars(folder / "acr.png", groups, title)


def _budgets(entries: Sequence[Entry]) -> list[tuple[float, list[float]]]:
    """Gradients spent on each entry's poison and the ACR of its runs; entries that lack either are left out."""
    measured = [(entry.mean_and_std("gradients"), entry.values("acr")) for entry in entries]
    return [(spent[0], acr) for spent, acr in measured if spent]


def _images(plan: Plan, folder: Path) -> None:
    """Clean and poisoned images and their difference, of every poison that is there."""
    made = {key: poison for key, poison in plan.poisons().items() if plan.poison_file(poison).is_file()}
    if made:
        dataset = load_dataset(plan.folders["data"])
        for key, poison in made.items():
            clean = split_target_class(dataset.x_train, dataset.y_train, poison.target_class).x_target
            images = load_poison(plan.poison_file(poison), dataset, poison.target_class)
            save_image_grid(folder / f"images_{key}.png", clean, images, plan.epsilon)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
