"""Certify test points of a saved model: a TSV row per point, and a summary. Runs can be continued and sharded.

The protocol comes from the poisoning paper (CVPR 2021, section 4): randomly drawn test points of the target class,
n0 = 100, n = 100,000, alpha = 0.001, sigma of certification = sigma of training.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data.datasets import Dataset, labels, load_dataset
from models.saving import load_model, with_precision
from models.stateless import in_batches
from randomized_smoothing_certification.certificate_file import (
    header_of,
    read_own_points,
    require_result_name,
    summary_path,
)
from randomized_smoothing_certification.certificate_summary import write_summary
from randomized_smoothing_certification.certification_config import CertificationConfig
from randomized_smoothing_certification.certify_images import draw_points, point_certifier
from randomized_smoothing_certification.grid_noise import grid_of
from randomized_smoothing_certification.votes import VoteCounter
from runtime.files import InputError, array_sha256, file_sha256, read_record
from runtime.lazy import keras, ops
from runtime.long_run import identity
from runtime.part_by_part import LineByLine
from runtime.stop import Stop


def certify_test_points(config: CertificationConfig) -> dict[str, Any]:
    """Certify the configured test points, or continue an earlier run's file. Returns the summary.

    Guarantees: see ``core.certify`` for certified radii, and ``fixed_radii.decide`` for fixed radii.

    Writes a row to ``config.out`` after each point, and .settings.json and .summary.json beside it. Prints the summary.
    Nothing is written before the first point is certified.

    Raises InputError for bad settings, missing files, and an ``out`` that has other settings, has rows that this run
    cannot have written, or is in use by another run. Raises StoppedEarly when asked to stop. Its rows are kept.
    """
    config.check()
    require_result_name(config.out)
    with Stop(config.max_minutes) as stop:
        dataset = load_dataset(config.data_dir)
        before = file_sha256(config.model) if config.model.is_file() else ""  # load_model names a missing file
        model = with_precision(load_model(config.model, dataset.image_shape, dataset.num_classes), config.precision)
        model_sha256 = file_sha256(config.model)
        _check_record_of_model(config, model_sha256, dataset)
        if model_sha256 != before:
            raise InputError(f"{config.model}: was replaced while it was read; run the same command again")
        images, one_hot = (getattr(dataset, f"{letter}_{config.split}") for letter in "xy")
        truth = labels(one_hot)
        levels = grid_of(images, config.data_dir / f"X_{config.split}.npy") if config.noise == "grid" else None
        counter = VoteCounter(model, dataset.num_classes, dataset.image_shape, config.sigma, config.batch_size, levels)
        config.check_largest_radius(counter.failure_mass)
        points = draw_points(truth, dataset.num_classes, config)
        test_sha256 = array_sha256(images) + array_sha256(one_hot)
        accuracy = _print_accuracy(model, images[points], truth[points], dataset.num_classes, config.sigma)
        settings = identity(
            config, dataset=dataset.label, noise=counter.noise_record, model_sha256=model_sha256,
            test_sha256=test_sha256, noise_of="seed and images",
        )  # fmt: skip
        record = {"settings": settings, "points": points, "clean_accuracy": accuracy}
        with LineByLine(config.out, header_of(settings), record, config, stop, summary_path(config.out)) as run:
            done = run.resume()
            if run.record.get("points") != points:  # also where an earlier run's file has no line but the header
                raise InputError(f"{config.out}: its points are not those of this run; choose another output")
            if done:
                read_own_points(config.out, run.record, truth, dataset.num_classes)  # refuses damaged lines
                print(f"{config.out}: continuing after {done} of {len(points)} points")
            if done < len(points):
                certified = point_certifier(counter, images, truth, config, test_sha256)
                run.advance(points[done:], lambda index: certified(index).line, unit="point")
            found = read_own_points(config.out, run.record, truth, dataset.num_classes)
            return write_summary(config.out, found, run.record)


def _check_record_of_model(config: CertificationConfig, model_sha256: str, dataset: Dataset) -> None:
    """Raise InputError if the record beside the model has another hash. Note another sigma, class or test images."""
    if (path := config.model.with_suffix(".json")).exists():
        record = read_record(path, config=dict)
        if record.get("sha256", model_sha256) != model_sha256:
            raise InputError(
                f"{config.model}: not the file that {path.name} describes; train it again, or delete that record"
            )
        trained, name = record["config"], config.model.name
        if (sigma := trained.get("sigma")) is not None and sigma != config.sigma:
            print(f"note: {name} was trained with sigma {sigma}, it is certified with {config.sigma}")
        made = record["settings"] if isinstance(record.get("settings"), dict) else {}
        if made.get("x_test", "") not in ("", dataset.hashes("x_test")["x_test"]):
            print(f"note: {name} has other test images, so it may be trained on images that are certified here")
        poisoned, label = trained.get("training_data") == "poisoned_radius", trained.get("target_class")
        if poisoned and config.target_class not in ("all", label):
            print(f"note: {name} was trained on poison of class {label}, not of class {config.target_class}")


def _print_accuracy(model: keras.Model, images: np.ndarray, truth: np.ndarray, num_classes: int, sigma: float) -> float:
    """Print and return the accuracy on images without noise. Prints a note, too, if the pixel scale seems wrong.

    images: (N, height, width, channels) in [0, 1]. truth: their classes, int (N,). sigma: standard deviation of noise.
    Other pixel scales are tried without and with this noise.
    """
    noise = np.random.default_rng(0).normal(0, sigma, images.shape).astype(np.float32)

    def accuracies(scale: float, offset: float) -> np.ndarray:
        """Accuracies without and with noise, on the pixels scale * x + offset."""
        pixels = np.float32(scale) * np.concatenate([images, images + noise]) + np.float32(offset)
        scores = in_batches(lambda x: ops.cast(model(x, training=False), "float32"), pixels, 500)
        return np.mean(np.argmax(scores, axis=1).reshape(2, -1) == truth, axis=1)

    on_unit = accuracies(1, 0)
    print(f"base classifier: accuracy {on_unit[0]:.3f} on these {len(images)} points without noise")
    note = ""
    if on_unit[0] <= 1 / num_classes:
        note = (
            f"note: that is no better than guessing ({1 / num_classes:.3f}). The class may be poisoned; if not, check "
            "the model's training, its pixel scale and its order of classes"
        )
    largest_gain = 0.2  # a smaller one is no sign of another pixel scale
    for scaling, pixels in {(255, 0): "0 to 255", (2, -1): "-1 to 1"}.items():
        for how, before, after in zip(("", " with noise"), on_unit, accuracies(*scaling), strict=True):
            if after - before > largest_gain:
                largest_gain = after - before
                note = (
                    f"note: on pixels {pixels} the accuracy{how} would be {after:.3f} in place of {before:.3f}. The "
                    f"model seems to be made for these pixels; put keras.layers.Rescaling{scaling} in front of it"
                )
    if note:
        print(note)
    return float(on_unit[0])
