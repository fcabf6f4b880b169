"""The ranking of poisons. The score of a poison is its smallest reduction of the ACR over the kinds of victims.

docs/enter_a_poison.md explains the columns.
"""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.tables.cells import CLEAN
from evaluation.tables.formats import ABOUT
from evaluation.tables.frame import paired_radii
from evaluation.tables.layout import Table, victims_name
from randomized_smoothing_certification.run_statistics import Reduction, mean_reduction
from runtime.lazy import pandas as pd
from runtime.text_tables import markdown_table

REDUCTIONS = {
    "reduction": "score", "victims": "weakest on", "reduction_at_sigma": "reduction of certified accuracy at σ",
    "mean": "mean",
}  # fmt: skip
MEANS = {
    "target_accuracy_mean": "class accuracy", "others_acr_mean": "ACR, other classes",
    "l2_over_sigma": "l2 / σ", "beyond_jitter_over_sigma": "beyond jitter / σ", "seen": "detector AUC",
    "gradients": "gradients",
}  # fmt: skip
TITLE = (
    "Ranking. Score: the smallest reduction of the ACR over the kinds of victims. Weakest on: this kind. Mean: of all "
    "kinds. Detector AUC: the area of the better of two detectors"
)
PAGE = """# Ranking of poisons

Made by `python evaluation/write_results.py`. Eight kinds of victims are trained on each poison: Gaussian augmentation,
MACER, SmoothAdv and Consistency, each with and without jitter. The *score* of a poison is its smallest reduction of the
average certified radius (ACR) of the class over these kinds, the *mean* is over all. Overlapping intervals decide no
order, a paired comparison (`evaluation/compare.py`) may. A score is of one kind of victims (three victims, on
FashionMNIST one). [Enter a poison](../docs/enter_a_poison.md#read-the-row) explains columns and intervals. [Shipped
poisons](../docs/attack.md#shipped-poisons): `published` (`mnist_published`), `f2sa` (`mnist_f2sa`), `against_smoothadv`
(`mnist_smoothadv`), `per_image` (`digits_per_image`). All others are [controls](../docs/attack.md#controls).

![Reduction of the ACR by each poison, for each kind of victims](ranking.png)
"""
SHARES = """## A share of the class

How much of the class has to be poisoned? The rows are reductions of the ACR by poison (`published`: `mnist_published`)
in the victims of [{name}]({name}/tables.md): {title}.
"""


def scored_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of clean data and of every poison that has all its victims of every kind in a plan's frame."""
    kinds = frame.groupby(["method", "victim_variant", "sigma"]).ngroups
    rows = frame[(frame["runs"] == frame["runs_wanted"]) & (frame["reduction"].notna() | (frame["data"] == CLEAN))]
    return rows.groupby("data").filter(lambda group: len(group) == kinds)


def scores(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for clean data and for each poison, by name, where all victims of every kind of a plan's frame are there.

    Columns: the smallest reduction (of the ACR: the score) and its victims, the smallest reduction_at_sigma, the mean
    reduction, and MEANS.
    """
    rows = scored_rows(frame).copy()
    rows["victims"] = list(map(victims_name, rows["method"], rows["victim_variant"]))
    rows["seen"] = rows.reindex(columns=["auc_brightness", "auc_nearest"]).max(axis=1)
    found = rows.reindex(columns=["data", *MEANS]).groupby("data", sort=False).mean()
    found = found.join(_smallest(rows, "reduction")[["reduction", "victims"]])
    found = found.join(_smallest(rows, "reduction_at_sigma")["reduction_at_sigma"])
    means = {name: _mean_reduction(kinds) for name, kinds in rows[rows["data"] != CLEAN].groupby("data")}
    return found.join(pd.Series(means, name="mean", dtype=object))


def _mean_reduction(rows: pd.DataFrame) -> Reduction | None:
    """The mean reduction by a poison over its rows, one for each kind of victims. None: one cannot be compared."""
    pairs = map(paired_radii, rows["entries"], rows["clean"])
    radii = [(pair.poisoned.mean(axis=0), pair.clean) for pair in pairs if pair and pair.same_points]
    return mean_reduction(radii) if len(radii) == len(rows) else None


def kinds_without_reduction(frame: pd.DataFrame, name: str) -> list[str]:
    """The kinds of victims for which a poison has no reduction, because the clean ACR is 0 or victims are missing."""
    rows = frame[(frame["data"] == name) & frame["reduction"].isna()]
    return list(map(victims_name, rows["method"], rows["victim_variant"]))


def _smallest(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """The row of each poison with the smallest reduction, whose interval then begins at the smallest low of all."""
    rows = rows.dropna(subset=by).sort_values(by, kind="stable")  # a Reduction is sorted by percent, then low
    low = rows[by].map(lambda found: found.low).groupby(rows["data"]).min()
    least = rows.drop_duplicates("data").set_index("data")
    return least.assign(**{by: [found._replace(low=low[name]) for name, found in least[by].items()]})


def ranking_table(found: list[pd.DataFrame]) -> Table:
    """Scores as text, the best first. Where a name is in several of the frames, the first counts."""
    rows = pd.concat(found)
    rows = rows[~rows.index.duplicated()].sort_values("reduction", ascending=False)
    text = rows[list(REDUCTIONS)].map(lambda value: getattr(value, "text", value)).rename(columns=REDUCTIONS)
    numbers = rows[list(MEANS)].map("{:.3g}".format).assign(gradients=rows["gradients"].map("{:,.0f}".format))
    text = text.join(numbers.rename(columns=MEANS)).replace("nan", "").fillna("")
    return Table("ranking", TITLE, text.rename_axis("training data").reset_index())


def ranked(frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The frames of ranking plans, by folder: the folder of a ranking begins with rank_."""
    return {name: frame for name, frame in frames.items() if name.startswith("rank_")}


def ranking_page(frames: Mapping[str, pd.DataFrame]) -> str:
    """The page of all rankings. frames: of every plan, by folder, with their titles."""
    parts = [PAGE]
    for name, frame in ranked(frames).items():
        table = ranking_table([scores(frame)]).text
        links = f"[Every entry, each kind of victims]({name}/tables.md), [findings and machine]({name}/NOTES.md)."
        parts.append(f"## {frame['title'].iloc[0]}\n\n{links}\n\n{markdown_table(table.columns, table.to_numpy())}\n")
    for name, frame in frames.items():
        if "share" in frame and frame["share"].replace("", float("nan")).nunique() > 1:
            parts.append(SHARES.format(name=name, title=frame["title"].iloc[0]) + "\n" + _shares_table(frame) + "\n")
    return "\n".join([*parts, f"{ABOUT}\n"])


def _shares_table(frame: pd.DataFrame) -> str:
    poisoned = frame[frame["reduction"].notna()]
    names, texts = poisoned["data"].str.partition(",")[0], poisoned["reduction"].map(lambda found: found.text)
    for column in ("method", "architecture", "victim_variant", "sigma", "target_class"):
        names += f", {column} ".replace("_", " ") + poisoned[column].map(str) if poisoned[column].nunique() > 1 else ""
    table = poisoned.assign(name=names, text=texts).pivot(index="name", columns="share", values="text").fillna("")
    return markdown_table(["training data", *(f"{100 * share:g}%" for share in table)], table.reset_index().to_numpy())
