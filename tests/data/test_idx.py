"""MNIST's own files, IDX: what is prepared from them, and what is refused."""

import gzip
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data import prepare_cifar10, prepare_mnist
from evaluation.tables.jobs import jobs_of, words_of
from evaluation.tables.plan import plan_of
from runtime.checks import require_usable
from runtime.command_line import parsed
from runtime.files import InputError
from tests.data.test_preparation import ARRAYS, source_arrays

NAMES = {
    "x_train": "train-images-idx3-ubyte", "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte", "y_test": "t10k-labels-idx1-ubyte",
}  # fmt: skip


def idx(array: np.ndarray, code: int = 8) -> bytes:
    """An array as IDX: two zeros, the type's code, the number of dimensions, each dimension in four bytes, the data."""
    return struct.pack(f">2xBB{array.ndim}I", code, array.ndim, *array.shape) + array.tobytes()


def packed(content: bytes) -> bytes:
    """The same at any time."""
    return gzip.compress(content, mtime=0)


def write_source(folder: Path, spelling: Callable[[str], str] = lambda name: f"{name}.gz") -> Path:
    """The four files of a small source, named as ``spelling`` has it, packed where the name says so."""
    folder.mkdir(exist_ok=True)
    for array, name in NAMES.items():
        content, path = idx(source_arrays()[array]), folder / spelling(name)
        path.write_bytes(packed(content) if path.suffix == ".gz" else content)
    return folder


@pytest.fixture
def config(tmp_path: Path) -> prepare_mnist.Config:
    """A working preparation of the four packed files of a tiny source."""
    return prepare_mnist.Config(source=write_source(tmp_path / "idx"), out_dir=tmp_path / "MNIST", validation=60)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "packed": lambda name: f"{name}.gz",
    "unpacked": lambda name: name,
    "dot": lambda name: name.replace("-idx", ".idx"),
    "dot, packed": lambda name: name.replace("-idx", ".idx") + ".gz",
    "some unpacked": lambda name: name if "labels" in name else f"{name}.gz",
}


@pytest.mark.parametrize("given", [None, *NAMES])
@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_idx_files_give_the_arrays_that_an_npz_gives(
    spelling: Callable[[str], str], given: str | None, tmp_path: Path
) -> None:
    np.savez(tmp_path / "source.npz", **source_arrays())
    from_npz = prepare_mnist.Config(source=tmp_path / "source.npz", out_dir=tmp_path / "npz/MNIST", validation=60)
    prepare_mnist.main(from_npz)
    folder = write_source(tmp_path / "idx", spelling)
    source = folder / spelling(NAMES[given]) if given else folder
    config = replace(from_npz, source=source, out_dir=tmp_path / "idx/MNIST")
    require_usable(config)
    prepare_mnist.main(config)
    for name in ARRAYS:
        path = f"{name}.npy"
        assert (config.out_dir / path).read_bytes() == (from_npz.out_dir / path).read_bytes()
    files = {
        spelling(name): hashlib.sha256((folder / spelling(name)).read_bytes()).hexdigest() for name in NAMES.values()
    }
    recorded = json.loads((config.out_dir / "manifest.json").read_text())["source"]
    assert recorded == {"file": source.name, "sha256": files}


def test_the_content_tells_whether_a_file_is_packed(config: prepare_mnist.Config) -> None:
    assert config.source is not None
    images, labels = (config.source / f"{NAMES[name]}.gz" for name in ("x_train", "y_train"))
    images.write_bytes(gzip.decompress(images.read_bytes()))  # as browsers do, which keep the name
    labels.rename(labels.with_suffix(""))
    prepare_mnist.main(config)


def test_the_file_that_is_given_is_the_one_that_is_read(config: prepare_mnist.Config) -> None:
    """Also where another of the same kind lies beside it."""
    assert config.source is not None
    (config.source / NAMES["x_train"]).write_bytes(b"cut off")
    (config.source / NAMES["y_test"]).mkdir()  # as some archives unpack
    for name in ("x_train", "y_test"):
        prepare_mnist.main(replace(config, source=config.source / f"{NAMES[name]}.gz"))
    with pytest.raises(InputError, match="train-images-idx3-ubyte: no IDX file"):
        prepare_mnist.main(config)


