"""Data sets of any form and shape: what data/prepare.py reads, and what it refuses."""

import gzip
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data import prepare
from data.datasets import labels, load_dataset
from data.sources import require_prepared_with
from runtime.files import InputError
from tests.data.test_idx import NAMES, idx


def made_up(shape: tuple[int, ...] = (64, 64, 3), classes: int = 20, first: int = 0) -> dict[str, np.ndarray]:
    """Random images, labels in turn."""
    random = np.random.default_rng(3)
    arrays = {}
    for split, count in (("train", 15 * classes), ("test", 2 * classes)):
        arrays[f"x_{split}"] = random.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"y_{split}"] = (np.arange(count) % classes + first).astype(np.int16)
    return arrays


@pytest.fixture
def config(tmp_path: Path) -> prepare.Config:
    """A working preparation of colour images of 20 classes."""
    np.savez(tmp_path / "source.npz", **made_up())
    return prepare.Config(source=tmp_path / "source.npz", name="OWN", out_dir=tmp_path / "data/OWN", validation=140)


def prepared(config: prepare.Config, **arrays: np.ndarray) -> None:
    """Prepare with some arrays of the source changed."""
    np.savez(config.source, **{**made_up(), **arrays})
    prepare.main(config)


def test_images_of_any_shape_and_any_number_of_classes_are_prepared_under_their_name(config: prepare.Config) -> None:
    prepare.main(config)
    assert config.out_dir is not None
    dataset = load_dataset(config.out_dir)
    assert (dataset.name, dataset.label, dataset.image_shape, dataset.num_classes) == ("OWN", "OWN", (64, 64, 3), 20)
    assert (len(dataset.x_train), len(dataset.x_val), len(dataset.x_test)) == (160, 140, 40)
    np.testing.assert_array_equal(np.rint(dataset.x_test * 255), made_up()["x_test"])
    np.testing.assert_array_equal(labels(dataset.y_test), made_up()["y_test"])
    manifest = json.loads((config.out_dir / "manifest.json").read_text())
    assert (manifest["classes"], manifest["image_shape"]) == (20, [64, 64, 3])
    prepared(replace(config, label="Own (small)", name="OTHER"))  # another name than the folder's
    assert (load_dataset(config.out_dir).name, load_dataset(config.out_dir).label) == ("OTHER", "Own (small)")


@pytest.mark.parametrize("given", ["", "y_test.npy"])
def test_a_folder_of_npy_files_gives_what_an_npz_gives(config: prepare.Config, given: str, tmp_path: Path) -> None:
    prepare.main(config)
    (folder := tmp_path / "npy").mkdir()
    for name, array in made_up().items():
        np.save(folder / f"{name}.npy", array)
    other = replace(config, source=folder / given, out_dir=tmp_path / "other/OWN")
    prepare.main(other)
    assert config.out_dir and other.out_dir
    for file in ("X_train.npy", "Y_val.npy", "X_test.npy"):
        assert (other.out_dir / file).read_bytes() == (config.out_dir / file).read_bytes()
    assert set(json.loads((other.out_dir / "manifest.json").read_text())["source"]["sha256"]) == {
        f"{name}.npy" for name in made_up()
    }
    (folder / "x_test.npy").unlink()
    with pytest.raises(InputError, match=r"x_test\.npy: no such file"):
        prepare.main(other)


@pytest.mark.parametrize("classes", [10, 100])
def test_cifars_binary_files_are_read(config: prepare.Config, classes: int, tmp_path: Path) -> None:
    arrays = made_up((32, 32, 3), classes)
    (folder := tmp_path / "binary").mkdir()
    for split, names in (
        ("train", [f"data_batch_{n}.bin" for n in range(1, 6)] if classes == 10 else ["train.bin"]),
        ("test", ["test_batch.bin"] if classes == 10 else ["test.bin"]),
    ):
        y = arrays[f"y_{split}"].astype(np.uint8)[:, None]
        first = [] if classes == 10 else [y % 20]  # CIFAR100's coarse labels
        rows = np.concatenate([*first, y, arrays[f"x_{split}"].transpose(0, 3, 1, 2).reshape(len(y), -1)], axis=1)
        for name, part in zip(names, np.array_split(rows, len(names)), strict=True):
            (folder / name).write_bytes(part.tobytes())
    config = replace(config, source=folder, validation=7 * classes)
    prepare.main(config)
    assert config.out_dir is not None
    dataset = load_dataset(config.out_dir)
    np.testing.assert_array_equal(np.rint(dataset.x_test * 255), arrays["x_test"])
    np.testing.assert_array_equal(labels(dataset.y_test), arrays["y_test"])
    last = folder / ("test_batch.bin" if classes == 10 else "test.bin")
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(InputError, match="no whole number of images"):
        prepare.main(config)
    last.unlink()
    with pytest.raises(InputError, match=rf"{last.name}: no such file; unpack the archive again"):
        prepare.main(config)


