"""Tables of a plan: pivots of its frame (frame.py), as text.

Layout: arXiv 2012.01274, tables 1 to 4. They compare clean and poisoned training data for each method and noise level,
and show transfer over methods and over architectures. Controls of the same epsilon stand in the same table.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from evaluation.tables.cells import CLEAN, OPTIMISED, READY
from evaluation.tables.frame import CERTIFIED_AT, CONTROL, MEAN, reduction_against
from randomized_smoothing_certification.run_statistics import Reduction
from runtime.lazy import pandas as pd

MISSING = "—"
VICTIMS = ["method", "victim_variant", "sigma", "architecture", "target_class"]
"""Columns of a frame that name a kind of victims: a panel of a figure, a table on the screen."""
NAMES = {"sigma": "σ", "target_class": "class", "data": "training data"}


class Table(NamedTuple):
    """A table ready to be written."""

    name: str
    title: str
    text: pd.DataFrame  # cells are texts, and the columns' names are the header


def tables_of(title: str, frame: pd.DataFrame) -> list[Table]:
    """All tables of a frame. title: the plan's title."""
    transfers = [_transfer_table(frame, over) for over in ("method", "architecture")]
    tables = [
        _entries_table(title, frame), _controls_table(frame), _victims_table(frame), *transfers, _poisons_table(frame),
    ]  # fmt: skip
    return [table for table in tables if len(table.text)]


def tables_by_victims(frame: pd.DataFrame) -> list[Table]:
    """Narrow tables for the screen: one for each kind of victims and class, with a line per kind of training data."""
    tables, several = [], frame["architecture"].nunique() > 1
    text = _entries_table("", frame).text.rename(columns={"certified at 0": "certified accuracy"})
    columns = ["training data", "ACR", "reduction", "certified accuracy", "test accuracy", "class accuracy"]
    for (method, variant, sigma, network, target_class), group in frame.groupby(VICTIMS, sort=False, dropna=False):
        if (group["runs"] > 0).any():
            named = victims_name(method, variant, several * network)
            title = f"{dataset_name(frame)}, class {target_class}, victims {named}, σ = {sigma:g}"
            tables.append(Table("victims", title, text.loc[group.index, columns]))
    return tables


def dataset_name(frame: pd.DataFrame) -> str:
    """Name of the data on which the runs were certified, from their records. Default: the plan's name."""
    return ", ".join(dict.fromkeys(name for text in frame["dataset"][frame["runs"] > 0] for name in text.split(", ")))


def victims_name(*parts: str) -> str:
    """Name of a kind of victims: method, variant and network, without those that are ''."""
    return ", ".join(filter(None, parts))


def _entries_table(title: str, frame: pd.DataFrame) -> Table:
    victims = map(victims_name, frame["method"], frame["victim_variant"])
    columns: dict[str, Any] = {"victims": victims, **_named(frame[[*NAMES]])}
    if frame["in_architecture_transfer"].any():
        columns["architecture"] = frame["architecture"]
    if (frame["attack"] != "").any() or (frame["poison"] == READY).any():
        columns["gradients"] = _numbers(frame["gradients"], "{:,.0f}", "")
    columns |= {
        "n": frame["n"].map(lambda n: f"{n:,}" if isinstance(n, int) else n or MISSING), "runs": _runs(frame),
        "ACR": _measured(frame, "acr"), "reduction": _reductions(frame),
    }  # fmt: skip
    for name, text in zip(CERTIFIED_AT, ("0", "σ/2", "σ", "2σ"), strict=True):
        columns[f"certified at {text}"] = _measured(frame, name)
    columns |= {
        "at the ceiling of n": _numbers(frame["at_ceiling"], "{:.0%}", MISSING),
        "test accuracy": _measured(frame, "accuracy"), "class accuracy": _measured(frame, "target_accuracy"),
    }  # fmt: skip
    if frame["others_acr_mean"].notna().any():
        columns["ACR, other classes"] = _measured(frame, "others_acr")
    about = f"{title}: average certified radius (ACR) and approximate certified accuracy of the class"
    return Table("entries", about, pd.DataFrame(columns))


def _victims_table(frame: pd.DataFrame) -> Table:
    """Kinds of victims side by side, and the reduction of each ACR against the first kind on the same data."""
    title = (
        "Kinds of victims: the ACR of each kind, and its reduction. The last columns say how far the ACR is below the "
        "ACR of the first kind on the same data"
    )
    several = frame[frame["target_class"] != MEAN]
    if several["victim_variant"].nunique() < 2:
        return Table("kinds_of_victims", title, pd.DataFrame())
    first = several["victim_variant"].iloc[0]
    models = ["architecture"] if several["architecture"].nunique() > 1 else []
    rows = ["method", "sigma", *models, "target_class", "data"]
    single = several[several["entries"].map(len) == 1]  # not the mean over attack runs
    is_first = single["victim_variant"] == first
    others = _compared(single[~is_first], single[is_first], rows)
    others["victim_variant"] += f", ACR below {first}"
    text = _pivot(several, rows, "victim_variant")
    return Table("kinds_of_victims", title, text.merge(_pivot(others, rows, "victim_variant"), how="left").fillna(""))


