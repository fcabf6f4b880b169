"""Certified accuracy against the number of changed training labels: certificates, references, curve, table.

Protocol: Rosenfeld, Winston, Ravikumar, Kolter (ICML 2020, arXiv 2002.03018), section 5. Ridge and q are chosen on
held-out training images. Every stage is kept in the work folder, so that a run that was stopped goes on.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from data.datasets import SPLITS, load_dataset
from evaluation.label_flipping.config import LabelFlippingConfig
from evaluation.label_flipping.images import Images, images_of_classes
from evaluation.label_flipping.network import undefended_networks
from evaluation.label_flipping.report import (
    LabelCurve,
    Points,
    save_label_curves,
    text_table,
    write_curves,
    write_points,
)
from models.embeddings import fit_embedding
from randomized_smoothing_certification.label_flipping import (
    KernelVectors,
    LabelFlips,
    certified_accuracy,
    greedy_flips,
    smooth_least_squares,
)
from randomized_smoothing_certification.training_set_smoothing import Smoothed
from runtime.checks import require_place
from runtime.files import array_sha256, remove, remove_leftovers, require_no_folder, write_json, write_text
from runtime.lock import Lock
from runtime.long_run import KeptStages, identity
from runtime.noise import Stream
from runtime.progress import progress
from runtime.provenance import project_path, provenance, shown_path
from runtime.stop import Stop

_BLOCK = 250  # test points whose kernel vectors are held together


def certify_labels(config: LabelFlippingConfig) -> list[LabelCurve]:
    """Certify test points against changed labels, with the references, and write curve, figure and table.

    The output folders are named by dataset, classes, features and bound. Returns every curve.

    Raises InputError on bad settings or data, StoppedEarly when asked to stop.
    """
    dataset = load_dataset(config.data_dir)
    config.check(dataset.num_classes)
    train, held_out, test = images_of_classes(dataset, config)
    everything = Images(*(np.concatenate(pair) for pair in zip(train, held_out, strict=True)))
    if config.points is not None and config.points < len(test.x):
        drawn = np.sort(
            np.random.default_rng([config.seed, Stream.LABEL_POINTS]).permutation(len(test.x))[: config.points]
        )
        test = Images(*(array[drawn] for array in test))
    numbers = list(map(str, config.classes or ()))
    name = "_".join(["label_flipping", dataset.name, *numbers, config.features, config.bound])
    title = f"{dataset.label}, {' against '.join(numbers) or f'all {dataset.num_classes} classes'}"
    work_dir = config.work_dir or project_path("runs") / name
    hashes = {name: array_sha256(getattr(dataset, name)) for split in SPLITS for name in (f"x_{split}", f"y_{split}")}
    folder = config.results_dir / name
    require_place("results_dir", folder, folder=True)
    require_place("work_dir", work_dir, folder=True)
    record = folder / "settings.json"
    names = ("curve.csv", "certified_accuracy.png", "table.txt", *(f"q_{q:g}.tsv" for q in config.q))
    files = [record, *(folder / name for name in names)]
    require_no_folder(*files)

    with (
        Stop(config.max_minutes) as stop,
        KeptStages(work_dir, identity(config, **hashes), config.on_other_settings, stop) as kept,
        Lock(record),
    ):
        remove_leftovers(*files)
        choice = _choose(config, train, held_out, kept)
        embed = fit_embedding(config.features, everything.x, config.seed)
        features, test_features = embed(everything.x), embed(test.x)
        kernel = KernelVectors(features, choice["ridge"])
        points = _certify_points(config, kernel, everything, test_features, kept)
        networks = undefended_networks(config, dataset, kernel, everything, test, test_features, kept, stop)
        curves = _curves(config, points, test.y, everything) + networks
        remove(record)  # of earlier files: it is there when all of them are
        size = len(everything.y)
        write_points(folder, config, points, test.y, test.numbers, everything.classes, size)
        write_curves(folder / "curve.csv", curves, size)
        other_bound = {"tight": "closed_form", "closed_form": "tight"}[config.bound]
        drawn_curves = [curve for curve in curves if curve.name != other_bound]
        save_label_curves(folder / "certified_accuracy.png", drawn_curves, size, title)
        table = text_table(config, title, choice, curves, features.shape, len(test.y), len(held_out.y))
        write_text(folder / "table.txt", table + "\n")
        write_json(record, {**provenance(config), "choice": choice})
    print(f"{table}\n\n{shown_path(folder)}: curve, figure, settings and, per point, q_*.tsv")
    return curves


def _choose(config: LabelFlippingConfig, train: Images, held_out: Images, kept: KeptStages) -> dict[str, Any]:
    """Ridge and q of the largest certified accuracy on held-out training images, with all that was tried.

    Where they tie, as at 0, the one with more certified flips in the mean.
    """
    drawn = np.random.default_rng([config.seed, Stream.LABEL_HELD_OUT]).permutation(len(held_out.x))[: config.held_out]
    embed = fit_embedding(config.features, train.x, config.seed)
    features, held_out_features = embed(train.x), embed(held_out.x[drawn])

    def with_ridge(ridge: float) -> list[dict[str, float]]:
        kernel = KernelVectors(features, ridge)
        blocks = [_smoothed(config, kernel(part), train.y, train.classes) for part in _blocks(held_out_features)]
        prediction, log_eps = (np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True))
        return [
            {"ridge": ridge, "q": q, **_held_out_scores(config, q, Smoothed(*of_q), train, held_out.y[drawn])}
            for q, *of_q in zip(config.q, prediction, log_eps, strict=True)
        ]

    tried = []
    ridges = config.ridges if config.ridge is None else (config.ridge,)
    for ridge in progress(ridges, desc="choosing ridge and q", unit="ridge"):
        tried += kept.get(f"ridge_{ridge:g}.json", partial(with_ridge, ridge))
    best = max(tried, key=lambda one: (one["certified_accuracy"], one["mean_flips"]))
    return {"ridge": best["ridge"], "q": best["q"], "held_out": len(drawn), "tried": tried}


def _held_out_scores(
    config: LabelFlippingConfig, q: float, smoothed: Smoothed, train: Images, y: np.ndarray
) -> dict[str, float]:
    flips = smoothed.certified(LabelFlips(q, train.classes, config.bound), len(train.y))
    correct = smoothed.prediction == y
    at = np.array([round(config.at * len(train.y))])
    return {
        "certified_accuracy": float(certified_accuracy(flips, correct, at)[0]),
        "mean_flips": float(np.mean(flips * correct)),
        "accuracy": float(np.mean(correct)),
    }


def _blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    return (features[i : i + _BLOCK] for i in range(0, len(features), _BLOCK))


def _smoothed(config: LabelFlippingConfig, alpha: np.ndarray, y: np.ndarray, classes: int) -> Smoothed:
    """The smoothed classifiers of every q, arrays of shape (Q, points)."""
    of_q = [smooth_least_squares(alpha, y, LabelFlips(q, classes)) for q in config.q]
    return Smoothed(np.stack([one.prediction for one in of_q]), np.stack([one.log_eps for one in of_q]))


def _certify_points(
    config: LabelFlippingConfig, kernel: KernelVectors, train: Images, features: np.ndarray, kept: KeptStages
) -> Points:
    """Smoothed and plain ridge classifiers at every test point, block by block."""

    def certified(block: np.ndarray) -> list[Any]:
        alpha = kernel(block)
        smoothed = _smoothed(config, alpha, train.y, train.classes)
        return [array.tolist() for array in (*smoothed, *greedy_flips(alpha, train.y, train.classes))]

    blocks = []
    with progress(total=len(features), desc="certifying", unit="point") as bar:
        for number, block in enumerate(_blocks(features)):
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
    curves.append(_falling("ridge", None, points.ridge_flips, points.ridge_prediction == y))
    return curves


def _falling(name: str, q: float | None, flips: np.ndarray, correct: np.ndarray) -> LabelCurve:
    at = np.unique(np.concatenate([[0], flips[correct], flips[correct] + 1]))
    return LabelCurve(name, q, at, certified_accuracy(flips, correct, at))
