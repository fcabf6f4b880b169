"""Write results/which_poison_survives.md and its figures from the records of the study's tables.

    python evaluation/survival/write_page.py

The study is every table of results/tables/ whose name has 'survival' in it: plans that cross kinds of training data
with kinds of victims, with visibility and all classes measured. A table <name>_validation beside <name> has the same
optimised poisons and kinds of victims, certified on validation images: it chooses the attack. What a person has to say
is in results/which_poison_survives/NOTES.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attack_generation.controls import CONTROLS
from attack_generation.figures import default_style, save_png
from evaluation.tables.figures import plain_text
from evaluation.tables.formats import markdown_table
from evaluation.tables.layout import dataset_name, measured_text, reduction_text
from evaluation.tables.plan import CLEAN, Cell, Plan, read_plan
from evaluation.tables.records import (
    Entry,
    commits,
    missing,
    read_entries,
    reduction,
    require_clean_commits,
    require_runs,
)
from evaluation.tables.statistics import PLUS_MINUS
from runtime.command_line import run_script
from runtime.files import InputError, read_text, write_text
from runtime.provenance import project_path, shown_path

NAME = "which_poison_survives"
DEFAULTS = {  # what victims do to their images where a plan says nothing
    "DIGITS": "nothing is done to the images", "MNIST": "nothing is done to the images",
    "CIFAR10": "random crop and flip, as every kind has here",
}  # fmt: skip
BEYOND = "beyond_jitter_over_sigma"
JITTERED = "jittered"  # the kind of victims that the part of a change beyond jitter is for
VALIDATION = "_validation"  # at the end of the name of a table that chooses an attack
PIXELS = {"DIGITS": 8 * 8, "MNIST": 28 * 28, "CIFAR10": 32 * 32 * 3}

QUESTION = """# Which poison survives?

In plain training a change that optimises nothing, a little more brightness or a little less contrast of the whole
class, lowers the average certified radius (ACR) of that class as much as the optimised poison does, or more. But
hardly anyone trains without varying brightness. Which poison is left once victims do what most recipes do?

Every poison keeps the same l-infinity bound epsilon. *Controls* train no network (`--help` of
`attack_generation/control_poison.py` says what each is; `halves` makes the left half of every image brighter and the
right one darker, which jitter cannot make); the others are bilevel attacks or error-minimising noise, with and without
the victims' jitter in their lower level (`jittered` in their names). Victims are trained from scratch; *plain* with
nothing done to their images but noise, as published (CIFAR10: random crop and flip), *jittered* with brightness and
contrast of every training image of every class varied anew at each step, other kinds as their settings below say. A
reduction is of the target class's ACR, against victims of the same kind and the same seeds on clean data.
"""


class Row(NamedTuple):
    """One kind of training data: its entry of every kind of victims."""

    name: str
    entries: dict[str, Entry]  # by kind

    @property
    def is_control(self) -> bool:
        """Whether no network was trained for it."""
        return self.name in CONTROLS


class Study(NamedTuple):
    """One table: victims of one method and noise level, one class."""

    plan: Plan
    folder: Path
    sigma: float
    kinds: tuple[str, ...]
    rows: list[Row]  # clean first
    validation: "Study | None" = None  # the same, certified on validation images

    @property
    def budget(self) -> float:
        """epsilon sqrt(d) / sigma: the most that a change of epsilon is seen by under the noise."""
        return self.plan.epsilon * PIXELS[self.plan.dataset] ** 0.5 / self.sigma

    @property
    def is_of_kinds(self) -> bool:
        """Whether it is a study of victims, with more kinds of them than of training data."""
        return len(self.kinds) >= len(self.rows)

    def reduction(self, row: Row, kind: str) -> float | None:
        """Of the ACR, in percent."""
        return reduction(self.rows[0].entries[kind], row.entries[kind])

    def strongest(self) -> str | None:
        """The optimised poison of the greatest least reduction over the kinds of victims; None where none is whole."""
        least = {}
        for row in self.rows[1:]:
            reductions = [less for kind in self.kinds if (less := self.reduction(row, kind)) is not None]
            if not row.is_control and len(reductions) == len(self.kinds):
                least[row.name] = min(reductions)
        return max(least, key=lambda name: least[name], default=None)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the page."""

    results_dir: Path = project_path("results")
    """Folder of the tables and of the page."""


