"""What the prepare scripts share: reading and checking a source, splitting, and writing the arrays."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from data.datasets import MANIFEST, SPLITS, describe_array, require_label
from data.idx import is_idx_source, read_idx_source
from runtime.checks import require_name
from runtime.files import (
    InputError,
    file_sha256,
    load_archive,
    remove_leftovers,
    require_no_folder,
    save_array,
    write_json,
)
from runtime.lock import Lock
from runtime.provenance import provenance, shown_path

NUM_CLASSES = 10
DARK = 64  # 8-bit images whose brightest pixel is below may be of another scale
SOURCE_NAMES = ("x_train", "y_train", "x_test", "y_test")

Splits = dict[str, tuple[np.ndarray, np.ndarray]]
"""Split name to (images in [0, 1] or uint8, class indices); images without or with a channel axis."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where a dataset comes from and where its arrays go; shared by the MNIST and CIFAR10 scripts."""

    out_dir: Path
    """Folder for the arrays. Its name is the dataset's, in the names of all that is made from it."""
    label: str | None = None
    """Name of the data in tables, that of the folder when not given; say here where the images are not the standard
    ones."""
    source: Path | None = None
    """NPZ file with x_train, y_train, x_test, y_test (uint8 images). For images of MNIST's form also the folder of
    the four IDX files (train-images-idx3-ubyte.gz, ...), or one of them. The standard download when not given."""
    seed: int = 0
    """Seed of the random split into training and validation images."""
    validation: int = 5000
    """Number of images taken from the training images for validation."""


def prepare_from_source(config: SourceConfig, download: str, image_shape: tuple[int, int, int]) -> None:
    """Prepare a dataset of 8-bit images from an NPZ file, from IDX files or from the Keras download.

    download: 'mnist' or 'cifar10' of keras.datasets; image_shape: (height, width, channels).
    Raises InputError for a source that cannot be had, read or used.
    """
    source: dict[str, Any]
    if config.source is None:
        arrays, source = _download(download), {"file": "keras download"}
        origin = "keras download"
    else:
        arrays, sha256 = _read_source(Path(config.source), is_grey=image_shape[2] == 1)
        source = {"file": Path(config.source).absolute().name, "sha256": sha256}
        origin = str(config.source)
    splits: Splits = {}
    for split in ("train", "test"):
        splits[split] = _check_source(arrays[f"x_{split}"], arrays[f"y_{split}"], image_shape, split, origin)
    train, validation = split_at_random(len(splits["train"][0]), config.validation, config.seed, origin)
    x, y = splits["train"]
    splits["train"], splits["val"] = (x[train], y[train]), (x[validation], y[validation])
    write_dataset(config.out_dir, config.label, splits, source, config.seed, config)


