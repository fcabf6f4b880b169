"""Tables as the paper arranges them, in Markdown, LaTeX, HTML and CSV, every entry linked to how it was measured.

Layout: arXiv 2012.01274, tables 1 to 4: per method and noise level, clean against poisoned; transfer over methods and
over architectures. The controls of the same epsilon stand in a table of their own.
"""

import base64
import csv
import html
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attack_generation.controls import CONTROLS
from evaluation.cell_results import Entry, JobTimes, Run
from evaluation.table_plan import Cell, Plan, Poison, Victim
from evaluation.tables import mean_and_std_text, reduction_percent
from runtime.files import write_text

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
    tables += _method_transfer_tables(plan, entries) + _architecture_transfer_tables(plan, entries)
    return [table for table in tables if table.rows]


def _method_table(plan: Plan, entries: Entries) -> Table:
    header = (
        "method", "σ", "class", "ACR, clean", "ACR, poisoned", "reduction", "certified accuracy, clean",
        "certified accuracy, poisoned", "test accuracy, clean", "test accuracy, poisoned",
    )  # fmt: skip
    rows: list[tuple[Item, ...]] = []
    for (victim, target_class), cells in _by_victim(plan.shown_cells()).items():
        clean = entries.get(Cell(victim, target_class, None))
        poisoned = next(
            (entries[cell] for cell in cells if cell.poison and cell.poison.against not in CONTROLS), None
        )
        rows.append(
            (
                Item(victim.method), Item(f"{victim.sigma:g}"), Item(str(target_class)),
                _measured(clean, "acr"), _measured(poisoned, "acr"), Item(_reduction(clean, poisoned)),
                _measured(clean, "certified_accuracy"), _measured(poisoned, "certified_accuracy"),
                _measured(clean, "accuracy"), _measured(poisoned, "accuracy"),
            )
        )  # fmt: skip
    if len(plan.target_classes) > 1:
        rows += [_mean_row(plan, entries, victim) for victim in _main_victims(plan)]
    title = f"{plan.title}: average certified radius (ACR) and approximate certified accuracy of the poisoned class"
    return Table("methods", title, header, rows)


def _main_victims(plan: Plan) -> list[Victim]:
    return list(dict.fromkeys(cell.victim for cell in plan.main_cells()))


def _mean_row(plan: Plan, entries: Entries, victim: Victim) -> tuple[Item, ...]:
    """The mean over the classes, its spread that of the runs' means; empty until every class is there."""

    def mean_of(row: str) -> Entry | None:
        of_classes = [
            entries.get(plan.main_cell(victim, target_class, row)) for target_class in plan.target_classes
        ]
        return _mean_over_classes([entry for entry in of_classes if entry]) if all(of_classes) else None

    clean, poisoned = mean_of("clean"), mean_of("optimised")
    values = [
        Item(_text(entry, name)) for name in ("certified_accuracy", "accuracy") for entry in (clean, poisoned)
    ]
    acr = Item(_text(clean, "acr")), Item(_text(poisoned, "acr")), Item(_reduction(clean, poisoned))
    return Item(victim.method), Item(f"{victim.sigma:g}"), Item("mean"), *acr, *values


def _mean_over_classes(entries: list[Entry]) -> Entry:
    """Runs whose radii are those of all classes' points together: every class has its points."""
    seeds = set.intersection(*({run.seed for run in entry.runs} for entry in entries))
    runs = []
    for seed in sorted(seeds):
        of_seed = [run for entry in entries for run in entry.runs if run.seed == seed]
        radii = np.concatenate([run.radii for run in of_seed])
        accuracies = [run.accuracy for run in of_seed if run.accuracy is not None]
        mean = float(np.mean(accuracies)) if accuracies else None
        runs.append(Run(seed, radii, mean, None, of_seed[0].tsv, {}))
    return Entry(entries[0].cell, entries[0].wanted, tuple(runs))


def _control_table(plan: Plan, entries: Entries) -> Table:
    present = [kind for kind in CONTROLS if any(_is_of(cell, kind) for cell in plan.shown_cells())]
    header = ("method", "σ", "class", *(text for kind in present for text in (f"ACR, {kind}", "reduction")))
    rows = []
    for (victim, target_class), cells in _by_victim(plan.shown_cells()).items():
        clean = entries.get(Cell(victim, target_class, None))
        items = [Item(victim.method), Item(f"{victim.sigma:g}"), Item(str(target_class))]
        for kind in present:
            control = next((entries[cell] for cell in cells if _is_of(cell, kind)), None)
            items += [_measured(control, "acr"), Item(_reduction(clean, control))]
        rows.append(tuple(items))
    title = "Controls: the same epsilon without optimisation"
    return Table("controls", title, header, rows if present else [])


def _is_of(cell: Cell, kind: str) -> bool:
    return cell.poison is not None and cell.poison.against == kind


def _by_victim(cells: Sequence[Cell]) -> dict[tuple[Victim, int], list[Cell]]:
    groups: dict[tuple[Victim, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.victim, cell.target_class), []).append(cell)
    return groups