def main(config: Config) -> None:
    """Write page and figures. Raises InputError where there is no table of the study, or one is damaged."""
    studies = read_studies(config.results_dir)
    folder = config.results_dir / NAME
    for study in studies:
        save_reductions(folder / f"reductions_{_key(study)}.png", study)
    of_poisons = [one for one in studies if not one.is_of_kinds] or studies
    save_against_budget(folder / "against_budget.png", of_poisons)
    save_beyond_jitter(folder / "beyond_jitter.png", of_poisons)
    write_text(config.results_dir / f"{NAME}.md", page(studies, config.results_dir))
    print(f"{shown_path(config.results_dir / NAME)}.md: written")


def read_studies(results: Path) -> list[Study]:
    """The study's tables. Raises InputError where there is none."""
    studies = []
    for path in sorted(results.glob("tables/*survival*/plan.yaml")):
        if not path.parent.name.endswith(VALIDATION):
            chosen = _studies_of(path.parent.with_name(path.parent.name + VALIDATION) / path.name)
            studies += [study._replace(validation=chosen.get(key)) for key, study in _studies_of(path).items()]
    if not studies:
        raise InputError(f"{results}/tables: has no table of the study (*survival*); run config/digits_survival.yaml")
    return studies


def _studies_of(path: Path) -> dict[tuple[str, float, int], Study]:
    """Those of one plan by method, sigma and class; none where it is not there."""
    if not path.is_file():
        return {}
    plan = read_plan(path)
    entries = read_entries(plan, path.parent)
    require_runs(entries.values(), path.parent, "run the plan, and make its tables here")
    of_kinds: dict[tuple[str, float, int], dict[str, dict[str, Entry]]] = {}
    main_cells, kinds = plan.main_cells(), plan.victim_variants()
    for cell in dict.fromkeys([*main_cells, *plan.method_transfer_cells()]):
        key = cell.victim.method, cell.victim.sigma, cell.target_class
        name = cell.row if cell in main_cells or cell.poison is None else f"against {cell.poison.against}"
        of_kinds.setdefault(key, {}).setdefault(name, {})[cell.victim.variant] = entries[cell]
    return {
        # A transfer has one kind of victims.
        key: Study(plan, path.parent, key[1], kinds, [Row(*one) for one in rows.items() if len(one[1]) == len(kinds)])
        for key, rows in of_kinds.items()
    }


def _first(study: Study) -> Cell:
    return next(iter(study.rows[0].entries.values())).cell


def _key(study: Study) -> str:
    cell = _first(study)
    return f"{study.plan.table}_{cell.victim.method}_sigma_{study.sigma:g}_class_{cell.target_class}"


def page(studies: Sequence[Study], results: Path) -> str:
    """The page's text, of the records alone."""
    parts = [QUESTION]
    notes = results / NAME / "NOTES.md"
    if notes.is_file():
        parts.append(read_text(notes))
    parts.append(
        "## All of it\n\nReductions against epsilon sqrt(d) / sigma, which bounds how well a change is seen under the "
        f"noise:\n\n![reductions against the budget]({NAME}/against_budget.png)\n\nReductions for jittered victims "
        "against the l2 norm, over sigma, of the part of a change that no brightness and contrast of the image makes:"
        f"\n\n![reductions against what jitter leaves]({NAME}/beyond_jitter.png)\n"
    )
    parts += [_section(study, results) for study in studies]
    parts.append(f"{PLUS_MINUS}. Made by `python evaluation/survival/write_page.py`.\n")
    return "\n".join(parts)


