"""Certify test points of a saved model: one TSV row per point, and a summary; restartable and shardable.

The protocol is that of the poisoning paper (CVPR 2021, section 4): randomly drawn test points of the target
class, n0 = 100, n = 100,000, alpha = 0.001, sigma of certification = sigma of training.
"""

import datetime
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from data.datasets import labels, load_dataset, require_sigma
from models.saving import load_model, with_precision
from randomized_smoothing_certification.certificate_file import (
    NOISE_OF_SEED,
    NOISE_OF_SEED_AND_IMAGES,
    OLDER_SETTINGS,
    RADIUS_DIGITS,
    OwnRow,
    Point,
    as_text,
    header_of,
    read_certificate_record,
    read_own_points,
    require_unchanged,
    summary_path,
)
from randomized_smoothing_certification.certificate_summary import describe, summarise
from randomized_smoothing_certification.clean_accuracy import clean_accuracy
from randomized_smoothing_certification.core import (
    ALPHA,
    N0,
    N,
    certify,
    noise_seed,
    require_radii_above_0,
    require_vote_settings,
    round_down,
    vote_seed,
)
from randomized_smoothing_certification.fixed_radii import decide, require_radii
from randomized_smoothing_certification.fixed_radii_file import (
    HEADER,
    DecidedPoint,
    describe_decisions,
    read_own_decisions,
    row_of,
    summarise_decisions,
)
from randomized_smoothing_certification.grid_noise import grid_of
from randomized_smoothing_certification.votes import VoteCounter
from runtime.checkpoints import require_same_settings
from runtime.checks import require_place, shortened
from runtime.files import (
    InputError,
    array_sha256,
    file_sha256,
    read_json,
    read_record,
    remove,
    remove_leftovers,
    require_no_folder,
    write_json,
    write_text,
)
from runtime.lock import Lock
from runtime.long_run import LineByLine, RunControls, identity, require_not_negative, settings_path
from runtime.noise import Stream, seed_pair
from runtime.provenance import provenance
from runtime.stop import Stop

LARGEST_BATCH = 100_000
"""Noisy images in a batch; the compiled loop grows with it."""


@dataclass(frozen=True, kw_only=True)
class CertificationConfig(RunControls):
    """Settings of a certification run; the defaults are the published ones."""

    more_controls: ClassVar[frozenset[str]] = frozenset({"model", "out", "batch_size"})

    target_class: int | Literal["all"] = 8
    """Class whose test points are certified, or 'all'."""
    model: Path
    """Model to certify, a .keras file; it is the base classifier, in inference mode."""
    out: Path
    """Result file, .tsv; .settings.json and .summary.json are written beside it."""
    sigma: float = 0.5
    """Standard deviation of the smoothing noise, in pixel units of [0, 1]; that of the model's training."""
    split: Literal["test", "val"] = "test"
    """Certify test images, or validation images: what is chosen between attacks or settings is chosen on the latter."""
    points: int = 500
    """Test points per class, drawn at random; all of the class's where it has fewer."""
    n0: int = N0
    """Noisy votes that select the class."""
    n: int = N
    """Fresh noisy votes that bound the class's probability."""
    alpha: float = ALPHA
    """Probability that a certificate is wrong, per point."""
    seed: int = 0
    """Seed of the draw of the points and, together with the images, of the noise: validation and test images never
    see the same."""
    shared_noise: bool = True
    """The same noise for every point, so that points and victims are compared on equal terms; each certificate is as
    valid as with noise of its own (--no-shared-noise, which continues files of older runs)."""
    acr_only: bool = False
    """No further votes for points whose selected class is wrong: they count 0 in the ACR whatever follows, and -1,
    abstained, in the file. Certified accuracies stay as they are; how many points abstain is no longer known."""
    radius_loss: float = 0.0
    """Above 0 the n0 votes, of which there should then be about 1,000, also choose how many of the n a point gets: the
    fewest that are expected to cost it at most this much radius. Points of smaller radii abstain. 0: n for each."""
    radii: tuple[float, ...] = ()
    """Certified accuracy at these radii in place of certified radii: votes of a point end as soon as all are decided,
    n is the most that it gets. Alpha is for all radii together. The file is of another form and holds no ACR."""
    batch_size: int = 1_000
    """Noisy images per batch, rounded up to hundreds; changes speed and memory, not the noise."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic inside the model; bfloat16 is faster on GPUs and is another base classifier."""
    noise: Literal["float32", "grid"] = "float32"
    """Noise of the backend, or noise on the grid of pixel values that is exact in floating point: its certificates
    hold for any classifier, also one that reads the last bits of its input. See grid_noise.py."""
    shard: str | None = None
    """I/N: certify only part I (from 1) of N of the points; join the parts with merge_shards.py."""

    def check(self) -> None:
        """Raise InputError on a value that cannot work."""
        require_sigma(self.sigma)
        require_certificate_settings(self, self.sigma)
        require_not_negative(self, "seed")
        if self.radii and (self.acr_only or self.radius_loss):
            raise InputError("radii: there is no ACR at fixed radii; leave out acr_only and radius_loss")


