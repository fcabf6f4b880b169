"""Certify any classifier from Python, with the same points and noise as the certify_*.py scripts.

settings = CertificateSettings(sigma=0.25, n=1_000, target_class="all", points=20)
certificates = certify_images(classifier, images, labels, settings)
print(certificates.acr, certificates.radii)
"""

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.registry import all_layers
from models.saving import with_precision
from randomized_smoothing_certification.certificate_file import (
    Point,
    as_text,
    certified_radii,
    fixed_radius,
    header_of,
    require_result_name,
    summary_path,
)
from randomized_smoothing_certification.certification_config import CertificateSettings, shard_of
from randomized_smoothing_certification.classifiers import examples_of
from randomized_smoothing_certification.core import certify, round_down
from randomized_smoothing_certification.fixed_radii import decide
from randomized_smoothing_certification.grid_noise import grid_of
from randomized_smoothing_certification.votes import VoteCounter
from runtime.artifact import Artifact
from runtime.bounds import WHOLE, require_within
from runtime.checkpoints import read_same_record
from runtime.files import InputError, array_sha256, json_sha256, one_line, remove, write_json, write_text
from runtime.lazy import keras
from runtime.long_run import identity
from runtime.noise import Stream, noise_seed, seed_pair
from runtime.part_by_part import settings_path
from runtime.progress import progress
from runtime.provenance import provenance


class Certificates(NamedTuple):
    """Certificates of images."""

    points: list[Point]
    """A Point for each certified image. Its radius is text as in a file, its certified_radius is the number."""
    record: dict[str, Any]
    """Settings and numbers of the points, with a hash of a Keras model's weights. The data set has no name."""

    @property
    def radii(self) -> np.ndarray:
        """Certified l2 radii in pixel units, float64 (points,), with -1 for images not certified for their label."""
        return certified_radii(self.points)

    @property
    def acr(self) -> float:
        """Average certified radius. Images that are not certified for their label count 0.

        Raises InputError for certificates at fixed radii, which give no ACR.
        """
        if any(point.decided is not None for point in self.points):
            raise InputError("certificates at fixed radii give no ACR; leave out radii")
        return float(np.maximum(self.radii, 0.0).mean())

    def save(self, path: Path) -> None:
        """Write the points as a .tsv file, which evaluation/compare.py reads, and its .settings.json beside it.

        Replaces certificates of the same settings, and removes their summary. Raises InputError for another ending, and
        where a record beside the path is damaged, of another file or of other settings, or is missing beside a file.
        """
        require_result_name(path := Path(path))
        own = settings_path(path)
        for record in (path.with_suffix(".json"), path.with_name("settings.json")):
            if record.exists():
                raise InputError(f"{path}: {record.name} beside it is of another file; choose another name")
        if own.exists() or path.exists():
            read_same_record(own, self.record["settings"], about=path)
        with Artifact(path, own, summary_path(path)):
            remove(summary_path(path), path)
            write_json(own, {**self.record, "provenance": provenance(self.record["settings"])})
            write_text(path, as_text(self.points))


