"""The store, the table and the figure of a study of certificates against changed labels.

A store (runtime/store.py) holds one study or several. points.csv.xz has a line per test point and certificate:
entry (the study's name), seed, certificate, q (empty for an exact certificate), idx, label, predict, flips, correct.
A record has the keys of RECORD and those of runtime.provenance. Its 'curves' hold the accuracies that do not follow
from points.csv.xz: those of networks, and of one adversary against all points.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from label_flipping.certificates.label_flips import certified_accuracy
from label_flipping.config import LEARNERS
from randomized_smoothing_certification.run_statistics import CONFIDENCE, share_interval
from runtime.lazy import pandas as pd
from runtime.lazy import stats
from runtime.plots import COLOURS, default_style, plain_text, save_png
from runtime.store import Store
from runtime.text_tables import markdown_table

TABLES, FIGURE = "tables.md", "certified_accuracy.png"
COLUMNS = ("entry", "seed", "certificate", "q", "idx", "label", "predict", "flips", "correct")
RECORD = {
    "title": str, "training_points": int, "held_out_points": int, "test_points": int, "features": str, "width": int,
    "choice": dict, "curves": list, "config": dict, "command": str, "commit": str,
}  # fmt: skip
_CERTIFICATES = {  # their kinds, and their names for people
    "tight": ("tight", "smoothed, tight"), "closed_form": ("closed_form", "smoothed, closed form"),
    "ridge": ("exact", "ridge regression, exact"), "neighbours": ("exact", "neighbours, exact"),
    "kernel": ("exact", "kernel regression, exact"), "signed": ("exact", "signed votes, exact"),
    "signed_together": ("together", "signed votes, one adversary against all points"),
    "network_random": ("network", "network, random changes"),
    "network_greedy": ("network", "network, one attack on all points"),
    "network_pointwise": ("network", "network, an attack on each point"),
}  # fmt: skip
_FEATURES = {
    "raw": "raw pixels", "deskewed": "deskewed patches", "root_patches": "roots of patches",
    "imagenet": "ImageNet features (outside data)", "contrastive": "contrastive features", "diffusion": "diffusion map",
}  # fmt: skip
_MOST_CURVES = 13  # in one figure
_HEAD = """The accuracy at a number of flips is the share of test points that stay right, whichever labels an
adversary changes for each of them, up to this number. For a network it is the share that stays
right under the named attack. An attack on each point is made for a few points. At 0 flips its value is over all. For
one adversary against all points it is the share right under any one set of changes.
Trusted labels chose the settings of a study. No certificate covers changes of these labels before that choice.
A command is of the commit below it. The number after the features is their width.
The interval is Wilson's, over test points. The median is the most flips at which the accuracy is at least one half.
A row without test points is a curve in settings.json.xz. All other rows are counted from points.csv.xz."""


class LabelCurve(NamedTuple):
    """Accuracy against changed training labels."""

    entry: str
    seed: int
    certificate: str  # a name in _CERTIFICATES, such as tight, ridge, signed_together or network_random
    q: float | None
    flips: np.ndarray  # ascending
    accuracy: np.ndarray
    points: int | None = None  # test points, where the curve is counted from a line for each
    # Of one adversary: accuracy after the best attack that was found. Where it is larger, ``accuracy`` is not exact.
    attacked: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """exact, together, tight, network or closed_form."""
        return _CERTIFICATES[self.certificate][0]

    def at(self, flips: int) -> float:
        """Accuracy at a number of changed labels: a step function for a certificate, interpolated for a network.

        For a network it is NaN below the smallest and above the largest number of changes that was measured.
        """
        if self.kind == "network":
            return float(np.interp(flips, self.flips, self.accuracy, left=np.nan, right=np.nan))
        place = int(np.searchsorted(self.flips, flips, side="left"))
        return float(self.accuracy[place]) if place < len(self.flips) else 0.0

    def most_flips(self, share: float = 0.5) -> int | None:
        """The most changed labels at which a share of the points stays certified. None: never, or it is a network."""
        whole = self.flips[self.accuracy >= share]
        return int(whole.max()) if len(whole) and self.kind != "network" else None

    def median_interval(self) -> tuple[int | None, int | None]:
        """The 95 % interval of the median over the test points: two order statistics, by the binomial distribution."""
        least, most = stats.binom.interval(CONFIDENCE, self.points, 0.5)
        low = self.most_flips((most + 0.5) / self.points)  # the share of most + 1 points, rounding apart
        high = self.most_flips((least - 0.5) / self.points) if least else None
        return low, high

    @property
    def label(self) -> str:
        """Its name for people."""
        return _CERTIFICATES[self.certificate][1] + ("" if self.q is None else f", q {self.q:g}")


def curves_of(store: Store) -> list[LabelCurve]:
    """The curves of every study: those of its points, exact at every number of changes, and those kept without."""
    curves = []
    keys = ["entry", "seed", "certificate", "q"]
    for (entry, seed, certificate, q), lines in store.points.groupby(keys, sort=False, dropna=False):
        flips, correct = lines["flips"].to_numpy(), lines["correct"].to_numpy() == 1
        at = np.unique(np.concatenate([[0], flips[correct], flips[correct] + 1]))
        accuracy = certified_accuracy(flips, correct, at)
        curves.append(LabelCurve(entry, seed, certificate, None if np.isnan(q) else q, at, accuracy, len(lines)))
    for entry, by_seed in store.records.items():
        for seed, record in by_seed.items():
            for kept in record["curves"]:
                arrays = {name: np.array(kept[name]) for name in ("flips", "accuracy")}
                curves.append(LabelCurve(entry, int(seed), **{**kept, **arrays}))
    studies, order = list(store.records), list(_CERTIFICATES)
    return sorted(curves, key=lambda it: (studies.index(it.entry), it.seed, order.index(it.certificate), it.q or 0))


def curve_table(store: Store) -> pd.DataFrame:
    """A row per curve: its fields and label, accuracy without attack and at the study's 'at', median of the changes.

    low, high: the 95 % interval (Wilson) over test points of the accuracy at 'at'. median_low, median_high: that of the
    median. NaN for a curve without points, and where the accuracy is too low for a median or an end of its interval.
    """
    rows = []
    for curve in curves_of(store):
        record = store.records[curve.entry][str(curve.seed)]
        values = {"unattacked": curve.at(0), "accuracy": curve.at(_at(record)), "median": curve.most_flips()}
        values["median_low"], values["median_high"] = curve.median_interval() if curve.points else (None, None)
        rows.append({**curve._asdict(), "label": curve.label, **values})
    table = pd.DataFrame(rows).astype(dict.fromkeys(("q", "median", "median_low", "median_high", "points"), float))
    table["low"], table["high"] = share_interval(table["accuracy"], table["points"])
    return table


def tables_page(store: Store) -> str:
    """A table for every study, in Markdown: its part of curve_table below how the study was made."""
    table, sections = curve_table(store), []
    shares, numbers = ["unattacked", "accuracy", "low", "high"], ["median", "points"]
    table[shares] = table[shares].map("{:.3f}".format).replace("nan", "")
    table[numbers] = table[numbers].map("{:.0f}".format).replace("nan", "")
    table["interval"] = (table["low"] + " to " + table["high"]).where(table["points"] != "", "")
    for (entry, seed), rows in table.groupby(["entry", "seed"], sort=False):
        record = store.records[entry][str(seed)]
        at = f"{_at(record)} flips ({record['config']['at']:.1%})"
        header = ("classifier", "without attack", at, "95 % interval", "median flips", "test points")
        cells = rows[["label", "unattacked", "accuracy", "interval", "median", "points"]].to_numpy().tolist()
        sections.append(f"## {entry}\n\n{_described(record)}\n\n{markdown_table(header, cells)}")
    return "\n\n".join([_HEAD, *sections]) + "\n"


def _at(record: Mapping[str, Any]) -> int:
    """Changed labels at which a study's settings were chosen and its table is made."""
    return round(record["config"]["at"] * record["training_points"])


