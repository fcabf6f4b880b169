"""Certified accuracy against the number of changed training labels: certificates, references, store.

Protocol: Rosenfeld, Winston, Ravikumar, Kolter (ICML 2020, arXiv 2002.03018), section 5. The
learner's settings and q are chosen on held-out training images where there are several candidates. Every stage is kept
in the work folder, so that a run that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from typing import Any, get_args

import numpy as np

from data.datasets import SPLITS, load_dataset
from evaluation.label_flipping.config import LEARNERS, LabelFlippingConfig, Learner
from evaluation.label_flipping.features import Features, features_name
from evaluation.label_flipping.images import Images, images_of_classes, together
from evaluation.label_flipping.network import undefended_networks
from evaluation.label_flipping.report import COLUMNS, FIGURE, TABLES, save_label_curves, tables_page
from evaluation.store import POINTS, Store, write_store
from evaluation.store import SETTINGS as RECORDS
from randomized_smoothing_certification.changed_labels.collective import turned_at_once
from randomized_smoothing_certification.changed_labels.fixed_weights import (
    FixedWeights,
    KernelRegression,
    NearestNeighbours,
    RidgeRegression,
    SignedClusters,
    SignedVotes,
)
from randomized_smoothing_certification.changed_labels.label_flips import Bound, LabelFlips, certified_accuracy
from randomized_smoothing_certification.changed_labels.training_set_smoothing import Smoothed
from randomized_smoothing_certification.core import ABSTAIN
from runtime.artifact import Artifact
from runtime.checks import require_place
from runtime.files import array_sha256, file_sha256, read_record, remove, write_text
from runtime.lazy import pandas as pd
from runtime.long_run import identity
from runtime.noise import Stream
from runtime.part_by_part import KeptStages
from runtime.progress import progress
from runtime.provenance import printed_path, provenance
from runtime.stop import Stop

_BLOCK = 250  # test points whose weights are held together


def certify_labels(config: LabelFlippingConfig) -> Store:
    """Certify test points against changed labels, with the references, and write store, figure and table.

    The output folder is named by dataset, classes, features and bound. Returns what was written to the store.

    Raises InputError on bad settings or data, StoppedEarly when asked to stop.
    """
    dataset = load_dataset(config.data_dir)
    config.check(dataset.num_classes)
    train, held_out, test = images_of_classes(dataset, config)
    features = Features(config, dataset)
    everything = together(train, held_out)
    drawn = np.random.default_rng([config.seed, Stream.LABEL_POINTS]).permutation(len(test.x))
    test = test.at(np.sort(drawn[: config.points]))
    numbers = list(map(str, config.classes or ()))
    learner = () if config.learner == "least_squares" else (config.learner,)
    name = "_".join([dataset.name, *numbers, features_name(config), *learner, config.bound])
    folder = config.results_dir / name
    work_dir = config.work_dir or folder / "work"
    hashes = {name: array_sha256(getattr(dataset, name)) for split in SPLITS for name in (f"x_{split}", f"y_{split}")}
    if config.features_file:
        hashes["features_file"] = file_sha256(config.features_file)
    require_place("results_dir", folder, folder=True)
    require_place("work_dir", work_dir, folder=True)
    files = [folder / name for name in (RECORDS, POINTS, TABLES, FIGURE)]

    with (
        Stop(config.max_minutes) as stop,
        KeptStages(work_dir, identity(config, **hashes), config.on_other_settings, stop) as kept,
        Artifact(*files),
    ):
        choice = _choose(config, features, train, held_out, kept)
        x, x_test = features((train, held_out), test)
        weights = _learner(config, x)(choice)
        points = _certify_points(config, weights, everything, x_test, kept)
        record = {
            "title": f"{dataset.label}, {' against '.join(numbers) or f'all {dataset.num_classes} classes'}",
            "training_points": len(everything.y), "held_out_points": len(held_out.y), "test_points": len(test.y),
            "features": features_name(config), "width": x.shape[1], "choice": choice,
            "curves": _together(config, weights, everything, test, x_test, points, kept)
            + undefended_networks(config, dataset, weights, everything, test, x_test, kept, stop),
            **_record_of_features(config), **provenance(config),
        }  # fmt: skip
        store = Store(_lines(config, name, points, test, everything), {name: {str(config.seed): record}})
        table = tables_page(store)
        remove(files[0])  # of earlier files: it is there when all of them are
        save_label_curves(folder / FIGURE, store)
        write_text(folder / TABLES, table)
        write_store(folder, store)
    print(f"{table}\n{printed_path(folder)}: {TABLES}, {FIGURE}, {RECORDS} and, per test point, {POINTS}")
    return store


def _record_of_features(config: LabelFlippingConfig) -> dict[str, Any]:
    """How the features of a file were made, where their record lies beside it."""
    record = config.features_file and config.features_file.with_suffix(".json")
    return {"features_record": read_record(record)} if record and record.is_file() else {}


def _choose(
    config: LabelFlippingConfig, features: Features, train: Images, held_out: Images, kept: KeptStages
) -> dict[str, Any]:
    """The learner's settings and the q of the largest certified accuracy on held-out images, and all that were tried.

    On a tie, the settings with the larger mean number of certified flips. Where there is one candidate for the
    settings, no label chooses anything. q is then the smallest. The exact certificate does not depend on it.
    """
    candidates = config.candidates(len(train.y) + len(held_out.y), train.classes)
    if len(candidates) == 1:
        only = {**candidates[0], "q": min(config.q)}
        return {**only, "held_out": 0, "tried": [only]}
    drawn = np.random.default_rng([config.seed, Stream.LABEL_HELD_OUT]).permutation(len(held_out.x))[: config.held_out]

    at = np.array([round(config.at * len(train.y))])

    @cache  # not called where the scores of all settings are kept
    def fitted() -> tuple[Callable[[dict[str, float]], FixedWeights], np.ndarray]:
        x, x_held_out = features((train,), held_out.at(drawn))
        return _learner(config, x), x_held_out

    def with_settings(settings: dict[str, float]) -> list[dict[str, float]]:
        learner, x_held_out = fitted()
        weights = learner(settings)
        blocks = [weights.certify(part, train.y, _noises(config, train.classes)) for part in _blocks(x_held_out)]
        scores = []
        for number, noise in enumerate(_noises(config, train.classes)):
            smoothed = Smoothed(*map(np.concatenate, zip(*(block.smoothed[number] for block in blocks), strict=True)))
            flips, correct = smoothed.certified(noise, len(train.y)), smoothed.prediction == held_out.y[drawn]
            found = {
                "certified_accuracy": float(certified_accuracy(flips, correct, at)[0]),
                "mean_flips": float(np.mean(flips * correct)),
                "accuracy": float(np.mean(correct)),
            }
            scores.append({**settings, "q": noise.q, **found})
        return scores

    tried = []
    names = LEARNERS[config.learner].settings
    for settings in progress(candidates, desc=f"choosing {', '.join(names)} and q", unit="value"):
        file = "_".join(f"{name}_{value:g}" for name, value in settings.items())
        tried += kept.get(f"{file}.json", partial(with_settings, settings))
    best = max(tried, key=lambda one: (one["certified_accuracy"], one["mean_flips"]))
    chosen = {name: best[name] for name in (*names, "q")}
    return {**chosen, "held_out": len(drawn), "tried": tried}


def _learner(config: LabelFlippingConfig, x: np.ndarray) -> Callable[[dict[str, float]], FixedWeights]:
    """The learner on features x (n, d), as a function of its own settings."""
    regression = lru_cache(maxsize=1)(partial(RidgeRegression, x))  # settings of one ridge follow each other
    learners: dict[Learner, Callable[..., FixedWeights]] = {
        "least_squares": regression,
        "neighbours": partial(NearestNeighbours, x),
        "kernel": partial(KernelRegression, x),
        "signed_neighbours": partial(SignedVotes.of_distance, x),
        "signed_clusters": partial(SignedClusters, x, seed=config.seed),
        "signed_least_squares": lambda ridge, neighbours: SignedVotes(regression(ridge), len(x), neighbours),
    }
    return lambda settings: learners[config.learner](*(settings[name] for name in LEARNERS[config.learner].settings))


def _noises(config: LabelFlippingConfig, classes: int) -> list[LabelFlips]:
    return [LabelFlips(q, classes, config.bound) for q in config.q]


def _blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    return (features[i : i + _BLOCK] for i in range(0, len(features), _BLOCK))


def _certify_points(
    config: LabelFlippingConfig, weights: FixedWeights, train: Images, x_test: np.ndarray, kept: KeptStages
) -> list[np.ndarray]:
    """Certify m test points block by block.

    Returns predictions and log eps of the smoothed classifier of each q, (Q, m) each. Then predictions and flips of the
    learner itself, (m,) each. log eps is float64, the others are int64.
    """

    def certified(block: np.ndarray) -> list[Any]:
        smoothed, prediction, flips = weights.certify(block, train.y, _noises(config, train.classes))
        of_all_q = zip(*smoothed, strict=True)
        return [np.stack(arrays).tolist() for arrays in of_all_q] + [prediction.tolist(), flips.tolist()]

    blocks = []
    with progress(total=len(x_test), desc="certifying", unit="point") as bar:
        for number, block in enumerate(_blocks(x_test)):
            blocks.append(kept.get(f"points_{number}.json", partial(certified, block)))
            bar.update(len(block))
    return [np.concatenate(arrays, axis=-1) for arrays in zip(*blocks, strict=True)]


def _together(
    config: LabelFlippingConfig, weights: FixedWeights, train: Images, test: Images, x_test: np.ndarray,
    points: list[np.ndarray], kept: KeptStages,
) -> list[dict[str, Any]]:  # fmt: skip
    """Share of the test points that stay right under any one set of changed labels: a curve (report.LabelCurve).

    It has 'at' and numbers of changes at which certificates of single points end, and four beyond the largest of these.
    """
    if not (isinstance(weights, SignedClusters) and config.together_seconds):
        return []
    right = points[-2] == test.y
    flips = np.where(right, points[-1], 0)
    ends = np.quantile(flips, np.linspace(0, 1, 13), method="lower")
    beyond = flips.max() * np.linspace(1.25, 2, 4)
    grid = np.unique([0, round(config.at * len(train.y)), *ends, *beyond.round()]).astype(int).tolist()
    counts = weights.counts(train.y, train.classes), weights.counts(test.y, train.classes, x_test)
    found = [
        kept.get(f"together_{r}.json", partial(turned_at_once, *counts, r, config.together_seconds))
        for r in progress(grid, desc="one adversary", unit="number of changes")
    ]
    bound, attack = np.array(found).T
    bound, attack = np.minimum.accumulate(bound[::-1])[::-1], np.maximum.accumulate(attack)  # more changes turn more
    certified, attacked = (((right.sum() - turned) / len(right)).tolist() for turned in (bound, attack))
    curve = {"certificate": "signed_together", "q": None, "flips": grid}
    return [{**curve, "accuracy": certified, "attacked": attacked}]


def _lines(
    config: LabelFlippingConfig, name: str, points: list[np.ndarray], test: Images, train: Images
) -> pd.DataFrame:
    """A line per certificate and test point, in the columns of the store. Both bounds are certified for every q.

    idx counts the dataset's test images. Classes have the dataset's numbers.
    """
    classes = np.array([*(config.classes or range(train.classes)), ABSTAIN])  # the last for ABSTAIN, which is -1
    predictions, log_eps, *exact = points
    certified: list[tuple[Any, ...]] = [(LEARNERS[config.learner].certificate, None, *exact)]
    for bound in get_args(Bound):
        for q, *smoothed in zip(config.q, predictions, log_eps, strict=True):
            flips = Smoothed(*smoothed).certified(LabelFlips(q, train.classes, bound), len(train.y))
            certified.append((bound, q, smoothed[0], flips))
    frames = []
    for *named, prediction, flips in certified:
        per_point = test.numbers, classes[test.y], classes[prediction], flips, (prediction == test.y) * 1
        columns = zip(COLUMNS, (name, config.seed, *named, *per_point), strict=True)
        frames.append(pd.DataFrame(dict(columns)))
    return pd.concat(frames, ignore_index=True)