def certify_test_points(config: CertificationConfig) -> dict[str, Any]:
    """Certify the configured test points, continuing an earlier run's file; returns the summary.

    What each certificate guarantees is said in ``core.certify``, and in ``fixed_radii.decide`` for given radii.

    Writes ``config.out`` (a row as each point is done), its .settings.json and its .summary.json, and prints
    the summary. Nothing is written before the first point is certified.

    Raises InputError for bad settings, missing files, an ``out`` made with other settings, with rows that this run
    cannot have written, or that another run is writing; StoppedEarly when SIGTERM, Ctrl-C or max_minutes ended the
    run, its rows kept.
    """
    config.check()
    _check_out(config.out)
    shard = _parse_shard(config.shard)
    with Stop(config.max_minutes) as stop:
        dataset = load_dataset(config.data_dir)
        model = with_precision(load_model(config.model, dataset.image_shape), config.precision)
        of_split = {"test": (dataset.x_test, dataset.y_test), "val": (dataset.x_val, dataset.y_val)}
        images, one_hot = of_split[config.split]
        levels = grid_of(images, config.data_dir / f"X_{config.split}.npy") if config.noise == "grid" else None
        counter = VoteCounter(model, dataset.num_classes, dataset.image_shape, config.sigma, config.batch_size, levels)
        truth = labels(one_hot)
        require_radii_above_0(config.n, config.alpha, config.sigma, config.radius_loss, counter.failure_mass)
        if config.radii:
            require_radii(config.radii, config.sigma, config.n, config.alpha, counter.failure_mass)
        points = draw_points(truth, dataset.num_classes, config.target_class, config.points, config.seed)
        points = points[shard[0] - 1 :: shard[1]]
        if not len(points):
            raise InputError(f"shard {config.shard} holds no points; use fewer shards")
        # The hash stands in place of the model's path.
        what = identity(
            config, dataset=dataset.label, noise=counter.noise_record, model_sha256=file_sha256(config.model),
            test_sha256=array_sha256(images) + array_sha256(one_hot), noise_of=NOISE_OF_SEED_AND_IMAGES,
        )  # fmt: skip
        seed = noise_seed(config.seed, what["test_sha256"])
        if _is_of_older_noise(config, what):
            what["noise_of"], seed = NOISE_OF_SEED, config.seed
            print(f"note: {config.out} goes on with the noise that it began with, which depends on the seed alone")
        _check_training_record(config, what["model_sha256"])
        accuracy = clean_accuracy(model, images[points], truth[points], dataset.num_classes, config.sigma)
        record: dict[str, Any] = {
            "settings": what, "points": points.tolist(), "clean_accuracy": accuracy, "provenance": provenance(config),
        }  # fmt: skip
        form = _form_of(what)
        if config.shared_noise:
            counter.keep_noise(vote_seed(seed, None, Stream.VOTES_THAT_SELECT), config.n0)
            counter.keep_noise(vote_seed(seed, None, Stream.VOTES_THAT_BOUND), config.n)

        def certified(index: int) -> str:
            return form.certify(config, counter, images[index], index, int(truth[index]), seed).line

        def rows() -> Sequence[OwnRow]:
            return form.read(config.out, what, points.tolist(), truth, dataset.num_classes)

        summary = summary_path(config.out)
        with LineByLine(config.out, form.header, record, config, stop, summary, OLDER_SETTINGS) as run:
            if done := run.resume():
                record = read_certificate_record(config.out)
                if record["points"] != points.tolist():
                    raise InputError(f"{config.out}: its points are not those of this run; choose another output")
                rows()
                print(f"{config.out}: continuing after {done} of {len(points)} points")
            if done == len(points):
                require_unchanged(config.out)
            run.advance(points.tolist()[done:], certified, unit="point")
            return _finish(config.out, _summary(rows(), record), form)


