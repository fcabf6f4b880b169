"""Tables in Markdown, LaTeX, HTML, CSV and plain text; every number leads to how it was measured."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evaluation.tables.layout import MISSING, Entries, Item, Table
from evaluation.tables.records import Entry, cell_folder, reduction
from evaluation.tables.statistics import PLUS_MINUS


def as_text(tables: Sequence[Table]) -> str:
    """Tables for the screen, and what ± is."""
    parts = []
    for table in tables:
        parts.append(f"{table.title}\n\n{aligned(table.header, [[item.text for item in row] for row in table.rows])}")
    return "\n\n".join([*parts, f"{PLUS_MINUS}."])


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Header, a rule and rows, each column as wide as its longest text."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def as_markdown(tables: Sequence[Table], notes: Sequence[str] = (), *, links: bool = True) -> str:
    """Tables with a link from every number to its settings and, in small print, to the certificates of its runs."""

    def field(item: Item) -> str:
        if not item.entry or not item.entry.runs or not links:
            return item.text
        folder = cell_folder(item.entry.cell)
        runs = " ".join(f"[{run.seed}]({folder}/seed_{run.seed}.tsv)" for run in item.entry.runs)
        return f"[{item.text}]({folder}/settings.json) <sup>{runs}</sup>"

    parts = []
    for table in tables:
        rows = [tuple(map(field, row)) for row in table.rows]
        parts.append(f"**{table.title}**\n\n" + markdown_table(table.header, rows))
    return "\n\n".join([*parts, *notes]) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Header, a rule and rows."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ("---",) * len(header), *rows))


def as_latex(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """Tables for a paper with booktabs and hyperref; every number is a link to the folder of its entry.

    Every caption says what ± is: each table may be on a page of its own.
    """

    def field(item: Item) -> str:
        text = _latex(item.text)
        linked = item.entry and item.entry.runs
        return rf"\href{{run:{cell_folder(item.entry.cell)}}}{{{text}}}" if item.entry and linked else text

    parts = ["% needs \\usepackage{booktabs} and \\usepackage{hyperref}"]
    for table in tables:
        body = "\n".join("  " + " & ".join(map(field, row)) + r" \\" for row in table.rows)
        parts.append(
            "\\begin{table}\n\\centering\n"
            f"\\caption{{{_latex(table.title)}; {_latex(PLUS_MINUS)}.}}\n\\label{{tab:{table.name}}}\n"
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


def as_html(title: str, tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """One page that holds everything it links to: a number leads to its entry's settings and certificates, each held
    once however many numbers are made from it."""
    measured: dict[str, Entry] = {}

    def field(item: Item) -> str:
        if not item.entry or not item.entry.runs:
            return html.escape(item.text)
        name = item.entry.cell.key.replace("/", "_")
        measured[name] = item.entry
        return f'<a href="#{html.escape(name)}">{html.escape(item.text)}</a>'

    parts = [f"<h1>{html.escape(title)}</h1>"]
    for table in tables:
        rows = [list(map(field, row)) for row in table.rows]
        frame = pd.DataFrame(rows, columns=list(map(html.escape, table.header)))
        parts += [f"<h2>{html.escape(table.title)}</h2>", _html_table(frame)]
    parts += [f"<pre>{html.escape(note)}</pre>" for note in notes]
    parts.append(f"<p>A number leads to what it was measured with; {PLUS_MINUS}.</p>")
    parts += ["<h2>Settings of each entry and certificates of each run</h2>", *map(_held, measured, measured.values())]
    return PAGE.format(title=html.escape(title), body="\n".join(parts))


def _html_table(frame: pd.DataFrame) -> str:
    with pd.option_context("display.max_colwidth", None):
        return frame.to_html(index=False, escape=False, border=0, float_format="{:.3g}".format)


def _held(name: str, entry: Entry) -> str:
    """What an entry was measured with, as links that hold it."""
    records = {str(run.seed): run.records for run in entry.runs}
    links = [_data_link("application/json", json.dumps(records, indent=2), f"{name}.json", "settings")]
    links += [
        _data_link("text/tab-separated-values", run.tsv.read_text(), f"{name}_seed_{run.seed}.tsv", f"seed {run.seed}")
        for run in entry.runs
    ]
    return f'<p id="{html.escape(name)}">{html.escape(str(entry.cell))}: {" ".join(links)}</p>'


def _data_link(kind: str, content: str, name: str, text: str) -> str:
    data = base64.b64encode(content.encode()).decode()
    return f'<a download="{html.escape(name)}" href="data:{kind};base64,{data}">{html.escape(text)}</a>'


def configuration_page(title: str, plan_text: str, versions: Mapping[str, Any], times: pd.DataFrame) -> str:
    """The plan, the versions and machine it was run with, and what its jobs took, as one page."""
    named = pd.DataFrame([map(html.escape, map(str, pair)) for pair in versions.items()], columns=["", "version"])
    body = f"<h1>{html.escape(title)}</h1><h2>Versions</h2>{_html_table(named)}"
    if len(times):
        body += f"<h2>Run times</h2>{_html_table(times)}"
        body += "<p>A job that was stopped and continued counts with its last attempt.</p>"
    body += f"<h2>Plan</h2><pre>{html.escape(plan_text)}</pre>"
    return PAGE.format(title="Configuration", body=body)


def as_csv(entries: Entries) -> str:
    """Every entry as one line of numbers, with the paths of its settings and of its runs' certificates."""
    lines = []
    for cell, entry in entries.items():
        folder, poison = cell_folder(cell), cell.poison
        line: dict[str, Any] = {
            "method": cell.victim.method, "sigma": cell.victim.sigma, "architecture": cell.victim.architecture,
            "target_class": cell.target_class, "poison": poison.against if poison else "clean",
            "poison_architecture": poison.architecture if poison else "",
            "runs": len(entry.runs), "runs_wanted": entry.wanted,
            "points": len(entry.runs[0].radii) if entry.runs else "",
        }  # fmt: skip
        for name in ("acr", "certified_accuracy", "accuracy", "target_accuracy"):
            mean, std = entry.mean_and_std(name) or (None, None)
            line[f"{name}_mean"], line[f"{name}_std"] = (
                "" if value is None else f"{value:.4f}" for value in (mean, std)
            )
        percent = reduction(entries.get(cell._replace(poison=None)), entry) if poison else None
        line["reduction_percent"] = "" if percent is None else f"{percent:.1f}"
        line["settings"] = f"{folder}/settings.json" if entry.runs else ""
        line["tsv"] = " ".join(f"{folder}/seed_{run.seed}.tsv" for run in entry.runs)
        # Only where one has them: the tables of plans without are as they were.
        if any(one.poison and one.poison.variant for one in entries):
            line["poison_variant"] = poison.variant if poison else ""
            spent = entry.mean_and_std("gradients")
            line["gradients"] = f"{spent[0]:.1f}" if spent else ""
        if any(of.values("others_acr") for of in entries.values()):
            for name in ("others_acr", "others_certified_accuracy"):
                found = entry.mean_and_std(name)
                line[f"{name}_mean"] = f"{found[0]:.4f}" if found else ""
        if any(run.visibility for of in entries.values() for run in of.runs):
            seen = entry.runs[0].visibility if entry.runs else {}
            detectors = [f"auc_{one}" for one in ("brightness", "nearest", "linear", "network")]
            for name in ("l2_over_sigma", "beyond_jitter_over_sigma", *detectors):
                line[name] = f"{seen[name]:.4f}" if name in seen else ""
        if any(one.victim.variant for one in entries):
            line["victim_variant"] = cell.victim.variant
        lines.append(line)
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")
