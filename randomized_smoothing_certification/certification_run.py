"""Certify test points of a saved model: a TSV row per point, and a summary. Runs can be continued and sharded.

The protocol comes from the poisoning paper (CVPR 2021, section 4): randomly drawn test points of the target class,
n0 = 100, n = 100,000, alpha = 0.001, sigma of certification = sigma of training.
"""

from typing import Any

from data.datasets import labels, load_dataset
from models.saving import load_model, with_precision
from randomized_smoothing_certification.certificate_file import (
    Point,
    header_of,
    read_own_points,
    require_result_name,
    summary_path,
)
from randomized_smoothing_certification.certificate_summary import write_summary
from randomized_smoothing_certification.certification_config import CertificationConfig
from randomized_smoothing_certification.certify_images import draw_points, point_certifier
from randomized_smoothing_certification.clean_accuracy import clean_accuracy
from randomized_smoothing_certification.grid_noise import grid_of
from randomized_smoothing_certification.votes import VoteCounter
from runtime.files import InputError, array_sha256, file_sha256, read_record
from runtime.long_run import identity
from runtime.noise import noise_seed
from runtime.part_by_part import LineByLine
from runtime.stop import Stop


def certify_test_points(config: CertificationConfig) -> dict[str, Any]:
    """Certify the configured test points, or continue an earlier run's file. Returns the summary.

    Guarantees: see ``core.certify`` for certified radii, and ``fixed_radii.decide`` for fixed radii.

    Writes a row to ``config.out`` after each point, and .settings.json and .summary.json beside it. Prints the summary.
    Nothing is written before the first point is certified.

    Raises InputError for bad settings, missing files, and an ``out`` that has other settings, has rows that this run
    cannot have written, or is in use by another run. Raises StoppedEarly when SIGTERM, Ctrl-C or max_minutes ends the
    run. Its rows are kept.
    """
    config.check()
    require_result_name(config.out)
    with Stop(config.max_minutes) as stop:
        dataset = load_dataset(config.data_dir)
        model = with_precision(load_model(config.model, dataset.image_shape), config.precision)
        images, one_hot = (getattr(dataset, f"{letter}_{config.split}") for letter in "xy")
        truth = labels(one_hot)
        levels = grid_of(images, config.data_dir / f"X_{config.split}.npy") if config.noise == "grid" else None
        counter = VoteCounter(model, dataset.num_classes, dataset.image_shape, config.sigma, config.batch_size, levels)
        config.check_largest_radius(counter.failure_mass)
        points = draw_points(truth, dataset.num_classes, config)
        test_sha256 = array_sha256(images) + array_sha256(one_hot)
        seed, model_sha256 = noise_seed(config.seed, test_sha256), _model_sha256(config)
        accuracy = clean_accuracy(model, images[points], truth[points], dataset.num_classes, config.sigma)
        what = identity(
            config, dataset=dataset.label, noise=counter.noise_record, model_sha256=model_sha256,
            test_sha256=test_sha256, noise_of="seed and images",
        )  # fmt: skip
        record = {"settings": what, "points": points, "clean_accuracy": accuracy}
        found: list[Point] = []
        with LineByLine(config.out, header_of(what), record, config, stop, summary_path(config.out)) as run:
            if done := run.resume():
                if run.record.get("points") != points:
                    raise InputError(f"{config.out}: its points are not those of this run; choose another output")
                found += read_own_points(config.out, what, points, truth, dataset.num_classes)
                print(f"{config.out}: continuing after {done} of {len(points)} points")
            if done < len(points):
                certified = point_certifier(counter, images, truth, config, seed)

                def line(index: int) -> str:
                    found.append(certified(index))
                    return found[-1].line

                run.advance(points[done:], line, unit="point")
            return write_summary(config.out, found, run.record)


def _model_sha256(config: CertificationConfig) -> str:
    """The hash of the model's file. It replaces the path in the run's identity.

    Raises InputError if the record beside the model describes another file. Notes another sigma or poisoned class.
    """
    digest, path = file_sha256(config.model), config.model.with_suffix(".json")
    if path.exists():
        record = read_record(path, config=dict)
        if record.get("sha256", digest) != digest:
            raise InputError(
                f"{config.model}: not the file that {path.name} describes; train it again, or delete that record"
            )
        trained, name = record["config"], config.model.name
        if (sigma := trained.get("sigma")) is not None and sigma != config.sigma:
            print(f"note: {name} was trained with sigma {sigma}, it is certified with {config.sigma}")
        poisoned, label = trained.get("training_data") == "poisoned_radius", trained.get("target_class")
        if poisoned and config.target_class not in ("all", label):
            print(f"note: {name} was trained on poison of class {label}, not of class {config.target_class}")
    return digest
