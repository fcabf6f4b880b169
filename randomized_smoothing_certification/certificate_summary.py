"""Summary of the certificates of many points: average certified radius, certified accuracy, share at the ceiling."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from randomized_smoothing_certification.certificate_file import Point, certified_radii, largest_radius, summary_path
from randomized_smoothing_certification.core import ABSTAIN, certificate_of_count, round_down
from randomized_smoothing_certification.run_statistics import stretched, unseen_share
from runtime.files import file_sha256, write_json
from runtime.noise import Stream, seed_pair

BOOTSTRAP_SAMPLES = 10_000


def write_summary(out: Path, points: Sequence[Point], record: dict[str, Any]) -> dict[str, Any]:
    """Write .summary.json beside whole certificates, print it, and return it."""
    summary = summarise(points, record["settings"])
    summary |= {"tsv_sha256": file_sha256(out), "provenance": record["provenance"]}
    write_json(summary_path(out), summary)
    print(describe(summary))
    return summary


def summarise(points: Sequence[Point], settings: dict[str, Any]) -> dict[str, Any]:
    """Statistics of a whole file's points, the set of points, and the settings of their certificates.

    settings: of the run's record. Radii are in pixel units (l2). With several classes, every number is also given for
    each class. Certified radii give certified accuracies and the ACR, with an interval over the points.
    abstain_rate is None with acr_only, because points of a wrong selected class then get no further votes. Fixed radii
    give the certified accuracy at each radius, and the share of 'undecided' points: with more votes, the certified
    accuracy may be higher by at most this share.
    """
    classes = sorted({point.label for point in points})
    votes = [settings["n"] if point.votes is None else point.votes for point in points]
    drawn = settings["n0"] + np.array(votes)
    of_class = {str(label): _numbers([p for p in points if p.label == label], settings) for label in classes}
    return {
        "point_set": _point_set(settings, len(points)),
        **_numbers(points, settings),
        **({} if settings["radii"] else {"saturation": _saturation(points, votes, settings)}),
        "per_class": of_class if len(classes) > 1 else None,
        "votes": {"total": int(drawn.sum()), "per_point": float(drawn.mean())},
        # The median, because the first point's time includes compiling.
        "votes_per_second": float(np.median(drawn / np.maximum([point.seconds for point in points], 1e-6))),
    }


def _point_set(settings: dict[str, Any], count: int) -> dict[str, Any]:
    which = ("dataset", "split", "target_class", "seed")
    how = ("n0", "n", "alpha", "sigma", "precision", "noise", "noise_of", "shared_noise", "shard")
    kind = ("radii",) if settings["radii"] else ("acr_only", "radius_loss")
    named = {**settings, "count": count}
    return {name: named[name] for name in (*which, "count", *how, *kind)}


def _numbers(points: Sequence[Point], settings: dict[str, Any]) -> dict[str, Any]:
    certified = certified_radii(points)
    if settings["radii"]:
        return {"count": len(points), **_at_fixed_radii(points, certified, settings["radii"])}
    at_least_0 = np.maximum(certified, 0.0)
    steps = [0.25 * i for i in range(int(4 * settings["sigma"] / 0.25) + 1)]
    generator = np.random.default_rng(seed_pair(settings["seed"], len(points), Stream.BOOTSTRAP))
    draws = (generator.integers(len(points), size=len(points), dtype=np.int32) for _ in range(BOOTSTRAP_SAMPLES))
    low, high = np.quantile([at_least_0[draw].mean() for draw in draws], (0.025, 0.975)).tolist()
    acr, ceiling = float(at_least_0.mean()), largest_radius(settings, settings["n"])
    low, high = stretched(low, high, acr, len(points))
    unseen = unseen_share(0, len(points))  # as many points may have any other radius, also where all have the same
    low, high = min(low, acr * (1 - unseen)), max(high, acr + unseen * (ceiling - acr))
    at = np.unique([0.0, *at_least_0])
    return {
        "count": len(points),
        "acr": acr,
        "acr_ci95": [max(low, 0.0), min(high, ceiling)],
        "approximate_certified_accuracy": float(np.mean(certified >= 0)),
        "abstain_rate": None if settings["acr_only"] else float(np.mean([p.predict == ABSTAIN for p in points])),
        "certified_accuracy": {f"{step:.2f}": float(np.mean(certified >= step)) for step in steps},
        "curve": {"radius": at.tolist(), "accuracy": [float(np.mean(certified >= radius)) for radius in at]},
    }


def _at_fixed_radii(points: Sequence[Point], certified: np.ndarray, at: Sequence[float]) -> dict[str, Any]:
    # The radii above a point's largest certified radius are undecided, unless the point is decided.
    largest = [np.inf if p.decided else -1.0 if p.predict == ABSTAIN else float(p.radius) for p in points]
    named = {repr(float(radius)).removesuffix(".0"): radius for radius in at}  # exact: no two are the same
    return {
        "certified_accuracy": {name: float(np.mean(certified >= radius)) for name, radius in named.items()},
        "undecided": {name: float(np.mean(np.less(largest, radius))) for name, radius in named.items()},
    }


def _saturation(points: Sequence[Point], votes: Sequence[int], settings: dict[str, Any]) -> dict[str, Any]:
    """The largest radius of n votes, and the share of right points with the largest radius of their own votes."""
    largest = [float(round_down(largest_radius(settings, n))) for n in votes]
    share = float(np.mean([p.certified_radius >= most > 0 for p, most in zip(points, largest, strict=True)]))
    return {"ceiling": largest_radius(settings, settings["n"]), "share": share}


def share_at_ceiling(radii: np.ndarray, n: int, alpha: float, sigma: float, failure_mass: float) -> float:
    """The share of points whose radius is the largest that n votes certify. failure_mass: of --noise grid, else 0."""
    last, before = (certificate_of_count(0, count, n, alpha, sigma, failure_mass).radius for count in (n, n - 1))
    return float(np.mean(radii >= (last + before) / 2))  # files have rounded radii


def describe(summary: dict[str, Any]) -> str:
    """The summary as a few lines of text."""
    points, accuracy = summary["point_set"], summary["certified_accuracy"]

    def row(name: str, values: Iterable[float | str]) -> str:
        cells = (value if isinstance(value, str) else f"{value:.3f}" for value in values)
        return f"  {name:<20} " + "".join(f"{cell:>8}" for cell in cells)

    classes = (summary["per_class"] or {}).items()
    shares = row("radius", accuracy), row("certified accuracy", accuracy.values())
    if "undecided" in summary:
        how = ", alpha for all radii together"
        lines = [*shares, row("undecided", summary["undecided"].values())]
        lines += [row(f"class {label}", values["certified_accuracy"].values()) for label, values in classes]
    else:
        how = ", no votes for points whose selected class is wrong" if points["acr_only"] else ""
        if points["radius_loss"]:
            how += f", fewer votes where they are expected to cost at most {points['radius_loss']:g} of radius"
        (low, high), acr = summary["acr_ci95"], round_down(summary["acr"], 4)
        acr = f"  ACR                             {acr}  (95 % over points: {round_down(low, 4)} to {high:.4f})"
        lines = [acr, f"  approximate certified accuracy  {summary['approximate_certified_accuracy']:.4f}"]
        if summary["abstain_rate"] is not None:
            lines.append(f"  abstained                       {summary['abstain_rate']:.4f}")
        share, ceiling = (summary["saturation"][name] for name in ("share", "ceiling"))
        more = "; the true ACR is higher, raise n to see it" if share > 0.5 else ""
        more = "; a point with fewer votes counts at their largest radius" if points["radius_loss"] else more
        largest = f"the largest radius of n = {points['n']} votes is {round_down(ceiling, 4)}{more}"
        lines.append(f"  at the ceiling                  {share:.4f}  ({largest})")
        lines += shares
        lines += [
            f"  class {label}: ACR {round_down(values['acr'], 4)}, approximate certified accuracy "
            f"{values['approximate_certified_accuracy']:.4f}, {values['count']} points"
            for label, values in classes
        ]
    per_point = f"{summary['votes']['per_point']:,.0f} votes a point, " if how else ""
    lines.append(f"  {per_point}{summary['votes_per_second']:,.0f} votes per second")
    return "\n".join([_in_words(points) + how, *lines])


def _in_words(points: dict[str, Any]) -> str:
    noise = f"noise {points['noise']['mode']} up to {points['noise']['cut_off']:.3g} sigma"
    if points["noise"]["mode"] == "grid":
        noise += f", failure mass {points['noise']['failure_mass']:.2g}"
    noise += ", shared by the points" if points["shared_noise"] else ", of each point"
    shard = f", shard {points['shard']}" if points["shard"] else ""
    return (
        f"{points['dataset']} {points['split']}, class {points['target_class']}, {points['count']} points, "
        f"seed {points['seed']}, sigma {points['sigma']}, n0 {points['n0']}, n {points['n']}, "
        f"alpha {points['alpha']}, {points['precision']}, {noise}{shard}"
    )
