"""Tables as the paper arranges them.

Layout: arXiv 2012.01274, tables 1 to 4: per method and noise level, clean against poisoned; transfer over methods and
over architectures. The controls of the same epsilon stand in a table of their own.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from attack_generation.controls import CONTROLS
from evaluation.tables.plan import CLEAN, OPTIMISED, Cell, Plan, Poison, Victim
from evaluation.tables.records import Entry, Run, reduction
from evaluation.tables.statistics import mean_and_std_text

MISSING = "—"
Entries = dict[Cell, Entry]


class Item(NamedTuple):
    """One field of a table: its text, and the entry that it is measured on."""

    text: str
    entry: Entry | None = None


class Table(NamedTuple):
    """A table ready to be written."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: list[tuple[Item, ...]]


def tables_of(plan: Plan, entries: Entries) -> list[Table]:
    """All tables of the plan."""
    tables = [_method_table(plan, entries), _control_table(plan, entries)]
    tables += [_attack_table(plan, entries), _victim_table(plan, entries), _poison_table(plan, entries)]
    tables += _method_transfer_tables(plan, entries) + _architecture_transfer_tables(plan, entries)
    return [table for table in tables if table.rows]


def tables_by_training_data(plan: Plan, entries: Entries) -> list[Table]:
    """For the screen: a narrow table per victim and class, a row per kind of training data; then transfer."""
    header = ("training data", "ACR", "reduction", "certified accuracy", "test accuracy", "of the class")
    tables, dataset = [], dataset_name(plan, entries.values())
    for (victim, target_class), cells in _by_victim(plan.shown_cells()).items():
        clean = entries.get(Cell(victim, target_class, None))
        rows = []
        for cell in cells:
            entry, name = entries[cell], cell.poison.variant or cell.poison.against if cell.poison else CLEAN
            values = [Item(measured_text(entry, of)) for of in ("certified_accuracy", "accuracy", "target_accuracy")]
            less = Item(reduction_text(clean, entry) if cell.poison else "")
            rows.append((Item(name), _measured(entry, "acr"), less, *values))
        title = f"{dataset}, class {target_class}, victims {victim.name}, σ = {victim.sigma:g}"
        tables.append(Table(f"{victim.key}_{target_class}", title, header, rows))
    of_plan = _attack_table(plan, entries), _victim_table(plan, entries), _poison_table(plan, entries)
    tables += [table for table in of_plan if table.rows]
    return tables + _method_transfer_tables(plan, entries) + _architecture_transfer_tables(plan, entries)


def dataset_name(plan: Plan, entries: Iterable[Entry]) -> str:
    """Name of the data that the runs were certified on, as their records have it; the plan's where none has one."""
    names = dict.fromkeys(run.dataset for entry in entries for run in entry.runs if run.dataset)
    return ", ".join(names) or plan.dataset


def _method_table(plan: Plan, entries: Entries) -> Table:
    header = (
        "method", "σ", "class", "ACR, clean", "ACR, poisoned", "reduction", "certified accuracy, clean",
        "certified accuracy, poisoned", "test accuracy, clean", "test accuracy, poisoned",
    )  # fmt: skip
    rows: list[tuple[Item, ...]] = []
    for (victim, target_class), cells in _by_victim(plan.shown_cells()).items():
        clean = entries.get(Cell(victim, target_class, None))
        poisoned = next((entries[cell] for cell in cells if cell.row == OPTIMISED), None)
        if poisoned is None and (plan.attacks or plan.ready):  # which the table of attacks has
            continue
        rows.append(
            (
                Item(victim.name), Item(f"{victim.sigma:g}"), Item(str(target_class)),
                _measured(clean, "acr"), _measured(poisoned, "acr"), Item(reduction_text(clean, poisoned)),
                _measured(clean, "certified_accuracy"), _measured(poisoned, "certified_accuracy"),
                _measured(clean, "accuracy"), _measured(poisoned, "accuracy"),
            )
        )  # fmt: skip
    if len(plan.target_classes) > 1 and rows:
        rows += [_mean_row(plan, entries, victim) for victim in plan.main_victims()]
    title = f"{plan.title}: average certified radius (ACR) and approximate certified accuracy of the poisoned class"
    return Table("methods", title, header, rows)


