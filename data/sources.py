"""Reading a data set as it is published: one .npz file, a folder of .npy files, IDX files, or CIFAR's binary files.

None of these formats can run code. CIFAR's Python files are pickles, which can run code, so they are not read.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data.idx import is_idx_name, read_idx_files
from runtime.files import InputError, file_sha256, load_archive, load_array, require_file

ARRAYS = ("x_train", "y_train", "x_test", "y_test")

# CIFAR's binary version (cs.toronto.edu/~kriz/cifar.html): training files, test file, bytes of labels before each
# image. CIFAR100 has two labels for each image. The second is the fine label, which is used.
_CIFAR = (([f"data_batch_{number}.bin" for number in range(1, 6)], "test_batch.bin", 1), (["train.bin"], "test.bin", 2))
_CIFAR_IMAGE = (3, 32, 32)


def read_source(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays x_train, y_train, x_test and y_test of a data set, and the manifest's entry on their origin.

    path: one of
    - an .npz file with the four arrays;
    - a folder with x_train.npy, y_train.npy, x_test.npy and y_test.npy, or one of these files;
    - a folder with the four IDX files of MNIST, FashionMNIST or EMNIST, or one of these files (see ``data.idx``);
    - a folder with the binary files of CIFAR10 (data_batch_1.bin, ...) or of CIFAR100 (train.bin, test.bin).

    Returns the arrays as they are stored, and {"file": name, "sha256": hash, or the hash of each file by its name}.
    Raises InputError, naming the file, where a file is missing or damaged or the path is no source.
    """
    if path.suffix == ".npy" and path.stem in ARRAYS:
        path = path.parent
    source: dict[str, Any] = {"file": path.absolute().name}
    if not path.is_dir() and not is_idx_name(path.name):
        return load_archive(path, ARRAYS), {**source, "sha256": file_sha256(path)}
    if any((path / f"{name}.npy").exists() for name in ARRAYS):
        files = [path / f"{name}.npy" for name in ARRAYS]
        arrays = {file.stem: load_array(file) for file in files}
    elif cifar := next((files for files in _CIFAR if (path / files[0][0]).exists()), None):
        arrays, files = _read_cifar(path, *cifar)
    else:
        arrays, files = read_idx_files(path)
    return arrays, {**source, "sha256": {file.name: file_sha256(file) for file in files}}


def _read_cifar(
    folder: Path, train: list[str], test: str, label_bytes: int
) -> tuple[dict[str, np.ndarray], list[Path]]:
    """Images uint8 (N, 32, 32, 3) and labels uint8 (N,) of CIFAR's binary files, and the files."""
    arrays, files = {}, []
    for split, names in (("train", train), ("test", [test])):
        records = []
        for file in (folder / name for name in names):
            require_file(file)
            try:
                content = np.frombuffer(file.read_bytes(), np.uint8)
            except OSError as error:
                raise InputError(f"{file}: cannot be read ({error.strerror}); unpack the archive again") from error
            length = label_bytes + int(np.prod(_CIFAR_IMAGE))
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
