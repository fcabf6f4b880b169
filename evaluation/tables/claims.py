"""The papers' claims beside our measurements: results/claims.yaml, with numbers from the results.

A claim names entries of the results. A claim about the size of an effect also has a bound. Its verdict follows from the
95 % intervals of the entries:

- confirmed: the whole interval of every entry is on the claimed side of the bound (consistent: every interval
  contains the claimed value);
- partly confirmed: this holds for some entries, and the others are undecided;
- mixed: this holds for some entries, and others are on the other side;
- not confirmed: this holds for no entry;
- not measured: the claim names no entry.

Brackets count the entries whose interval is on the claimed side, on the other side, or contains the bound (undecided).

A claim without a bound is an observation and has no verdict.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from evaluation.tables.cells import CLEAN
from evaluation.tables.frame import reduction_against
from evaluation.tables.plan import yaml_values
from randomized_smoothing_certification.run_statistics import Reduction, half_width_over_runs, share_interval
from robust_training.methods import METHODS
from runtime.files import InputError, read_text
from runtime.lazy import pandas as pd
from runtime.text_tables import markdown_table

Number = Literal["reduction", "acr", "accuracy_loss", "class_accuracy_loss", "unattacked", "certified", "median"]
NUMBERS: dict[Number, tuple[str, str]] = {
    "reduction": ("reduction", "ACR lower by"),
    "acr": ("entries", "ACR"),
    "accuracy_loss": ("entries", "test accuracy lower by"),
    "class_accuracy_loss": ("entries", "class accuracy lower by"),
    "unattacked": ("unattacked", "accuracy without attack"),
    "certified": ("accuracy", "accuracy with changed labels"),
    "median": ("median", "median certified number of changes"),
}
"""The column of a frame that a number needs, and the number's name on the page."""


class ShownNumber(NamedTuple):
    """A number of an entry, with its interval."""

    text: str
    low: float
    high: float
    runs: int | None = None  # victims in it, None: all of the entry
    name: str = ""  # of its selection, filled in
    headline: str = ""  # of its selection, filled in
    over: str = ""  # its numbers of victims, epochs, attack runs, test points and votes


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Entries of one folder of results: those whose columns (as in summary.csv) have these values."""

    folder: str
    where: dict[str, Any] = {}
    against: str = CLEAN
    """The training data with which a reduction is compared."""
    of: Number = "reduction"
    """The number that is shown. The last three belong to studies of changed labels: accuracy without attack, certified
    accuracy at the study's number of changes, and the median certified number of changes."""
    name: str = ""
    """Name of the row on the page. '{sigma}' stands for the entry's sigma, and other columns work in the same way.
    '{method}' stands for the method's label."""
    judged: bool = True
    """Whether the verdict counts these entries."""
    headline: str = ""
    """The name in README's table, or '' where README does not show these entries. Columns as in `name`."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A claim of a paper or a question of our own, and the entries that answer it."""

    claim: str
    source: str = ""
    """arXiv number; '' for a question of our own."""
    paper: str = ""
    """Setting of the paper."""
    here: str
    """Our setting, with everything that is reduced."""
    entries: tuple[Selection, ...] = ()
    above: float | None = None
    below: float | None = None
    equals: float | None = None
    """The bound. The interval has to be above it, to be below it, or to contain it."""
    headline: str = ""
    """What README's table says beside the claim's entries that have a headline."""

    @property
    def bounds(self) -> dict[str, float]:
        """The bound, by its words in README's table. Empty for an observation."""
        given = {"more than": self.above, "less than": self.below, "equal to": self.equals}
        return {words: bound for words, bound in given.items() if bound is not None}