def _mean_row(plan: Plan, entries: Entries, victim: Victim) -> tuple[Item, ...]:
    """The mean over the classes, its spread that of the runs' means; empty until every class is there."""

    def mean_of(row: str) -> Entry | None:
        of_classes = [entries.get(plan.main_cell(victim, target_class, row)) for target_class in plan.target_classes]
        return _mean_over_classes([entry for entry in of_classes if entry]) if all(of_classes) else None

    clean, poisoned = mean_of("clean"), mean_of("optimised")
    values = [
        Item(measured_text(entry, name)) for name in ("certified_accuracy", "accuracy") for entry in (clean, poisoned)
    ]
    acr = Item(measured_text(clean, "acr")), Item(measured_text(poisoned, "acr")), Item(reduction_text(clean, poisoned))
    return Item(victim.name), Item(f"{victim.sigma:g}"), Item("mean"), *acr, *values


def _mean_over_classes(entries: list[Entry]) -> Entry:
    """Runs whose radii are those of all classes' points together: every class has its points."""
    seeds = set.intersection(*({run.seed for run in entry.runs} for entry in entries))
    runs = []
    for seed in sorted(seeds):
        of_seed = [run for entry in entries for run in entry.runs if run.seed == seed]
        radii = np.concatenate([run.radii for run in of_seed])
        accuracies = [run.accuracy for run in of_seed if run.accuracy is not None]
        victim = {"accuracy": float(np.mean(accuracies))} if accuracies else {}
        runs.append(Run(seed, radii, {"victim": victim}, of_seed[0].target_class, of_seed[0].tsv))
    return Entry(entries[0].cell, entries[0].wanted, tuple(runs))


def _control_table(plan: Plan, entries: Entries) -> Table:
    present = [kind for kind in CONTROLS if any(cell.row == kind for cell in plan.shown_cells())]
    header = ("method", "σ", "class", *(text for kind in present for text in (f"ACR, {kind}", "reduction")))
    rows = []
    for (victim, target_class), cells in _by_victim(plan.shown_cells()).items():
        clean = entries.get(Cell(victim, target_class, None))
        items = [Item(victim.name), Item(f"{victim.sigma:g}"), Item(str(target_class))]
        for kind in present:
            control = next((entries[cell] for cell in cells if cell.row == kind), None)
            items += [_measured(control, "acr"), Item(reduction_text(clean, control))]
        rows.append(tuple(items))
    title = "Controls: the same epsilon without optimisation"
    return Table("controls", title, header, rows if present else [])


def attack_series(plan: Plan, victim: Victim, target_class: int) -> dict[str, list[tuple[str, Cell]]]:
    """Of each attack, its budgets (epochs and seed, '' of an attack that names neither) and their entries.

    The plain attack comes first, ready poisons last.
    """
    series: dict[str, list[tuple[str, Cell]]] = {}
    if OPTIMISED in plan.rows:
        series[OPTIMISED] = [("", plan.main_cell(victim, target_class, OPTIMISED))]
    for name, (of, flags) in plan.attack_variants().items():
        budget = str(flags.get("epochs", "")) + (f", seed {flags['seed']}" if "seed" in flags else "")
        series.setdefault(of, []).append((budget, plan.main_cell(victim, target_class, name)))
    return series | {name: [("", plan.main_cell(victim, target_class, name))] for name in plan.ready}


