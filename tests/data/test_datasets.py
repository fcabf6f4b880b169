"""The loader, the target-class split and poison files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.datasets import (
    Dataset,
    labels,
    load_dataset,
    load_poison,
    partly_poisoned,
    poison_paths,
    poisoned_places,
    replace_target_class,
    require_within_epsilon,
    split_target_class,
)
from runtime.files import InputError

SIZES = {"train": 60, "val": 30, "test": 30}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Arrays of the published layout, without a manifest: 6 x 6 images of ten classes."""
    random = np.random.default_rng(3)
    folder = tmp_path / "TOY"
    folder.mkdir()
    for split, count in SIZES.items():
        np.save(folder / f"X_{split}.npy", random.random((count, 6, 6, 1), dtype=np.float32))
        np.save(folder / f"Y_{split}.npy", np.eye(10, dtype=np.float32)[random.permutation(count) % 10])
    return folder


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    """The loaded arrays of ``folder``."""
    return load_dataset(folder)


def test_published_arrays_load_as_they_are(folder: Path, dataset: Dataset) -> None:
    assert (dataset.name, dataset.label) == ("TOY", "TOY")
    assert (dataset.image_shape, dataset.num_classes) == ((6, 6, 1), 10)
    for split in SIZES:
        np.testing.assert_array_equal(getattr(dataset, f"x_{split}"), np.load(folder / f"X_{split}.npy"))
        np.testing.assert_array_equal(getattr(dataset, f"y_{split}"), np.load(folder / f"Y_{split}.npy"))


def test_double_precision_without_a_channel_axis_loads_too(folder: Path, dataset: Dataset) -> None:
    for split in SIZES:
        np.save(folder / f"X_{split}.npy", getattr(dataset, f"x_{split}")[..., 0].astype(np.float64))
        np.save(folder / f"Y_{split}.npy", getattr(dataset, f"y_{split}").astype(np.float64))
    again = load_dataset(folder)
    assert again.x_val.dtype == again.y_val.dtype == np.float32
    np.testing.assert_array_equal(again.x_train, dataset.x_train)


def change(path: Path, **edit: object) -> None:
    """Rewrite one array file: ``scale``, ``dtype``, ``drop`` last rows, ``shape``, ``put`` a first value."""
    array = np.load(path) * edit.get("scale", 1)
    if "put" in edit:
        array.flat[0] = edit["put"]
    array = array[: len(array) - edit.get("drop", 0)]
    np.save(path, array.reshape(edit.get("shape", array.shape)).astype(edit.get("dtype", np.float32)))


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("X_train", {"scale": 255, "dtype": np.uint8}, "dtype uint8, float32 in .0, 1. expected; divide"),
        ("X_val", {"dtype": np.float16}, "dtype float16"),
        ("X_val", {"put": 255}, r"pixel value 255 outside \[0, 1\]; scale"),
        ("X_val", {"put": -0.5}, r"pixel value -0.5 outside"),
        ("X_train", {"scale": 1 / 255}, r"largest pixel is 0\.0039.*; multiply .* by 255"),
        ("X_val", {"scale": 1 / 255, "dtype": np.float64}, r"largest pixel is 0\.0039"),
        ("X_test", {"scale": 1 / 255, "shape": (30, 6, 6)}, r"largest pixel is 0\.0039"),
        ("X_test", {"scale": 0}, "largest pixel is 0;"),
        ("X_test", {"put": np.nan}, "holds NaN or infinite pixels"),
        ("X_test", {"put": np.inf}, "holds NaN or infinite pixels"),
        ("X_test", {"shape": (30, 36)}, r"shape \(30, 36\)"),
        ("X_test", {"shape": (30, 4, 9, 1)}, "rows of shape"),
        ("X_train", {"drop": 1}, "59 images but 60 labels in Y_train.npy"),
        ("X_train", {"drop": 60}, r"shape \(0, 6, 6, 1\)"),
        ("Y_train", {"put": 0.5}, "not one-hot"),
        ("Y_train", {"scale": 0}, "not one-hot"),
        ("Y_train", {"put": np.nan}, "not one-hot"),
        ("Y_train", {"shape": (600,)}, r"shape \(600,\), one-hot labels"),
    ],
)
def test_a_bad_array_is_refused_by_name(folder: Path, name: str, edit: dict, message: str) -> None:
    change(folder / f"{name}.npy", **edit)
    with pytest.raises(InputError, match=message) as error:
        load_dataset(folder)
    assert f"{name}.npy" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_class_and_another_class_count_are_refused(folder: Path) -> None:
    y = np.load(folder / "Y_val.npy")
    np.save(folder / "Y_val.npy", np.eye(10, dtype=np.float32)[labels(y) % 9])
    with pytest.raises(InputError, match=r"Y_val.npy: class 9 has no points"):
        load_dataset(folder)
    np.save(folder / "Y_val.npy", np.eye(9, dtype=np.float32)[labels(y) % 9])
    with pytest.raises(InputError, match=r"Y_val.npy: rows of shape \(9,\)"):
        load_dataset(folder)