def read_claims(path: Path) -> list[Claim]:
    """The claims in a file. Raises InputError naming the mistake in it."""
    try:
        claims = msgspec.convert(yaml_values(read_text(path), str(path)), list[Claim])
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from error
    for claim in claims:
        if len(claim.bounds) > 1 or not all(map(np.isfinite, claim.bounds.values())):
            raise InputError(f"{path}: {claim.claim!r} must have one bound of above, below and equals, a finite number")
        shown = [selection for selection in claim.entries if selection.headline]
        if bool(claim.headline) != bool(shown) or any((one.of, one.against) != ("reduction", CLEAN) for one in shown):
            rule = "a claim has a headline where some of its entries have one"
            raise InputError(f"{path}: {claim.claim!r}: {rule}, and these are reductions against clean data")
        for one in claim.entries:
            if one.against != CLEAN and one.of in ("acr", "unattacked", "certified", "median"):
                raise InputError(f"{path}: {claim.claim!r}: {one.of!r} is compared with nothing; leave out 'against'")
    return claims


def verdict(claim: Claim, numbers: list[ShownNumber]) -> str:
    """The verdict by the rule at the top of this file."""
    if not numbers:
        return "not measured"
    low, high = np.array([(one.low, one.high) for one in numbers]).T
    if claim.equals is not None:
        inside = (low <= claim.equals) & (claim.equals <= high)
        held, other = inside & np.isfinite(high - low), ~inside
    elif claim.above is not None:
        held, other = low > claim.above, high <= claim.above
    elif claim.below is not None:
        held, other = high < claim.below, low >= claim.below
    else:
        return "(observation)"
    if held.all():
        return "confirmed" if claim.equals is None else "consistent"
    counts = {"hold": held.sum(), "on the other side": other.sum(), "undecided": (~held & ~other).sum()}
    of = f"of {len(held)}: " if len(held) > 1 else ""
    counted = ", ".join(f"{f'{count} ' if of else ''}{name}" for name, count in counts.items() if count)
    word = "not confirmed" if not held.any() else "mixed" if other.any() else "partly confirmed"
    return f"{word} ({of}{counted})"


class Judged(NamedTuple):
    """A claim with its verdict and its numbers."""

    claim: Claim
    heading: str  # 'Claim 1' or 'Question 1'. Claims and questions are counted apart
    verdict: str
    numbers: list[tuple[Selection, ShownNumber]]

    @property
    def anchor(self) -> str:
        """The link to its section of claims_page."""
        return "claims.md#" + self.heading.lower().replace(" ", "-")


def judged(claims: list[Claim], frames: Mapping[str, pd.DataFrame]) -> list[Judged]:
    """The claims with verdicts and numbers. frames: by folder of results. Raises InputError where one is missing."""
    found, count = [], Counter[str]()
    for claim in claims:
        count[kind := "Claim" if claim.source else "Question"] += 1
        numbers = [(selection, one) for selection in claim.entries for one in shown_numbers(selection, frames)]
        said = verdict(claim, [one for selection, one in numbers if selection.judged])
        found.append(Judged(claim, f"{kind} {count[kind]}", said, numbers))
    return found


def claims_table(found: list[Judged]) -> str:
    """A row per claim, or per question, as Markdown: linked to its section of claims_page, and its verdict."""
    rows = [(f"[{' '.join(one.claim.claim.split())}]({one.anchor})", one.claim.source, one.verdict) for one in found]
    if found[0].claim.source:
        return markdown_table(("claim", "paper", "verdict"), rows)
    return markdown_table(("question", "verdict"), [row[::2] for row in rows])  # a question is of no paper


def claims_page(found: list[Judged]) -> str:
    """A section per claim as Markdown: verdict, a row per number, and the settings."""
    sections = []
    for claim, heading, said, numbers in found:
        rows = []
        for selection, one in numbers:
            by = "by" if selection.against == CLEAN else f"than with {selection.against} by"
            what = NUMBERS[selection.of][1].replace("by", by)
            name = one.name + _mark(claim, selection)
            rows.append((name, what, f"[{one.text}]({selection.folder}/tables.md)", one.over))
        parts = (
            f"## {heading}", f"**{claim.claim}**",
            f"Verdict: {said}." if numbers else "Not measured.", f"Our setting: {claim.here}.",
            f"The setting of {claim.source}: {claim.paper}." if claim.source else "",
        )  # fmt: skip
        sections += [" ".join(part.split()) for part in parts if part]
        if rows:
            sections.append(markdown_table(("what", "number", "measured (95 % interval)", "measured with"), rows))
    return "\n\n".join(sections)