IMAGES = source_arrays()["x_train"]
WHOLE = idx(IMAGES)
HTML = b"\n<!DOCTYPE html><html><title>404</title></html>"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x_train", packed(WHOLE)[:-100], "cut off or damaged"),
        ("x_train", packed(WHOLE)[:-5], "cut off or damaged"),
        ("x_train", packed(WHOLE)[:5], "cut off or damaged"),
        ("x_train", packed(WHOLE)[:50] + b"damaged" + packed(WHOLE)[57:], "cut off or damaged"),
        ("x_train", packed(WHOLE) + b"more", "cut off or damaged"),
        ("x_train", packed(WHOLE[:-1]), r"cut off: .* \(200, 28, 28\)"),
        ("x_train", WHOLE[:-1], "cut off"),
        ("x_train", WHOLE[:9], "cut off"),
        ("x_train", WHOLE[:3], "cut off"),
        ("x_train", b"", "is empty"),
        ("x_train", packed(b""), "is empty"),
        ("x_train", WHOLE + b"\0", "more than the"),
        ("x_train", packed(WHOLE + b"\0"), "more than the"),
        ("x_train", idx(IMAGES.astype(">f4"), 0x0D), r"type code 0x0d \(float32\)"),
        ("x_train", idx(IMAGES.astype(np.int8), 0x09), r"type code 0x09 \(int8\)"),
        ("y_train", idx(np.arange(200, dtype=">i4"), 0x0C), r"type code 0x0c \(int32\)"),
        ("x_train", idx(IMAGES, 0x77), r"type code 0x77, "),
        ("x_train", idx(source_arrays()["y_train"]), "dimensions is 1, 3 expected; .* swapped"),
        ("y_test", WHOLE, "dimensions is 3, 1 expected; .* swapped"),
        ("x_train", struct.pack("<4I", 0x803, *IMAGES.shape) + IMAGES.tobytes(), "no IDX file"),
        ("x_train", HTML, "no IDX file, it seems to be a web page"),
        ("x_train", packed(HTML), "no IDX file, it seems to be a web page"),
        ("x_train", packed(packed(WHOLE)), "no IDX file, it seems to be packed with gzip"),
        ("y_train", idx(np.zeros(199, np.uint8)), "199 labels, but 200 images in train-images-idx3-ubyte.gz"),
        ("x_test", idx(IMAGES[:39]), "40 labels, but 39 images"),
        ("x_train", idx(IMAGES[:, 1:]), r"images of shape \(27, 28\), expected \(28, 28, 1\)"),
        ("x_train", idx(IMAGES[:0]), "200 labels, but 0 images"),
        ("y_train", idx(np.arange(200, dtype=np.uint8) % 11), "y_train holds label 10"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_bad_idx_file_is_refused_in_one_line_and_nothing_is_written(
    config: prepare_mnist.Config, name: str, content: bytes, message: str
) -> None:
    assert config.source is not None
    (config.source / f"{NAMES[name]}.gz").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        prepare_mnist.main(config)
    assert "\n" not in str(error.value) and str(config.source) in str(error.value)
    assert not config.out_dir.exists()


def test_no_more_is_unpacked_than_the_header_says(config: prepare_mnist.Config, tmp_path: Path) -> None:
    assert config.source is not None
    path = config.source / f"{NAMES['x_train']}.gz"
    path.write_bytes(packed(WHOLE + bytes(100_000_000)))
    with pytest.raises(InputError, match="more than the"):
        prepare_mnist.main(config)
    for is_packed in (False, True):  # a header of 3 TiB
        content = struct.pack(">4I", 0x803, 2**32 - 1, 28, 28) + IMAGES.tobytes()
        path.write_bytes(packed(content) if is_packed else content)
        with pytest.raises(InputError, match="cut off"):
            prepare_mnist.main(config)


@pytest.mark.parametrize("name", NAMES.values())
def test_a_missing_sister_is_named(config: prepare_mnist.Config, name: str) -> None:
    assert config.source is not None
    (config.source / f"{name}.gz").unlink()
    with pytest.raises(InputError, match=rf"idx: .*{name}\(\.gz\)"):
        prepare_mnist.main(config)
    other = next(one for one in NAMES.values() if one != name)
    with pytest.raises(InputError, match=rf"idx: .*{name}\(\.gz\)"):
        prepare_mnist.main(replace(config, source=config.source / f"{other}.gz"))
    with pytest.raises(InputError, match=rf"{name}\.gz: no such file"):
        prepare_mnist.main(replace(config, source=config.source / f"{name}.gz"))


def test_a_source_that_is_no_idx_is_refused_in_one_line(config: prepare_mnist.Config, tmp_path: Path) -> None:
    assert config.source is not None
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"empty: is a folder without train-images-idx3-ubyte"):
        prepare_mnist.main(replace(config, source=empty))
    renamed = config.source / "mnist.gz"
    (config.source / f"{NAMES['x_train']}.gz").rename(renamed)
    with pytest.raises(InputError, match=r"mnist\.gz: no \.npz file, it seems to be an IDX file"):
        prepare_mnist.main(replace(config, source=renamed))
    with pytest.raises(InputError, match=r"nowhere: no such file"):
        prepare_mnist.main(replace(config, source=tmp_path / "nowhere"))
    renamed.rename(config.source / f"{NAMES['x_train']}.gz")
    cifar10 = prepare_cifar10.Config(source=config.source, out_dir=config.out_dir)
    with pytest.raises(InputError, match=r"images of shape \(28, 28\), expected \(32, 32, 3\); data/prepare.py"):
        prepare_cifar10.main(cifar10)


def test_a_plan_may_name_a_folder_as_its_source(config: prepare_mnist.Config) -> None:
    plan = plan_of(
        {
            "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "methods": {"macer": [0.5]},
            "data_dir": str(config.out_dir.with_name("FASHION")),
            "data": {"source": str(config.source), "validation": 60},
        }
    )  # fmt: skip
    job = next(job for job in jobs_of(plan) if job.rule == "data")
    of_plan = parsed(prepare_mnist.Config, words=words_of(job.settings))
    require_usable(of_plan)
    prepare_mnist.main(of_plan)
    manifest = json.loads(job.outputs[0].read_text())
    assert (manifest["dataset"], manifest["label"]) == ("FASHION", "FASHION")
