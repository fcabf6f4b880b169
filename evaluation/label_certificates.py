"""Certified accuracy against the number of changed training labels: certificates, references, curve, table.

Protocol: Rosenfeld, Winston, Ravikumar, Kolter (ICML 2020, arXiv 2002.03018), section 5. Ridge and q are chosen on
held-out training images. Every stage is kept in the work folder, so that a run that was stopped goes on.
"""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from data.datasets import Dataset, labels, load_dataset
from evaluation.figures import LabelCurve, save_label_curves
from evaluation.training import Training, TrainingConfig
from models.embeddings import EmbeddingName, fit_embedding
from randomized_smoothing_certification.core import ABSTAIN
from randomized_smoothing_certification.label_flipping import (
    Bound,
    KernelVectors,
    LabelFlips,
    certified_accuracy,
    class_scores,
    flip_greedily,
    greedy_flips,
    smooth_least_squares,
)
from randomized_smoothing_certification.training_set_smoothing import Smoothed
from robust_training.standard import StandardLoss
from runtime.checkpoints import load_checkpoint, require_same_settings, save_checkpoint
from runtime.files import InputError, array_sha256, read_json, write_json, write_text
from runtime.progress import progress
from runtime.provenance import project_path, provenance, settings, shown_path
from runtime.stop import Stop, StoppedEarly

TSV_COLUMNS = ("idx", "label", "predict", "flips", "correct")
_BLOCK = 250  # test points whose kernel vectors are held together
_CSV_POINTS = 300  # of a certificate's curve, at most twice as many
_SURROGATE_POINTS = 1000  # test points that the attack on the network looks at
_RANDOM_FLIPS = 200  # stream of randomness


@dataclass(frozen=True, kw_only=True)
class Network:
    """Training of the undefended network."""

    epochs: int = 101
    """Passes over the training data."""
    batch_size: int = 200
    """Images in a batch."""
    learning_rate: float = 1e-3
    """Learning rate of Adam."""
    augment: bool = False
    """Random crop and flip of the training images."""
    batch_norm: Literal["fixed_affine", "proper"] = "fixed_affine"
    """How models with BatchNorm are trained, see evaluation/training.py."""
    architecture: str = "mnist_cnn"
    """Model, see models/registry.py."""


