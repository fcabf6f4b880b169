"""Reading IDX files, the format of MNIST, FashionMNIST, KMNIST, EMNIST and other data sets.

Format: "The IDX file format" of yann.lecun.com/exdb/mnist. A file holds two zero bytes, a type code, the number of
dimensions, each dimension as a big-endian uint32, and the values in C order. The files may be packed with gzip.
"""

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from runtime.files import GZIP, InputError, seeming

# The arrays of a data set: a published name of each file, and its number of dimensions.
_FILES = {
    "x_train": ("train-images-idx3-ubyte", 3), "y_train": ("train-labels-idx1-ubyte", 1),
    "x_test": ("t10k-images-idx3-ubyte", 3), "y_test": ("t10k-labels-idx1-ubyte", 1),
}  # fmt: skip
_NAME = re.compile(r"(?P<prefix>.*?)(train|t10k|test)-(images|labels)([.-])idx[13]-ubyte(\.gz)?")
_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_MOST_PACKED = 1032  # bytes that gzip can make of one byte


def is_idx_name(name: str) -> bool:
    """Whether this is a published name of an IDX file of images or labels."""
    return _NAME.fullmatch(name) is not None


def read_idx_files(source: Path) -> tuple[dict[str, np.ndarray], list[Path]]:
    """The arrays of four IDX files, and the paths of the files.

    source: a folder that holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
    t10k-labels-idx1-ubyte, or one of the four. '.idx' may replace '-idx', and 'test' may replace 't10k'. A name may end
    in '.gz' and begin with the data set's name, as in EMNIST (emnist-letters-train-images-idx3-ubyte.gz).
    Returns x_train and x_test, uint8 (N, height, width), and y_train and y_test, uint8 (N,).
    Raises InputError, naming the file, where a file is missing or damaged, where labels and images differ in number, or
    where the folder holds several data sets.
    """
    folder, given = (source, None) if source.is_dir() else (source.parent, _NAME.fullmatch(source.name))
    if not source.exists():
        raise InputError(f"{source}: no such file; mend the path")
    found = [name for path in sorted(folder.iterdir()) if path.is_file() and (name := _NAME.fullmatch(path.name))]
    prefixes = [given["prefix"]] if given else sorted({name["prefix"] for name in found}) or [""]
    if len(prefixes) > 1:
        raise InputError(
            f"{source}: holds several data sets ({', '.join(prefix or 'train-images...' for prefix in prefixes)}); "
            "give one of the files in place of the folder"
        )
    # Where a file exists in several spellings, the spelling of the given file comes first.
    found.sort(key=lambda name: given is not None and name.groups()[3:] != given.groups()[3:])
    paths: dict[str, Path] = {}
    for name in found:
        if name["prefix"] == prefixes[0]:
            array = f"{'x' if name[3] == 'images' else 'y'}_{'train' if name[2] == 'train' else 'test'}"
            paths.setdefault(array, folder / name[0])
    for array, (published, _) in _FILES.items():
        if array not in paths:
            raise InputError(
                f"{folder}: is a folder without {prefixes[0]}{published}(.gz); put the four IDX files of the data set "
                "into it, or x_train.npy, y_train.npy, x_test.npy and y_test.npy, or give an .npz file"
            )
    paths = {array: paths[array] for array in _FILES}
    arrays = {array: _read(path, _FILES[array][1]) for array, path in paths.items()}
    for split in ("train", "test"):
        images, labels = f"x_{split}", f"y_{split}"
        if len(arrays[images]) != len(arrays[labels]):
            raise InputError(
                f"{paths[labels]}: {len(arrays[labels])} labels, but {len(arrays[images])} images in "
                f"{paths[images].name}; fetch both again"
            )
    return arrays, list(paths.values())


def _read(path: Path, dimensions: int) -> np.ndarray:
    """One array, uint8. Raises InputError as read_idx_files does."""
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP)) == GZIP
        most = path.stat().st_size * (_MOST_PACKED if packed else 1)
        with gzip.open(path) if packed else path.open("rb") as stream:
            return _parsed(path, stream, dimensions, most)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: cut off or damaged ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); mend its permissions or fetch it again"
        ) from error


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
        name = f" ({_TYPES[code]})" if code in _TYPES else ""
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
