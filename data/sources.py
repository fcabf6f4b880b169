"""Reading a data set as it is published: one .npz file, a folder of .npy files, IDX files, or CIFAR's binary files.

None of these formats can run code. CIFAR's Python files are pickles, which can run code, so they are not read.

IDX is the format of MNIST, FashionMNIST, KMNIST, EMNIST and other data sets ("The IDX file format" of
yann.lecun.com/exdb/mnist). A file holds two zero bytes, a type code, the number of dimensions, each dimension as a
big-endian uint32, and the values in C order. The files may be packed with gzip.
"""

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data.datasets import MANIFEST
from runtime.checkpoints import different
from runtime.files import GZIP, InputError, file_sha256, load_archive, load_array, read_record, reading, seeming

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
Arrays = dict[str, np.ndarray]  # by these names

# CIFAR's binary version (cs.toronto.edu/~kriz/cifar.html): training files, test file, bytes of labels before each
# image. CIFAR100 has two labels for each image. The second is the fine label, which is used.
_CIFAR = (([f"data_batch_{number}.bin" for number in range(1, 6)], "test_batch.bin", 1), (["train.bin"], "test.bin", 2))
_CIFAR_IMAGE = (3, 32, 32)

# The arrays of IDX files: a published name of each file, and its number of dimensions.
_IDX = {
    "x_train": ("train-images-idx3-ubyte", 3), "y_train": ("train-labels-idx1-ubyte", 1),
    "x_test": ("t10k-images-idx3-ubyte", 3), "y_test": ("t10k-labels-idx1-ubyte", 1),
}  # fmt: skip
_IDX_NAME = re.compile(
    r"(?P<prefix>.*?)(?P<split>train|t10k|test)-(?P<kind>images|labels)(?P<dot>[.-])idx[13]-ubyte(?P<packed>\.gz)?"
)
_IDX_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_MOST_PACKED = 1032  # bytes that gzip can make of one byte