def trusted_labels(record: Mapping[str, Any]) -> int:
    """Labels that chose settings, so that no certificate covers a change of them."""
    held_out: int = record["choice"]["held_out"]
    return record["training_points"] - record["held_out_points"] + held_out if held_out else 0


def certified_settings(choice: Mapping[str, Any]) -> list[Any]:
    """The settings that certificates hold for: those that labels chose, or all candidates where nothing was chosen."""
    return [choice] if choice["held_out"] else choice["tried"]


def _described(record: Mapping[str, Any]) -> str:
    choice, trusted = record["choice"], trusted_labels(record)
    settings, names = certified_settings(choice), LEARNERS[record["config"]["learner"]].settings
    values = "; ".join(", ".join(f"{name} {one[name]:g}" for name in names) for one in settings)
    how = f"No label chose anything: {values} was fixed beforehand."
    if len(settings) > 1:
        how = f"Certificates hold for any choice among {values}. The classifier abstains where these differ."
    if trusted:
        how = (
            f"{values} was chosen by the exact certificates of {choice['held_out']:,} held-out training images under "
            f"the labels of the other {trusted - choice['held_out']:,}, and q {choice['q']:g} by the smoothed ones."
        )
    held_out = f" ({choice['held_out']:,} of them held out for choices)" if trusted else ""
    outside = " **Outside data:** ImageNet's labels made them." if record["features"].startswith("imagenet") else ""
    return (
        f"{record['title']}: {record['training_points']:,} training points{held_out}, {_test_points(record)}. "
        f"Features {record['features']} ({record['width']}).{outside}\n"
        f"Labels trusted: {trusted:,}. {how}\n\n"
        f"    {record['command']}\n\nCommit {record['commit']}."
    )


