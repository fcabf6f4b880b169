"""Certify test points of a saved model: one TSV row per point, and a summary; restartable and shardable.

The protocol is that of the poisoning paper (CVPR 2021, section 4): randomly drawn test points of the target
class, n0 = 100, n = 100,000, alpha = 0.001, sigma of certification = sigma of training.
"""

import datetime
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import keras
import numpy as np

from data.datasets import Dataset, labels, load_dataset
from models.saving import load_model, with_precision
from randomized_smoothing_certification.core import (
    ABSTAIN,
    VoteCounter,
    certify,
    radius_ceiling,
    require_vote_settings,
    round_down,
)
from runtime.checkpoints import OnOtherSettings, OtherSettings, discard_where_allowed, require_same_settings
from runtime.files import InputError, array_sha256, file_sha256, read_json, unwritable, write_json
from runtime.noise import seed_pair
from runtime.progress import progress
from runtime.provenance import provenance, settings
from runtime.stop import Stop, StoppedEarly

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
RADIUS_DIGITS = 6
BOOTSTRAP_SAMPLES = 10_000
# Streams of the run seed: the draw of the points, and the bootstrap.
POINT_STREAM, BOOTSTRAP_STREAM = 0x901275, 0xB0075


@dataclass(frozen=True, kw_only=True)
class CertificationConfig:
    """Settings of a certification run; the defaults are the published ones."""

    target_class: int | Literal["all"] = 8
    """Class whose test points are certified, or 'all'."""
    model: Path
    """Model to certify, a .keras file; it is the base classifier, in inference mode."""
    out: Path
    """Result file, .tsv; .settings.json and .summary.json are written beside it."""
    data_dir: Path
    """Folder of the prepared arrays."""
    sigma: float = 0.5
    """Standard deviation of the smoothing noise, in pixel units of [0, 1]; that of the model's training."""
    points: int = 500
    """Test points per class, drawn at random; all of the class's where it has fewer."""
    n0: int = 100
    """Noisy votes that select the class."""
    n: int = 100_000
    """Fresh noisy votes that bound the class's probability."""
    alpha: float = 0.001
    """Probability that a certificate is wrong, per point."""
    seed: int = 0
    """Seed of the draw of the points and of the noise."""
    batch_size: int = 1_000
    """Noisy images per batch, rounded up to hundreds; changes speed and memory, not the noise."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic inside the model; bfloat16 is faster on GPUs and is another base classifier."""
    shard: str | None = None
    """I/N: certify only part I (from 1) of N of the points; join the parts with merge_shards.py."""
    on_other_settings: OnOtherSettings = "refuse"
    """What to do where a result file made with other settings is in the way: name the difference and
    stop, or delete it and start afresh."""
    max_minutes: float | None = None
    """Stop cleanly after the point at which this many minutes have passed; run again to continue."""


class Row(NamedTuple):
    """One certified point: index in the test set, true and certified class, l2 radius, ..., time spent.

    The radius is kept as the text in the file, rounded down: a float read from it and rounded down again
    could lose its last digit.
    """

    idx: int
    label: int
    predict: int
    radius: str
    correct: int
    time: str

    @property
    def line(self) -> str:
        """The row's text, without the line end."""
        return "\t".join(map(str, self))