def _section(study: Study, results: Path) -> str:
    plan, where = study.plan, study.folder.relative_to(results)
    measured = [run for row in study.rows for entry in row.entries.values() for run in entry.runs]
    for run in measured:
        require_clean_commits(run.tsv, run.records)
    made_at = [one for run in measured for one in commits(run.records)]
    runs = "1 victim" if plan.runs == 1 else f"{plan.runs} victims"
    lines = [
        f"## {plan.title}\n",
        f"Class {_first(study).target_class}, victims {_first(study).victim.method}, sigma {study.sigma:g}, epsilon "
        f"{plan.epsilon:g}, epsilon sqrt(d) / sigma = {study.budget:.2f}; {runs} per entry; commit "
        f"{', '.join(dict.fromkeys(made_at))}. [Plan]({where}/plan.yaml), [all numbers]({where}/tables.md).\n",
        *(f"- {kind}: {plan.victims.get(kind) or DEFAULTS[plan.dataset]}" for kind in study.kinds),
        "",
        _table_of_kinds(study) if study.is_of_kinds else _table(study),
        "",
        *_verdict(study),
        *_chosen(study, results),
        f"\n![reductions]({NAME}/reductions_{_key(study)}.png)\n",
    ]
    lacking = missing([entry for row in study.rows for entry in row.entries.values()])
    return "\n".join([*lines, *(f"Missing: {line}" for line in lacking)])


def _table(study: Study) -> str:
    header = (
        "training data", "gradients", *(text for kind in study.kinds for text in (f"ACR, {kind}", "reduction")),
        *(f"accuracy of the class, {kind}" for kind in study.kinds[:2]), f"ACR of the other classes, {study.kinds[0]}",
        "l2 / σ", "beyond jitter / σ", "seen without training", "seen by trained detectors",
    )  # fmt: skip
    lines = []
    for row in study.rows:
        of_first = row.entries[study.kinds[0]]
        spent = of_first.mean_and_std("gradients")
        values = [row.name, f"{spent[0]:,.0f}" if spent else ""]
        for kind in study.kinds:
            less = reduction_text(study.rows[0].entries[kind], row.entries[kind])
            values += [measured_text(row.entries[kind], "acr"), "" if row.name == CLEAN else less]
        values += [measured_text(row.entries[kind], "target_accuracy") for kind in study.kinds[:2]]
        values.append(measured_text(of_first, "others_acr"))
        seen = of_first.runs[0].visibility if of_first.runs else {}
        values += [f"{seen[name]:.2f}" if name in seen else "" for name in ("l2_over_sigma", BEYOND)]
        for names in (("brightness", "nearest"), ("linear", "network")):
            values.append(f"{max(seen[f'auc_{name}'] for name in names):.2f}" if seen else "")
        lines.append(tuple(values))
    return markdown_table(header, lines)


def _table_of_kinds(study: Study) -> str:
    """A line per kind of victims: what each loses on clean data and under each poison."""
    of_clean, *poisons = study.rows
    header = (
        "victims", "ACR, clean", "lower than " + study.kinds[0], "test accuracy, clean",
        *(text for row in poisons for text in (f"ACR, {row.name}", "reduction")),
        *(f"accuracy of the class, {row.name}" for row in study.rows),
    )  # fmt: skip
    lines = []
    for kind in study.kinds:
        clean = of_clean.entries[kind]
        lost = "" if kind == study.kinds[0] else reduction_text(of_clean.entries[study.kinds[0]], clean)
        values = [kind, measured_text(clean, "acr"), lost, measured_text(clean, "accuracy")]
        for row in poisons:
            values += [measured_text(row.entries[kind], "acr"), reduction_text(clean, row.entries[kind])]
        values += [measured_text(row.entries[kind], "target_accuracy") for row in study.rows]
        lines.append(tuple(values))
    return markdown_table(header, lines)


def _verdict(study: Study) -> list[str]:
    """A line per kind of victims: the strongest control and the strongest optimised poison."""
    lines = []
    for kind in study.kinds:
        strongest = []
        for of_controls in (True, False):
            found = [
                (less, row.name)
                for row in study.rows[1:]
                if row.is_control == of_controls and (less := study.reduction(row, kind)) is not None
            ]
            strongest.append("none" if not found else "{1} ({0:.1f} %)".format(*max(found)))
        lines.append(f"- {kind} victims: strongest control {strongest[0]}, strongest optimised poison {strongest[1]}.")
    return lines