def certify_images(
    classifier: Callable[[Any], Any],
    images: np.ndarray,
    labels: np.ndarray,
    settings: CertificateSettings,
    *,
    num_classes: int | None = None,
    batch_size: int = 1_000,
) -> Certificates:
    """Certify images of a set, drawn as the settings say. ``core.certify`` states the guarantee of each certificate.

    classifier: a Keras model, a function of tensors, or any callable on NumPy arrays, as for VoteCounter. batch_size:
    as for VoteCounter. images: the whole set, (N, height, width, channels) in [0, 1]. labels: their classes, int (N,).
    settings: split is not used. Precision bfloat16 needs a Keras model. float32 leaves the classifier as it is, and the
    record says bfloat16 if a Keras model computes in it. num_classes: the largest label plus 1 when not given.

    The noise depends on the settings' seed and on the whole set, its images and labels. So the shards of a set together
    give the certificates of the set. Raises InputError for bad settings, and as VoteCounter does.
    """
    if not isinstance(settings, CertificateSettings):
        raise InputError(f"settings must be CertificateSettings, got {type(settings).__name__}")
    settings.check_types()
    settings.check()
    if settings.precision != "float32":
        if not isinstance(classifier, keras.Model):
            raise InputError(f"precision {settings.precision} needs a Keras model; leave it out")
        classifier = with_precision(classifier, settings.precision)
    try:
        images, labels = np.asarray(images, np.float32), np.asarray(labels)
    except (TypeError, ValueError) as error:  # lists of different lengths, texts
        raise InputError(f"images and labels must be arrays of numbers ({one_line(error)}); mend them") from error
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or not labels.size or labels.min() < 0:
        raise InputError(
            f"labels are {labels.dtype} of shape {labels.shape}; give classes from 0, int of shape {images.shape[:1]}, "
            "for at least one image"
        )
    classes = int(labels.max()) + 1 if num_classes is None else num_classes
    require_within("num_classes", classes, WHOLE)
    if not labels.max() < classes <= 100_000:
        raise InputError(f"largest label {labels.max()}, num_classes {classes}; give labels < num_classes <= 100000")
    levels = grid_of(images, "images") if settings.noise == "grid" else None
    examples = examples_of(images, labels)
    counter = VoteCounter(classifier, classes, images.shape[1:], settings.sigma, batch_size, levels, examples)
    settings.check_largest_radius(counter.failure_mass)
    digest = array_sha256(images) + array_sha256((labels[:, None] == np.arange(classes)).astype(np.float32))
    numbers = draw_points(labels, classes, settings)
    certified = point_certifier(counter, images, labels, settings, digest)
    weights = classifier.get_weights() if isinstance(classifier, keras.Model) else []
    layers = all_layers(classifier) if isinstance(classifier, keras.Model) else []
    in_bfloat16 = any(layer.compute_dtype == "bfloat16" for layer in layers)
    used = identity(
        settings, dataset="", noise=counter.noise_record, model_sha256="", test_sha256=digest,
        noise_of="seed and images", precision="bfloat16" if in_bfloat16 else settings.precision,
        weights_sha256=json_sha256([array_sha256(one.astype(np.float32)) for one in weights]) if weights else "",
    )  # fmt: skip
    points = [certified(index) for index in progress(numbers, desc="certifying", unit="point")]
    return Certificates(points, {"settings": used, "points": numbers})


def draw_points(truth: np.ndarray, num_classes: int, settings: CertificateSettings) -> list[int]:
    """Sorted numbers of the images to certify: at most ``points`` random images of each class, or a shard of them.

    truth: class of each image, int (N,). The draw depends only on seed, class and set.
    Prints a line if a class has fewer images. Raises InputError for an unknown class and for a shard without points.
    """
    target, (part, parts) = settings.target_class, shard_of(settings.shard)
    if target != "all" and not 0 <= target < num_classes:
        raise InputError(f"target_class must be 'all' or 0 to {num_classes - 1}, got {target}")
    drawn = []
    for wanted in range(num_classes) if target == "all" else (target,):
        available = np.flatnonzero(truth == wanted)
        if len(available) < settings.points:
            print(f"class {wanted} has {len(available)} images, fewer than {settings.points}: all are certified")
        generator = np.random.default_rng(seed_pair(settings.seed, wanted, Stream.CERTIFIED_POINTS))
        drawn.append(generator.permutation(available)[: settings.points])
    if not any(map(len, drawn)):
        raise InputError(f"there is no image of class {target}; choose another target_class")
    if not (points := np.sort(np.concatenate(drawn)).tolist()[part - 1 :: parts]):
        raise InputError(f"shard {settings.shard} holds no points; use fewer shards")
    return points


def point_certifier(
    counter: VoteCounter, images: np.ndarray, truth: np.ndarray, settings: CertificateSettings, digest: str
) -> Callable[[int], Point]:
    """A function that certifies the image of a given number. truth: classes, int (N,). digest: hash of the set."""
    seed = noise_seed(settings.seed, digest)
    if settings.shared_noise:
        for stage, votes in ((Stream.VOTES_THAT_SELECT, settings.n0), (Stream.VOTES_THAT_BOUND, settings.n)):
            counter.keep_noise(seed_pair(seed, stage), votes)
    has_votes = "votes" in header_of(vars(settings))

    def certified(index: int) -> Point:
        start = time.perf_counter()
        image = images[index]
        label = int(truth[index])
        noise_of = None if settings.shared_noise else index
        if settings.radii:
            found, is_decided = decide(counter, image, noise_of, settings.radii, settings, seed=seed, only_class=label)
            radius = fixed_radius(found.radius)
            decided: int | None = int(is_decided)
        else:
            decided = None
            only_class = label if settings.acr_only else None
            found = certify(counter, image, noise_of, settings, seed=seed, only_class=only_class)
            radius = round_down(found.radius)
        spent = str(datetime.timedelta(seconds=time.perf_counter() - start))
        votes = found.votes if has_votes else None
        return Point(index, label, found.prediction, radius, int(found.prediction == label), spent, votes, decided)

    return certified