def certify_test_points(config: CertificationConfig) -> dict[str, Any]:
    """Certify the configured test points, continuing an earlier run's file; returns the summary.

    Writes ``config.out`` (a row as each point is done), its .settings.json and its .summary.json, and prints
    the summary.

    Raises InputError for bad settings, missing files, or an ``out`` made with other settings; StoppedEarly
    when SIGTERM, Ctrl-C or max_minutes ended the run, its rows kept.
    """
    require_vote_settings(config.n0, config.n, config.alpha)
    if config.seed < 0:
        raise InputError(f"seed must not be negative, got {config.seed}")
    _check_out(config.out)
    shard = _parse_shard(config.shard)
    with Stop(config.max_minutes) as stop:
        dataset = load_dataset(config.data_dir)
        model = with_precision(load_model(config.model, dataset.image_shape), config.precision)
        counter = VoteCounter(
            model, dataset.num_classes, dataset.image_shape, config.sigma, config.batch_size
        )
        truth = labels(dataset.y_test)
        points = draw_points(truth, dataset.num_classes, config.target_class, config.points, config.seed)
        points = points[shard[0] - 1 :: shard[1]]
        if not len(points):
            raise InputError(f"shard {config.shard} holds no points; use fewer shards")
        record = {
            "settings": _what_determines_the_rows(config, dataset),
            "points": points.tolist(),
            "provenance": provenance(config),
        }
        _warn_of_another_sigma(config)
        try:
            rows = _resume(config.out, record)
        except OtherSettings as other:
            discard_where_allowed(other, config.on_other_settings, config.out)
            rows = _resume(config.out, record)
        if rows:
            print(f"{config.out}: continuing after {len(rows)} of {len(points)} points")
        _certify_rest(config, counter, dataset.x_test, truth, points[len(rows) :], stop)
    return finish(config.out)


def draw_points(
    truth: np.ndarray, num_classes: int, target_class: int | Literal["all"], points: int, seed: int
) -> np.ndarray:
    """Sorted test-set indices, int64, of at most ``points`` random points of each certified class.

    truth: class of each test point, int (N,). The draw depends only on seed, class and test set.
    Prints a line where a class has fewer points. Raises InputError for an unknown class or points < 1.
    """
    if points < 1:
        raise InputError(f"points must be at least 1, got {points}")
    if target_class != "all" and not 0 <= target_class < num_classes:
        raise InputError(f"target_class must be 'all' or 0 to {num_classes - 1}, got {target_class}")
    drawn = []
    for wanted in range(num_classes) if target_class == "all" else (target_class,):
        available = np.flatnonzero(truth == wanted)
        if len(available) < points:
            print(f"class {wanted} has {len(available)} test points, fewer than {points}: all are certified")
        generator = np.random.default_rng(seed_pair(seed, wanted, POINT_STREAM))
        drawn.append(generator.permutation(available)[:points])
    return np.sort(np.concatenate(drawn))


def finish(out: Path) -> dict[str, Any]:
    """Summarise a complete result file: write .summary.json beside it, print it, and return it."""
    record = read_json(settings_path(out))
    rows = read_rows(out)
    summary = {**summarise(rows, record["settings"]), "provenance": record["provenance"]}
    write_json(_summary_path(out), summary)
    print(describe(summary))
    return summary


def settings_path(out: Path) -> Path:
    """Where the settings of a result file lie."""
    return Path(out).with_suffix(".settings.json")


def read_rows(path: Path) -> list[Row]:
    """The whole rows of a result file; a last line without its end is left out.

    Raises InputError when the file is missing or is no result file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; certify the model first or mend the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a result file; choose another") from error
    header, *lines = text.split("\n")[:-1] or [""]
    if header != "\t".join(COLUMNS):
        raise InputError(f"{path}: the first line is not {' '.join(COLUMNS)}; choose another file")
    return [_parse_row(path, number, line) for number, line in enumerate(lines, start=2)]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a result file with its header, over what is there."""
    _write(path, "w", "\n".join(["\t".join(COLUMNS), *(row.line for row in rows)]) + "\n")