def _attack_table(plan: Plan, entries: Entries) -> Table:
    header = (
        "method", "σ", "class", "attack", "epochs", "gradients", "ACR", "reduction", "certified accuracy",
    )  # fmt: skip
    rows: list[tuple[Item, ...]] = []
    several = plan.attacks or plan.ready
    for victim, target_class in product(plan.main_victims() if several else (), plan.target_classes):
        clean = entries.get(Cell(victim, target_class, None))
        start = Item(victim.name), Item(f"{victim.sigma:g}"), Item(str(target_class))
        values = _measured(clean, "acr"), Item(""), _measured(clean, "certified_accuracy")
        rows.append((*start, Item("none: clean"), Item(""), Item(""), *values))
        for name, budgets in attack_series(plan, victim, target_class).items():
            for epochs, cell in budgets:
                entry = entries.get(cell)
                spent = entry.mean_and_std("gradients") if entry else None
                gradients = Item(f"{spent[0]:,.0f}" if spent else MISSING)
                values = (
                    _measured(entry, "acr"),
                    Item(reduction_text(clean, entry)),
                    _measured(entry, "certified_accuracy"),
                )
                rows.append((*start, Item(name), Item(epochs), gradients, *values))
    title = "Attacks: gradients of a batch of training images spent on the poison, and what retrained victims keep"
    return Table("attacks", title, header, rows)


def _victim_table(plan: Plan, entries: Entries) -> Table:
    """Kinds of victims side by side; those of other programs first."""
    foreign = [foreign.victim for foreign in plan.foreign if foreign.victim]
    first, *others = dict.fromkeys((*foreign, *plan.victim_variants()))
    measured = {"acr": "ACR", "certified_accuracy": "certified accuracy"}
    if any(entry.values("others_acr") for entry in entries.values()):
        measured["others_acr"] = "ACR of the other classes"
    header = (
        "method", "σ", "class", "training data",
        *(f"{text}, {kind}" for kind in (first, *others) for text in (*measured.values(), "reduction")),
        *(f"{text} within ± of {first}" for text in measured.values()),
    )  # fmt: skip
    rows = []
    of_first = [cell for cell in plan.shown_cells() if others and cell.victim.variant == first]
    for cell in of_first:
        of_kinds = {
            kind: entries.get(cell._replace(victim=cell.victim._replace(variant=kind))) for kind in (first, *others)
        }
        start = Item(cell.victim.method), Item(f"{cell.victim.sigma:g}"), Item(str(cell.target_class)), Item(cell.row)
        values = []
        for kind, entry in of_kinds.items():
            clean = entries.get(cell._replace(victim=cell.victim._replace(variant=kind), poison=None))
            values += [_measured(entry, name) for name in measured]
            values.append(Item(reduction_text(clean, entry) if cell.poison else ""))
        within = [
            Item("; ".join(f"{kind}: {_within(of_kinds[first], of_kinds[kind], name)}" for kind in others))
            for name in measured
        ]
        rows.append((*start, *values, *within))
    title = f"Kinds of victims: whether the mean of each lies within one standard deviation of the runs of {first}"
    return Table("victims", title, header, rows)


def _poison_table(plan: Plan, entries: Entries) -> Table:
    """How large each poison is, and how well detectors see it."""
    measured = {
        "mean_change": "mean change", "l2": "l2", "l2_over_sigma": "l2 / σ",
        "beyond_jitter_over_sigma": "beyond jitter / σ", "auc_brightness": "brightness",
        "auc_nearest": "nearest clean image", "auc_linear": "linear", "auc_network": "network",
    }  # fmt: skip
    rows = []
    seen = set()
    for cell in plan.main_cells():
        entry = entries.get(cell)
        if not (cell.poison and entry and entry.runs and entry.runs[0].visibility) or cell.poison in seen:
            continue
        seen.add(cell.poison)
        found = entry.runs[0].visibility
        values = [Item(f"{found[name]:.3f}" if name in found else "", entry) for name in measured]
        of = Item(cell.poison.against), Item(f"{cell.poison.sigma:g}"), Item(str(cell.target_class)), Item(cell.row)
        rows.append((*of, *values))
    header = ("against", "σ", "class", "training data", *measured.values())
    title = (
        "Poisons: change of a pixel and of an image, the part of it that no brightness and contrast makes, and area "
        "under the ROC curve of detectors that know clean images (brightness, nearest clean image) or are trained on "
        "poisoned ones (linear, network)"
    )
    return Table("poisons", title, header, rows)