class _Form(NamedTuple):
    """What a run makes of a point: its line, how the lines are read, and what they amount to."""

    header: str
    certify: Callable[[CertificationConfig, VoteCounter, np.ndarray, int, int, int], OwnRow]
    read: Callable[..., Sequence[Any]]
    summarise: Callable[[Sequence[Any], dict[str, Any]], dict[str, Any]]
    describe: Callable[[dict[str, Any]], str]


def _form_of(settings: dict[str, Any]) -> _Form:
    if settings["radii"]:
        return _Form(HEADER, _decided_point, read_own_decisions, summarise_decisions, describe_decisions)
    return _Form(header_of(settings), _certified_point, read_own_points, summarise, describe)


def _certified_point(
    config: CertificationConfig, counter: VoteCounter, image: np.ndarray, index: int, label: int, seed: int
) -> Point:
    start = time.perf_counter()
    prediction, radius, votes = certify(
        counter, image, None if config.shared_noise else index,
        n0=config.n0, n=config.n, alpha=config.alpha, seed=seed,
        radius_loss=config.radius_loss, only_class=label if config.acr_only else None,
    )  # fmt: skip
    size, spent = round_down(radius, RADIUS_DIGITS), _since(start)
    shown = votes if config.acr_only or config.radius_loss else None
    return Point(index, label, prediction, size, int(prediction == label), spent, shown)


def _decided_point(
    config: CertificationConfig, counter: VoteCounter, image: np.ndarray, index: int, label: int, seed: int
) -> DecidedPoint:
    start = time.perf_counter()
    decision = decide(
        counter, image, None if config.shared_noise else index, config.radii,
        n0=config.n0, n=config.n, alpha=config.alpha, seed=seed, only_class=label,
    )  # fmt: skip
    return row_of(index, label, decision, config.radii, _since(start))


def _since(start: float) -> str:
    return str(datetime.timedelta(seconds=time.perf_counter() - start))


def require_certificate_settings(config: Any, *sigmas: float) -> None:
    """Raise InputError naming the first of points, n0, n, alpha, batch_size and radius_loss that cannot work.

    config: anything that has these. sigmas: the noise levels that are certified with them.
    """
    require_vote_settings(config.n0, config.n, config.alpha)
    if config.points < 1:
        raise InputError(f"points must be at least 1, got {config.points}")
    if not 1 <= config.batch_size <= LARGEST_BATCH:
        raise InputError(f"batch_size must lie between 1 and {LARGEST_BATCH}, got {config.batch_size}")
    if not 0 <= config.radius_loss < np.inf:
        raise InputError(f"radius_loss must not be negative, got {config.radius_loss}")
    for sigma in sigmas:
        require_radii_above_0(config.n, config.alpha, sigma, config.radius_loss)


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
        generator = np.random.default_rng(seed_pair(seed, wanted, Stream.CERTIFIED_POINTS))
        drawn.append(generator.permutation(available)[:points])
    return np.sort(np.concatenate(drawn))


def _summary(points: Sequence[OwnRow], record: dict[str, Any]) -> dict[str, Any]:
    """Of whole certificates, with the hash of their file."""
    form = _form_of(record["settings"])
    digest = hashlib.sha256(as_text(points, form.header).encode()).hexdigest()
    return {**form.summarise(points, record["settings"]), "tsv_sha256": digest, "provenance": record["provenance"]}


def _finish(out: Path, summary: dict[str, Any], form: _Form) -> dict[str, Any]:
    """Write .summary.json beside a whole result file, print it, and return it."""
    write_json(summary_path(out), summary)
    print(form.describe(summary))
    return summary


def merge(shards: Sequence[Path], out: Path) -> dict[str, Any]:
    """Join the result files of all shards of one run into the file of the whole run; returns the summary.

    All is read and checked before anything is written, so that a merge that was killed is done again by the same
    command.

    Raises InputError when the shards differ in any other setting, overlap, are incomplete, one is missing or holds
    rows that its run cannot have written, when ``out`` holds something else, or another run is writing it.
    """
    _check_out(out)
    if out.resolve() in [path.resolve() for path in shards]:
        raise InputError(f"{out}: is one of the shards; choose another output")
    points, record = _joined(shards)
    form, summary = _form_of(record["settings"]), _summary(points, record)
    text = as_text(points, form.header)
    files = out, settings_path(out), summary_path(out)
    require_no_folder(*files)
    with Lock(out):
        remove_leftovers(*files)
        if out.exists():
            if not settings_path(out).exists():
                raise InputError(f"{out}: exists without {settings_path(out).name}; choose another output")
            require_same_settings(out, read_certificate_record(out)["settings"], record["settings"])
            if out.read_bytes() != text.encode():
                raise InputError(f"{out}: exists with other rows; choose another output")
        remove(summary_path(out))
        write_json(settings_path(out), record)
        write_text(out, text)
        return _finish(out, summary, form)


