"""What victims do to training images that they do not trust."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.datasets import Dataset, labels, load_dataset
from evaluation.DIGITS.gaussian_augmented_training import Config
from robust_training.defences import defended
from robust_training.training import train_victims
from runtime.files import InputError, read_json


@pytest.fixture(scope="module")
def dataset(tiny_data_dir: Path) -> Dataset:
    return load_dataset(tiny_data_dir)


def coloured(dataset: Dataset) -> Dataset:
    """The digits in red, green and blue."""
    tint = np.float32([1.0, 0.5, 0.2])
    return replace(dataset, x_train=dataset.x_train * tint, x_val=dataset.x_val * tint, x_test=dataset.x_test * tint)


def test_nothing_is_done_by_default(dataset: Dataset) -> None:
    assert defended(dataset, "none") is dataset


@pytest.mark.parametrize("defence", ["jpeg", "bit_depth", "removal"])
def test_only_training_images_change(defence: str, dataset: Dataset) -> None:
    after = defended(dataset, defence)  # type: ignore[arg-type]
    assert after.x_val is dataset.x_val and after.x_test is dataset.x_test
    assert after.x_train.dtype == np.float32 and after.x_train.min() >= 0 and after.x_train.max() <= 1
    assert len(after.x_train) == len(after.y_train)


def test_two_bits_are_four_levels_the_nearest_ones(dataset: Dataset) -> None:
    after = defended(dataset, "bit_depth").x_train
    np.testing.assert_allclose(np.unique(after), [0, 1 / 3, 2 / 3, 1], atol=1e-6)
    assert np.abs(after - dataset.x_train).max() <= 1 / 6 + 1e-6


@pytest.mark.parametrize("colour", [False, True])
def test_jpeg_keeps_the_picture_and_loses_a_fine_pattern(colour: bool, dataset: Dataset) -> None:
    smooth = np.linspace(0.2, 0.8, 16, dtype=np.float32)[None, :, None, None] * np.ones((2, 16, 16, 3 if colour else 1))
    smooth = smooth.astype(np.float32)
    checks = np.float32(0.03) * np.where(np.indices((16, 16)).sum(axis=0) % 2, 1, -1)[None, :, :, None].astype(
        np.float32
    )
    plain, patterned = (defended(replace(dataset, x_train=x), "jpeg").x_train for x in (smooth, smooth + checks))
    assert plain.shape == smooth.shape and np.abs(plain - smooth).mean() < 0.05
    assert np.abs(patterned - plain).mean() < 0.01  # of 0.03


def test_grayscale_weighs_by_luminance(dataset: Dataset) -> None:
    after = defended(coloured(dataset), "grayscale").x_train
    np.testing.assert_allclose(
        after, np.repeat(dataset.x_train * (0.299 + 0.587 * 0.5 + 0.114 * 0.2), 3, -1), atol=1e-6
    )
    with pytest.raises(InputError, match="grayscale needs images of three channels, these have 1"):
        defended(dataset, "grayscale")


def test_removal_takes_a_tenth_of_each_class_and_what_lies_far(dataset: Dataset) -> None:
    rows = np.flatnonzero(labels(dataset.y_train) == 8)
    x = dataset.x_train.copy()
    x[rows[:8]] = 1 - x[rows[:8]]
    after = defended(replace(dataset, x_train=x), "removal")
    before, kept = (np.bincount(labels(one.y_train)) for one in (dataset, after))
    assert kept.tolist() == [count - round(0.1 * count) for count in before]
    left = {image.tobytes() for image in after.x_train}
    assert not any(x[row].tobytes() in left for row in rows[:8])
    # In order, each with its label.
    order = [row for row in range(len(x)) if x[row].tobytes() in left]
    np.testing.assert_array_equal(after.y_train, dataset.y_train[order])


def test_a_victim_is_trained_on_defended_images(tiny_data_dir: Path, tmp_path: Path) -> None:
    hashes = {}
    for defence in ("none", "bit_depth"):
        config = Config(
            defence=defence,
            epochs=1,
            data_dir=tiny_data_dir,
            out_dir=tmp_path / defence,
            run_dir=tmp_path / "runs" / defence,
        )
        record = read_json(train_victims(config)[0].with_suffix(".json"))
        assert record["settings"]["defence"] == defence
        hashes[defence] = record["settings"]["x_train"]
    assert hashes["none"] != hashes["bit_depth"]