@dataclass(frozen=True, kw_only=True)
class LabelFlippingConfig:
    """Settings of one curve of certified accuracy against changed labels."""

    classes: tuple[int, ...] | None = None
    """Classes to tell apart; all of the dataset's when not given."""
    features: EmbeddingName = "raw"
    """Embedding under least squares, fitted on training images without labels: raw pixels, whitened principal
    components, random Fourier features, or k-means patches."""
    q: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    """Probabilities of flipping a label, one curve each."""
    ridge: float | None = None
    """Multiple of the identity in least squares (lambda); chosen on held-out training images when not given."""
    ridges: tuple[float, ...] = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8)
    """Candidates for ridge."""
    bound: Bound = "tight"
    """How many flips a probability certifies: tight (Neyman-Pearson) or closed_form (published). It draws the curves,
    fills the per-point files and chooses ridge and q; tables and curve files hold both."""
    at: float = 0.04
    """Share of changed training labels at which ridge and q are chosen and the table is made."""
    points: int | None = None
    """Test points to certify, drawn at random; all when not given."""
    held_out: int = 1000
    """Held-out training images that choose ridge and q; at most those of the validation set."""
    network_shares: tuple[float, ...] = (0.0, 0.01, 0.04, 0.16)
    """Shares of changed labels at which an undefended network is trained, on random changes, under a greedy attack on
    all test points at once, and under one on each of a few; none leaves it out."""
    network_points: int = 10
    """Test points for which the network is attacked one by one, a training for each and every share; 0 for none."""
    network: Network = Network()
    """Constants of the network's training."""
    seed: int = 0
    """Seed of the draws of points, embedding, random flips and network."""
    data_dir: Path
    """Folder of the prepared arrays."""
    work_dir: Path | None = None
    """Folder of per-point results and of what a stopped run keeps; runs/<name> when not given."""
    results_dir: Path = project_path("results")
    """Curve, figure and settings go to a folder <name> in here."""
    max_minutes: float | None = None
    """Stop cleanly after this long; the same command continues."""

    def check(self, num_classes: int) -> None:
        """Raise InputError on a value that cannot work."""
        if not self.q:
            raise InputError("q must hold at least one probability")
        for q in self.q:
            LabelFlips(q, 2, self.bound)
        if self.ridge is None and not self.ridges:
            raise InputError("ridges must hold at least one candidate when ridge is not given")
        if not 0 < self.at < 1:
            raise InputError(f"at must lie strictly between 0 and 1, got {self.at}")
        for share in self.network_shares:
            if not 0 <= share <= 1:
                raise InputError(f"network_shares must lie between 0 and 1, got {share}")
        if self.network_points < 0:
            raise InputError(f"network_points must not be negative, got {self.network_points}")
        for name in ("points", "held_out"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if self.seed < 0:
            raise InputError(f"seed must not be negative, got {self.seed}")
        chosen = self.classes or ()
        if self.classes is not None and (len(set(chosen)) != len(chosen) or len(chosen) < 2):
            raise InputError(f"classes must be at least two different ones, got {chosen}")
        for number in chosen:
            if not 0 <= number < num_classes:
                raise InputError(f"class {number} is out of range; choose from 0 to {num_classes - 1}")


class Points(NamedTuple):
    """What the study keeps of the test points: smoothed classifiers, one row per q, and plain ridge regression."""

    prediction: np.ndarray  # int64 (Q, m)
    log_eps: np.ndarray  # float64 (Q, m)
    ridge_prediction: np.ndarray  # int64 (m,)
    ridge_flips: np.ndarray  # int64 (m,)


def certify_labels(config: LabelFlippingConfig, name: str, title: str) -> list[LabelCurve]:
    """Certify test points against changed labels, with the references, and write curve, figure and table.

    name: of the output folders, without spaces; the features and the bound are added. title: of the figure.
    Returns every curve.

    Raises InputError on bad settings or data, StoppedEarly when asked to stop.
    """
    dataset = load_dataset(config.data_dir)
    config.check(dataset.num_classes)
    train, held_out, test = _of_classes(dataset, config)
    everything = _Images(*(np.concatenate(pair) for pair in zip(train, held_out, strict=True)))
    if config.points is not None and config.points < len(test.x):
        drawn = np.sort(np.random.default_rng([config.seed, 0]).permutation(len(test.x))[: config.points])
        test = _Images(*(array[drawn] for array in test))
    name = f"label_flipping_{name}_{config.features}_{config.bound}"
    work_dir = config.work_dir or project_path("runs") / name
    kept = _Kept(work_dir, _identity(config, dataset))

    with Stop(config.max_minutes) as stop:
        choice = _choose(config, train, held_out, kept, stop)
        embed = fit_embedding(config.features, everything.x, config.seed)
        features, test_features = embed(everything.x), embed(test.x)
        kernel = KernelVectors(features, choice["ridge"])
        points = _certify_points(config, kernel, everything, test, test_features, kept, stop)
        networks = _networks(config, dataset, kernel, everything, test, test_features, kept, stop)

    curves = _curves(config, points, test.y, everything) + networks
    _write_points(config, points, test, everything, work_dir)
    folder = config.results_dir / name
    _write_curves(folder / "curve.csv", curves, len(everything.y))
    other_bound = {"tight": "closed_form", "closed_form": "tight"}[config.bound]
    drawn_curves = {curve_label(curve): curve for curve in curves if curve.name != other_bound}
    save_label_curves(folder / "certified_accuracy.png", drawn_curves, len(everything.y), title)
    table = _table(config, title, choice, curves, features.shape, len(test.y), len(held_out.y))
    write_text(folder / "table.txt", table + "\n")
    write_json(folder / "settings.json", {**provenance(config), "choice": choice})
    print(f"{table}\n\n{shown_path(folder)}: curve, figure and settings; per point: {shown_path(work_dir)}")
    return curves


class _Images(NamedTuple):
    x: np.ndarray  # (n, H, W, C)
    y: np.ndarray  # int64 (n,), numbers of the chosen classes: 0, 1, ...
    numbers: np.ndarray  # int64 (n,), of the images in their set


def _of_classes(dataset: Dataset, config: LabelFlippingConfig) -> tuple[_Images, _Images, _Images]:
    """Training, held-out and test images of the chosen classes, labelled by their place among these."""
    classes = np.array(config.classes or range(dataset.num_classes))
    sets = []
    for split in ("train", "val", "test"):
        x, y = getattr(dataset, f"x_{split}"), labels(getattr(dataset, f"y_{split}"))
        index = np.flatnonzero(np.isin(y, classes))
        chosen = np.argmax(y[index, None] == classes, axis=1)
        missing = set(range(len(classes))) - set(chosen.tolist())
        if missing:
            raise InputError(
                f"{config.data_dir}: the {split} images have none of class {classes[min(missing)]}; "
                "choose other classes or prepare the data again"
            )
        sets.append(_Images(x[index], chosen, index))
    return sets[0], sets[1], sets[2]


def _identity(config: LabelFlippingConfig, dataset: Dataset) -> dict[str, Any]:
    free = ("data_dir", "work_dir", "results_dir", "max_minutes")
    own = {name: value for name, value in settings(config).items() if name not in free}
    return {**own, "x_train": array_sha256(dataset.x_train)}


class _Kept:
    """Results of stages in a folder, each with the settings that it belongs to."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, identity

    def get(self, name: str, make: Callable[[], Any], stop: Stop) -> Any:
        """The result of an earlier run with the same settings, or else a new one, which is kept.

        Raises StoppedEarly after a new one when asked to stop.
        """
        path = self.folder / name
        if path.is_file():
            record = read_json(path)
            require_same_settings(path, record.get("settings", {}), self.identity)
            return record["result"]
        result = make()
        write_json(path, {"settings": self.identity, "result": result})
        if stop.reason:
            raise StoppedEarly(f"{stop.reason} after {path.stem}")
        return result


def _choose(
    config: LabelFlippingConfig, train: _Images, held_out: _Images, kept: _Kept, stop: Stop
) -> dict[str, Any]:
    """Ridge and q of the largest certified accuracy on held-out training images, with all that was tried.

    Where they tie, as at 0, the one with more certified flips in the mean.
    """
    drawn = np.random.default_rng([config.seed, 1]).permutation(len(held_out.x))[: config.held_out]
    embed = fit_embedding(config.features, train.x, config.seed)
    features, held_out_features = embed(train.x), embed(held_out.x[drawn])

    def with_ridge(ridge: float) -> list[dict[str, float]]:
        kernel = KernelVectors(features, ridge)
        blocks = [
            _smoothed(config, kernel(part), train.y, _classes(train)) for part in _blocks(held_out_features)
        ]
        prediction, log_eps = (np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True))
        return [
            {"ridge": ridge, "q": q, **_held_out_scores(config, q, Smoothed(*of_q), train, held_out.y[drawn])}
            for q, *of_q in zip(config.q, prediction, log_eps, strict=True)
        ]

    tried = []
    ridges = config.ridges if config.ridge is None else (config.ridge,)
    for ridge in progress(ridges, desc="choosing ridge and q", unit="ridge"):
        tried += kept.get(f"ridge_{ridge:g}.json", partial(with_ridge, ridge), stop)
    best = max(tried, key=lambda one: (one["certified_accuracy"], one["mean_flips"]))
    return {"ridge": best["ridge"], "q": best["q"], "held_out": len(drawn), "tried": tried}


def _held_out_scores(
    config: LabelFlippingConfig, q: float, smoothed: Smoothed, train: _Images, y: np.ndarray
) -> dict[str, float]:
    flips = smoothed.certified(LabelFlips(q, _classes(train), config.bound), len(train.y))
    correct = smoothed.prediction == y
    at = np.array([round(config.at * len(train.y))])
    return {
        "certified_accuracy": float(certified_accuracy(flips, correct, at)[0]),
        "mean_flips": float(np.mean(flips * correct)),
        "accuracy": float(np.mean(correct)),
    }


def _classes(images: _Images) -> int:
    return int(images.y.max()) + 1


def _blocks(features: np.ndarray, start: int = 0) -> Iterator[np.ndarray]:
    return (features[i : i + _BLOCK] for i in range(start, len(features), _BLOCK))


def _smoothed(config: LabelFlippingConfig, alpha: np.ndarray, y: np.ndarray, classes: int) -> Smoothed:
    """The smoothed classifiers of every q, arrays of shape (Q, points)."""
    of_q = [smooth_least_squares(alpha, y, LabelFlips(q, classes)) for q in config.q]
    return Smoothed(np.stack([one.prediction for one in of_q]), np.stack([one.log_eps for one in of_q]))


def _certify_points(
    config: LabelFlippingConfig, kernel: KernelVectors, train: _Images, test: _Images,
    test_features: np.ndarray, kept: _Kept, stop: Stop,
) -> Points:  # fmt: skip
    """Smoothed and plain ridge classifiers at every test point, block by block."""
    checkpoint = kept.folder / "points.npz"
    count, rows = len(test.y), len(config.q)
    points = Points(
        np.zeros((rows, count), np.int64), np.zeros((rows, count)),
        np.zeros(count, np.int64), np.zeros(count, np.int64),
    )  # fmt: skip
    done = 0
    if checkpoint.is_file():
        points, record = load_checkpoint(checkpoint, like=points, same=kept.identity)
        points, done = Points(*(array.copy() for array in points)), record["done"]
    classes = _classes(train)
    with progress(total=count, initial=done, desc="certifying", unit="point") as bar:
        for part in _blocks(test_features, done):
            alpha = kernel(part)
            block = slice(done, done + len(part))
            smoothed = _smoothed(config, alpha, train.y, classes)
            points.prediction[:, block], points.log_eps[:, block] = smoothed
            points.ridge_prediction[block], points.ridge_flips[block] = greedy_flips(alpha, train.y, classes)
            done += len(part)
            bar.update(len(part))
            save_checkpoint(checkpoint, points, {"settings": kept.identity, "done": done})
            if stop.reason:
                raise StoppedEarly(f"{stop.reason} after {done} of {count} test points")
    return points


def _networks(
    config: LabelFlippingConfig, dataset: Dataset, kernel: KernelVectors, train: _Images, test: _Images,
    test_features: np.ndarray, kept: _Kept, stop: Stop,
) -> list[LabelCurve]:  # fmt: skip
    """Test accuracy of an undefended network trained on labels that were changed at random or by an attack.

    'greedy' attacks all test points with the same changes, 'pointwise' gives each of a few test points changes of its
    own, as the certificates allow.
    """
    if not config.network_shares:
        return []
    drawn = np.random.default_rng([config.seed, 2]).permutation(len(test.y))
    surrogate, single = drawn[:_SURROGATE_POINTS], drawn[: config.network_points]
    alpha = kernel(test_features[surrogate])
    rivals = _rivals(class_scores(alpha, train.y, _classes(train)), test.y[surrogate])
    flips = np.array([round(share * len(train.y)) for share in config.network_shares])

    def accuracy(attack: str, count: int) -> float:
        def trained(name: str, y: np.ndarray, points: _Images) -> float:
            work = partial(_train_network, config, dataset, train, y, points, stop)
            trainings.update()
            return kept.get(f"network_{name}.json", work, stop)["accuracy"]

        if not count:
            return trained("clean", train.y, test)
        if attack == "random":
            y = _change_at_random(train.y, _classes(train), count, config.seed)
            return trained(f"random_{count}", y, test)
        if attack == "greedy":
            y = flip_greedily(alpha, train.y, test.y[surrogate], _classes(train), count)
            return trained(f"greedy_{count}", y, test)
        return float(
            np.mean(
                [
                    trained(
                        f"pointwise_{count}_{number}",
                        _flip_nearest(train, test.x[number], test.y[number], rivals[place], count),
                        _Images(*(array[number : number + 1] for array in test)),
                    )
                    for place, number in enumerate(single)
                ]
            )
        )

    attacks = ("random", "greedy", "pointwise")[: 3 if len(single) else 2]
    with progress(
        total=len(flips) * (2 + len(single)), desc="undefended network", unit="training"
    ) as trainings:
        return [
            LabelCurve(
                f"network_{attack}",
                None,
                flips,
                np.array([accuracy(attack, count) for count in flips.tolist()]),
            )
            for attack in attacks
        ]


def _rivals(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The class other than y of the largest score, for each row."""
    return np.argmax(np.where(np.eye(scores.shape[1], dtype=bool)[y], -np.inf, scores), axis=1)


def _change_at_random(y: np.ndarray, classes: int, count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng([seed, _RANDOM_FLIPS])
    chosen = random.permutation(len(y))[:count]
    y = y.copy()
    y[chosen] = (y[chosen] + random.integers(1, classes, size=count)) % classes
    return y


def _flip_nearest(train: _Images, image: np.ndarray, label: int, rival: int, count: int) -> np.ndarray:
    """Training labels with the ``count`` images nearest to ``image`` (l2, pixels) of its class given to the rival."""
    own = np.flatnonzero(train.y == label)
    nearest = np.argsort(np.square(train.x[own] - image).sum(axis=(1, 2, 3)), kind="stable")[:count]
    y = train.y.copy()
    y[own[nearest]] = rival
    return y


def _train_network(
    config: LabelFlippingConfig, dataset: Dataset, train: _Images, y: np.ndarray, test: _Images, stop: Stop
) -> dict[str, float]:
    """Accuracy on the test points of a network trained on the labels y without any defence."""
    one_hot = np.eye(_classes(train), dtype=np.float32)
    data = replace(dataset, x_train=train.x, y_train=one_hot[y], x_test=test.x, y_test=one_hot[test.y])
    network = TrainingConfig(
        **asdict(config.network), loss=StandardLoss(), target_class=int(test.y[0]),
        seed=config.seed, data_dir=config.data_dir,
    )  # fmt: skip
    network.check()
    training = Training(network, data)
    state = training.initial_state()
    for number in range(training.total_steps):
        state, _ = training.step(state, number)
        if stop.reason:
            raise StoppedEarly(f"{stop.reason} in a training of the network, which starts again")
    return training.evaluate(state)


def _curves(config: LabelFlippingConfig, points: Points, y: np.ndarray, train: _Images) -> list[LabelCurve]:
    """Certified accuracy at every number of flips at which it falls."""
    classes, size = _classes(train), len(train.y)
    curves = []
    for bound in ("tight", "closed_form"):
        for number, q in enumerate(config.q):
            smoothed = Smoothed(points.prediction[number], points.log_eps[number])
            flips = smoothed.certified(LabelFlips(q, classes, bound), size)
            curves.append(_falling(bound, q, flips, smoothed.prediction == y))
    curves.append(_falling("ridge", None, points.ridge_flips, points.ridge_prediction == y))
    return curves


def _falling(name: str, q: float | None, flips: np.ndarray, correct: np.ndarray) -> LabelCurve:
    at = np.unique(np.concatenate([[0], flips[correct], flips[correct] + 1]))
    return LabelCurve(name, q, at, certified_accuracy(flips, correct, at))


def value_at(curve: LabelCurve, flips: int) -> float:
    """Accuracy of a curve at a number of changed labels: that of a certificate falls in steps, others are lines."""
    if curve.name.startswith("network"):
        return float(np.interp(flips, curve.flips, curve.accuracy))
    place = int(np.searchsorted(curve.flips, flips, side="left"))
    return float(curve.accuracy[place]) if place < len(curve.flips) else 0.0


def _write_points(
    config: LabelFlippingConfig, points: Points, test: _Images, train: _Images, folder: Path
) -> None:
    """One TSV per q, in the field's columns; idx counts the dataset's test images, classes by their own numbers."""
    classes, size = _classes(train), len(train.y)
    names = np.array([*(config.classes or range(classes)), ABSTAIN])  # the last for ABSTAIN, which is -1
    for number, q in enumerate(config.q):
        smoothed = Smoothed(points.prediction[number], points.log_eps[number])
        flips = smoothed.certified(LabelFlips(q, classes, config.bound), size)
        columns = (
            test.numbers, names[test.y], names[smoothed.prediction], flips, (smoothed.prediction == test.y) * 1,
        )  # fmt: skip
        lines = ["\t".join(TSV_COLUMNS)]
        lines += ["\t".join(str(value) for value in row) for row in zip(*columns, strict=True)]
        write_text(folder / f"q_{q:g}.tsv", "\n".join(lines) + "\n")


def _write_curves(path: Path, curves: list[LabelCurve], size: int) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("curve", "q", "flips", "share", "accuracy"))
    # One grid for all certificates: exact at each of its numbers of flips.
    most = max(int(curve.flips.max()) for curve in curves if not curve.name.startswith("network"))
    grid = range(0, most + 1, max(1, most // _CSV_POINTS))
    for curve in curves:
        q = "" if curve.q is None else curve.q
        for flips in curve.flips.tolist() if curve.name.startswith("network") else grid:
            writer.writerow((curve.name, q, flips, f"{flips / size:.5f}", f"{value_at(curve, flips):.4f}"))
    write_text(path, buffer.getvalue())


def _table(
    config: LabelFlippingConfig, title: str, choice: dict[str, Any], curves: list[LabelCurve], shape: tuple[int, ...],
    test_points: int, held_out: int,
) -> str:  # fmt: skip
    size, flips = shape[0], round(config.at * shape[0])
    how = "given" if config.ridge is not None else f"chosen on {choice['held_out']} held-out training images"
    lines = [
        f"{title}: {size:,} training points ({held_out:,} of them held out for choices), {test_points:,} test points",
        f"features {config.features} ({shape[1]}), ridge {choice['ridge']:g} ({how}), q {choice['q']:g} best there",
        "",
        f"{'classifier':28s}  {'without attack':>14s}  {f'{flips} flips ({config.at:.1%})':>18s}",
        f"{'-' * 28}  {'-' * 14}  {'-' * 18}",
    ]
    for curve in curves:
        label = curve_label(curve)
        lines.append(f"{label:28s}  {value_at(curve, 0):14.3f}  {value_at(curve, flips):18.3f}")
    return "\n".join(lines)


def curve_label(curve: LabelCurve) -> str:
    """A curve's name for people."""
    name = {
        "tight": "smoothed, tight", "closed_form": "smoothed, closed form", "ridge": "plain ridge, exact",
        "network_random": "network, random flips", "network_greedy": "network, greedy flips",
        "network_pointwise": "network, attacked per point",
    }[curve.name]  # fmt: skip
    return name if curve.q is None else f"{name}, q {curve.q:g}"
