"""What a study of certificates against changed labels writes: per-point files, curves, table, figure."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from attack_generation.figures import default_style, save_png
from evaluation.label_flipping.config import SETTINGS, LabelFlippingConfig, Learner
from evaluation.label_flipping.features import features_name
from randomized_smoothing_certification.core import ABSTAIN
from randomized_smoothing_certification.label_flipping import LabelFlips
from randomized_smoothing_certification.training_set_smoothing import Smoothed
from runtime.files import write_text

TSV_COLUMNS = ("idx", "label", "predict", "flips", "correct")
# The curve of each learner itself.
EXACT: dict[Learner, str] = {
    "least_squares": "ridge",
    "neighbours": "neighbours",
    "kernel": "kernel",
    "signed_neighbours": "signed",
    "signed_least_squares": "signed",
}
_CSV_POINTS = 300  # of a certificate's curve, at most twice as many


class Points(NamedTuple):
    """What the study keeps of the test points: smoothed classifiers, one row per q, and the learner itself."""

    prediction: np.ndarray  # int64 (Q, m)
    log_eps: np.ndarray  # float64 (Q, m)
    exact_prediction: np.ndarray  # int64 (m,)
    exact_flips: np.ndarray  # int64 (m,)


class LabelCurve(NamedTuple):
    """Accuracy against changed training labels."""

    name: str  # tight, closed_form, one of EXACT, network_random, network_greedy, network_pointwise
    q: float | None
    flips: np.ndarray  # ascending
    accuracy: np.ndarray


def value_at(curve: LabelCurve, flips: int) -> float:
    """Accuracy of a curve at a number of changed labels: that of a certificate falls in steps, others are lines."""
    if curve.name.startswith("network"):
        return float(np.interp(flips, curve.flips, curve.accuracy))
    place = int(np.searchsorted(curve.flips, flips, side="left"))
    return float(curve.accuracy[place]) if place < len(curve.flips) else 0.0


def median_flips(curve: LabelCurve) -> int | None:
    """The largest number of changed labels at which a certificate's accuracy is at least a half; None where none is."""
    whole = curve.flips[curve.accuracy >= 0.5]
    return int(whole.max()) if len(whole) else None


def curve_label(curve: LabelCurve) -> str:
    """A curve's name for people."""
    name = {
        "tight": "smoothed, tight", "closed_form": "smoothed, closed form", "ridge": "plain ridge, exact",
        "neighbours": "plain neighbours, exact", "kernel": "plain kernel regression, exact",
        "signed": "plain signed votes, exact",
        "network_random": "network, random flips", "network_greedy": "network, greedy flips",
        "network_pointwise": "network, attacked per point",
    }[curve.name]  # fmt: skip
    return name if curve.q is None else f"{name}, q {curve.q:g}"


def write_points(
    folder: Path, config: LabelFlippingConfig, points: Points, truth: np.ndarray, numbers: np.ndarray,
    classes: int, size: int,
) -> None:  # fmt: skip
    """One TSV per q and exact.tsv of the learner itself, in the field's columns.

    idx counts the dataset's test images; classes go by their own numbers.

    truth, numbers: class among the chosen ones and index of each test point, int (m,). size: training points.
    """
    names = np.array([*(config.classes or range(classes)), ABSTAIN])  # the last for ABSTAIN, which is -1
    certificates = {"exact": (points.exact_prediction, points.exact_flips)}
    for number, q in enumerate(config.q):
        smoothed = Smoothed(points.prediction[number], points.log_eps[number])
        certificates[f"q_{q:g}"] = smoothed.prediction, smoothed.certified(LabelFlips(q, classes, config.bound), size)
    for name, (prediction, flips) in certificates.items():
        columns = (numbers, names[truth], names[prediction], flips, (prediction == truth) * 1)
        table = pd.DataFrame(dict(zip(TSV_COLUMNS, columns, strict=True)))
        write_text(folder / f"{name}.tsv", table.to_csv(sep="\t", index=False, lineterminator="\n"))


