"""What the certificates of many points amount to: average certified radius, certified accuracy, saturation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from randomized_smoothing_certification.certificate_file import (
    NOISE_OF_SEED,
    RADIUS_DIGITS,
    Point,
    ceiling_of,
    certified_curve,
    radii,
)
from randomized_smoothing_certification.core import ABSTAIN, round_down
from runtime.noise import Stream, seed_pair

BOOTSTRAP_SAMPLES = 10_000


def summarise(points: Sequence[Point], what: dict[str, Any]) -> dict[str, Any]:
    """Average certified radius, certified accuracies and their point set, from a complete file's points.

    what: the settings stored beside the points. Radii are in pixel units (l2). The interval of the ACR is a
    percentile bootstrap over the points. With several classes every number is also given per class. abstain_rate is
    None where a wrong class got no votes: then it is not known which of them would have been certified.
    """
    sigma, failure_mass = what["sigma"], what["noise"].get("failure_mass", 0.0)
    votes = [what["n"] if point.votes is None else point.votes for point in points]
    ceiling = ceiling_of(what, what["n"], failure_mass)
    largest = [float(round_down(ceiling_of(what, of_point, failure_mass), RADIUS_DIGITS)) for of_point in votes]
    saturated = float(np.mean([float(p.radius) >= most > 0 for p, most in zip(points, largest, strict=True)]))

    def accuracies(points: Sequence[Point]) -> dict[str, Any]:
        values = _accuracies(points, sigma, what["seed"])
        return {**values, "abstain_rate": None} if what["acr_only"] else values

    return {
        "point_set": {**point_set(what, len(points)), **{name: what[name] for name in ("acr_only", "radius_loss")}},
        **accuracies(points),
        "saturation": {
            "ceiling": ceiling,
            "share": saturated,
            "note": (
                f"{saturated:.0%} of the points have the largest radius that their votes can certify (n = {what['n']}: "
                f"{round_down(ceiling, 4)}): the true ACR is higher, raise n to see it"
                if saturated > 0.5
                else None
            ),
        },
        "per_class": of_each_class(points, accuracies),
        **votes_drawn(what, votes, [point.seconds for point in points]),
    }


def of_each_class(points: Sequence[Any], measure: Callable[[list[Any]], dict[str, Any]]) -> dict[str, Any] | None:
    """What is measured of each class's points, by its label; None where all are of one class."""
    classes = sorted({point.label for point in points})
    if len(classes) == 1:
        return None
    return {str(label): measure([point for point in points if point.label == label]) for label in classes}


def point_set(what: dict[str, Any], count: int) -> dict[str, Any]:
    """Which points were certified, and how. what: the settings of the run."""
    how = ("n0", "n", "alpha", "sigma", "precision", "noise", "noise_of", "shared_noise", "shard")
    return {
        **{name: what[name] for name in ("dataset", "split", "target_class", "seed")},
        "count": count,
        **{name: what[name] for name in how},
    }


def points_in_words(points: dict[str, Any]) -> str:
    """The same as a line of text."""
    shard = f", shard {points['shard']}" if points["shard"] else ""
    shared = "shared by the points" if points["shared_noise"] else "of each point"
    shared += ", named by the seed alone" if points["noise_of"] == NOISE_OF_SEED else ""
    return (
        f"{points['dataset']} {points['split']}, class {points['target_class']}, {points['count']} points, "
        f"seed {points['seed']}, sigma {points['sigma']}, n0 {points['n0']}, n {points['n']}, "
        f"alpha {points['alpha']}, {points['precision']}, {_noise_in_words(points['noise'])}, {shared}{shard}"
    )


def votes_drawn(what: dict[str, Any], votes: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    """All votes of a run, and per second. votes, seconds: fresh ones of each point, and time spent on it."""
    of_points = what["n0"] + np.array(votes)
    per_second = of_points / np.maximum(seconds, 1e-6)
    return {
        "votes": {"total": int(of_points.sum()), "per_point": float(of_points.mean())},
        # The median, since the first point's time includes compiling.
        "votes_per_second": float(np.median(per_second)),
    }


def describe(summary: dict[str, Any]) -> str:
    """The summary as a few lines of text."""
    points = summary["point_set"]
    low, high = summary["acr_ci95"]
    fewer = ", no votes for points whose selected class is wrong" if points["acr_only"] else ""
    if points["radius_loss"]:
        fewer += f", fewer votes where {points['radius_loss']:g} of radius is all that they may cost"
    lines = [
        points_in_words(points) + fewer,
        f"  ACR                             {round_down(summary['acr'], 4)}  (95 % {low:.4f} to {high:.4f})",
        f"  approximate certified accuracy  {summary['approximate_certified_accuracy']:.4f}",
        *(
            []
            if summary["abstain_rate"] is None
            else [f"  abstained                       {summary['abstain_rate']:.4f}"]
        ),
        "  radius               " + "".join(f"{radius:>7}" for radius in summary["certified_accuracy"]),
        "  certified accuracy   " + "".join(f"{a:7.3f}" for a in summary["certified_accuracy"].values()),
    ]
    for label, values in (summary["per_class"] or {}).items():
        lines.append(
            f"  class {label}: ACR {round_down(values['acr'], 4)}, approximate certified accuracy "
            f"{values['approximate_certified_accuracy']:.4f}, {values['count']} points"
        )
    if summary["saturation"]["note"]:
        lines.append("  note: " + summary["saturation"]["note"])
    of_point = f"{summary['votes']['per_point']:,.0f} votes a point, " if fewer else ""
    lines.append(f"  {of_point}{summary['votes_per_second']:,.0f} votes per second")
    return "\n".join(lines)


def _noise_in_words(noise: dict[str, Any]) -> str:
    """The noise's limits: what a grid takes off the bound, or that float32 noise is sound only up to its last bits."""
    cut_off = f"noise {noise['mode']} up to {noise['cut_off']:.3g} sigma"
    return f"{cut_off}, failure mass {noise['failure_mass']:.2g}" if noise["mode"] == "grid" else cut_off


def _accuracies(points: Sequence[Point], sigma: float, seed: int) -> dict[str, Any]:
    of_points = radii(points)
    certified = np.maximum(of_points, 0.0)
    steps = [0.25 * i for i in range(int(4 * sigma / 0.25) + 1)]
    generator = np.random.default_rng(seed_pair(seed, len(points), Stream.BOOTSTRAP))
    draws = generator.integers(len(points), size=(BOOTSTRAP_SAMPLES, len(points)), dtype=np.int32)
    return {
        "count": len(points),
        "acr": float(certified.mean()),
        "acr_ci95": np.quantile(certified[draws].mean(axis=1), (0.025, 0.975)).tolist(),
        "approximate_certified_accuracy": float(np.mean(of_points >= 0)),
        "abstain_rate": float(np.mean([point.predict == ABSTAIN for point in points])),
        "certified_accuracy": {f"{step:.2f}": float(np.mean(of_points >= step)) for step in steps},
        "curve": certified_curve(of_points),
    }
