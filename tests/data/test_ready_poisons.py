"""Poison that ships with the project: rounded to 8 bits, read, refused for other data; the scripts that use it."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import data.ready_poisons
from attack_generation.controls import ControlConfig, write_control_poison
from attack_generation.pack_poison import Config as PackConfig
from attack_generation.pack_poison import main as pack
from attack_generation.ready_poison import Config as ReadyConfig
from attack_generation.ready_poison import main as unpack
from data import prepare_digits
from data.datasets import load_dataset, load_poison, require_within_epsilon, split_target_class
from data.poison_files import read_poison_file, training_poison
from data.preparation import split_at_random
from data.ready_poisons import (
    FOLDER,
    load_ready_poison,
    pack_poison,
    read_ready_poison,
    ready_name,
    ready_names,
    to_8_bit,
)
from evaluation.DIGITS.gaussian_augmented_training import Config as TrainingConfig
from robust_training.training import train_victims
from runtime.files import (
    InputError,
    array_sha256,
    file_sha256,
    load_archive,
    load_array,
    read_json,
    save_archive,
    write_json,
)

X = np.random.default_rng(0).integers(0, 256, size=(60, 4, 4, 1)).astype(np.float32) / np.float32(255)
CLEAN = X[:25]
POISON = np.clip(CLEAN + np.random.default_rng(1).uniform(-0.1, 0.1, CLEAN.shape), 0, 1).astype(np.float32)


def settings(**changes: Any) -> dict[str, Any]:
    return {"settings": {"target_class": 8, "epsilon": 0.1, "x_train": array_sha256(X)}, "commit": "abc", **changes}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the poison 'toy'."""
    monkeypatch.setattr(data.ready_poisons, "FOLDER", tmp_path)
    pack_poison(POISON, CLEAN, np.arange(25) * 2, settings(), "toy", tmp_path)
    return tmp_path