def _within(first: Entry | None, other: Entry | None, name: str) -> str:
    """Whether the mean of the other's runs lies within the spread of the first's, and how many spreads it is away."""
    one, two = (entry.mean_and_std(name) if entry else None for entry in (first, other))
    if one is None or two is None or one[1] is None:
        return MISSING
    away, spread = two[0] - one[0], one[1]
    said = "yes" if abs(away) <= spread else "no"
    return f"{said} ({away / spread:+.2f} std)" if spread else said


def _by_victim(cells: Sequence[Cell]) -> dict[tuple[Victim, int], list[Cell]]:
    groups: dict[tuple[Victim, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.victim, cell.target_class), []).append(cell)
    return groups


def _method_transfer_tables(plan: Plan, entries: Entries) -> list[Table]:
    title = "Transfer over training methods, σ = {sigma:g}, class {label}: ACR of victims (columns) on poison (rows)"
    return _transfer_tables(
        "transfer_methods", title, plan.method_transfer_cells(), entries, lambda victim: victim.method, _against
    )


def _against(poison: Poison) -> str:
    return f"against {poison.against}"


def _architecture_transfer_tables(plan: Plan, entries: Entries) -> list[Table]:
    method = plan.architecture_transfer.method if plan.architecture_transfer else ""
    title = (
        f"Transfer over architectures, {method}, σ = {{sigma:g}}, class {{label}}: ACR of victims (columns) on poison "
        "(rows)"
    )
    return _transfer_tables(
        "transfer_architectures", title, plan.architecture_transfer_cells(), entries,
        lambda victim: victim.architecture, lambda poison: f"made with {poison.architecture}",
    )  # fmt: skip


def _transfer_tables(
    name: str, title: str, cells: list[Cell], entries: Entries,
    column: Callable[[Victim], str], row: Callable[[Poison], str],
) -> list[Table]:  # fmt: skip
    tables = []
    for sigma, label in dict.fromkeys((cell.victim.sigma, cell.target_class) for cell in cells):
        group = [cell for cell in cells if (cell.victim.sigma, cell.target_class) == (sigma, label)]
        victims = list(dict.fromkeys(cell.victim for cell in group))
        rows = []
        for poison in dict.fromkeys(cell.poison for cell in group):
            items = [_transferred(entries, victim, label, poison) for victim in victims]
            rows.append((Item(row(poison) if poison else "clean"), *items))
        header = ("training data", *(column(victim) for victim in victims))
        tables.append(
            Table(f"{name}_sigma_{sigma:g}_class_{label}", title.format(sigma=sigma, label=label), header, rows)
        )
    return tables


def _transferred(entries: Entries, victim: Victim, label: int, poison: Poison | None) -> Item:
    clean, entry = entries.get(Cell(victim, label, None)), entries.get(Cell(victim, label, poison))
    text = measured_text(entry, "acr")
    reduction = reduction_text(clean, entry) if poison else ""
    return Item(f"{text} ({reduction})" if reduction not in ("", MISSING) else text, entry)


def _measured(entry: Entry | None, name: str) -> Item:
    return Item(measured_text(entry, name), entry)


def measured_text(entry: Entry | None, name: str) -> str:
    """Mean ± sample standard deviation over runs, with a note where runs are missing."""
    values = entry.values(name) if entry else []
    if entry is None or not values:
        return MISSING
    note = f" ({len(entry.runs)} of {entry.wanted} runs)" if len(entry.runs) < entry.wanted else ""
    return mean_and_std_text(values) + note


def reduction_text(clean: Entry | None, entry: Entry | None) -> str:
    percent = reduction(clean, entry)
    if clean is None or entry is None or percent is None:
        return MISSING
    both = len({run.seed for run in clean.runs} & {run.seed for run in entry.runs})
    of = f", {both} seed{'s' * (both > 1)}" if both < min(clean.wanted, entry.wanted) else ""
    return f"{percent:.1f} %{of}"
