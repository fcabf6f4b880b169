"""Tables as text: aligned columns, Markdown, the rows of a benchmark."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runtime.lazy import pandas as pd


def aligned(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Header, a rule and rows, each column as wide as its longest text."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Header, a rule and rows."""
    lines = (first := list(header), ["---"] * len(first), *rows)
    return "\n".join("| " + " | ".join(text.replace("|", r"\|") for text in line) + " |" for line in lines)


def rows_as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each row of a benchmark, a column for each entry. Numbers have four digits."""
    table = pd.json_normalize(list(rows), sep=" ")
    for name in table.select_dtypes(exclude="number"):
        table[name] = (text := table[name].fillna("").astype(str)).str.ljust(int(text.str.len().max()))
    return table.to_string(index=False, na_rep="", justify="left", float_format=lambda value: f"{value:,.4g}")
