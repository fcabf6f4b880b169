"""Certified accuracy against the number of changed training labels: certificates, references, store.

Protocol: Rosenfeld, Winston, Ravikumar, Kolter (ICML 2020, arXiv 2002.03018), section 5. Where
the learner's settings have several candidates, config.select says how they are chosen. Every stage is kept in the work
folder, so that a run that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from data.datasets import SPLITS, Dataset, load_dataset
from label_flipping.certificates.collective import turned_at_once
from label_flipping.certificates.fixed_weights import (
    Certified,
    FixedWeights,
    KernelRegression,
    NearestNeighbours,
    RidgeRegression,
    SignedClusters,
    SignedVotes,
    agreed,
)
from label_flipping.certificates.label_flips import BoundName, LabelFlips, certified_accuracy
from label_flipping.certificates.training_set_smoothing import Smoothed
from label_flipping.config import LEARNERS, LabelFlippingConfig
from label_flipping.features import Images, features_name, fit_features, images_of_classes
from label_flipping.network import undefended_networks
from label_flipping.report import COLUMNS, FIGURE, TABLES, certified_settings, save_label_curves, tables_page
from randomized_smoothing_certification.core import ABSTAIN
from runtime.artifact import Artifact
from runtime.checkpoints import OnOtherSettings, replaceable, require_same_settings
from runtime.checks import require_place
from runtime.files import InputError, array_sha256, file_sha256, read_record, remove, write_text
from runtime.lazy import pandas as pd
from runtime.long_run import identity
from runtime.noise import Stream
from runtime.part_by_part import KeptStages
from runtime.progress import progress
from runtime.provenance import printed_path, provenance
from runtime.stop import Stop
from runtime.store import POINTS, SETTINGS, Store, read_store, write_store

_BLOCK = 250  # test points whose weights are held together
Settings = Mapping[str, Any]  # of a learner, one candidate
Learner = Callable[[Settings], FixedWeights]


def certify_labels(config: LabelFlippingConfig) -> Store:
    """Certify test points against changed labels, with the references, and write store, figure and table.

    The output folder is named by dataset, classes, features, learner (other than least_squares), 'every' (where select
    is every) and bound. Returns the store. Raises InputError on bad settings or data, StoppedEarly when asked to stop.
    """
    dataset = load_dataset(config.data_dir)
    config.check(dataset.num_classes)
    train, held_out, test = images_of_classes(dataset, config)
    everything = Images(*(np.concatenate(pair) for pair in zip(train, held_out, strict=True)))
    size = len(everything.y)
    if config.network_shares and config.network.batch_size > size:
        raise InputError(f"network.batch_size is {config.network.batch_size}, but there are {size} images; lower it")
    drawn = np.random.default_rng([config.seed, Stream.LABEL_POINTS]).permutation(len(test.x))
    test = test.at(np.sort(drawn[: config.points]))
    name = _name(config, dataset)
    folder = config.results_dir / name
    work_dir = config.work_dir or folder / "work"
    require_place("results_dir", folder, folder=True)
    require_place("work_dir", work_dir, folder=True)
    made = [folder / file for file in (SETTINGS, POINTS, TABLES, FIGURE)]
    files = {"features_file": config.features_file, "weights": config.weights}
    hashes = dataset.hashes(*(f"{letter}_{split}" for split in SPLITS for letter in "xy"))
    hashes |= {setting: file_sha256(path) for setting, path in files.items() if path}
    settings = identity(config, **hashes)
    made_by = config.features_file and config.features_file.with_suffix(".json")
    features_record = {"features_record": read_record(made_by)} if made_by and made_by.is_file() else {}

    with (
        Stop(config.max_minutes) as stop,
        KeptStages(work_dir, settings, config.on_other_settings, stop) as kept,
        Artifact(*made),
    ):
        _require_same_study(folder, settings, config.on_other_settings)
        choice = _Certification(config, train, kept).choice(held_out)
        x, x_test = fit_features(config, everything, test)
        if not config.network_shares:  # nothing else looks at images: frees their copy
            everything = everything._replace(x=np.empty((size, 0)))
        kept.require_same("features.json", array_sha256(x) + array_sha256(x_test))
        candidates = certified_settings(choice)
        study = _Certification(config, everything, kept)
        points, weights = study.points(candidates, x, x_test)
        curves = []
        if len(candidates) == 1 and isinstance(weights, SignedClusters) and config.together_seconds:
            curves.append(study.one_adversary(weights, test, x_test, points))
        if config.network_shares:
            curves += undefended_networks(config, dataset, weights, everything, test, x_test, kept, stop)
        numbers = " against ".join(map(str, config.classes or ()))
        record = {
            "title": f"{dataset.label}, {numbers or f'all {dataset.num_classes} classes'}",
            "training_points": size, "held_out_points": len(held_out.y), "test_points": len(test.y),
            "features": features_name(config), "width": x.shape[1], "choice": choice, "curves": curves,
            **features_record, "settings": settings, **provenance(config),
            **({"begun": kept.begun} if kept.begun else {}),
        }  # fmt: skip
        store = Store(study.lines(name, points, test), {name: {str(config.seed): record}})
        table = tables_page(store)
        remove(made[0])  # of earlier files. The new record is written last, when all other files are there
        save_label_curves(folder / FIGURE, store)
        write_text(folder / TABLES, table)
        write_store(folder, store)
    print(f"{table}\n{printed_path(folder)}: {TABLES}, {FIGURE}, {SETTINGS} and, per test point, {POINTS}")
    return store


def _require_same_study(folder: Path, settings: dict[str, Any], policy: OnOtherSettings) -> None:
    """Raise OtherSettings where the folder holds a finished study of other settings that may not be replaced."""
    try:
        studies = read_store(folder).records.values()
    except InputError:  # there is none, or a damaged one
        return
    with replaceable(policy):
        for record in (record for by_seed in studies for record in by_seed.values()):
            if isinstance(record, dict) and "settings" in record:  # older records have none
                require_same_settings(folder, record["settings"], settings)


def _name(config: LabelFlippingConfig, dataset: Dataset) -> str:
    learner = () if config.learner == "least_squares" else (config.learner,)
    every = ("every",) if config.select == "every" else ()
    numbers = map(str, config.classes or ())
    return "_".join([dataset.name, *numbers, features_name(config), *learner, *every, config.bound])


class _Certification(NamedTuple):
    """Certificates under the labels of the training images ``train``. Every stage is kept."""

    config: LabelFlippingConfig
    train: Images
    kept: KeptStages

    def choice(self, held_out: Images) -> dict[str, Any]:
        """The settings with the largest exact certified accuracy on held-out images, their best q, and all tried ones.

        At a tie, the larger mean number of certified flips decides. No exact certificate depends on q. The q with the
        largest smoothed certified accuracy is taken. With one candidate, or where config.select is every, no label
        chooses anything, and q is the smallest. Entry 'trusted': number of labels that the choice depends on.
        """
        config, train = self.config, self.train
        candidates = config.candidates(len(train.y) + len(held_out.y), train.classes)
        if len(candidates) == 1 or config.select == "every":
            tried = [{**settings, "q": min(config.q)} for settings in candidates]
            only = tried[0] if len(tried) == 1 else {"q": min(config.q)}
            return {**only, "held_out": 0, "trusted": 0, "tried": tried}
        random = np.random.default_rng([config.seed, Stream.LABEL_HELD_OUT])
        held_out = held_out.at(random.permutation(len(held_out.x))[: config.held_out])

        @cache  # not called where the scores of all settings are kept
        def fitted() -> tuple[Learner, np.ndarray]:
            x, x_held_out = fit_features(config, train, held_out)
            return _learner(config, x), x_held_out

        tried = []
        names = LEARNERS[config.learner].settings
        for settings in progress(candidates, desc=f"choosing {', '.join(names)} and q", unit="value"):
            file = "_".join(f"{name}_{value:.17g}" for name, value in settings.items())
            tried += self.kept.get(f"{file}.json", partial(self._scores, settings, fitted, held_out.y))

        tried.sort(key=lambda one: (-one["certified_accuracy"], -one["mean_flips"]))  # stable: of equal ones the first
        best = next(one for one in tried if one["q"] is None)
        chosen = {name: best[name] for name in names}
        q = next(one["q"] for one in tried if one["q"] is not None and chosen.items() <= one.items())
        trusted = len(train.y) + len(held_out.y)
        return {**chosen, "q": q, "held_out": len(held_out.y), "trusted": trusted, "tried": tried}

    def _scores(
        self, settings: Settings, fitted: Callable[[], tuple[Learner, np.ndarray]], y: np.ndarray
    ) -> list[dict[str, Any]]:
        """Scores of each certificate of a candidate on held-out points of classes y, by which one is chosen."""
        learner, x = fitted()
        weights = learner(settings)
        certified = _certified([[self._of_block(weights, block) for block in _blocks(x)]])
        at = np.array([round(self.config.at * len(self.train.y))])
        scores = []
        for _, q, prediction, flips in self._certificates(certified, self.config.bound):
            correct = prediction == y
            score = {
                "certified_accuracy": float(certified_accuracy(flips, correct, at)[0]),
                "mean_flips": float(np.mean(flips * correct)),
                "accuracy": float(np.mean(correct)),
            }
            scores.append({**settings, "q": q, **score})
        return scores

    def points(self, candidates: list[Settings], x: np.ndarray, x_test: np.ndarray) -> tuple[Certified, FixedWeights]:
        """Certificates of test points that hold for every candidate, and the last one's weights, to attack networks.

        x, x_test: features of training and test points.
        """
        learner, blocks_of_each = _learner(self.config, x), []
        for number, settings in enumerate(candidates):
            weights = learner(settings)
            if isinstance(weights, SignedClusters):  # k-means may differ on another machine
                counts = weights.counts(self.train.y, self.train.classes)
                self.kept.require_same(f"clusters_{number}.json", array_sha256(counts))
                self._warn_of_large_classes(int(counts.sum(axis=1).min()), "points of the smallest cluster")
            elif isinstance(weights, SignedVotes):
                self._warn_of_large_classes(int(settings["neighbours"]), "points that vote for their labels (k)")
            stage = "points" if len(candidates) == 1 else f"points_{number}"
            blocks = []
            for place, block in enumerate(progress(_blocks(x_test), desc="certifying", unit=f"block of {_BLOCK}")):
                blocks.append(self.kept.get(f"{stage}_{place}.json", partial(self._of_block, weights, block)))
            blocks_of_each.append(blocks)
        return _certified(blocks_of_each), weights

    def _of_block(self, weights: FixedWeights, block: np.ndarray) -> list[Any]:
        """Certificates at a block of m features: predictions and log eps of each q, (Q, m), prediction and flips."""
        noises = [LabelFlips(q, self.train.classes, self.config.bound) for q in self.config.q]
        smoothed, prediction, flips = weights.certify(block, self.train.y, noises)
        predictions = [one.prediction.tolist() for one in smoothed]
        log_eps = [one.log_eps.tolist() for one in smoothed]
        return [predictions, log_eps, prediction.tolist(), flips.tolist()]

    def _warn_of_large_classes(self, k: int, supporters: str) -> None:
        """Print a line for each class that can outvote k supporters of its own, see SignedVotes. No result needs it."""
        sizes = np.bincount(self.train.y, minlength=self.train.classes).tolist()
        for name, size in zip(self.config.classes or range(self.train.classes), sizes, strict=True):
            if size > 2 * k:
                more = f"class {name} has {size:,} of the training labels, more than twice the {k:,} {supporters}"
                rest = "They can be outvoted by its other points. Certificates hold, accuracy may be low"
                print(f"warning: {more}. {rest}")

    def one_adversary(
        self, weights: SignedClusters, test: Images, x_test: np.ndarray, points: Certified
    ) -> dict[str, Any]:
        """Share of the test points that stay right under any one set of changed labels: a curve (report.LabelCurve).

        Its numbers of changes: 0, the number at config.at, 13 quantiles of what single points survive, and four beyond.
        """
        config, train = self.config, self.train
        right = points.prediction == test.y
        survived = np.where(right, points.flips, 0)
        quantiles = np.quantile(survived, np.linspace(0, 1, 13), method="lower")
        beyond = survived.max() * np.linspace(1.25, 2, 4)
        at = round(config.at * len(train.y))
        numbers = np.unique([0, at, *quantiles, *beyond.round()]).astype(int).tolist()
        counts = weights.counts(train.y, train.classes), weights.counts(test.y, train.classes, x_test)
        turned = []
        for number in progress(numbers, desc="one adversary", unit="curve point"):
            search = partial(turned_at_once, *counts, number, config.together_seconds)
            turned.append(self.kept.get(f"together_{number}.json", search))
        bound, found = np.array(turned).T
        bound = np.minimum.accumulate(bound[::-1])[::-1]  # fewer changes turn no more
        found = np.maximum.accumulate(found)
        return {
            "certificate": "signed_together", "q": None, "flips": numbers,
            "accuracy": ((right.sum() - bound) / len(right)).tolist(),
            "attacked": ((right.sum() - found) / len(right)).tolist(),
        }  # fmt: skip

    def _certificates(
        self, points: Certified, *bounds: BoundName
    ) -> Iterator[tuple[str, float | None, np.ndarray, np.ndarray]]:
        """Name, q, predictions and flips of each certificate: the exact one, then those of each bound and q."""
        yield LEARNERS[self.config.learner].certificate, None, points.prediction, points.flips
        for bound, (q, smoothed) in product(bounds, zip(self.config.q, points.smoothed, strict=True)):
            noise = LabelFlips(q, self.train.classes, bound)
            yield bound, q, smoothed.prediction, smoothed.certified(noise, len(self.train.y))

    def lines(self, name: str, points: Certified, test: Images) -> pd.DataFrame:
        """A line per certificate and test point, in the columns of the store. Both bounds are certified for every q.

        idx counts the dataset's test images. Classes have the dataset's numbers.
        """
        classes = np.array([*(self.config.classes or range(self.train.classes)), ABSTAIN])  # the last for ABSTAIN, -1
        frames = []
        for *named, prediction, flips in self._certificates(points, *get_args(BoundName)):
            per_point = test.numbers, classes[test.y], classes[prediction], flips, (prediction == test.y) * 1
            frames.append(pd.DataFrame(dict(zip(COLUMNS, (name, self.config.seed, *named, *per_point), strict=True))))
        return pd.concat(frames, ignore_index=True)


def _learner(config: LabelFlippingConfig, x: np.ndarray) -> Learner:
    """The weights under given settings. x: features of the training points."""
    unit = 1.0 if config.ridge_unit == "one" else np.square(x).sum() / x.shape[1]
    regression = lru_cache(maxsize=1)(lambda ridge: RidgeRegression(x, unit * ridge))  # equal ridges follow each other
    learners: dict[str, Learner] = {
        "least_squares": lambda one: regression(one["ridge"]),
        "neighbours": lambda one: NearestNeighbours(x, one["neighbours"]),
        "kernel": lambda one: KernelRegression(x, one["bandwidth"]),
        "signed_neighbours": lambda one: SignedVotes.of_distance(x, one["neighbours"]),
        "signed_clusters": lambda one: SignedClusters(x, one["clusters"], config.seed),
        "signed_least_squares": lambda one: SignedVotes(regression(one["ridge"]), len(x), one["neighbours"]),
    }
    return learners[config.learner]


def _blocks(features: np.ndarray) -> list[np.ndarray]:
    return [features[i : i + _BLOCK] for i in range(0, len(features), _BLOCK)]


def _certified(blocks_of_each: Sequence[Sequence[list[Any]]]) -> Certified:
    """Certificates that hold for every candidate, from the blocks of each (_of_block)."""
    of_each = [[np.concatenate(arrays, axis=-1) for arrays in zip(*blocks, strict=True)] for blocks in blocks_of_each]
    predictions, log_eps, exact_prediction, flips = (np.stack(arrays) for arrays in zip(*of_each, strict=True))
    agreed_predictions, strength = agreed(predictions, -log_eps)
    smoothed = [Smoothed(*arrays) for arrays in zip(agreed_predictions, -strength, strict=True)]
    return Certified(smoothed, *agreed(exact_prediction, flips))
