"""Certified accuracy against the number of changed training labels: certificates, references, curve, table.

Protocol: Rosenfeld, Winston, Ravikumar, Kolter (ICML 2020, arXiv 2002.03018), section 5. Ridge (or the number of
neighbours, or the bandwidth) and q are chosen on held-out training images. Every stage is kept in the work folder, so
that a run that was stopped goes on.
"""

from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from data.datasets import SPLITS, load_dataset
from evaluation.label_flipping.config import SETTINGS, LabelFlippingConfig
from evaluation.label_flipping.features import Features, features_name
from evaluation.label_flipping.images import Images, images_of_classes, together
from evaluation.label_flipping.network import undefended_networks
from evaluation.label_flipping.report import (
    EXACT,
    LabelCurve,
    Points,
    save_label_curves,
    text_table,
    write_curves,
    write_points,
)
from randomized_smoothing_certification.fixed_weights import (
    FixedWeights,
    KernelRegression,
    NearestNeighbours,
    SignedVotes,
    certify_block,
)
from randomized_smoothing_certification.label_flipping import KernelVectors, LabelFlips, certified_accuracy
from randomized_smoothing_certification.training_set_smoothing import Smoothed
from runtime.checks import require_place
from runtime.files import array_sha256, file_sha256, remove, remove_leftovers, require_no_folder, write_json, write_text
from runtime.lock import Lock
from runtime.long_run import KeptStages, identity
from runtime.noise import Stream
from runtime.progress import progress
from runtime.provenance import project_path, provenance, shown_path
from runtime.stop import Stop

_BLOCK = 250  # test points whose weights are held together


def certify_labels(config: LabelFlippingConfig) -> list[LabelCurve]:
    """Certify test points against changed labels, with the references, and write curve, figure and table.

    The output folders are named by dataset, classes, features and bound. Returns every curve.

    Raises InputError on bad settings or data, StoppedEarly when asked to stop.
    """
    dataset = load_dataset(config.data_dir)
    config.check(dataset.num_classes)
    train, held_out, test = images_of_classes(dataset, config)
    features = Features(config, dataset)
    everything = together(train, held_out)
    if config.points is not None and config.points < len(test.x):
        drawn = np.sort(
            np.random.default_rng([config.seed, Stream.LABEL_POINTS]).permutation(len(test.x))[: config.points]
        )
        test = test.at(drawn)
    numbers = list(map(str, config.classes or ()))
    learner = () if config.learner == "least_squares" else (config.learner,)
    name = "_".join(["label_flipping", dataset.name, *numbers, features_name(config), *learner, config.bound])
    title = f"{dataset.label}, {' against '.join(numbers) or f'all {dataset.num_classes} classes'}"
    work_dir = config.work_dir or project_path("runs") / name
    hashes = {name: array_sha256(getattr(dataset, name)) for split in SPLITS for name in (f"x_{split}", f"y_{split}")}
    if config.features_file:
        hashes["features_file"] = file_sha256(config.features_file)
    folder = config.results_dir / name
    require_place("results_dir", folder, folder=True)
    require_place("work_dir", work_dir, folder=True)
    record = folder / "settings.json"
    names = ("curve.csv", "certified_accuracy.png", "table.txt", "exact.tsv", *(f"q_{q:g}.tsv" for q in config.q))
    files = [record, *(folder / name for name in names)]
    require_no_folder(*files)

    with (
        Stop(config.max_minutes) as stop,
        KeptStages(work_dir, identity(config, **hashes), config.on_other_settings, stop) as kept,
        Lock(record),
    ):
        remove_leftovers(*files)
        choice = _choose(config, features, train, held_out, kept)
        x, x_test = features((train, held_out), test)
        weights = _learner(config, x)(choice)
        points = _certify_points(config, weights, everything, x_test, kept)
        networks = undefended_networks(config, dataset, weights, everything, test, x_test, kept, stop)
        curves = _curves(config, points, test.y, everything) + networks
        remove(record)  # of earlier files: it is there when all of them are
        size = len(everything.y)
        write_points(folder, config, points, test.y, test.numbers, everything.classes, size)
        write_curves(folder / "curve.csv", curves, size)
        other_bound = {"tight": "closed_form", "closed_form": "tight"}[config.bound]
        drawn_curves = [curve for curve in curves if curve.name != other_bound]
        save_label_curves(folder / "certified_accuracy.png", drawn_curves, size, title)
        table = text_table(config, title, choice, curves, x.shape, len(test.y), len(held_out.y))
        write_text(folder / "table.txt", table + "\n")
        write_json(record, {**provenance(config), "choice": choice})
    print(f"{table}\n\n{shown_path(folder)}: curve, figure, settings and, per point, exact.tsv and q_*.tsv")
    return curves