def _method_transfer_tables(plan: Plan, entries: Entries) -> list[Table]:
    title = "Transfer over training methods, σ = {sigma:g}, class {label}: ACR of victims (columns) on poison (rows)"
    return _transfer_tables(
        "transfer_methods",
        title,
        plan.method_transfer_cells(),
        entries,
        lambda victim: victim.method,
        _against,
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
            Table(
                f"{name}_sigma_{sigma:g}_class_{label}", title.format(sigma=sigma, label=label), header, rows
            )
        )
    return tables


def _transferred(entries: Entries, victim: Victim, label: int, poison: Poison | None) -> Item:
    clean, entry = entries.get(Cell(victim, label, None)), entries.get(Cell(victim, label, poison))
    text = _text(entry, "acr")
    reduction = _reduction(clean, entry) if poison else ""
    return Item(f"{text} ({reduction})" if reduction not in ("", MISSING) else text, entry)


def _measured(entry: Entry | None, name: str) -> Item:
    return Item(_text(entry, name), entry)


def _text(entry: Entry | None, name: str) -> str:
    """Mean ± standard deviation over runs, with a note where runs are missing."""
    values = entry.values(name) if entry else []
    if entry is None or not values:
        return MISSING
    note = f" ({len(entry.runs)} of {entry.wanted} runs)" if len(entry.runs) < entry.wanted else ""
    return mean_and_std_text(values) + note


def _acr_reduction(clean: Entry | None, entry: Entry | None) -> float | None:
    """By how much the mean ACR is lower than that of victims of clean data of the same seeds, in percent."""
    if clean is None or entry is None:
        return None
    before, after = ({run.seed: run.acr for run in one.runs} for one in (clean, entry))
    seeds = before.keys() & after.keys()
    if not seeds:
        return None
    return reduction_percent(
        float(np.mean([after[seed] for seed in seeds])), float(np.mean([before[seed] for seed in seeds]))
    )


def _reduction(clean: Entry | None, entry: Entry | None) -> str:
    percent = _acr_reduction(clean, entry)
    return MISSING if percent is None else f"{percent:.1f} %"


def _folder(entry: Entry) -> str:
    return f"cells/{entry.cell.key}"