def write_curves(path: Path, curves: Sequence[LabelCurve], size: int) -> None:
    """Every curve as lines of a CSV file: curve, q, flips, share of the ``size`` training labels, accuracy."""
    # One grid for all certificates: exact at each of its numbers of flips.
    most = max(int(curve.flips.max()) for curve in curves if not curve.name.startswith("network"))
    grid = range(0, most + 1, max(1, most // _CSV_POINTS))
    lines = [
        (curve.name, "" if curve.q is None else curve.q, flips, f"{flips / size:.5f}", f"{value_at(curve, flips):.4f}")
        for curve in curves
        for flips in (curve.flips.tolist() if curve.name.startswith("network") else grid)
    ]
    table = pd.DataFrame(lines, columns=["curve", "q", "flips", "share", "accuracy"])
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def text_table(
    config: LabelFlippingConfig, title: str, choice: dict[str, Any], curves: Sequence[LabelCurve],
    shape: tuple[int, ...], test_points: int, held_out: int,
) -> str:  # fmt: skip
    """Accuracy without attack and at config.at, and the flips that half of all points survive, for the screen.

    shape: of the training features.
    """
    size, flips = shape[0], round(config.at * shape[0])
    given, settings = len(config.candidates) == 1, SETTINGS[config.learner]
    how = "given" if given else f"chosen on {choice['held_out']} held-out training images"
    chosen = ", ".join(f"{name} {choice[name]:g}" for name in settings)
    holds = f"{', '.join(settings)} and q fixed beforehand" + (
        "" if given else ": the labels that chose them count as trusted"
    )
    at = f"{flips} flips ({config.at:.1%})"
    lines = [
        f"{title}: {size:,} training points ({held_out:,} of them held out for choices), {test_points:,} test points",
        f"features {features_name(config)} ({shape[1]}), {chosen} ({how}), q {choice['q']:g} best there",
        f"certificates hold for {holds}",
        "",
        f"{'classifier':30s}  {'without attack':>14s}  {at:>18s}  {'median flips':>12s}",
        f"{'-' * 30}  {'-' * 14}  {'-' * 18}  {'-' * 12}",
    ]
    for curve in curves:
        median = None if curve.name.startswith("network") else median_flips(curve)
        lines.append(
            f"{curve_label(curve):30s}  {value_at(curve, 0):14.3f}  {value_at(curve, flips):18.3f}  "
            f"{'' if median is None else median:>12}".rstrip()
        )
    return "\n".join(lines)


@default_style()
def save_label_curves(path: Path, curves: Sequence[LabelCurve], size: int, title: str) -> None:
    """Draw accuracy against changed training labels, as PNG; the top axis gives them in percent of ``size``.

    curves: certificates (falling in steps; that of the learner itself is black) and networks' measured accuracies
    (points joined by lines).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    markers = itertools.cycle("os^v")
    for curve in curves:
        label = curve_label(curve)
        if curve.name.startswith("network"):
            axes.plot(curve.flips, curve.accuracy, "--", marker=next(markers), color="0.45", ms=4, label=label)
        else:
            style: dict[str, Any] = {"color": "black", "lw": 1.2} if curve.name in EXACT.values() else {}
            # The accuracy at a number of flips holds from the number before it on, excluded.
            axes.step(curve.flips, curve.accuracy, where="pre", label=label, **style)
    axes.set(xlabel="changed training labels", ylabel="certified (network: measured) accuracy", title=title)
    # As far as there are certificates, and somewhat on.
    certified = [curve for curve in curves if not curve.name.startswith("network")]
    axes.set_xlim(0, 1.3 * max(max(curve.flips) for curve in certified))
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")

    to_percent_and_back = (lambda flips: 100 * flips / size), (lambda percent: percent * size / 100)
    percent = axes.secondary_xaxis("top", functions=to_percent_and_back)
    percent.set_xlabel(f"in percent of the {size:,} training labels")
    save_png(path, figure)