def _joined(shards: Sequence[Path]) -> tuple[list[OwnRow], dict[str, Any]]:
    """Points and record of the whole run."""
    records = [read_certificate_record(path) for path in shards]
    parts = [_parse_shard(record["settings"]["shard"]) for record in records]
    total = parts[0][1]
    points: list[OwnRow] = []
    for path, record, (part, of) in zip(shards, records, parts, strict=True):
        if record["settings"].get("shard") is None:
            raise InputError(f"{path}: is a whole run, not a shard; nothing to merge")
        if of != total:
            raise InputError(f"{path}: is shard {part}/{of}, {shards[0]} is one of {total}; merge one run's shards")
        if parts.count((part, of)) > 1:
            raise InputError(f"{path}: is shard {part}/{of}, as is another file; name every shard once")
        whole, first = ({**one["settings"], "shard": None} for one in (record, records[0]))
        require_same_settings(path, whole, first)
        points_of_shard = _form_of(whole).read(path, whole, record["points"])
        if len(points_of_shard) < len(record["points"]):
            raise InputError(
                f"{path}: has {len(points_of_shard)} of {len(record['points'])} points; run its certification again"
            )
        require_unchanged(path)
        points += points_of_shard
    if missing := [f"{i}/{total}" for i in range(1, total + 1) if (i, total) not in parts]:
        raise InputError(f"shard {', '.join(missing)} is missing; name the files of all {total} shards")
    points.sort(key=lambda point: point.idx)
    indices = [point.idx for point in points]
    for path, record, (part, _) in zip(shards, records, parts, strict=True):
        if record["points"] != indices[part - 1 :: total]:
            raise InputError(f"{path}: its points are not those of shard {part}/{total}; run its certification again")
    record = {
        "settings": {**records[0]["settings"], "shard": None},
        "points": indices,
        "provenance": {**records[0]["provenance"], "merged_from": [str(path) for path in shards]},
    }
    return points, record


def _is_of_older_noise(config: CertificationConfig, what: dict[str, Any]) -> bool:
    """Whether ``config.out`` was begun, before noise depended on the images, by the run that ``what`` identifies.

    Where it is another run's and may be replaced, the new file gets the noise of new files.
    """
    path = settings_path(config.out)
    record = read_json(path) if path.is_file() else None
    found = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(found, dict) or found.get("noise_of", NOISE_OF_SEED) != NOISE_OF_SEED:
        return False
    is_this_run = {**OLDER_SETTINGS, **found} == {**what, "noise_of": NOISE_OF_SEED}
    return is_this_run or config.on_other_settings == "refuse"


def _check_training_record(config: CertificationConfig, model_sha256: str) -> None:
    """Raise InputError where the record beside the model is of another file; say so where its sigma is another one.

    The protocol wants both sigmas equal.
    """
    path = config.model.with_suffix(".json")
    if not path.exists():
        return
    record = read_record(path, config=dict)
    if record.get("sha256", model_sha256) != model_sha256:
        raise InputError(
            f"{config.model}: not the file that {path.name} describes; train it again, or delete that record"
        )
    trained = record["config"].get("sigma")
    if trained is not None and trained != config.sigma:
        print(f"note: {config.model.name} was trained with sigma {trained}, it is certified with {config.sigma}")


def _check_out(out: Path) -> None:
    if out.suffix != ".tsv":
        raise InputError(f"{out}: the name of the result file ends in .tsv; rename it")
    for path in (out, settings_path(out), summary_path(out)):
        require_place("a file to write", path, folder=False)


def _parse_shard(text: Any) -> tuple[int, int]:
    if text is None:
        return 1, 1
    parts = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text) if isinstance(text, str) else None
    if not parts or not 1 <= int(parts[1]) <= int(parts[2]):
        raise InputError(f"shard must be I/N with 1 <= I <= N, got {shortened(text)}")
    return int(parts[1]), int(parts[2])