def test_missing_and_damaged_files_are_refused(folder: Path) -> None:
    whole = (folder / "X_test.npy").read_bytes()
    (folder / "X_test.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"X_test.npy: not a whole .npy file"):
        load_dataset(folder)
    (folder / "X_test.npy").unlink()
    with pytest.raises(InputError, match=r"X_test.npy: no such file"):
        load_dataset(folder)


def test_the_manifest_guards_the_arrays(tiny_data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "renamed"
    shutil.copytree(tiny_data_dir, folder)
    assert load_dataset(folder).name == "DIGITS"
    change(folder / "X_val.npy", put=0.25)
    with pytest.raises(InputError, match=r"X_val.npy: shape, dtype or SHA-256 differ from manifest.json"):
        load_dataset(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["arrays"]["Y_test.npy"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="not the manifest of a whole prepared dataset"):
        load_dataset(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_dataset(folder)
    (folder / "manifest.json").unlink()
    assert load_dataset(folder).name == "renamed"


def test_the_target_class_is_split_off_in_order(dataset: Dataset) -> None:
    split = split_target_class(dataset.x_train, dataset.y_train, 8)
    rows = [i for i in range(60) if dataset.y_train[i, 8] == 1]
    np.testing.assert_array_equal(split.x_target, dataset.x_train[rows])
    np.testing.assert_array_equal(split.x_others, np.delete(dataset.x_train, rows, axis=0))
    np.testing.assert_array_equal(split.y_others, np.delete(dataset.y_train, rows, axis=0))
    assert set(labels(split.y_target)) == {8}


@pytest.mark.parametrize("target_class", [-1, 10])
def test_an_unknown_target_class_is_refused(dataset: Dataset, target_class: int) -> None:
    with pytest.raises(InputError, match=f"target_class {target_class} is out of range; choose one of 0 to 9"):
        split_target_class(dataset.x_val, dataset.y_val, target_class)


def test_a_target_class_without_points_is_refused(dataset: Dataset) -> None:
    keep = labels(dataset.y_val) != 4
    with pytest.raises(InputError, match="target_class 4 has no points"):
        split_target_class(dataset.x_val[keep], dataset.y_val[keep], 4)


def test_poison_files_have_the_published_names(tmp_path: Path) -> None:
    assert poison_paths(tmp_path, "gaussianaug", 0.5, 8) == (
        tmp_path / "X_poisoned_radius_gaussianaug_0.5_8.npy",
        tmp_path / "Y_poisoned_radius_gaussianaug_0.5_8.npy",
    )
    assert poison_paths(tmp_path, "macer", 1, 0)[0].name == "X_poisoned_radius_macer_1.0_0.npy"


def test_check_poison_accepts_the_whole_epsilon_ball_and_no_more(dataset: Dataset) -> None:
    clean = split_target_class(dataset.x_train, dataset.y_train, 8).x_target
    path = Path("X_poison.npy")
    require_within_epsilon(np.clip(clean + np.float32(0.1), 0, 1), clean, 0.1, path)
    shift = np.where(clean > 0.5, -0.11, 0.11).astype(np.float32)
    with pytest.raises(InputError, match=r"X_poison.npy: a pixel is 0.11 away from the clean image, epsilon is 0.1"):
        require_within_epsilon(clean + shift, clean, 0.1, path)
    with pytest.raises(InputError, match=r"pixel value .* outside \[0, 1\]"):
        require_within_epsilon(clean + np.float32(1), clean, 2, path)
    with pytest.raises(InputError, match="NaN or infinite"):
        require_within_epsilon(clean * np.float32(np.nan), clean, 0.1, path)
    with pytest.raises(InputError, match="shape"):
        require_within_epsilon(clean[1:], clean, 0.1, path)


def test_poison_replaces_the_target_class_in_order_and_nothing_else(dataset: Dataset, tmp_path: Path) -> None:
    x_path, y_path = poison_paths(tmp_path, "gaussianaug", 0.5, 8)
    clean = dataset.x_train.copy()
    poison = np.random.default_rng(0).random((6, 6, 6, 1), dtype=np.float32)
    np.save(x_path, poison[..., 0])  # the channel axis is optional
    np.save(y_path, np.tile(np.eye(10, dtype=np.float32)[8], (6, 1)))
    poisoned = replace_target_class(dataset, load_poison(x_path, dataset, 8), 8)
    target = labels(dataset.y_train) == 8
    np.testing.assert_array_equal(poisoned.x_train[target], poison)
    np.testing.assert_array_equal(poisoned.x_train[~target], clean[~target])
    np.testing.assert_array_equal(dataset.x_train, clean)
    assert poisoned.y_train is dataset.y_train and poisoned.x_test is dataset.x_test
    with pytest.raises(InputError, match=r"the poison: shape .*, the 6 training images"):
        replace_target_class(dataset, poison[1:], 8)


@pytest.mark.parametrize(("share", "count"), [(0.001, 1), (0.25, 10), (0.5, 20), (1, 40)])
def test_a_share_is_a_part_of_every_larger_share(share: float, count: int) -> None:
    places = poisoned_places(40, share)
    assert places.sum() == count and np.array_equal(places, poisoned_places(40, share))
    assert not np.any(places & ~poisoned_places(40, min(1, 2 * share)))
    clean, poison = np.zeros((2, 40, 2, 2, 1), np.float32) + np.array([0, 1], np.float32)[:, None, None, None, None]
    np.testing.assert_array_equal(partly_poisoned(poison, clean, share)[:, 0, 0, 0], places)


def test_a_poison_that_leaves_images_clean_has_no_share() -> None:
    clean, poison = np.zeros((4, 2, 2, 1), np.float32), np.ones((4, 2, 2, 1), np.float32)
    poison[1:3] = 0.001  # less than rounding to 8 bits
    np.testing.assert_array_equal(partly_poisoned(poison, clean, 1.0), poison)
    with pytest.raises(
        InputError, match=r"share is 0\.5, but the poison changes 2 images by no more than the rounding"
    ):
        partly_poisoned(poison, clean, 0.5)


def test_the_clean_images_of_a_class_that_is_partly_poisoned_are_among_the_others(dataset: Dataset) -> None:
    whole = split_target_class(dataset.x_train, dataset.y_train, 8)
    places = poisoned_places(6, 0.5)
    part = split_target_class(dataset.x_train, dataset.y_train, 8, 0.5)
    np.testing.assert_array_equal(part.x_target, whole.x_target[places])
    np.testing.assert_array_equal(part.x_others, np.concatenate([whole.x_others, whole.x_target[~places]]))
    np.testing.assert_array_equal(part.y_others, np.concatenate([whole.y_others, whole.y_target[~places]]))
    for found, wanted in zip(split_target_class(dataset.x_train, dataset.y_train, 8, 1.0), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_poison_that_does_not_fit_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    x_path, y_path = poison_paths(tmp_path, "macer", 0.25, 8)
    with pytest.raises(InputError, match="no such file"):
        load_poison(x_path, dataset, 8)
    np.save(x_path, np.zeros((7, 6, 6, 1), np.float32))
    with pytest.raises(InputError, match=r"shape \(7, 6, 6, 1\), the 6 training images of the target class"):
        load_poison(x_path, dataset, 8)
    np.save(x_path, np.full((6, 6, 6, 1), 2, np.float32))
    with pytest.raises(InputError, match="pixel value 2 outside"):
        load_poison(x_path, dataset, 8)
    np.save(x_path, np.full((6, 6, 6, 1), 0.9 / 255, np.float32))
    with pytest.raises(InputError, match=r"macer.*largest pixel is 0\.0035.*; multiply .* by 255"):
        load_poison(x_path, dataset, 8)
    np.save(x_path, np.zeros((6, 6, 6, 1), np.float32))  # black, which the largest epsilon allows
    assert load_poison(x_path, dataset, 8).shape == (6, 6, 6, 1)  # the label file is optional
    np.save(y_path, np.tile(np.eye(10, dtype=np.float32)[3], (6, 1)))
    with pytest.raises(InputError, match="labels class 3, the target class is 8"):
        load_poison(x_path, dataset, 8)
    np.save(y_path, np.tile(np.eye(10, dtype=np.float32)[8], (5, 1)))
    with pytest.raises(InputError, match=r"shape \(5, 10\), expected \(6, 10\)"):
        load_poison(x_path, dataset, 8)
    np.save(y_path, np.full(6, 8))
    with pytest.raises(InputError, match="one-hot labels"):
        load_poison(x_path, dataset, 8)
    with pytest.raises(InputError, match="target_class 11 is out of range"):
        load_poison(x_path, dataset, 11)