def test_what_is_packed_is_the_nearest_8_bit_image_and_is_read_to_the_bit(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["toy.json", "toy.npz"] and ready_names() == ["toy"]
    stored = load_archive(folder / "toy.npz")
    assert stored["X_poisoned"].dtype == np.uint8 and stored["index"].dtype == np.int32
    assert stored["index"].tolist() == list(range(0, 50, 2))
    ready = read_ready_poison("toy", X, 8)
    assert ready.index.tolist() == list(range(0, 50, 2)) and ready.pixels.tobytes() == stored["X_poisoned"].tobytes()
    assert ready.images.dtype == np.float32 and ready.record["commit"] == "abc"
    assert ready.images.tobytes() == (stored["X_poisoned"].astype(np.float32) / np.float32(255)).tobytes()
    rounding = ready.record["rounding"]
    assert rounding["float_sha256"] == array_sha256(POISON)
    assert rounding["largest_change"] == pytest.approx(np.abs(ready.images - POISON).max(), abs=1e-6)
    assert rounding["largest_change"] <= 0.501 / 255
    assert rounding["largest_perturbation"] <= 25 / 255 + 1e-7


@pytest.mark.parametrize("epsilon", [0.1, 8 / 255, 1 / 255, 1.0])
@pytest.mark.parametrize("levels", [255, 16])
def test_rounding_keeps_epsilon_and_goes_no_farther_than_it_must(epsilon: float, levels: int) -> None:
    clean = np.repeat(np.arange(levels + 1) / levels, 201).astype(np.float32)
    change = np.tile(np.linspace(-epsilon, epsilon, 201), levels + 1)
    images = np.clip(clean + change, 0, 1).astype(np.float32)
    rounded = to_8_bit(images, clean, epsilon)
    grid = np.arange(256) / 255
    distance = np.where(np.abs(grid - clean[:, None]) <= epsilon + 1e-6, np.abs(grid - images[:, None]), np.inf)
    np.testing.assert_allclose(np.abs(rounded / 255 - images), distance.min(axis=1), atol=1e-6)
    if levels == 255:
        most = np.abs(rounded.astype(int) - np.round(255 * clean.astype(float)).astype(int)).max()
        assert most == np.floor(255 * epsilon + 1e-9)


def test_a_level_that_passes_the_check_of_epsilon_is_not_changed() -> None:
    """8/255 is 0.0313725: an epsilon of fewer digits is smaller by less than the check's tolerance."""
    clean = np.full((1, 1, 1, 1), 100 / 255, np.float32)
    for change in (-8, 8):
        images = np.full_like(clean, (100 + change) / 255)
        require_within_epsilon(images, clean, 0.031372, Path("x"))
        assert to_8_bit(images, clean, 0.031372) == 100 + change


def test_a_packed_poison_of_a_long_command_can_be_read_as_a_file(tmp_path: Path) -> None:
    record = {**settings(), "command": "python attack.py " + 300 * "-"}
    path, _ = pack_poison(POISON, CLEAN, np.arange(25), record, "toy", tmp_path)
    assert read_poison_file(path).record["settings"]["source"] == record["command"][:100]


def test_a_file_is_unpacked_again_where_the_data_changed(
    control: Path, tiny_data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(PackConfig(poison=control, name="mine", data_dir=tiny_data_dir, out_dir=tmp_path))
    prepare_digits.main(prepare_digits.Config(out_dir=tmp_path / "DIGITS", seed=2))
    for again, data_dir in ((False, tiny_data_dir), (True, tiny_data_dir), (False, tmp_path / "DIGITS")):
        unpack(ReadyConfig(name=str(tmp_path / "mine.npz"), out=tmp_path / "copy.npy", data_dir=data_dir))
        expected = training_poison(tmp_path / "mine.npz", load_dataset(data_dir), data_dir, 8)
        assert np.array_equal(load_array(tmp_path / "copy.npy"), expected)
        assert ("already made" in capsys.readouterr().out) == again


def test_an_epsilon_without_a_grey_level() -> None:
    with pytest.raises(InputError, match=r"epsilon 0.001: a pixel has no grey level of 8 bits within it"):
        to_8_bit(np.full(1, 0.5), np.full(1, 0.5), 0.001)


@pytest.mark.parametrize(
    ("name", "x_train", "target_class", "message"),
    [
        ("other", X, 8, "no ready poison 'other'; choose from toy"),
        ("toy", X, 3, "toy: is poison of class 8, the target class is 3"),
        ("toy", X[1:], 8, "toy: was made from other training images"),
    ],
)
def test_data_that_it_was_not_made_for(
    name: str, x_train: np.ndarray, target_class: int, message: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read_ready_poison(name, x_train, target_class)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": np.arange(25, dtype=np.int32)}, "toy.npz: index is not the array that was packed"),
        ({"X_poisoned": np.zeros((25, 4, 4, 1), np.uint8)}, "toy.npz: X_poisoned is not the array that was packed"),
        ({"X_poisoned": None}, "toy.npz: has no array 'X_poisoned'"),
    ],
)
def test_arrays_that_are_missing_or_others(folder: Path, change: dict[str, Any], message: str) -> None:
    arrays = {**load_archive(folder / "toy.npz"), **change}
    save_archive(folder / "toy.npz", {name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(InputError, match=message):
        read_ready_poison("toy", X, 8)


def test_an_array_of_other_type_with_the_same_bytes_and_no_file(folder: Path) -> None:
    arrays = load_archive(folder / "toy.npz")
    save_archive(folder / "toy.npz", {**arrays, "X_poisoned": arrays["X_poisoned"].view(np.int8)})
    with pytest.raises(InputError, match="X_poisoned is not the array that was packed"):
        read_ready_poison("toy", X, 8)
    (folder / "toy.npz").unlink()
    with pytest.raises(InputError, match=r"toy\.npz: no such file"):
        read_ready_poison("toy", X, 8)


def test_a_name_is_told_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert ready_name(Path("mnist_published")) == "mnist_published"
    assert ready_name(FOLDER / "digits_per_image.npz") == "digits_per_image"
    assert not any(ready_name(Path(one)) for one in ("a.npy", "folder/a", "file", "a.npz", FOLDER / "a.npy"))


@pytest.mark.parametrize(
    ("name", "float_sha256"),
    [
        ("mnist_published", "ed245b56119a7be6"),  # as results/tables/mnist_published says
        ("mnist_smoothadv", "8571cfc9ee7374f0"),
        ("mnist_f2sa", "874210530364b25d"),
    ],
)
def test_the_poisons_of_mnist_are_whole_and_keep_epsilon(name: str, float_sha256: str) -> None:
    """Without the data set: MNIST's corners are black, where the perturbation is seen."""
    assert (FOLDER / f"{name}.npz").stat().st_size < 2_000_000
    record, arrays = read_json(FOLDER / f"{name}.json"), load_archive(FOLDER / f"{name}.npz")
    assert {key: array_sha256(array) for key, array in arrays.items()} == record["arrays_sha256"]
    images, index = arrays["X_poisoned"], arrays["index"]
    assert images.shape == (5349, 28, 28, 1) and images[:, :2].max() == 25
    assert len(index) == 5349 and (np.diff(index) > 0).all() and index[0] >= 0 and index[-1] < 60_000
    assert record["rounding"]["float_sha256"].startswith(float_sha256)


@pytest.mark.skipif("MNIST_NPZ" not in os.environ, reason="set MNIST_NPZ to an mnist.npz for the real data")
def test_index_names_the_image_in_mnist_as_published() -> None:
    mnist = load_archive(Path(os.environ["MNIST_NPZ"]))
    for name in ("mnist_published", "mnist_smoothadv", "mnist_f2sa"):
        poison = load_ready_poison(name)
        clean = mnist["x_train"][poison.index].astype(int)
        assert (mnist["y_train"][poison.index] == 8).all()
        assert np.abs(poison.pixels[..., 0] - clean).max() == 25


def test_the_poison_of_the_digits_is_of_the_embedded_ones(tiny_data_dir: Path) -> None:
    dataset = load_dataset(tiny_data_dir)
    ready = read_ready_poison("digits_per_image", dataset.x_train, 8)
    clean = split_target_class(dataset.x_train, dataset.y_train, 8).x_target
    change = ready.images - clean
    assert np.abs(change).max() <= np.float32(0.1) + 1e-6 and np.abs(change).mean() > 0.05
    assert np.abs(change - change.mean(axis=0)).mean() > 0.01  # not one pattern for the class
    np.testing.assert_array_equal(load_digits().images[ready.index, ..., np.newaxis] / 16, clean)


@pytest.fixture
def control(tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A poison's file; ready poisons lie in a folder of the test."""
    monkeypatch.setattr(data.ready_poisons, "FOLDER", tmp_path / "poisons")
    config = ControlConfig(kind="constant", sigma=0.25, data_dir=tiny_data_dir, out_dir=tmp_path)
    monkeypatch.setattr("runtime.provenance.git_commit", lambda: "0123456789ab")
    return write_control_poison(config)


def test_a_victim_takes_the_name_and_a_copy_has_its_record(control: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    pack(PackConfig(poison=control, name="bright", data_dir=tiny_data_dir, out_dir=tmp_path / "poisons"))
    dataset = load_dataset(tiny_data_dir)
    found = load_poison(Path("bright"), dataset, 8)
    pack(PackConfig(poison=control, name="mine", data_dir=tiny_data_dir, out_dir=tmp_path))  # into a file of one's own
    assert np.array_equal(training_poison(tmp_path / "mine.npz", dataset, tiny_data_dir, 8), found)
    assert np.abs(found - load_array(control)).max() < 1 / 255
    unpack(ReadyConfig(name="bright", out=tmp_path / "copy.npy", data_dir=tiny_data_dir))
    record = read_json(tmp_path / "copy.json")
    assert load_array(tmp_path / "copy.npy").tobytes() == found.tobytes()
    assert record["sha256"] == file_sha256(tmp_path / "copy.npy") and record["settings"]["kind"] == "constant"
    made_at = (tmp_path / "copy.npy").stat().st_mtime_ns
    unpack(ReadyConfig(name="bright", out=tmp_path / "copy.npy", data_dir=tiny_data_dir))  # its own file
    assert (tmp_path / "copy.npy").stat().st_mtime_ns == made_at  # Snakemake would train its victims again
    (tmp_path / "copy.json").unlink()
    (tmp_path / ".copy.npy.lock").touch()  # as a killed run leaves it
    unpack(ReadyConfig(name="bright", out=tmp_path / "copy.npy", data_dir=tiny_data_dir))
    assert read_json(tmp_path / "copy.json") == record
    for name in ("mine.npy", "poisons/bright.npy"):  # an array of another program, the record of a ready poison
        (tmp_path / "mine.npy").touch()
        with pytest.raises(InputError, match=r"is the place of data, or of a file of another script"):
            unpack(ReadyConfig(name="bright", out=tmp_path / name, data_dir=tiny_data_dir))
    common: dict[str, Any] = {
        "training_data": "poisoned_radius", "epochs": 1, "sigma": 0.25, "data_dir": tiny_data_dir, "out_dir": tmp_path,
        "run_dir": tmp_path / "runs",
    }  # fmt: skip
    (by_name,) = train_victims(TrainingConfig(poison=Path("bright"), **common))
    assert by_name.name == "gaussianaug_0.25_bright_seed0.keras"
    (by_file,) = train_victims(TrainingConfig(poison=tmp_path / "copy.npy", **common))
    of_each = [json.loads(path.with_suffix(".json").read_text())["settings"]["x_train"] for path in (by_name, by_file)]
    assert of_each[0] == of_each[1]


def test_a_copy_must_keep_epsilon(control: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    pack(PackConfig(poison=control, name="bright", data_dir=tiny_data_dir, out_dir=tmp_path / "poisons"))
    with pytest.raises(InputError, match=r"bright: a pixel is 0.1.* away from the clean image, epsilon is 0.05"):
        unpack(ReadyConfig(name="bright", epsilon=0.05, out=tmp_path / "copy.npy", data_dir=tiny_data_dir))
    assert not (tmp_path / "copy.npy").exists()
    with pytest.raises(InputError, match=r"copy\.json: the name of the images' file must end in \.npy; rename it"):
        unpack(ReadyConfig(name="bright", out=tmp_path / "copy.json", data_dir=tiny_data_dir))


def test_what_cannot_be_packed(control: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    config = PackConfig(poison=control, name="bright", data_dir=tiny_data_dir, out_dir=tmp_path / "poisons")
    with pytest.raises(InputError, match="name is made of small letters"):
        pack(PackConfig(poison=control, name="../bright", data_dir=tiny_data_dir, out_dir=tmp_path / "poisons"))
    record = read_json(control.with_suffix(".json"))
    changed = record["settings"]
    cases: list[tuple[dict[str, Any], str]] = [
        *(({"commit": commit}, "no commit that others can check out") for commit in ("0123456789ab-dirty", "unknown")),
        ({"sha256": "0"}, r"is not the file that .* describes"),
        (
            {"settings": {**changed, "x_train": "0"}},
            r"was made from other training images than .* has; give its --data",
        ),
        ({"settings": {**changed, "epsilon": "a"}}, r"\.json: its settings have epsilon 'a'; make the poison again"),
        ({"settings": {**changed, "epsilon": 0.05}}, r"a pixel is 0\.1.* away from the clean image, epsilon is 0\.05"),
        ({"settings": {**changed, "epsilon": -0.1}}, r"epsilon must be positive, got -0\.1"),
        ({"settings": {"epsilon": 0.1}}, "its settings have target_class None"),
    ]
    for change, message in cases:
        write_json(control.with_suffix(".json"), {**record, **change})
        with pytest.raises(InputError, match=message):
            pack(config)
    assert not (tmp_path / "poisons").exists()


def test_the_place_of_each_image_is_checked_against_the_published_data(
    control: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    copy, dataset = tmp_path / "DIGITS", load_dataset(tiny_data_dir)
    shutil.copytree(tiny_data_dir, copy)
    manifest = read_json(copy / "manifest.json")
    config = PackConfig(poison=control, name="bright", data_dir=copy, out_dir=tmp_path / "poisons")
    write_json(copy / "manifest.json", {**manifest, "seed": 1})
    with pytest.raises(InputError, match=r"sklearn\.datasets.* has other images at the places that seed 1 gives"):
        pack(config)
    # The same images as if they were from a file.
    write_json(copy / "manifest.json", {**manifest, "source": {"file": "a.npz"}})
    train, validation = split_at_random(len(dataset.x_train) + len(dataset.x_val), len(dataset.x_val), 0, "a.npz")
    published = np.zeros((len(train) + len(validation), 8, 8), np.float32)
    published[train] = dataset.x_train[..., 0]
    for images, is_right in ((published[::-1], False), (published[:9], False), (published, True)):
        save_archive(tmp_path / "a.npz", {"x_train": images, **dict.fromkeys(("y_train", "x_test", "y_test"), images)})
        if not is_right:
            with pytest.raises(InputError, match=r"a\.npz has other images at the places"):
                pack(replace(config, published=tmp_path / "a.npz"))
    pack(replace(config, published=tmp_path / "a.npz"))
    assert set(load_archive(tmp_path / "poisons/bright.npz")["index"]) <= set(train)


def test_a_data_set_without_manifest_has_no_index(control: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "DIGITS"
    shutil.copytree(tiny_data_dir, copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json: no such file"):
        pack(PackConfig(poison=control, name="bright", data_dir=copy, out_dir=tmp_path / "poisons"))
