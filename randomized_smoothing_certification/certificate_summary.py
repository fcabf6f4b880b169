"""What the certificates of many points amount to: average certified radius, certified accuracy, saturation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from randomized_smoothing_certification.certificate_file import RADIUS_DIGITS, Point, certified_curve, radii
from randomized_smoothing_certification.core import ABSTAIN, radius_ceiling, round_down
from runtime.noise import Stream, seed_pair

BOOTSTRAP_SAMPLES = 10_000


def summarise(points: Sequence[Point], what: dict[str, Any]) -> dict[str, Any]:
    """Average certified radius, certified accuracies and their point set, from a complete file's points.

    what: the settings stored beside the points. Radii are in pixel units (l2). The interval of the ACR is a
    percentile bootstrap over the points. With several classes every number is also given per class.
    """
    sigma, failure_mass = what["sigma"], what["noise"].get("failure_mass", 0.0)
    ceiling = radius_ceiling(sigma, what["n"], what["alpha"], failure_mass)
    largest = float(round_down(ceiling, RADIUS_DIGITS))
    saturated = float(np.mean([float(point.radius) >= largest > 0 for point in points]))
    classes = sorted({point.label for point in points})
    seconds = [point.seconds for point in points]
    return {
        "point_set": {
            **{name: what[name] for name in ("dataset", "split", "target_class", "seed")},
            "count": len(points),
            **{name: what[name] for name in ("n0", "n", "alpha", "sigma", "precision", "noise", "shard")},
        },
        **_accuracies(points, sigma, what["seed"]),
        "saturation": {
            "ceiling": ceiling,
            "share": saturated,
            "note": (
                f"{saturated:.0%} of the points have the largest radius that n = {what['n']} votes can "
                f"certify ({round_down(ceiling, 4)}): the true ACR is higher, raise n to see it"
                if saturated > 0.5
                else None
            ),
        },
        "per_class": (
            {
                str(label): _accuracies([point for point in points if point.label == label], sigma, what["seed"])
                for label in classes
            }
            if len(classes) > 1
            else None
        ),
        # The median, since the first point's time includes compiling.
        "votes_per_second": (what["n0"] + what["n"]) / max(float(np.median(seconds)), 1e-6),
    }


def describe(summary: dict[str, Any]) -> str:
    """The summary as a few lines of text."""
    points = summary["point_set"]
    low, high = summary["acr_ci95"]
    shard = f", shard {points['shard']}" if points["shard"] else ""
    lines = [
        f"{points['dataset']} {points['split']}, class {points['target_class']}, {points['count']} points, "
        f"seed {points['seed']}, sigma {points['sigma']}, n0 {points['n0']}, n {points['n']}, "
        f"alpha {points['alpha']}, {points['precision']}, {_noise_in_words(points['noise'])}{shard}",
        f"  ACR                             {round_down(summary['acr'], 4)}  (95 % {low:.4f} to {high:.4f})",
        f"  approximate certified accuracy  {summary['approximate_certified_accuracy']:.4f}",
        f"  abstained                       {summary['abstain_rate']:.4f}",
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
    lines.append(f"  {summary['votes_per_second']:,.0f} votes per second")
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
