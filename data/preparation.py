"""The common part of the prepare scripts: read and check a source, split it, and write the arrays."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from data.datasets import MANIFEST, SPLITS, describe_array
from data.ready_poisons import as_unit_floats
from data.sources import ARRAYS, read_source
from runtime.artifact import Artifact
from runtime.bounds import NOT_NEGATIVE, POSITIVE, Seed
from runtime.checks import require_label, require_name, shortened
from runtime.files import InputError, one_line, read_record, remove, save_array, write_json
from runtime.lazy import keras
from runtime.provenance import printed_path, project_path, provenance

DARK = 64  # 8-bit images whose brightest pixel is darker may have another scale

Splits = dict[str, tuple[np.ndarray, np.ndarray]]
"""Split name to (images (N, height, width, channels), uint8 or floats in [0, 1], and class indices (N,))."""


@dataclass(frozen=True, kw_only=True)
class PreparationConfig:
    """Settings of the arrays of a data set: folder, label, seed."""

    out_dir: Path | None = None
    """Folder for the arrays, by default data/<name>. Files that are made from the data set have this folder's name in
    their names."""
    label: str | None = None
    """Name of the data set in tables, by default its short name (--name, or else the folder's name). It has to say
    where the images are not the standard images."""
    seed: Seed = 0
    """Seed of the random split into training and validation images."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig(PreparationConfig):
    """Settings of the source of 8-bit images, and of their arrays."""

    source: Path | None = None
    """An NPZ file with x_train, y_train, x_test and y_test (uint8 images), or a folder. The folder holds these arrays
    as four .npy files, or four IDX files (train-images-idx3-ubyte.gz, ...), or CIFAR's binary files (data_batch_1.bin,
    ...). By default Keras downloads MNIST and CIFAR10."""
    validation: Annotated[int, POSITIVE] = 5000
    """Number of images taken from the training images for validation."""
    first_label: Annotated[int, NOT_NEGATIVE] = 0
    """The smallest label in the source, for example 1 for EMNIST letters."""
    transpose: bool = False
    """Swap rows and columns of every image, as EMNIST's files need."""


def prepare_from_source(
    config: SourceConfig,
    name: str | None = None,
    *,
    download: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    num_classes: int = 0,
) -> None:
    """Prepare a data set of 8-bit images from its source, or from the Keras download where the config has none.

    name: name of the data set, and of its folder data/<name> where the config has no out_dir. None: out_dir's name.
    download: 'mnist' or 'cifar10' of keras.datasets.
    image_shape: (height, width, channels) that the source must have. None: any.
    num_classes: number of classes that the source must have. 0: the largest label of the training images plus 1.
    Raises InputError for a source that cannot be downloaded, read or used.
    """
    if name is not None:
        require_name("name", name)
    if config.source is not None:
        arrays, source = read_source(Path(config.source))
        origin = str(config.source)
    elif download:
        arrays, source, origin = _download(download), {"file": "keras download"}, "keras download"
    else:
        raise InputError("source is not given; name the file or folder of the data set with --source")
    splits: Splits = {}
    for split in ("train", "test"):
        x = _checked_images(arrays[f"x_{split}"], image_shape, f"{origin}: x_{split}")
        y = _checked_labels(arrays[f"y_{split}"], len(x), config.first_label, num_classes, f"{origin}: y_{split}")
        num_classes = num_classes or int(y.max()) + 1
        image_shape = image_shape or x.shape[1:]  # the training images' shape
        splits[split] = np.swapaxes(x, 1, 2) if config.transpose else x, y
    train, validation = split_at_random(len(splits["train"][0]), config.validation, config.seed, origin)
    x, y = splits["train"]
    splits["train"], splits["val"] = (x[train], y[train]), (x[validation], y[validation])
    write_dataset(config, splits, source, num_classes, name)


def _download(name: str) -> dict[str, np.ndarray]:
    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras, urllib and tarfile each raise their own kinds
        raise InputError(
            f"the download of {name} failed ({one_line(error)}); use --source FILE.npz with a copy at hand"
        ) from error
    return dict(zip(ARRAYS, (*train, *test), strict=True))


def _checked_images(x: np.ndarray, image_shape: tuple[int, int, int] | None, what: str) -> np.ndarray:
    """Images uint8 (N, height, width, channels), with a channel axis. Prints a note where they are dark."""
    if x.dtype != np.uint8:
        raise InputError(f"{what} has dtype {x.dtype}; give 8-bit images (uint8, 0 to 255)")
    if x.ndim not in (3, 4) or 0 in x.shape:
        raise InputError(f"{what} has shape {x.shape}; give images (N, height, width) or (N, height, width, channels)")
    if x.ndim == 4 and x.shape[1] <= 4 < x.shape[3]:
        raise InputError(f"{what} has shape {x.shape}, with channels first; move them last: x.transpose(0, 2, 3, 1)")
    found, x = x.shape[1:], x if x.ndim == 4 else x[..., np.newaxis]
    if image_shape is not None and x.shape[1:] != image_shape:
        raise InputError(
            f"{what} has images of shape {found}, expected {image_shape}; data/prepare.py takes any shape, "
            "the same in all splits"
        )
    if (brightest := int(x.max())) < DARK:
        said = f"{what} is dark, its brightest pixel is {brightest} of 255"
        if brightest <= 1:
            raise InputError(f"{said}; multiply images in [0, 1] by 255 before they are saved as uint8")
        print(f"note: {said}; if 255 should be white, scale the images")
    return x


def _checked_labels(y: np.ndarray, count: int, first: int, num_classes: int, what: str) -> np.ndarray:
    """Class indices int64 (N,), from 0 on. first: the smallest label of the source. num_classes: 0 where not known."""
    if y.shape not in ((count,), (count, 1)):
        raise InputError(f"{what} has shape {y.shape}, expected one label for {count} images; give shape ({count},)")
    if y.dtype.kind not in "iu":
        raise InputError(f"{what} has dtype {y.dtype}; give class indices as integers")
    y = y.reshape(-1)
    # There cannot be more classes than images.
    last = first + (num_classes or count) - 1
    if (out_of_range := y[(y < first) | (y > last)]).size:
        mend = "" if num_classes else "; number the classes without gaps (--first-label: the smallest label)"
        raise InputError(f"{what} holds label {out_of_range[0]}; labels are {first} to {last}{mend}")
    y = y.astype(np.int64) - first
    if not num_classes and (gaps := np.setdiff1d(np.arange(max(2, y.max() + 1)), y)).size:
        raise InputError(
            f"{what} has no label {gaps[0] + first}; labels must be {first} to {first} + K - 1 for K classes, at least "
            "2, without gaps (--first-label: the smallest label)"
        )
    return y


def split_at_random(count: int, validation: int, seed: int, origin: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and validation points out of ``count``, a pure function of the seed.

    Both are sorted, as the source is. Raises InputError for a negative seed, and where the source is too small.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative; choose 0 or more")
    if not 0 < validation < count:
        raise InputError(f"{origin}: {count} training images; give --validation 1 to {count - 1}, not {validation}")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[validation:]), np.sort(order[:validation])


def write_dataset(
    config: PreparationConfig, splits: Splits, source: dict[str, Any], num_classes: int, name: str | None = None
) -> None:
    """Write the six arrays and then the manifest, and print one line for each array.

    splits: for train, val and test. source: the origin, for the manifest. name: name of the data set, None for
    config.out_dir's name. The loader refuses what an interrupted preparation leaves: no Y_test.npy, or wrong hashes.

    Raises InputError where a split lacks a class, a name is not allowed, or the folder is taken or cannot be written.
    """
    out_dir = config.out_dir or project_path("data") / str(name)
    require_name("out_dir: the dataset's name", name := name or out_dir.resolve().name)
    require_label("label", label := config.label or name)
    for split in SPLITS:
        if (missing := np.setdiff1d(np.arange(num_classes), splits[split][1])).size:
            raise InputError(
                f"{source['file']}: the {split} split has no image of class {missing[0]}; "
                "use a larger source or another --validation"
            )
    manifest_path = out_dir / MANIFEST
    files = [manifest_path, *(out_dir / f"{letter}_{split}.npy" for split in SPLITS for letter in "XY")]
    with Artifact(*files):
        _say_what_is_replaced(manifest_path, source)
        if not manifest_path.exists():  # the loader would take old arrays beside new ones
            remove(files[-1])  # it refuses the folder until this last array is there
        arrays = {}
        for split in SPLITS:
            x, y = splits[split]
            # One split at a time: all of CIFAR10 as floats takes 740 MB.
            for letter, array in (("X", as_unit_floats(x)), ("Y", np.eye(num_classes, dtype=np.float32)[y])):
                save_array(path := out_dir / f"{letter}_{split}.npy", array)
                arrays[path.name] = describe_array(array)
                print(f"{path.name:<12} {array.dtype} {array.shape}")
        manifest = {
            "dataset": name, "label": label, "classes": num_classes, "image_shape": list(x.shape[1:]), "source": source,
            "seed": config.seed, "arrays": arrays,
        }  # fmt: skip
        write_json(manifest_path, {**manifest, "provenance": provenance(config)})
    print(f"{label}: arrays and {MANIFEST} are in {printed_path(out_dir)}")


def _say_what_is_replaced(manifest_path: Path, source: dict[str, Any]) -> None:
    """Print a note where the folder holds data from another source, or arrays without a manifest."""
    folder = manifest_path.parent
    try:
        found = read_record(manifest_path, source=dict)["source"]
        is_other, held = found != source, shortened(found.get("file", "?"))
    except InputError:
        is_other, held = (folder / "X_train.npy").exists(), "arrays without a whole manifest"
    if is_other:
        print(f"note: {printed_path(folder)} held other data ({held}), which are replaced")