def test_emnists_names_labels_from_1_and_columns_before_rows(config: prepare.Config, tmp_path: Path) -> None:
    arrays = made_up((28, 20), 26, first=1)
    (folder := tmp_path / "emnist").mkdir()
    for array, name in NAMES.items():
        emnist = f"emnist-letters-{name.replace('t10k', 'test')}.gz"
        (folder / emnist).write_bytes(gzip.compress(idx(arrays[array].astype(np.uint8))))
    config = replace(config, source=folder, validation=180, transpose=True)
    with pytest.raises(InputError, match=r"emnist: y_train has no label 0; labels must be 0 to 0 \+ K - 1 for K"):
        prepare.main(config)
    prepare.main(config := replace(config, first_label=1))
    assert config.out_dir is not None
    dataset = load_dataset(config.out_dir)
    assert (dataset.image_shape, dataset.num_classes) == ((20, 28, 1), 26)
    np.testing.assert_array_equal(np.rint(dataset.x_test[..., 0] * 255), arrays["x_test"].transpose(0, 2, 1))
    np.testing.assert_array_equal(labels(dataset.y_test), arrays["y_test"] - 1)
    (folder / NAMES["x_train"]).write_bytes(b"of another data set")
    with pytest.raises(InputError, match=r"holds several data sets \(train-images..., emnist-letters-\); give one"):
        prepare.main(config)
    prepare.main(replace(config, source=folder / "emnist-letters-test-labels-idx1-ubyte.gz"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((300, 3, 64, 64), np.uint8)}, "x_train has shape .* with channels first"),
        ({"x_train": np.zeros((300, 4, 64, 64), np.uint8)}, "x_train has shape .* with channels first"),
        ({"x_train": np.zeros(300, np.uint8)}, r"x_train has shape \(300,\); give images"),
        ({"x_test": np.full((40, 64, 32, 3), 200, np.uint8)}, r"shape \(64, 32, 3\), expected \(64, 64, 3\)"),
        ({"y_train": np.arange(300) % 20 * 100}, "y_train holds label 300; .* number the classes without gaps"),
        ({"y_train": np.arange(300) % 19}, "y_test holds label 19; labels are 0 to 18"),
        (
            {"y_train": np.arange(300) % 20 + 1},
            r"y_train has no label 0; .* without gaps \(--first-label: the smallest",
        ),
        ({"y_train": np.arange(300) % 2 * 2}, "y_train has no label 1; .* without gaps"),
        ({"y_train": np.zeros(300, int)}, "y_train has no label 1; .* at least 2, without gaps"),
        ({"y_test": np.arange(40) % 19}, "the test split has no image of class 19"),
    ],
)
def test_a_bad_source_is_refused_and_nothing_is_written(
    config: prepare.Config, changes: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prepared(config, **changes)
    assert config.out_dir and not config.out_dir.exists()


@pytest.mark.parametrize("name", ["", "../OWN", "a/b"])
def test_a_name_that_cannot_be_a_folders_is_refused(config: prepare.Config, name: str) -> None:
    with pytest.raises(InputError, match=r"name is .* cannot be a file's name"):
        prepare.main(replace(config, name=name, out_dir=None))


def test_preparing_over_other_data_says_so(config: prepare.Config, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.main(config)
    prepare.main(replace(config, validation=150))
    assert "note" not in capsys.readouterr().out
    other = config.source.with_name("other.npz")
    np.savez(other, **made_up((28, 28), 10))
    prepare.main(replace(config, source=other, validation=75))
    assert "held other data ('source.npz'), which are replaced" in capsys.readouterr().out
    assert config.out_dir is not None
    (config.out_dir / "manifest.json").unlink()
    prepare.main(config)
    assert "held other data (arrays without a whole manifest)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["x_train.npy", "data_batch_1.bin", "train-images-idx3-ubyte"])
def test_a_pipe_in_place_of_a_file_is_one_line(config: prepare.Config, name: str, tmp_path: Path) -> None:
    (tmp_path / "piped").mkdir()
    os.mkfifo(tmp_path / "piped" / name)
    with pytest.raises(InputError, match=f"{name}: cannot be read: a|is a folder without train-images-idx3-ubyte"):
        prepare.main(replace(config, source=tmp_path / "piped"))


def test_data_of_another_source_or_setting_are_not_what_a_plan_wants(config: prepare.Config, tmp_path: Path) -> None:
    prepared(config)
    for name, change in (("same", {}), ("other", {"y_train": made_up()["y_train"][::-1]})):
        np.savez(tmp_path / f"{name}.npz", **{**made_up(), **change})

    def require(name: str, validation: int = 140) -> None:
        source = tmp_path / f"{name}.npz"
        require_prepared_with(tmp_path / "data/OWN", {"source": str(source), "validation": validation}, source)

    for name in ("source", "same", "gone"):
        require(name)
    other = r"source .*source\.npz, .* says .*other\.npz"
    for arguments, said in ((("other",), other), (("same", 9), "validation 140")):
        with pytest.raises(InputError, match=f"data/OWN: was prepared with {said}.*; delete this folder"):
            require(*arguments)
    shutil.copy(tmp_path / "other.npz", tmp_path / "source.npz")
    with pytest.raises(InputError, match=r"source .*source\.npz, of other files, the plan's data says .*source\.npz"):
        require("source")
    manifest = tmp_path / "data/OWN/manifest.json"  # of data that were downloaded
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "source": {"file": "keras download"}}))
    with pytest.raises(InputError, match=f"was prepared with {other}"):
        require("other")