def headlines(found: list[Judged]) -> str:
    """README's table as Markdown: a row per number that has a headline."""
    rows = []
    for of_claim in found:
        claim, heading, said, numbers = of_claim
        judged_by = [f", {words} {bound:g} %: {said}" for words, bound in claim.bounds.items()]
        text = f"{claim.headline} *[{heading}](results/{of_claim.anchor}){''.join(judged_by)}.*"
        finding = " ".join(text.split())
        for selection, one in numbers:
            if one.headline:
                name = one.headline + _mark(claim, selection)
                rows.append((finding, name, f"[{one.text}](results/{selection.folder}/tables.md)", one.over))
                finding = ""
    header = ("finding", "training data", "ACR of the class lower by (95 % interval)", "measured with")
    return markdown_table(header, rows)


def _mark(claim: Claim, selection: Selection) -> str:
    """What follows the name of entries that the verdict leaves out."""
    return " (not judged)" if claim.bounds and not selection.judged else ""


def shown_numbers(selection: Selection, frames: Mapping[str, pd.DataFrame]) -> list[ShownNumber]:
    """The numbers of the selection. Raises InputError where there is none."""
    frame = frames.get(selection.folder, pd.DataFrame())
    for name, value in selection.where.items():
        if name not in frame:
            raise InputError(f"claims: {selection.folder} has no column {name!r}; mend results/claims.yaml")
        frame = frame[frame[name].isin(value if isinstance(value, list) else [value])]
    if NUMBERS[selection.of][0] not in frame or (selection.against != CLEAN and "cell" not in frame):
        raise InputError(f"claims: {selection.folder} has no number {selection.of!r}; mend results/claims.yaml")
    rows = frame.to_dict("records")
    numbers = [_shown_number(selection, row, frames[selection.folder]) for row in rows]
    if not numbers or None in numbers:
        against = f" against {selection.against}" if selection.against != CLEAN else ""
        lacking = f"{selection.folder} has no measured entry {selection.where}{against}, or lacks a run of it"
        raise InputError(f"claims: {lacking}; mend results/claims.yaml, or measure it")
    shown = []
    for number, row in zip(filter(None, numbers), rows, strict=True):
        name, headline = _filled_in(selection.name, row), _filled_in(selection.headline, row)
        over = _over(row if number.runs is None else {**row, "runs": number.runs}, selection.of)
        shown.append(number._replace(name=name, headline=headline, over=over))
    return shown


def _filled_in(name: str, row: Mapping[str, Any]) -> str:
    """The name with the row's values in place of the columns in braces."""
    method = METHODS.get(row.get("method", ""))
    try:
        return name.format(**{**row, **({"method": method.label} if method else {})})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        mend = f"mend results/claims.yaml: braces hold a column, for example {', '.join(sorted(row)[:3])}"
        raise InputError(f"claims: the name {name!r} cannot be filled in: {error}; {mend}") from error


def _over(row: Mapping[str, Any], of: str) -> str:
    """Victims, epochs, attack runs and votes of a row, and test points where the interval of ``of`` is over them."""
    units = {"runs": "victim", "attack_runs": "attack run", "points": "test point"}
    left_out = {"acr": {"points"}, "accuracy_loss": {"points", "n"}, "class_accuracy_loss": {"points", "n"}}
    parts = []
    for column in (name for name in (*units, "n") if name not in left_out.get(of, ())):
        number = row.get(column)
        if isinstance(number, int | float) and number >= 1:  # not NaN, which stands for unknown
            unit = units.get(column, "")
            parts.append(f"{int(number):,} {unit}{'s' * (number > 1)}" if unit else f"n = {int(number):,}")
            if column == "runs" and isinstance(row.get("victim_epochs"), int):
                parts[-1] += f" of {row['victim_epochs']} epochs"
    return ", ".join(parts)


