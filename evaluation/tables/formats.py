"""Tables in Markdown, LaTeX, HTML and plain text."""

from __future__ import annotations

import html
from collections.abc import Sequence

from evaluation.tables.layout import MISSING, Table
from runtime.lazy import pandas as pd
from runtime.text_tables import aligned, markdown_table

ABOUT = (
    "± is the sample standard deviation over victims. A reduction says how far the ACR is below that of victims of "
    "clean data with the same seeds. Its 95 % interval covers test points, victims and attack runs, as far as there "
    "are several of each."
)


def as_text(tables: Sequence[Table]) -> str:
    """Tables for the screen, and the meaning of ± and of the intervals."""
    parts = [f"{table.title}\n\n{aligned(table.text.columns, table.text.to_numpy())}" for table in tables]
    return "\n\n".join([*parts, ABOUT])


def as_markdown(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """Tables under each other, the meaning of ± and of the intervals, and notes."""
    parts = [f"**{table.title}**\n\n" + markdown_table(table.text.columns, table.text.to_numpy()) for table in tables]
    return "\n\n".join([*parts, ABOUT, *notes]) + "\n"


def as_latex(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """Tables for a paper, with booktabs. Every caption explains ± and the intervals."""
    parts = ["% needs \\usepackage{booktabs}"]
    for table in tables:
        text = table.text.rename(columns=_latex).map(_latex)
        about = f"{_latex(table.title)}. {_latex(ABOUT)}"
        parts.append(text.to_latex(index=False, escape=False, caption=about, label=f"tab:{table.name}", position="t"))
    return "\n".join([*parts, *("% " + line for note in notes for line in note.splitlines())]) + "\n"


LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#",
    "^": r"\^{}", "~": r"\~{}", "±": r"$\pm$", "σ": r"$\sigma$", MISSING: "---",
})  # fmt: skip


def _latex(text: str) -> str:
    return text.translate(LATEX)


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 13px/1.45 system-ui, sans-serif; margin: 1.5em; color: #222; }}
table {{ border-collapse: collapse; margin: .5em 0 2em; }}
h2 {{ font-size: 1em; margin: 1.2em 0 .2em; }}
th, td {{ padding: .3em .6em; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }}
thead th {{ border-bottom: 2px solid #444; white-space: normal; vertical-align: bottom; }}
pre {{ background: #f6f6f6; padding: 1em; overflow-x: auto; }}
</style></head><body>
{body}
</body></html>
"""


def as_html(
    title: str, tables: Sequence[Table], notes: Sequence[str], plan: str, versions: pd.DataFrame, times: pd.DataFrame
) -> str:
    """One page: the tables, versions and machine from the runs' records, run times, and the plan."""
    sections = {table.title: _html_table(table.text) for table in tables}
    sections["About the numbers"] = "".join(f"<p>{html.escape(note)}</p>" for note in (ABOUT, *notes))
    sections["Versions"] = _html_table(versions)
    if len(times):
        about = "<p>A job that was stopped and continued counts with its last attempt.</p>"
        sections["Run times"] = _html_table(times) + about
    sections["Plan"] = f"<pre>{html.escape(plan)}</pre>"
    body = "\n".join(f"<h2>{html.escape(name)}</h2>\n{text}" for name, text in sections.items())
    return PAGE.format(title=html.escape(title), body=f"<h1>{html.escape(title)}</h1>\n{body}")


def _html_table(frame: pd.DataFrame) -> str:
    with pd.option_context("display.max_colwidth", None):
        return frame.to_html(index=False, border=0, float_format="{:.3g}".format)
