"""The prepare scripts: what they write, and what they refuse."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from data import prepare_cifar10, prepare_digits, prepare_mnist
from data.datasets import labels, load_dataset
from data.preparation import split_at_random
from runtime.artifact import Artifact
from runtime.files import InputError, array_sha256, save_array
from runtime.provenance import project_path
from tests.waiting import HANG

ARRAYS = ("X_train", "Y_train", "X_val", "Y_val", "X_test", "Y_test")


def source_arrays(train: int = 200, test: int = 40, shape: tuple[int, ...] = (28, 28)) -> dict[str, np.ndarray]:
    """Arrays of a small source: random images, labels 0 to 9 in turn."""
    random = np.random.default_rng(7)
    return {
        "x_train": random.integers(0, 256, (train, *shape), dtype=np.uint8),
        "y_train": np.arange(train, dtype=np.uint8) % 10,
        "x_test": random.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": np.arange(test, dtype=np.uint8) % 10,
    }


@pytest.fixture
def config(tmp_path: Path) -> prepare_mnist.Config:
    """A working preparation of a tiny source."""
    np.savez(tmp_path / "source.npz", **source_arrays())
    return prepare_mnist.Config(source=tmp_path / "source.npz", out_dir=tmp_path / "MNIST", validation=60)


def prepare_changed(config: prepare_mnist.Config, **changes: np.ndarray) -> None:
    """Prepare from the tiny source with some of its arrays changed."""
    assert config.source is not None
    np.savez(config.source, **{**source_arrays(), **changes})
    prepare_mnist.main(config)


def test_splits_hold_every_source_image_once_with_its_label(config: prepare_mnist.Config) -> None:
    prepare_mnist.main(config)
    dataset = load_dataset(config.out_dir)
    source = source_arrays()
    assert (len(dataset.x_train), len(dataset.x_val), len(dataset.x_test)) == (140, 60, 40)
    label_of = {x.tobytes(): y for x, y in zip(source["x_train"], source["y_train"], strict=True)}
    pixels = np.concatenate([dataset.x_train, dataset.x_val])[..., 0] * 255
    found = [label_of.pop(np.rint(x).astype(np.uint8).tobytes()) for x in pixels]
    assert label_of == {}
    assert found == list(labels(np.concatenate([dataset.y_train, dataset.y_val])))
    np.testing.assert_allclose(dataset.x_test[..., 0], source["x_test"] / 255, atol=1e-7)
    np.testing.assert_array_equal(labels(dataset.y_test), source["y_test"])


def test_the_seed_and_nothing_else_decides_the_split() -> None:
    train, validation = split_at_random(100, 30, 1, "source")
    assert sorted([*train, *validation]) == list(range(100))
    np.testing.assert_array_equal(split_at_random(100, 30, 1, "source")[1], validation)
    assert not np.array_equal(split_at_random(100, 30, 2, "source")[1], validation)


def test_manifest_records_source_seed_and_hashes(
    config: prepare_mnist.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert config.source is not None
    prepare_mnist.main(replace(config, label="MNIST (tiny)", seed=3))
    manifest = json.loads((config.out_dir / "manifest.json").read_text())
    assert (manifest["dataset"], manifest["label"], manifest["seed"]) == ("MNIST", "MNIST (tiny)", 3)
    assert manifest["source"] == {
        "file": "source.npz",
        "sha256": hashlib.sha256(config.source.read_bytes()).hexdigest(),
    }
    assert manifest["provenance"]["config"]["validation"] == 60
    assert set(manifest["arrays"]) == {f"{name}.npy" for name in ARRAYS}
    for name, entry in manifest["arrays"].items():
        array = np.load(config.out_dir / name)
        assert entry == {"shape": list(array.shape), "dtype": "float32", "sha256": array_sha256(array)}
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[:6]] == [f"{name}.npy" for name in ARRAYS]
    assert "(140, 28, 28, 1)" in printed[0] and str(config.out_dir) in printed[6]
    assert load_dataset(config.out_dir).label == "MNIST (tiny)"


def test_a_second_run_replaces_the_first_whole(config: prepare_mnist.Config) -> None:
    prepare_mnist.main(config)
    first = load_dataset(config.out_dir)
    prepare_mnist.main(config)
    np.testing.assert_array_equal(load_dataset(config.out_dir).x_train, first.x_train)
    prepare_mnist.main(replace(config, validation=50))
    assert len(load_dataset(config.out_dir).x_val) == 50


def test_cifar10_takes_colour_images_and_column_labels(tmp_path: Path) -> None:
    arrays = source_arrays(120, 20, shape=(32, 32, 3))
    arrays["y_train"] = arrays["y_train"].reshape(-1, 1)
    np.savez(tmp_path / "source.npz", **arrays)
    prepare_cifar10.main(
        prepare_cifar10.Config(source=tmp_path / "source.npz", out_dir=tmp_path / "CIFAR10", validation=40)
    )
    dataset = load_dataset(tmp_path / "CIFAR10")
    assert (dataset.name, dataset.image_shape, dataset.num_classes) == ("CIFAR10", (32, 32, 3), 10)
    assert (len(dataset.x_train), len(dataset.x_val)) == (80, 40)


def test_published_constants_are_the_defaults() -> None:
    for script, name in ((prepare_mnist, "MNIST"), (prepare_cifar10, "CIFAR10")):
        config = script.Config()
        assert (config.source, config.seed, config.validation) == (None, 0, 5000)
        assert (config.out_dir, config.label) == (project_path(f"data/{name}"), None)


def test_the_folder_names_the_dataset(tmp_path: Path) -> None:
    """So that what is made from two datasets of one shape never collides."""
    digits = prepare_digits.Config(out_dir=tmp_path / "OTHER")
    prepare_digits.main(digits)
    dataset = load_dataset(tmp_path / "OTHER")
    assert (dataset.name, dataset.label) == ("OTHER", "OTHER")


def test_digits_are_split_by_class(tiny_data_dir: Path) -> None:
    dataset = load_dataset(tiny_data_dir)
    assert (len(dataset.x_train), len(dataset.x_val), len(dataset.x_test)) == (1097, 340, 360)
    assert (dataset.name, dataset.image_shape) == ("DIGITS", (8, 8, 1))
    assert dataset.x_train.max() == 1
    for y in (dataset.y_train, dataset.y_val, dataset.y_test):
        assert np.ptp(y.mean(axis=0)) < 0.012  # classes have 174 to 183 of the 1,797 images
    every = np.concatenate([dataset.x_train, dataset.x_val, dataset.x_test])
    assert len(np.unique(every.reshape(1797, -1), axis=0)) == 1797


def test_digits_refuse_a_negative_seed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed -1"):
        prepare_digits.main(prepare_digits.Config(seed=-1, out_dir=tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((200, 28, 28), np.float32)}, "x_train has dtype float32"),
        ({"x_test": np.zeros((40, 32, 32), np.uint8)}, r"x_test has images of shape \(32, 32\)"),
        ({"y_train": np.zeros(199, np.uint8)}, r"y_train has shape \(199,\)"),
        ({"y_train": np.zeros(200, np.float32)}, "y_train has dtype float32"),
        ({"y_train": np.arange(200) % 11}, "y_train holds label 10"),
        ({"y_test": np.arange(40) % 10 - 1}, "y_test holds label -1"),
        ({"y_test": np.arange(40) % 9}, "the test split has no image of class 9"),
        ({"y_train": np.arange(200) % 8}, "the train split has no image of class 8"),
    ],
)
def test_a_bad_source_is_refused_and_nothing_is_written(
    config: prepare_mnist.Config, changes: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prepare_changed(config, **changes)
    assert not config.out_dir.exists()


@pytest.mark.parametrize("validation", [0, -1, 200, 5000])
def test_a_source_too_small_for_the_validation_set_is_refused(config: prepare_mnist.Config, validation: int) -> None:
    with pytest.raises(InputError, match=f"200 training images; give --validation 1 to 199, not {validation}"):
        prepare_mnist.main(replace(config, validation=validation))


@pytest.mark.parametrize("brightest", [0, 1])
@pytest.mark.parametrize("name", ["x_train", "x_test"])
def test_8_bit_images_of_zeros_and_ones_are_refused(config: prepare_mnist.Config, name: str, brightest: int) -> None:
    images = source_arrays()[name] // 128 * np.uint8(brightest)
    with pytest.raises(InputError, match=rf"{name} .* brightest pixel is {brightest} of 255; multiply .* by 255"):
        prepare_changed(config, **{name: images})
    assert not config.out_dir.exists()
    prepare_changed(config, **{name: source_arrays()[name] // 128 * np.uint8(255)})  # as the mend says


def test_dark_8_bit_images_are_prepared_with_a_note(
    config: prepare_mnist.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_changed(config, x_test=source_arrays()["x_test"] // 16)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("note: ") and "x_test" in first and "brightest pixel is 15 of 255" in first
    assert not any("brightest" in line for line in rest)
    prepare_changed(config, x_train=source_arrays()["x_train"] // 4 + np.uint8(1))
    assert "brightest" not in capsys.readouterr().out


def test_missing_and_damaged_sources_are_refused(config: prepare_mnist.Config) -> None:
    assert config.source is not None
    whole = config.source.read_bytes()
    config.source.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"not a whole .npz file"):
        prepare_mnist.main(config)
    np.savez(config.source, x_train=np.zeros(3))
    with pytest.raises(InputError, match="has no array 'x_test'"):
        prepare_mnist.main(config)
    config.source.unlink()
    with pytest.raises(InputError, match="no such file"):
        prepare_mnist.main(config)
    with pytest.raises(InputError, match="seed -2 is negative"):
        prepare_changed(replace(config, seed=-2))


def test_a_failed_download_points_to_source(config: prepare_mnist.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_data() -> None:
        raise OSError("no\nnetwork")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    with pytest.raises(InputError, match=r"failed \(no network\); use --source FILE.npz"):
        prepare_mnist.main(replace(config, source=None))


def test_the_download_needs_no_source(config: prepare_mnist.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    a = source_arrays()
    monkeypatch.setattr(
        keras.datasets.mnist, "load_data", lambda: ((a["x_train"], a["y_train"]), (a["x_test"], a["y_test"]))
    )
    prepare_mnist.main(config)
    from_file = load_dataset(config.out_dir)
    prepare_mnist.main(replace(config, source=None))
    np.testing.assert_array_equal(load_dataset(config.out_dir).x_val, from_file.x_val)
    manifest = json.loads((config.out_dir / "manifest.json").read_text())
    assert manifest["source"] == {"file": "keras download"}


def test_a_full_disk_leaves_nothing_half_written(config: prepare_mnist.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = np.save, []

    def save_until_full(file, array, **options):  # type: ignore[no-untyped-def]
        calls.append(file)
        if len(calls) == 3:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(file, array, **options)

    monkeypatch.setattr(np, "save", save_until_full)
    with pytest.raises(InputError, match=r"X_val.npy: no space left on the disk"):
        prepare_mnist.main(config)
    assert sorted(path.name for path in config.out_dir.iterdir()) == ["X_train.npy", "Y_train.npy"]
    with pytest.raises(InputError, match=r"X_val.npy: no such file"):
        load_dataset(config.out_dir)


def test_a_second_preparation_at_the_same_time_is_refused(config: prepare_mnist.Config) -> None:
    prepare_mnist.main(config)
    before = {path.name: path.read_bytes() for path in config.out_dir.iterdir()}
    refused = pytest.raises(InputError, match=r"MNIST/manifest\.json: another run is writing it")
    with Artifact(config.out_dir / "manifest.json"), refused:
        prepare_mnist.main(replace(config, seed=1))
    assert {path.name: path.read_bytes() for path in config.out_dir.iterdir()} == before


def test_a_folder_in_the_way_is_refused_before_anything_is_written(config: prepare_mnist.Config) -> None:
    (config.out_dir / "Y_test.npy").mkdir(parents=True)
    with pytest.raises(InputError, match=r"Y_test\.npy: is a folder"):
        prepare_mnist.main(config)
    assert [path.name for path in config.out_dir.iterdir()] == ["Y_test.npy"]


def test_a_second_run_cut_short_is_noticed(config: prepare_mnist.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_mnist.main(config)

    def full(file, array, **options):  # type: ignore[no-untyped-def]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("data.preparation.write_json", full)
        with pytest.raises(OSError):
            prepare_mnist.main(replace(config, seed=1))
    with pytest.raises(InputError, match=r"X_train.npy: shape, dtype or SHA-256 differ from manifest.json"):
        load_dataset(config.out_dir)


def test_a_run_cut_short_over_arrays_without_a_manifest_is_noticed(
    config: prepare_mnist.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published code writes no manifest. New images beside old labels would be loaded."""
    prepare_mnist.main(config)
    (config.out_dir / "manifest.json").unlink()
    load_dataset(config.out_dir)

    def killed(path: Path, array: np.ndarray) -> None:
        if path.name != "X_train.npy":
            raise KeyboardInterrupt
        save_array(path, array)

    with monkeypatch.context() as patch:
        patch.setattr("data.preparation.save_array", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_mnist.main(replace(config, seed=1))
    with pytest.raises(InputError, match=r"Y_test.npy: no such file"):
        load_dataset(config.out_dir)
    prepare_mnist.main(replace(config, seed=1))
    load_dataset(config.out_dir)


def test_the_command_ends_in_one_line_and_status_2(config: prepare_mnist.Config, tmp_path: Path) -> None:
    script = Path(prepare_mnist.__file__)
    flags = ["--source", str(config.source), "--out-dir", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, str(script), *flags], cwd=tmp_path, capture_output=True, text=True, timeout=HANG
    )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if not is_native_log(line)]
    assert errors == [f"error: {config.source}: 200 training images; give --validation 1 to 199, not 5000"]
    assert not (tmp_path / "out").exists()


def is_native_log(line: str) -> bool:
    """Whether TensorFlow's C++ code wrote the line before Python could set up logging."""
    return line.startswith(("WARNING: All log messages before absl", "I0000 ", "W0000 ", "E0000 "))


@pytest.mark.skipif("MNIST_NPZ" not in os.environ, reason="set MNIST_NPZ to an mnist.npz for the real data")
def test_real_mnist_is_split_as_in_the_paper(tmp_path: Path) -> None:
    prepare_mnist.main(prepare_mnist.Config(source=Path(os.environ["MNIST_NPZ"]), out_dir=tmp_path / "MNIST"))
    dataset = load_dataset(tmp_path / "MNIST")
    assert (len(dataset.x_train), len(dataset.x_val), len(dataset.x_test)) == (55_000, 5_000, 10_000)
    assert dataset.image_shape == (28, 28, 1)
    assert labels(dataset.y_test[:5]).tolist() == [7, 2, 1, 0, 4]