def _controls_table(frame: pd.DataFrame) -> Table:
    """Poison in rows, controls in columns: how far the ACR under the poison is below the ACR under the control."""
    title = "Poison against controls: how far the ACR is below that of these victims on the control (negative: above)"
    measured, by = frame[(frame["target_class"] != MEAN) & (frame["runs"] > 0)], [*VICTIMS, "share"]
    poisons, controls = (measured[measured["data_kind"] == kind] for kind in (OPTIMISED, CONTROL))
    rows = [*(name for name in VICTIMS if frame[name].nunique() > 1 or name in NAMES), "data"]
    return Table("poison_and_controls", title, _pivot(_compared(poisons, controls, by), rows, "poison_other"))


def _compared(frame: pd.DataFrame, others: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Each row beside every row of ``others`` with equal columns ``by``. text: how far its ACR is below the other's."""
    pairs = frame.merge(others[[*by, "poison", "entries"]], on=by, suffixes=("", "_other"))
    found = map(reduction_against, pairs["entries"], pairs["entries_other"].str[0])
    return pairs.assign(text=[less.text if less else "" for less in found])


def _transfer_table(frame: pd.DataFrame, over: str) -> Table:
    """Victims in columns, poison in rows: at each sigma of each class, then of the mean over classes."""
    transfers = frame[frame[f"in_{over}_transfer"]].copy()
    made = "against " + transfers["poison"] if over == "method" else "made with " + transfers["poison_architecture"]
    transfers["data"] = made.where(transfers["data_kind"] == OPTIMISED, transfers["data"])
    title = f"Transfer over {over}s: ACR and its reduction. A row for each poison, a column for each kind of victims"
    return Table(f"transfer_{over}s", title, _pivot(transfers, ["sigma", "target_class", "data"], over))


def _pivot(frame: pd.DataFrame, rows: list[str], column: str) -> pd.DataFrame:
    """A pivot of ACR and reduction, or of the column 'text'. ``column`` gives the header. Rows keep their order."""
    if frame.empty:
        return pd.DataFrame()
    if "text" not in frame:
        pairs = zip(_measured(frame, "acr"), _reductions(frame), strict=True)
        frame = frame.assign(text=["; ".join(filter(None, pair)) for pair in pairs])
    table = frame.pivot_table("text", rows, column, aggfunc="first", sort=False).fillna("").reset_index()
    return _named(table).rename_axis(columns=None)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The table as texts, with the names that columns have on a page."""
    return table.assign(sigma=table["sigma"].map("{:g}".format)).rename(columns=NAMES).astype(str)


def _poisons_table(frame: pd.DataFrame) -> Table:
    """The size of each poison, and the detectors' area under the ROC curve."""
    names = {
        "mean_change": "mean change", "l2": "l2", "l2_over_sigma": "l2 / σ", "common_over_sigma": "common / σ",
        "beyond_jitter_over_sigma": "beyond jitter / σ", "auc_brightness": "brightness",
        "auc_nearest": "nearest clean image", "auc_linear": "linear", "auc_network": "network",
    }  # fmt: skip
    common = " of the mean change of the images (common)," if "common_over_sigma" in frame else ""
    title = (
        f"Poisons: mean change of a pixel, l2 norm of the change of an image,{common} and its part beyond brightness "
        "and contrast. Detectors: area under the ROC curve. Brightness and nearest clean image know only clean images. "
        "The linear detector and the network are trained on poisoned images"
    )
    if "l2" not in frame:
        return Table("poisons", title, pd.DataFrame())
    named_by = ["poison", "poison_architecture", "sigma", "target_class", "data"]
    measured = frame[frame["l2"].notna()].drop_duplicates(named_by)
    rest = {text: _numbers(measured[name], "{:.3f}", "") for name, text in names.items() if name in measured}
    return Table("poisons", title, pd.DataFrame({**_named(measured[[*NAMES]]), **rest}))


def _measured(frame: pd.DataFrame, name: str) -> list[str]:
    """Mean ± sample standard deviation."""
    means, stds = _numbers(frame[f"{name}_mean"], "{:.3f}", MISSING), _numbers(frame[f"{name}_std"], " ± {:.3f}", "")
    return [mean + std for mean, std in zip(means, stds, strict=True)]


def _reductions(frame: pd.DataFrame) -> list[str]:
    kinds = zip(frame["reduction"], frame["poison"], strict=True)
    return [found.text if isinstance(found, Reduction) else "" if kind == CLEAN else MISSING for found, kind in kinds]


def _runs(frame: pd.DataFrame) -> list[str]:
    """The number of victims, with the number of attacks where there are several. '2 of 3': one victim is missing."""
    texts = []
    for runs, wanted, attacks in zip(frame["runs"], frame["runs_wanted"], frame["attack_runs"], strict=True):
        text = f"{runs} of {wanted}" if runs < wanted else str(runs)
        texts.append(f"{attacks} attacks, {text} victims" if attacks and attacks > 1 else text)
    return texts


def _numbers(values: pd.Series, form: str, missing: str) -> list[str]:
    return [missing if pd.isna(value) else form.format(value) for value in values]