def as_markdown(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Tables with a link from every number to its settings and, in small print, to the certificates of its runs."""

    def field(item: Item) -> str:
        if not item.entry or not item.entry.runs:
            return item.text
        folder = _folder(item.entry)
        runs = " ".join(f"[{run.seed}]({folder}/seed_{run.seed}.tsv)" for run in item.entry.runs)
        return f"[{item.text}]({folder}/settings.json) <sup>{runs}</sup>"

    parts = []
    for table in tables:
        lines = [table.header, ("---",) * len(table.header), *(map(field, row) for row in table.rows)]
        parts.append(f"**{table.title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join([*parts, *notes]) + "\n"


def as_latex(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Tables for a paper with booktabs and hyperref; every number is a link to the folder of its entry."""

    def field(item: Item) -> str:
        text = _latex(item.text)
        return rf"\href{{run:{_folder(item.entry)}}}{{{text}}}" if item.entry and item.entry.runs else text

    parts = ["% needs \\usepackage{booktabs} and \\usepackage{hyperref}"]
    for table in tables:
        body = "\n".join("  " + " & ".join(map(field, row)) + r" \\" for row in table.rows)
        parts.append(
            "\\begin{table}\n\\centering\n"
            f"\\caption{{{_latex(table.title)}.}}\n\\label{{tab:{table.name}}}\n"
            f"\\begin{{tabular}}{{{'l' * len(table.header)}}}\n  \\toprule\n"
            f"  {' & '.join(map(_latex, table.header))} \\\\\n  \\midrule\n{body}\n  \\bottomrule\n"
            "\\end{tabular}\n\\end{table}"
        )
    return "\n\n".join([*parts, *("% " + line for note in notes for line in note.splitlines())]) + "\n"


def _latex(text: str) -> str:
    # The backslash first, since the others bring some in.
    for plain, escaped in (
        ("\\", r"\textbackslash "), ("_", r"\_"), ("%", r"\%"), ("&", r"\&"), ("#", r"\#"),
        ("±", r"$\pm$"), ("σ", r"$\sigma$"), ("ε", r"$\epsilon$"), (MISSING, "---"),
    ):  # fmt: skip
        text = text.replace(plain, escaped)
    return text


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 13px/1.45 system-ui, sans-serif; margin: 1.5em; color: #222; }}
table {{ border-collapse: collapse; margin: .5em 0 2em; }}
h2 {{ font-size: 1em; margin: 1.2em 0 .2em; }}
th, td {{ padding: .3em .6em; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }}
thead th {{ border-bottom: 2px solid #444; white-space: normal; vertical-align: bottom; }}
a {{ color: #0b5394; text-decoration: none; }} a:hover {{ text-decoration: underline; }}
pre {{ background: #f6f6f6; padding: 1em; overflow-x: auto; }}
</style></head><body>
{body}
</body></html>
"""


def as_html(title: str, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """One page that holds everything it links to: a number opens its settings, the small figures its certificates."""

    def field(item: Item) -> str:
        if not item.entry or not item.entry.runs:
            return html.escape(item.text)
        name = item.entry.cell.key.replace("/", "_")
        settings = _data_link("application/json", settings_of(item.entry), f"{name}.json", item.text)
        runs = " ".join(
            _data_link(
                "text/tab-separated-values", run.tsv.read_text(), f"{name}_seed_{run.seed}.tsv", str(run.seed)
            )
            for run in item.entry.runs
        )
        return f"{settings} <sup>{runs}</sup>"

    parts = [f"<h1>{html.escape(title)}</h1>"]
    for table in tables:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
        body = "\n".join(
            "<tr>" + "".join(f"<td>{field(item)}</td>" for item in row) + "</tr>" for row in table.rows
        )
        parts += [
            f"<h2>{html.escape(table.title)}</h2>",
            f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>",
        ]
    parts += [f"<pre>{html.escape(note)}</pre>" for note in notes]
    parts.append(
        "<p>A number opens the settings it was measured with, the small figures the certificates of each run.</p>"
    )
    return PAGE.format(title=html.escape(title), body="\n".join(parts))


def _data_link(kind: str, content: str, name: str, text: str) -> str:
    data = base64.b64encode(content.encode()).decode()
    return f'<a download="{html.escape(name)}" href="data:{kind};base64,{data}">{html.escape(text)}</a>'


def configuration_page(
    title: str, plan_text: str, versions: dict[str, Any], times: Sequence[JobTimes]
) -> str:
    """The plan, the versions and machine it was run with, and what its jobs took, as one page."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in versions.items()
    )
    body = f"<h1>{html.escape(title)}</h1><h2>Versions</h2><table>{rows}</table>"
    if times:
        lines = "".join(
            f"<tr><td>{time.rule}</td><td>{time.jobs}</td><td>{time.hours:.3g}</td><td>{time.longest_minutes:.1f}</td>"
            f"<td>{time.peak_mib:,.0f}</td></tr>"
            for time in times
        )
        names = ("rule", "jobs", "hours together", "longest, minutes", "peak memory, MiB")
        head = "".join(f"<th>{name}</th>" for name in names)
        body += f"<h2>Run times</h2><table><thead><tr>{head}</tr></thead>{lines}</table>"
        body += "<p>A job that was stopped and continued counts with its last attempt.</p>"
    body += f"<h2>Plan</h2><pre>{html.escape(plan_text)}</pre>"
    return PAGE.format(title="Configuration", body=body)


CSV_COLUMNS = (
    "method", "sigma", "architecture", "target_class", "poison", "poison_architecture", "runs", "runs_wanted", "points",
    "acr_mean", "acr_std", "certified_accuracy_mean", "certified_accuracy_std", "reduction_percent", "accuracy_mean",
    "target_accuracy_mean", "settings", "tsv",
)  # fmt: skip


def as_csv(entries: Entries) -> str:
    """Every entry as one line of numbers, with the paths of its settings and of its runs' certificates."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell, entry in entries.items():
        reduction = _acr_reduction(entries.get(cell._replace(poison=None)), entry) if cell.poison else None
        line: dict[str, Any] = {
            **cell.victim._asdict(), "target_class": cell.target_class,
            "poison": cell.poison.against if cell.poison else "clean",
            "poison_architecture": cell.poison.architecture if cell.poison else "",
            "runs": len(entry.runs), "runs_wanted": entry.wanted,
            "points": len(entry.runs[0].radii) if entry.runs else "",
            "reduction_percent": "" if reduction is None else f"{reduction:.1f}",
            "settings": f"{_folder(entry)}/settings.json" if entry.runs else "",
            "tsv": " ".join(f"{_folder(entry)}/seed_{run.seed}.tsv" for run in entry.runs),
        }  # fmt: skip
        for name in ("acr", "certified_accuracy", "accuracy", "target_accuracy"):
            values = entry.mean_and_std(name)
            line[f"{name}_mean"] = f"{values[0]:.4f}" if values else ""
            if f"{name}_std" in CSV_COLUMNS:
                line[f"{name}_std"] = f"{values[1]:.4f}" if values else ""
        writer.writerow(line)
    return buffer.getvalue()


def settings_of(entry: Entry) -> str:
    """How an entry was measured, as JSON: the records of every run's poison, victim and certificate."""
    return json.dumps({str(run.seed): run.records for run in entry.runs}, indent=2, default=str) + "\n"


def write_cells(folder: Path, entries: Entries) -> None:
    """Copy every entry's settings and certificates to folder/cells, where the tables' links lead."""
    for entry in entries.values():
        if entry.runs:
            write_text(folder / _folder(entry) / "settings.json", settings_of(entry))
        for run in entry.runs:
            write_text(folder / _folder(entry) / f"seed_{run.seed}.tsv", run.tsv.read_text())