def read_source(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """The arrays x_train, y_train, x_test and y_test of a data set, and the manifest's entry on their origin.

    path: one of
    - an .npz file with the four arrays;
    - a folder with x_train.npy, y_train.npy, x_test.npy and y_test.npy, or one of these files;
    - a folder with the four IDX files of MNIST, FashionMNIST or EMNIST, or one of these files;
    - a folder with the binary files of CIFAR10 (data_batch_1.bin, ...) or of CIFAR100 (train.bin, test.bin).

    Returns the arrays as they are stored, and {"file": name, "sha256": hash, or the hash of each file by its name}.
    Raises InputError, naming the file, where a file is missing or damaged or the path is no source.
    """
    if path.suffix == ".npy" and path.stem in ARRAYS:
        path = path.parent
    source: dict[str, Any] = {"file": path.absolute().name}
    if not path.is_dir() and not _IDX_NAME.fullmatch(path.name):
        return load_archive(path, ARRAYS), {**source, "sha256": file_sha256(path)}
    if any((path / f"{name}.npy").exists() for name in ARRAYS):
        files = [path / f"{name}.npy" for name in ARRAYS]
        arrays = {file.stem: load_array(file) for file in files}
    elif cifar := next((files for files in _CIFAR if (path / files[0][0]).exists()), None):
        arrays, files = _read_cifar(path, *cifar)
    else:
        arrays, files = _read_idx_files(path)
    return arrays, {**source, "sha256": {file.name: file_sha256(file) for file in files}}


def prepared_with(data_dir: Path) -> dict[str, Any]:
    """The settings that a folder of data was prepared with, {} where they are not known."""
    record = read_record(data_dir / MANIFEST).get("provenance")
    settings = record.get("config") if isinstance(record, dict) else None
    return settings if isinstance(settings, dict) else {}


def require_prepared_with(data_dir: Path, wanted: dict[str, Any], source: Path | None) -> None:
    """Raise InputError where a folder of data was prepared with other settings, or from other files.

    wanted: settings by name, as ``prepared_with`` gives them. source: path of the source that is wanted, None for any.
    """
    mend = "delete this folder, or give another data_dir"
    held, prepared = read_record(data_dir / MANIFEST, source=dict)["source"].get("sha256"), prepared_with(data_dir)
    if source and source.exists() and held not in (None, read_source(source)[1]["sha256"]):
        raise InputError(
            f"{data_dir}: was prepared with source {prepared.get('source')}, of other files, the plan's data says "
            f"{source}; {mend}"
        )
    for name, found, value in different(prepared, wanted):
        if name != "source" or not source or (held is None and source.exists()):  # else another path to the same images
            raise InputError(f"{data_dir}: was prepared with {name} {found}, the plan's data says {value}; {mend}")


def _read_cifar(folder: Path, train: list[str], test: str, label_bytes: int) -> tuple[Arrays, list[Path]]:
    """Images uint8 (N, 32, 32, 3) and labels uint8 (N,) of CIFAR's binary files, and the files."""
    arrays, files = {}, []
    for split, names in (("train", train), ("test", [test])):
        records = []
        for file in (folder / name for name in names):
            with reading(file, "unpack the archive again") as stream:
                content = np.frombuffer(stream.read(), np.uint8)
            length = label_bytes + math.prod(_CIFAR_IMAGE)
            if not content.size or content.size % length:
                raise InputError(
                    f"{file}: {content.size:,} bytes are no whole number of images with their labels ({length:,} bytes "
                    "each); unpack the archive again"
                )
            records.append(content.reshape(-1, length))
            files.append(file)
        rows = np.concatenate(records)
        arrays[f"x_{split}"] = rows[:, label_bytes:].reshape(-1, *_CIFAR_IMAGE).transpose(0, 2, 3, 1)
        arrays[f"y_{split}"] = rows[:, label_bytes - 1]
    return arrays, files


def _read_idx_files(source: Path) -> tuple[Arrays, list[Path]]:
    """Images uint8 (N, height, width) and labels uint8 (N,) of four IDX files, and the files.

    source: the folder of the files in _IDX, or one of them. '.idx' may replace '-idx', and 'test' may replace 't10k'. A
    name may end in '.gz' and begin with the data set's name, as in EMNIST (emnist-letters-train-images-idx3-ubyte.gz).
    Raises InputError also where labels and images differ in number, or where the folder holds several data sets.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file; mend the path")
    folder = source if source.is_dir() else source.parent
    names = [_IDX_NAME.fullmatch(path.name) for path in sorted(folder.iterdir()) if path.is_file()]
    given = None if source.is_dir() else _IDX_NAME.fullmatch(source.name)
    if given:  # where a file exists in several spellings, the spelling of the given file comes first
        spelling = given.group("dot", "packed")
        names.sort(key=lambda name: name is None or name.group("dot", "packed") != spelling)
    data_sets: dict[str, dict[str, Path]] = {}  # by prefix: the file of each array
    for name in filter(None, names):
        letter = "x" if name["kind"] == "images" else "y"
        split = "train" if name["split"] == "train" else "test"
        data_sets.setdefault(name["prefix"], {}).setdefault(f"{letter}_{split}", folder / name[0])
    if not given and len(data_sets) > 1:
        raise InputError(
            f"{source}: holds several data sets ({', '.join(one or 'train-images...' for one in sorted(data_sets))}); "
            "give one of the files in place of the folder"
        )
    prefix = given["prefix"] if given else next(iter(data_sets), "")
    paths = data_sets.get(prefix, {})
    arrays = {}
    for array, (published, dimensions) in _IDX.items():
        if array not in paths:
            raise InputError(
                f"{folder}: is a folder without {prefix}{published}(.gz); put the four IDX files of the data set "
                "into it, or x_train.npy, y_train.npy, x_test.npy and y_test.npy, or give an .npz file"
            )
        arrays[array] = _read_idx(paths[array], dimensions)
    for split in ("train", "test"):
        images, labels = f"x_{split}", f"y_{split}"
        if len(arrays[images]) != len(arrays[labels]):
            raise InputError(
                f"{paths[labels]}: {len(arrays[labels])} labels, but {len(arrays[images])} images in "
                f"{paths[images].name}; fetch both again"
            )
    return arrays, [paths[array] for array in _IDX]


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    with reading(path, "mend its permissions or fetch it again") as file:
        packed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        most = path.stat().st_size * (_MOST_PACKED if packed else 1)
        try:
            return _parsed(path, gzip.open(file) if packed else file, dimensions, most)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path}: cut off or damaged ({error}); fetch it again") from error


def _parsed(path: Path, stream: BinaryIO | gzip.GzipFile, dimensions: int, most: int) -> np.ndarray:
    """The array in a stream of bytes. Reads at most one byte beyond the array.

    most: bytes that the stream can have.
    """
    length = 4 + 4 * dimensions
    header = stream.read(length)
    if len(header) < 4:
        raise InputError(f"{path}: {'cut off' if header else 'is empty'}; fetch it again")
    if header[:2] != b"\0\0":
        raise InputError(f"{path}: no IDX file{seeming(header + stream.read(500))}; fetch it again")
    if (code := header[2]) != 0x08:  # unsigned bytes
        name = f" ({_IDX_TYPES[code]})" if code in _IDX_TYPES else ""
        raise InputError(
            f"{path}: holds values of type code 0x{code:02x}{name}, 0x08 (uint8) expected; save them as 8-bit values"
        )
    if header[3] != dimensions:
        raise InputError(
            f"{path}: its number of dimensions is {header[3]}, {dimensions} expected; fetch it again, or mend its name "
            "(are images and labels swapped?)"
        )
    if len(header) < length:
        raise InputError(f"{path}: cut off; fetch it again")
    shape = tuple(np.frombuffer(header[4:], ">u4").tolist())
    size = math.prod(shape)
    # The file's size is compared first, so that a wrong header does not make this allocate memory.
    if size > most or len(content := stream.read(size + 1)) < size:
        raise InputError(f"{path}: cut off: less than the {size:,} bytes of its header's {shape}; fetch it again")
    if len(content) > size:
        raise InputError(f"{path}: more than the {size:,} bytes of its header's {shape}; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)