def _test_points(record: Mapping[str, Any]) -> str:
    return f"{record['test_points']:,} test points" + ("" if record["config"]["points"] is None else " (reduced)")


def _drawn(store: Store) -> list[LabelCurve]:
    """At most 13 curves: those of the best q first, then exact ones and networks, then large medians. Of several
    studies only the best q is drawn."""
    curves, order = curves_of(store), ("exact", "together", "network", "tight", "closed_form")
    median = {curve.entry: curve.most_flips() or 0 for curve in curves if curve.kind == "exact"}

    def is_best(curve: LabelCurve) -> bool:
        return curve.q in (None, store.records[curve.entry][str(curve.seed)]["choice"]["q"])

    ranked = sorted(curves, key=lambda it: (not is_best(it), order.index(it.kind), -median.get(it.entry, 0)))
    return [curve for curve in ranked if is_best(curve) or len(store.records) == 1][:_MOST_CURVES]


def _study_label(record: Mapping[str, Any], most_points: int) -> str:
    """Learner and features of a study for people, and its test points where others of the figure have more."""
    parts = re.findall("|".join([*_FEATURES, "[^_]+"]), record["features"])
    features = " + ".join(_FEATURES.get(one, one) for one in parts)
    few = "" if record["test_points"] == most_points else f", {_test_points(record)}"
    any_choice = ", any choice" if len(certified_settings(record["choice"])) > 1 else ""
    return f"{LEARNERS[record['config']['learner']].label}, {features}{any_choice}{few}"


@default_style()
def save_label_curves(path: Path, store: Store) -> None:
    """Draw accuracy against changed training labels, as PNG. The top axis gives their number in percent.

    The studies are of one data set and its classes. Colours tell studies apart, or the values of q of one study. A
    certificate falls in steps. A network's accuracies are points joined by lines.
    """
    from matplotlib.figure import Figure

    records = {(entry, int(seed)): one for entry, by_seed in store.records.items() for seed, one in by_seed.items()}
    first, most_points = next(iter(records.values())), max(one["test_points"] for one in records.values())
    several = len(records) > 1
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes, curves = figure.subplots(), _drawn(store)
    places: dict[Any, int] = {}
    markers = {"network_random": "o", "network_greedy": "s", "network_pointwise": "^"}
    styles = {"exact": "-", "together": (0, (4, 1, 1, 1)), "tight": "--", "closed_form": ":", "network": "-."}
    for curve in curves:
        study, label = (curve.entry, curve.seed), curve.label
        key = study if several else curve.q
        cycle, place = divmod(places.setdefault(key, len(places)), len(COLOURS))  # lines of a second cycle are thin
        look: dict[str, Any] = {"ls": styles[curve.kind], "lw": 1.5 / (1 + cycle)}
        if curve.kind == "network":
            look |= {"color": "0.45", "marker": markers[curve.certificate], "ms": 4}
        else:  # a certificate's accuracy at a number of flips holds from the number before it on, excluded
            look |= {"color": COLOURS[place], "drawstyle": "steps-pre"}
            if several:
                short = "exact" if curve.kind == "exact" else label.removeprefix("signed votes, ")
                label = f"{_study_label(records[study], most_points)}: {short}"
        axes.plot(curve.flips, curve.accuracy, label=plain_text(label), **look)
    count = f"{most_points:,} test points" if several else _test_points(first)
    axes.set_title(plain_text(f"{first['title']}: {count}"))
    axes.set(xlabel="changed training labels", ylabel="certified (network: measured) accuracy", ylim=(0, 1.02))
    most = max((one.flips[one.accuracy > 0.005].max(initial=1) for one in curves if one.kind != "network"), default=1)
    axes.set_xlim(-0.01 * most, 1.05 * most)  # the value at 0 flips is not on the frame
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    size: int = first["training_points"]
    to_percent_and_back = (lambda flips: 100 * flips / size), (lambda percent: percent * size / 100)
    axes.secondary_xaxis("top", functions=to_percent_and_back).set_xlabel(f"in percent of the {size:,} training labels")
    save_png(path, figure, colours=64)