def _chosen(study: Study, results: Path) -> list[str]:
    """What the attack that validation images choose does on test images."""
    if study.validation is None or (name := study.validation.strongest()) is None:
        return []
    where = study.validation.folder.relative_to(results)
    clean = study.rows[0].entries
    return [
        f"- Chosen on validation images, by the least of its reductions ([numbers]({where}/tables.md)): **{name}**; on "
        "test images "
        + ", ".join(f"{reduction_text(clean[kind], row.entries[kind])} for {kind} victims" for kind in study.kinds)
        + "."
        for row in study.rows
        if row.name == name
    ]


@default_style()
def save_reductions(path: Path, study: Study) -> None:
    """Draw the reduction of the ACR of every kind of training data, a bar per kind of victims, as PNG."""
    from matplotlib.figure import Figure

    rows = study.rows[1:]
    figure = Figure(figsize=(8, 1.5 + 0.14 * len(rows) * len(study.kinds)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(study.kinds)
    for number, kind in enumerate(study.kinds):
        at = [place + (number - (len(study.kinds) - 1) / 2) * height for place in range(len(rows))]
        axes.barh(at, [study.reduction(row, kind) or 0.0 for row in rows], 0.9 * height, label=kind, color=f"C{number}")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color("grey" if row.is_control else "black")
    axes.invert_yaxis()
    axes.axvline(0, color="black", lw=0.8)
    axes.set(xlabel="reduction of the ACR in percent (controls in grey)", title=study.plan.title)
    axes.title.set_wrap(True)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=min(4, len(study.kinds)), title="victims")
    save_png(path, figure)


@default_style()
def save_against_budget(path: Path, studies: Sequence[Study]) -> None:
    """Draw every reduction against epsilon sqrt(d) / sigma, a panel per kind of victims, as PNG."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(kind for study in studies for kind in study.kinds))
    figure = Figure(figsize=(1.5 + 3.6 * len(kinds), 4.2), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    spread = np.random.default_rng(0)
    for axes, kind in zip(panels, kinds, strict=True):
        for study in (one for one in studies if kind in one.kinds):
            for row in study.rows[1:]:
                if (less := study.reduction(row, kind)) is not None:
                    colour, marker = ("grey", "x") if row.is_control else ("C3", "o")
                    axes.plot(
                        study.budget * (1 + spread.uniform(-0.02, 0.02)), less, marker, color=colour, ms=5, alpha=0.8
                    )
        axes.plot([], [], "x", color="grey", label="controls")
        axes.plot([], [], "o", color="C3", label="optimised")
        axes.axhline(0, color="black", lw=0.8)
        axes.set(title=f"{kind} victims", xlabel="ε √d / σ", xlim=(0, 1.15 * max(study.budget for study in studies)))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("reduction of the ACR in percent")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    save_png(path, figure)


@default_style()
def save_beyond_jitter(path: Path, studies: Sequence[Study]) -> None:
    """Draw the reductions for jittered victims against what of a change is beyond jitter, over sigma, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    colours: dict[str, str] = {}
    for study in (one for one in studies if JITTERED in one.kinds):
        plan = study.plan
        dataset = dataset_name(plan, (entry for row in study.rows for entry in row.entries.values()))
        label = f"{plain_text(dataset)}, class {_first(study).target_class}, σ {study.sigma:g}, ε {plan.epsilon:g}"
        if label not in colours:
            colours[label] = f"C{len(colours)}"
            axes.plot([], [], "s", color=colours[label], label=label)
        for row in study.rows[1:]:
            entry, less = row.entries[JITTERED], study.reduction(row, JITTERED)
            seen = entry.runs[0].visibility if entry.runs else {}
            if less is not None and BEYOND in seen:
                axes.plot(seen[BEYOND], less, "x" if row.is_control else "o", color=colours[label], ms=5, alpha=0.8)
    axes.plot([], [], "x", color="grey", label="controls")
    axes.plot([], [], "o", color="grey", label="optimised")
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xlim(left=0)
    axes.set(
        xlabel="l2 / σ of the change, beyond brightness and contrast",
        ylabel="reduction of the ACR in percent", title="jittered victims",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    save_png(path, figure)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