def _read_source(path: Path, is_grey: bool) -> tuple[dict[str, np.ndarray], str | dict[str, str]]:
    """The arrays and the SHA-256 of an NPZ file; of IDX files, which are of grey images, that of each by its name."""
    if is_grey and is_idx_source(path):
        return read_idx_source(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give an .npz file")
    return load_archive(path, SOURCE_NAMES), file_sha256(path)


def _download(name: str) -> dict[str, np.ndarray]:
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras, urllib and tarfile each raise their own kinds
        reason = " ".join(str(error).split())
        raise InputError(
            f"the download of {name} failed ({reason}); use --source FILE.npz with a copy at hand"
        ) from error
    return dict(zip(SOURCE_NAMES, (x_train, y_train, x_test, y_test), strict=True))


def _check_source(
    x: np.ndarray, y: np.ndarray, image_shape: tuple[int, int, int], split: str, origin: str
) -> tuple[np.ndarray, np.ndarray]:
    """Checked images uint8 (N, height, width, channels) and class indices int64 (N,); says where images are dark."""
    if x.dtype != np.uint8:
        raise InputError(f"{origin}: x_{split} has dtype {x.dtype}; give 8-bit images (uint8, 0 to 255)")
    shapes = (image_shape, image_shape[:2]) if image_shape[2] == 1 else (image_shape,)
    if x.shape[1:] not in shapes:
        raise InputError(f"{origin}: x_{split} has images of shape {x.shape[1:]}, expected {shapes[0]}")
    if y.shape not in ((len(x),), (len(x), 1)):
        raise InputError(f"{origin}: y_{split} has shape {y.shape}, expected one label for {len(x)} images")
    y = y.reshape(-1)
    if y.dtype.kind not in "iu":
        raise InputError(f"{origin}: y_{split} has dtype {y.dtype}; give class indices as integers")
    out_of_range = y[(y < 0) | (y >= NUM_CLASSES)]
    if out_of_range.size:
        raise InputError(f"{origin}: y_{split} holds label {out_of_range[0]}; labels are 0 to {NUM_CLASSES - 1}")
    if x.size and (brightest := int(x.max())) < DARK:
        said = f"{origin}: x_{split} is dark, its brightest pixel is {brightest} of 255"
        if brightest <= 1:
            raise InputError(f"{said}; multiply images in [0, 1] by 255 before they are saved as uint8")
        print(f"note: {said}; if 255 should be white, scale the images")
    return x.reshape(-1, *image_shape), y.astype(np.int64)


def split_at_random(count: int, validation: int, seed: int, origin: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and validation points out of ``count``, a pure function of the seed.

    Both are sorted, so that each split keeps the source's order.  Raises InputError for a negative seed or
    where the source is too small.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative; choose 0 or more")
    if not 0 < validation < count:
        raise InputError(
            f"{origin}: {count} training images, {validation} asked for validation; give --validation "
            "between 1 and one less than the number of images"
        )
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[validation:]), np.sort(order[:validation])


def write_dataset(
    out_dir: Path, label: str | None, splits: Splits, source: dict[str, Any], seed: int, config: Any
) -> None:
    """Write the six arrays and then the manifest, and print one line for each array.

    out_dir: its name becomes the dataset's. label: name in tables, the dataset's where None.
    splits: images uint8 or floats in [0, 1], (N, height, width, channels), and class indices (N,), for
    train, val and test; source: what the manifest says about the origin.
    The manifest comes last: a preparation that is cut short leaves no manifest, or an older one whose
    hashes do not fit, and the loader says so.

    Raises InputError where a split lacks a class, a name cannot be one, another run writes the folder or it cannot be
    written.
    """
    name = Path(out_dir).resolve().name
    require_name("out_dir: the dataset's name", name)
    require_label("label", label or name)
    for split in SPLITS:
        missing = np.setdiff1d(np.arange(NUM_CLASSES), splits[split][1])
        if missing.size:
            raise InputError(
                f"{source['file']}: the {split} split has no image of class {missing[0]}; "
                "use a larger source or another --validation"
            )
    manifest_path = out_dir / MANIFEST
    files = [manifest_path, *(out_dir / f"{letter}_{split}.npy" for split in SPLITS for letter in "XY")]
    require_no_folder(*files)
    with Lock(manifest_path):
        remove_leftovers(*files)
        arrays = {}
        for split in SPLITS:
            x, y = splits[split]
            # One split at a time: all of CIFAR10 as floats takes 740 MB.
            for path, array in (
                (out_dir / f"X_{split}.npy", as_unit_floats(x)),
                (out_dir / f"Y_{split}.npy", np.eye(NUM_CLASSES, dtype=np.float32)[y]),
            ):
                save_array(path, array)
                arrays[path.name] = describe_array(array)
                print(f"{path.name:<12} {array.dtype} {array.shape}")
        manifest = {"dataset": name, "label": label or name, "source": source, "seed": seed, "arrays": arrays}
        write_json(manifest_path, {**manifest, "provenance": provenance(config)})
    print(f"{label or name}: arrays and {MANIFEST} are in {shown_path(out_dir)}")


def as_unit_floats(x: np.ndarray) -> np.ndarray:
    """Images as float32 in [0, 1]; 8-bit images are divided by 255."""
    return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)