def summarise(rows: Sequence[Row], what: dict[str, Any]) -> dict[str, Any]:
    """Average certified radius, certified accuracies and their point set, from a complete file's rows.

    what: the settings stored beside the rows. Radii are in pixel units (l2). The interval of the ACR is a
    percentile bootstrap over the points. With several classes every number is also given per class.
    """
    sigma, ceiling = what["sigma"], radius_ceiling(what["sigma"], what["n"], what["alpha"])
    saturated = _share(float(row.radius) >= float(round_down(ceiling, RADIUS_DIGITS)) > 0 for row in rows)
    classes = sorted({row.label for row in rows})
    seconds = [_seconds(row.time) for row in rows]
    return {
        "point_set": {
            **{name: what[name] for name in ("dataset", "split", "target_class", "seed")},
            "count": len(rows),
            **{name: what[name] for name in ("n0", "n", "alpha", "sigma", "precision", "shard")},
        },
        **_accuracies(rows, sigma, what["seed"]),
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
                str(label): _accuracies([row for row in rows if row.label == label], sigma, what["seed"])
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
        f"alpha {points['alpha']}, {points['precision']}{shard}",
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


def merge(shards: Sequence[Path], out: Path) -> dict[str, Any]:
    """Join the result files of all shards of one run into the file of the whole run; returns the summary.

    Raises InputError when the shards differ in any other setting, overlap, are incomplete, or one is missing.
    """
    _check_out(out)
    if out in shards:
        raise InputError(f"{out}: is one of the shards; choose another output")
    records = [read_json(settings_path(path)) for path in shards]
    for path, record in zip(shards, records, strict=True):
        if record["settings"]["shard"] is None:
            raise InputError(f"{path}: is a whole run, not a shard; nothing to merge")
    total = _parse_shard(records[0]["settings"]["shard"])[1]
    rows: list[Row] = []
    found: dict[str, Path] = {}
    for path, record in zip(shards, records, strict=True):
        shard = record["settings"]["shard"]
        if _parse_shard(shard)[1] != total:
            raise InputError(
                f"{path}: is shard {shard}, {shards[0]} is one of {total}; merge one run's shards"
            )
        if shard in found:
            raise InputError(f"{path}: is shard {shard}, as is {found[shard]}; name every shard once")
        found[shard] = path
        whole = {**record["settings"], "shard": None}
        require_same_settings(path, whole, {**records[0]["settings"], "shard": None})
        part = read_rows(path)
        if [row.idx for row in part] != record["points"]:
            raise InputError(
                f"{path}: has {len(part)} of {len(record['points'])} points; run its certification again to "
                "finish it"
            )
        rows += part
    missing = [f"{i}/{total}" for i in range(1, total + 1) if f"{i}/{total}" not in found]
    if missing:
        raise InputError(f"shard {', '.join(missing)} is missing; name the files of all {total} shards")
    rows.sort()
    if out.exists() and [row.line for row in read_rows(out)] != [row.line for row in rows]:
        raise InputError(f"{out}: exists with other rows; choose another output")
    record = {
        "settings": {**records[0]["settings"], "shard": None},
        "points": [row.idx for row in rows],
        "provenance": {**records[0]["provenance"], "merged_from": [str(path) for path in shards]},
    }
    write_json(settings_path(out), record)
    write_rows(out, rows)
    return finish(out)


def _certify_rest(
    config: CertificationConfig,
    counter: VoteCounter,
    images: np.ndarray,
    truth: np.ndarray,
    points: np.ndarray,
    stop: Stop,
) -> None:
    for done, index in enumerate(progress(points, desc=config.out.stem, unit="point")):
        if stop.reason:
            raise StoppedEarly(f"{stop.reason}; {len(points) - done} points are left, {config.out} is kept")
        start = time.perf_counter()
        prediction, radius = certify(
            counter,
            images[index],
            int(index),
            n0=config.n0,
            n=config.n,
            alpha=config.alpha,
            seed=config.seed,
        )
        spent = datetime.timedelta(seconds=time.perf_counter() - start)
        label = int(truth[index])
        row = Row(
            int(index),
            label,
            prediction,
            round_down(radius, RADIUS_DIGITS),
            int(prediction == label),
            str(spent),
        )
        _write(config.out, "a", row.line + "\n")


def _warn_of_another_sigma(config: CertificationConfig) -> None:
    """Say so where the model's training record names another sigma: the protocol wants them equal."""
    record = config.model.with_suffix(".json")
    trained = read_json(record).get("config", {}).get("sigma") if record.is_file() else None
    if trained is not None and trained != config.sigma:
        print(
            f"note: {config.model.name} was trained with sigma {trained}, it is certified with {config.sigma}"
        )


def _what_determines_the_rows(config: CertificationConfig, dataset: Dataset) -> dict[str, Any]:
    """The settings that two runs must share for their rows to agree in everything but the time."""
    same = ("target_class", "sigma", "points", "n0", "n", "alpha", "seed", "precision", "shard")
    return {
        "dataset": dataset.label,
        "split": "test",
        "test_sha256": array_sha256(dataset.x_test) + array_sha256(dataset.y_test),
        "model_sha256": file_sha256(config.model),
        # Each backend has its own random numbers.
        "backend": keras.backend.backend(),
        **{name: value for name, value in settings(config).items() if name in same},
    }


def _resume(out: Path, record: dict[str, Any]) -> list[Row]:
    """The rows that an earlier run of the same settings left, its cut-off last line removed from the file.

    Starts the files where there are none. Raises InputError where they belong to another run.
    """
    stored = settings_path(out)
    if not out.exists():
        write_json(stored, record)
        _summary_path(out).unlink(missing_ok=True)  # of an earlier run whose rows are gone
        write_rows(out, [])
        return []
    if not stored.exists():
        raise OtherSettings(
            f"{out}: exists without {stored.name}, which would say how; choose another output"
        )
    require_same_settings(out, read_json(stored)["settings"], record["settings"])
    content = out.read_bytes()
    whole = content.rfind(b"\n") + 1
    if not whole:
        write_rows(out, [])
    elif whole < len(content):
        try:
            os.truncate(out, whole)
        except OSError as error:
            raise unwritable(out, error) from error
    rows = read_rows(out)
    if [row.idx for row in rows] != record["points"][: len(rows)]:
        raise InputError(f"{out}: its rows are not the first points of this run; choose another output")
    return rows


def _write(path: Path, mode: Literal["w", "a"], text: str) -> None:
    try:
        with path.open(mode, encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise unwritable(path, error) from error


def _check_out(out: Path) -> None:
    if out.suffix != ".tsv":
        raise InputError(f"{out}: the name of the result file ends in .tsv; rename it")


def _summary_path(out: Path) -> Path:
    return Path(out).with_suffix(".summary.json")


def _parse_shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    part, _, total = text.partition("/")
    if not (part.isdecimal() and total.isdecimal() and 1 <= int(part) <= int(total)):
        raise InputError(f"shard must be I/N with 1 <= I <= N, got {text!r}")
    return int(part), int(total)


def _parse_row(path: Path, number: int, line: str) -> Row:
    try:
        idx, label, predict, radius, correct, spent = line.split("\t")
        float(radius)
        _seconds(spent)
        return Row(int(idx), int(label), int(predict), radius, int(correct), spent)
    except ValueError as error:
        raise InputError(f"{path}: line {number} is damaged; delete the file to start again") from error


def _seconds(time_column: str) -> float:
    """Seconds of a duration written h:mm:ss.ffffff, possibly after '1 day, '."""
    days, _, clock = time_column.rpartition(", ")
    hours, minutes, seconds = clock.split(":")
    return (
        (86_400 * int(days.split()[0]) if days else 0)
        + 3_600 * int(hours)
        + 60 * int(minutes)
        + float(seconds)
    )


def _accuracies(rows: Sequence[Row], sigma: float, seed: int) -> dict[str, Any]:
    radii = np.array(
        [float(row.radius) if row.correct else -1.0 for row in rows]
    )  # -1: certified at no radius
    certified = np.maximum(radii, 0.0)
    steps = [0.25 * i for i in range(int(4 * sigma / 0.25) + 1)]
    curve = np.linspace(0, 4 * sigma, 201)
    generator = np.random.default_rng(seed_pair(seed, len(rows), BOOTSTRAP_STREAM))
    draws = generator.integers(len(rows), size=(BOOTSTRAP_SAMPLES, len(rows)), dtype=np.int32)
    return {
        "count": len(rows),
        "acr": float(certified.mean()),
        "acr_ci95": np.quantile(certified[draws].mean(axis=1), (0.025, 0.975)).tolist(),
        "approximate_certified_accuracy": _share(radii >= 0),
        "abstain_rate": _share(row.predict == ABSTAIN for row in rows),
        "certified_accuracy": {f"{step:.2f}": _share(radii >= step) for step in steps},
        "curve": {"radius": curve.tolist(), "accuracy": [_share(radii >= radius) for radius in curve]},
    }


def _share(flags: Any) -> float:
    return float(np.mean(list(flags)))