def _shown_number(selection: Selection, row: dict[str, Any], frame: pd.DataFrame) -> ShownNumber | None:
    """The number of a row of the frame. None: the row has no run, or nothing to be compared with."""
    if selection.of in ("unattacked", "certified", "median"):
        return _label_number(selection.of, row)
    if selection.of == "reduction" and selection.against == CLEAN:
        return _of_reduction(row["reduction"])
    if not row["runs"]:
        return None
    if selection.of == "acr":
        return _mean([{run.seed: run.acr for run in entry.runs} for entry in row["entries"]])
    same_victims = frame["cell"].map(lambda cell: cell.victim == row["cell"].victim)
    same_class = frame["target_class"] == row["target_class"]
    references = frame["entries"][same_victims & same_class & (frame["data"] == selection.against)]
    if len(references) != 1:
        return None
    if len(references.iloc[0]) != 1:
        raise InputError(f"claims: {selection.against} in {selection.folder} has several attack runs; name one of them")
    (reference,) = references.iloc[0]
    if selection.of == "reduction":
        return _of_reduction(reduction_against(row["entries"], reference))
    name = "accuracy" if selection.of == "accuracy_loss" else "target_accuracy"
    before = {run.seed: getattr(run, name) for run in reference.runs if getattr(run, name) is not None}
    losses = []
    for entry in row["entries"]:
        after = {run.seed: getattr(run, name) for run in entry.runs if run.seed in before}
        if not after or None in after.values():
            return None
        losses.append({seed: 100 * (before[seed] - accuracy) for seed, accuracy in after.items()})
    return _mean(losses, "{:.1f}", " points")


def _of_reduction(found: Any) -> ShownNumber | None:
    """The number of a Reduction. Where nothing varies, its interval says nothing."""
    if not isinstance(found, Reduction):
        return None
    low, high = (found.low, found.high) if found.over else (-np.inf, np.inf)
    return ShownNumber(found.text, low, high, found.runs)


def _mean(of_attacks: list[dict[int, float]], form: str = "{:.3f}", unit: str = "") -> ShownNumber | None:
    """Mean with its t interval over attack runs and victims, as far as there are several.

    of_attacks: the victims' numbers of each attack run, by their seeds. None: one lacks a victim.
    """
    if any(one.keys() != of_attacks[0].keys() for one in of_attacks):
        return None
    values = np.array([[one[seed] for seed in of_attacks[0]] for one in of_attacks])
    mean = float(values.mean())
    if values.size < 2:
        return ShownNumber(form.format(mean) + unit, -np.inf, np.inf, values.size)
    half = half_width_over_runs(values)
    low, high = mean - half, mean + half
    text = f"{form.format(mean)}{unit} ({form.format(low)} to {form.format(high)})"
    return ShownNumber(re.sub(r"-(0\.?0*)(?![\d.])", r"\1", text), low, high, values.size)  # no -0.0


def _label_number(name: Number, row: dict[str, Any]) -> ShownNumber:
    """A number of a study of changed labels with its interval over test points: Wilson's for an accuracy."""
    if name == "median":
        if np.isnan(row["median"]):  # less than half of the points are right without attack
            return ShownNumber("none", -np.inf, -np.inf)
        low = np.nan_to_num(row["median_low"], nan=-np.inf)
        high = np.nan_to_num(row["median_high"], nan=np.inf)
        return ShownNumber(f"{row['median']:,.0f} ({low:,.0f} to {high:,.0f})", low, high)
    share, points = row[NUMBERS[name][0]], row["points"]
    if np.isnan(points):
        return ShownNumber(f"{share:.3f}", -np.inf, np.inf)
    low, high = share_interval(share, points)
    return ShownNumber(f"{share:.3f} ({low:.3f} to {high:.3f})", low, high)