def _choose(
    config: LabelFlippingConfig, features: Features, train: Images, held_out: Images, kept: KeptStages
) -> dict[str, Any]:
    """Ridge, neighbours or bandwidth, and q, of the largest certified accuracy on held-out images, with all tried.

    Where they tie, as at 0, those with more certified flips in the mean.
    """
    drawn = np.random.default_rng([config.seed, Stream.LABEL_HELD_OUT]).permutation(len(held_out.x))[: config.held_out]

    @cache  # not called where the scores of all settings are kept
    def fitted() -> tuple[Callable[[dict[str, float]], FixedWeights], np.ndarray]:
        x, x_held_out = features((train,), held_out.at(drawn))
        return _learner(config, x), x_held_out

    def with_settings(settings: dict[str, float]) -> list[dict[str, float]]:
        learner, x_held_out = fitted()
        weights = learner(settings)
        blocks = [certify_block(weights, part, train.y, _noises(config, train.classes)) for part in _blocks(x_held_out)]
        scores = []
        for number, noise in enumerate(_noises(config, train.classes)):
            smoothed = Smoothed(*map(np.concatenate, zip(*(block.smoothed[number] for block in blocks), strict=True)))
            of_q = _held_out_scores(config, noise, smoothed, train, held_out.y[drawn])
            scores.append({**settings, "q": noise.q, **of_q})
        return scores

    tried = []
    names = SETTINGS[config.learner]
    for settings in progress(config.candidates, desc=f"choosing {', '.join(names)} and q", unit="value"):
        file = "_".join(f"{name}_{value:g}" for name, value in settings.items())
        tried += kept.get(f"{file}.json", partial(with_settings, settings))
    best = max(tried, key=lambda one: (one["certified_accuracy"], one["mean_flips"]))
    chosen = {name: best[name] for name in (*names, "q")}
    return {**chosen, "held_out": len(drawn), "tried": tried}


def _learner(config: LabelFlippingConfig, x: np.ndarray) -> Callable[[dict[str, float]], FixedWeights]:
    """The learner on features x (n, d), as a function of its own settings."""
    ridge_regression = lru_cache(maxsize=1)(partial(KernelVectors, x))  # settings of one ridge follow each other

    def with_settings(settings: dict[str, float]) -> FixedWeights:
        match config.learner:
            case "neighbours":
                return NearestNeighbours(x, int(settings["neighbours"]))
            case "kernel":
                return KernelRegression(x, settings["bandwidth"])
            case "least_squares":
                return ridge_regression(settings["ridge"])
            case "signed_neighbours":
                return SignedVotes.of_distance(x, int(settings["neighbours"]))
            case "signed_least_squares":
                ridge = ridge_regression(settings["ridge"])
                return SignedVotes(ridge, len(x), int(settings["neighbours"]))

    return with_settings


def _noises(config: LabelFlippingConfig, classes: int) -> list[LabelFlips]:
    return [LabelFlips(q, classes, config.bound) for q in config.q]


def _held_out_scores(
    config: LabelFlippingConfig, noise: LabelFlips, smoothed: Smoothed, train: Images, y: np.ndarray
) -> dict[str, float]:
    flips = smoothed.certified(noise, len(train.y))
    correct = smoothed.prediction == y
    at = np.array([round(config.at * len(train.y))])
    return {
        "certified_accuracy": float(certified_accuracy(flips, correct, at)[0]),
        "mean_flips": float(np.mean(flips * correct)),
        "accuracy": float(np.mean(correct)),
    }


def _blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    return (features[i : i + _BLOCK] for i in range(0, len(features), _BLOCK))


def _certify_points(
    config: LabelFlippingConfig, weights: FixedWeights, train: Images, x_test: np.ndarray, kept: KeptStages
) -> Points:
    """Smoothed and plain classifiers at every test point, block by block."""

    def certified(block: np.ndarray) -> list[Any]:
        smoothed, prediction, flips = certify_block(weights, block, train.y, _noises(config, train.classes))
        of_all_q = zip(*smoothed, strict=True)
        return [np.stack(arrays).tolist() for arrays in of_all_q] + [prediction.tolist(), flips.tolist()]

    blocks = []
    with progress(total=len(x_test), desc="certifying", unit="point") as bar:
        for number, block in enumerate(_blocks(x_test)):
            blocks.append(kept.get(f"points_{number}.json", partial(certified, block)))
            bar.update(len(block))
    return Points(*(np.concatenate(arrays, axis=-1) for arrays in zip(*blocks, strict=True)))


def _curves(config: LabelFlippingConfig, points: Points, y: np.ndarray, train: Images) -> list[LabelCurve]:
    """Certified accuracy at every number of flips at which it falls."""
    classes, size = train.classes, len(train.y)
    curves = []
    for bound in ("tight", "closed_form"):
        for number, q in enumerate(config.q):
            smoothed = Smoothed(points.prediction[number], points.log_eps[number])
            flips = smoothed.certified(LabelFlips(q, classes, bound), size)
            curves.append(_falling(bound, q, flips, smoothed.prediction == y))
    curves.append(_falling(EXACT[config.learner], None, points.exact_flips, points.exact_prediction == y))
    return curves


def _falling(name: str, q: float | None, flips: np.ndarray, correct: np.ndarray) -> LabelCurve:
    at = np.unique(np.concatenate([[0], flips[correct], flips[correct] + 1]))
    return LabelCurve(name, q, at, certified_accuracy(flips, correct, at))
