"""Poison that ships with the project: packed and read to the bit, refused for other data; the scripts that use it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data.ready_poisons
from attack_generation.controls import ControlConfig, write_control_poison
from attack_generation.pack_poison import Config as PackConfig
from attack_generation.pack_poison import main as pack
from attack_generation.ready_poison import Config as ReadyConfig
from attack_generation.ready_poison import main as unpack
from data.datasets import load_dataset, load_poison, split_target_class
from data.ready_poisons import FOLDER, is_ready_name, pack_poison, read_ready_poison, ready_names
from evaluation.DIGITS.gaussian_augmented_training import Config as TrainingConfig
from evaluation.training import train_victims
from runtime.files import InputError, array_sha256, file_sha256, load_archive, load_array, read_json

X = np.random.default_rng(0).uniform(size=(60, 4, 4, 1)).astype(np.float32)


def settings(**changes: Any) -> dict[str, Any]:
    return {"settings": {"target_class": 8, "epsilon": 0.1, "x_train": array_sha256(X)}, "commit": "abc", **changes}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In parts of ten images of X."""
    monkeypatch.setattr(data.ready_poisons, "PART_BYTES", 640)
    return tmp_path / "poisons"


def test_what_is_packed_is_read_to_the_bit(folder: Path) -> None:
    written = pack_poison(X[:25], settings(), "toy", folder)
    assert [path.name for path in written] == [*(f"toy_{i}_of_3.npz" for i in (1, 2, 3)), "toy.json"]
    ready = read_ready_poison("toy", X, 8, folder)
    assert ready.images.dtype == np.float32 and ready.images.tobytes() == X[:25].tobytes()
    assert ready.record["commit"] == "abc" and ready_names(folder) == ["toy"]


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
    pack_poison(X[:25], settings(), "toy", folder)
    with pytest.raises(InputError, match=message):
        read_ready_poison(name, x_train, target_class, folder)


def test_parts_that_are_missing_or_others(folder: Path) -> None:
    pack_poison(X[:25], settings(), "toy", folder)
    (folder / "toy_2_of_3.npz").write_bytes((folder / "toy_1_of_3.npz").read_bytes())
    with pytest.raises(InputError, match="others than were packed"):
        read_ready_poison("toy", X, 8, folder)
    (folder / "toy_2_of_3.npz").unlink()
    with pytest.raises(InputError, match=r"toy_2_of_3\.npz: no such file"):
        read_ready_poison("toy", X, 8, folder)


def test_a_name_is_told_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert is_ready_name(Path("mnist_published"))
    assert not any(is_ready_name(Path(one)) for one in ("a.npy", "folder/a", "file"))


def test_the_published_poison_is_whole_and_keeps_epsilon() -> None:
    """The data set is not here in a test, but its images lie in the poison's ball around digits in [0, 1]."""
    record = read_json(FOLDER / "mnist_published.json")
    parts = [load_archive(FOLDER / f"mnist_published_{i}_of_3.npz")["X_poisoned"] for i in (1, 2, 3)]
    images = np.concatenate(parts)
    assert images.shape == (5349, 28, 28, 1) and array_sha256(images) == record["images_sha256"]
    assert record["images_sha256"].startswith("ed245b56119a7be6")  # as results/tables/mnist_published says
    # MNIST's corners are black: the perturbation is seen there, and is at most epsilon.
    assert images[:, :2].max() <= np.float32(0.1) + 1e-6 and images.min() >= 0 and images.max() <= 1
    assert all((FOLDER / f"{name}.json").is_file() for name in ready_names())


def test_the_poison_of_the_digits_is_of_the_embedded_ones(tiny_data_dir: Path) -> None:
    dataset = load_dataset(tiny_data_dir)
    ready = read_ready_poison("digits_per_image", dataset.x_train, 8)
    change = ready.images - split_target_class(dataset.x_train, dataset.y_train, 8).x_target
    assert np.abs(change).max() <= np.float32(0.1) + 1e-6 and np.abs(change).mean() > 0.05
    assert np.abs(change - change.mean(axis=0)).mean() > 0.01  # not one pattern for the class


@pytest.fixture
def control(tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A poison's file; ready poisons lie in a folder of the test."""
    monkeypatch.setattr(data.ready_poisons, "FOLDER", tmp_path / "poisons")
    config = ControlConfig(kind="constant", sigma=0.25, data_dir=tiny_data_dir, out_dir=tmp_path)
    monkeypatch.setattr("runtime.provenance.git_commit", lambda: "0123456789ab")
    return write_control_poison(config)


def test_a_victim_takes_the_name_and_a_copy_has_its_record(control: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    pack(PackConfig(poison=control, name="bright", out_dir=tmp_path / "poisons"))
    dataset = load_dataset(tiny_data_dir)
    np.testing.assert_array_equal(load_poison(Path("bright"), dataset, 8), load_array(control))
    unpack(ReadyConfig(name="bright", out=tmp_path / "copy.npy", data_dir=tiny_data_dir))
    record = read_json(tmp_path / "copy.json")
    assert load_array(tmp_path / "copy.npy").tobytes() == load_array(control).tobytes()
    assert record["sha256"] == file_sha256(tmp_path / "copy.npy") and record["settings"]["kind"] == "constant"
    common: dict[str, Any] = {
        "training_data": "poisoned_radius", "epochs": 1, "sigma": 0.25, "data_dir": tiny_data_dir, "out_dir": tmp_path,
        "run_dir": tmp_path / "runs",
    }  # fmt: skip
    (by_name,) = train_victims(TrainingConfig(poison=Path("bright"), **common))
    assert by_name.name == "gaussianaug_0.25_bright_seed0.keras"
    (by_file,) = train_victims(TrainingConfig(poison=control, **common))
    of_each = [json.loads(path.with_suffix(".json").read_text())["settings"]["x_train"] for path in (by_name, by_file)]
    assert of_each[0] == of_each[1]


def test_a_copy_must_keep_epsilon(control: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    pack(PackConfig(poison=control, name="bright", out_dir=tmp_path / "poisons"))
    with pytest.raises(InputError, match=r"bright: a pixel is 0.1.* away from the clean image, epsilon is 0.05"):
        unpack(ReadyConfig(name="bright", epsilon=0.05, out=tmp_path / "copy.npy", data_dir=tiny_data_dir))
    assert not (tmp_path / "copy.npy").exists()


def test_what_cannot_be_packed(control: Path, tmp_path: Path) -> None:
    config = PackConfig(poison=control, name="bright", out_dir=tmp_path / "poisons")
    with pytest.raises(InputError, match="name is made of small letters"):
        pack(PackConfig(poison=control, name="../bright", out_dir=tmp_path / "poisons"))
    record = read_json(control.with_suffix(".json"))
    for commit in ("0123456789ab-dirty", "unknown (fatal: not a git repository)", "unknown"):
        control.with_suffix(".json").write_text(json.dumps({**record, "commit": commit}))
        with pytest.raises(InputError, match="no commit that others can check out"):
            pack(config)
    control.with_suffix(".json").write_text(json.dumps({**record, "sha256": "0"}))
    with pytest.raises(InputError, match=r"is not the file that .* describes"):
        pack(config)
    assert not (tmp_path / "poisons").exists()
