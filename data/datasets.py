"""Prepared data sets and poison files: reading, checking, and splitting off the target class.

Arrays, file names and layouts agree with the published code, so that each code base loads the other's arrays. A poison
file holds the poisoned training images of the target class, in the order of that class in X_train.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from data.ready_poisons import EPSILON_TOLERANCE, read_ready_poison, ready_name
from runtime.bounds import POSITIVE, at_most
from runtime.checks import require_label, require_name
from runtime.files import InputError, array_sha256, load_array, read_record, save_array
from runtime.noise import Stream

SPLITS = ("train", "val", "test")
X_FILES = tuple(f"X_{split}.npy" for split in SPLITS)  # of clean images, in the folder of a data set
MANIFEST = "manifest.json"
LARGEST_SIGMA = 10.0  # larger noise hides an image in [0, 1] completely. Published noise levels end at 1
Epsilon = Annotated[float, POSITIVE, at_most(1, "pixels are in [0, 1]")]
"""Type of a bound on the change of a pixel."""
Sigma = Annotated[float, POSITIVE, at_most(LARGEST_SIGMA, "pixels are in [0, 1]")]
"""Type of a standard deviation of the smoothing noise, in pixel units of [0, 1]."""
Share = Annotated[float, POSITIVE, at_most(1, "1 is the whole class")]
"""Type of the share of the target class's training images that are poisoned."""
DARKEST = 1.001 / 255  # a largest pixel up to this value means two divisions by 255. float32 rounds 1 / 255


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test arrays of one data set.

    Images x_*: float32 (N, height, width, channels) in [0, 1]. Labels y_*: one-hot float32 (N, classes).
    name: the short name in folder names. label: the name in tables, such as CIFAR10 (JPEG copy), which says where
    the images are not the standard images.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    label: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        return self.x_train.shape[1:]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.y_train.shape[1]

    def hashes(self, *names: str) -> dict[str, str]:
        """SHA-256 of the arrays of these names, such as x_train, by name."""
        return {name: array_sha256(getattr(self, name)) for name in names}


class TargetSplit(NamedTuple):
    """One set divided into images of the target class and all others: see ``split_target_class``."""

    x_target: np.ndarray  # float32 (M, height, width, channels)
    y_target: np.ndarray  # float32 (M, classes)
    x_others: np.ndarray  # float32 (N, height, width, channels)
    y_others: np.ndarray  # float32 (N, classes)


def labels(y: np.ndarray) -> np.ndarray:
    """Class indices, int64 (N,), of one-hot rows (N, classes)."""
    return np.argmax(y, axis=-1)


def load_dataset(data_dir: Path) -> Dataset:
    """Read and check X_train.npy, Y_train.npy, ... Y_test.npy of one folder.

    float64 images are cast to float32, and images without a channel axis, (N, height, width), get one.
    Shapes, dtypes and SHA-256 hashes must match manifest.json where there is one. Published arrays have none.

    Raises InputError, naming the file and the mend, for missing or damaged files, pixels that are not floats in [0, 1],
    images without a pixel above 1/255, labels that are not one-hot, and splits that do not fit each other or lack a
    class.
    """
    data_dir = Path(data_dir)
    manifest = _read_manifest(data_dir)
    arrays: dict[str, np.ndarray] = {}
    for split in SPLITS:
        x_path, y_path = data_dir / f"X_{split}.npy", data_dir / f"Y_{split}.npy"
        x, y = (_read_array(path, manifest) for path in (x_path, y_path))
        x, y = _images(x, x_path), _one_hot(y, y_path)
        _require_bright(x, x_path)
        if len(x) != len(y):
            raise InputError(f"{x_path}: {len(x)} images but {len(y)} labels in {y_path.name}; prepare the data again")
        if not (has_points := y.any(axis=0)).all():
            raise InputError(f"{y_path}: class {has_points.argmin()} has no points; put every class into every split")
        arrays[f"x_{split}"], arrays[f"y_{split}"] = x, y
        for path, array, first in ((x_path, x, arrays["x_train"]), (y_path, y, arrays["y_train"])):
            if array.shape[1:] != first.shape[1:]:
                has = f"the training set's rows have {first.shape[1:]}"
                raise InputError(f"{path}: rows of shape {array.shape[1:]}, {has}; prepare the data again")
    name = manifest.get("dataset", data_dir.resolve().name)
    return Dataset(name=name, label=manifest.get("label", name), **arrays)


def _read_manifest(data_dir: Path) -> dict[str, Any]:
    """The checked manifest of a folder, {} where it has none."""
    path = data_dir / MANIFEST
    if not path.exists():
        return {}
    manifest = read_record(path, arrays=dict)
    names = {f"{kind}_{split}.npy" for kind in "XY" for split in SPLITS}
    if not names <= set(manifest["arrays"]) or "dataset" not in manifest:
        raise InputError(f"{path}: not the manifest of a whole prepared dataset; prepare the data again")
    require_name(f"{path}: the dataset's name", manifest["dataset"])  # it becomes a part of paths
    require_label(f"{path}: the dataset's label", manifest.get("label", manifest["dataset"]))
    return manifest


def _read_array(path: Path, manifest: dict[str, Any]) -> np.ndarray:
    array = load_array(path)
    if manifest and manifest["arrays"][path.name] != describe_array(array):
        raise InputError(
            f"{path}: shape, dtype or SHA-256 differ from {MANIFEST}, so the file changed or a preparation was cut "
            "short; prepare the data again"
        )
    return array


def describe_array(array: np.ndarray) -> dict[str, Any]:
    """Shape, dtype and SHA-256 of an array, as a manifest records them."""
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": array_sha256(array)}


def _images(x: np.ndarray, path: Path) -> np.ndarray:
    """Checked images as float32 (N, height, width, channels). Raises InputError as load_dataset does."""
    if x.dtype not in (np.float32, np.float64):
        raise InputError(
            f"{path}: dtype {x.dtype}, float32 in [0, 1] expected; divide 8-bit images by 255 and save them as float32"
        )
    if x.ndim == 3:
        x = x[..., np.newaxis]
    if x.ndim != 4 or x.size == 0:
        raise InputError(f"{path}: shape {x.shape}, (images, height, width, channels) expected; reshape the images")
    _check_pixels(x, path)
    return x.astype(np.float32, copy=False)


def _check_pixels(x: np.ndarray, path: Path) -> None:
    low, high = float(x.min()), float(x.max())  # both are NaN where any pixel is
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{path}: holds NaN or infinite pixels; make it again")
    if low < 0 or high > 1:
        raise InputError(
            f"{path}: pixel value {low if low < 0 else high:g} outside [0, 1]; scale 8-bit images by 1/255"
        )


def _require_bright(x: np.ndarray, path: Path) -> None:
    if (high := float(x.max())) <= DARKEST:
        raise InputError(
            f"{path}: the largest pixel is {high:.3g}; multiply the images by 255 where they were divided by 255 twice"
        )


def _one_hot(y: np.ndarray, path: Path) -> np.ndarray:
    """Checked labels as one-hot float32 (N, classes). Raises InputError as load_dataset does."""
    if y.ndim != 2 or y.size == 0 or y.shape[1] < 2:
        raise InputError(
            f"{path}: shape {y.shape}, one-hot labels (images, classes) expected; make a column for each class"
        )
    if y.dtype.kind not in "fiub" or not np.all((y == 0) | (y == 1)) or not np.all(y.sum(axis=1) == 1):
        raise InputError(f"{path}: not one-hot labels; every row needs exactly one 1 and otherwise 0")
    return y.astype(np.float32, copy=False)


def split_target_class(x: np.ndarray, y: np.ndarray, target_class: int, share: float = 1.0) -> TargetSplit:
    """Divide images x (N, ...) and one-hot labels y (N, classes) into a share of the target class and the others.

    Both keep their order, but the rest of the class (see ``poisoned_places``) is the end of the others.
    Raises InputError when target_class is no class of y or has no points.
    """
    in_class = target_mask(y, target_class)
    places = np.flatnonzero(in_class)
    poisoned = poisoned_places(len(places), share)
    target, others = places[poisoned], np.concatenate([np.flatnonzero(~in_class), places[~poisoned]])
    return TargetSplit(x[target], y[target], x[others], y[others])


def target_mask(y: np.ndarray, target_class: int) -> np.ndarray:
    """Which one-hot labels y (N, classes) are of the target class, bool (N,). Raises as ``split_target_class``."""
    if not 0 <= target_class < y.shape[1]:
        raise InputError(f"target_class {target_class} is out of range; choose one of 0 to {y.shape[1] - 1}")
    mask = labels(y) == target_class
    if not mask.any():
        raise InputError(f"target_class {target_class} has no points in this set; choose another class")
    return mask


def poison_paths(data_dir: Path, method: str, sigma: float, target_class: int) -> tuple[Path, Path]:
    """Image and label file of a poison, under the published names.

    method: the training method that the poison was made against (gaussianaug, macer, smoothadv, ...).
    sigma: its noise level in pixel units of [0, 1], written as Python prints a float.
    """
    stem = f"poisoned_radius_{method}_{float(sigma)}_{target_class}.npy"
    return Path(data_dir) / f"X_{stem}", Path(data_dir) / f"Y_{stem}"


def poisoned_places(count: int, share: float) -> np.ndarray:
    """Mask of the poisoned training images of a class, bool (count,): random, at least one, the same in every run.

    A larger share contains all images of a smaller share.
    """
    order = np.random.default_rng(Stream.POISONED_PLACES).permutation(count)
    places = np.zeros(count, bool)
    places[order[: max(1, round(share * count))]] = True
    return places


def changed_images(poison: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Whether each image (N, H, W, C) differs from its clean image by more than rounding to 8 bits, bool (N,)."""
    return (np.abs(poison - clean) > 0.501 / 255).any(axis=(1, 2, 3))


def partly_poisoned(poison_x: np.ndarray, clean_x: np.ndarray, share: float) -> np.ndarray:
    """The poison at the ``poisoned_places`` of a share, the clean images elsewhere. Both are (N, H, W, C).

    Raises InputError where their shapes differ, and for a share of a poison that leaves images of the class clean.
    """
    _require_same_shape("the poison", poison_x.shape, clean_x.shape)
    if share < 1 and (unchanged := int((~changed_images(poison_x, clean_x)).sum())):
        how = "by no more than the rounding to 8 bits"
        raise InputError(f"share is {share:g}, but the poison changes {unchanged} images {how}; leave share out")
    return np.where(poisoned_places(len(clean_x), share)[:, None, None, None], poison_x, clean_x)


def require_within_epsilon(poison_x: np.ndarray, clean_target_x: np.ndarray, epsilon: float, path: Path) -> None:
    """Raise InputError unless the poison is within epsilon (l-infinity) of the clean images, and within [0, 1].

    poison_x, clean_target_x: images (N, height, width, channels). clean_target_x and epsilon: in pixel units of [0, 1].
    path: the file to name in the error.
    """
    _require_same_shape(str(path), poison_x.shape, clean_target_x.shape)
    _check_pixels(poison_x, path)
    distance = float(np.max(np.abs(poison_x - clean_target_x)))
    if distance > epsilon + EPSILON_TOLERANCE:
        mend = "check dataset, target class and epsilon"
        raise InputError(f"{path}: a pixel is {distance:g} away from the clean image, epsilon is {epsilon:g}; {mend}")


def _require_same_shape(what: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        has = f"the {wanted[0]} training images of the target class have {wanted}"
        raise InputError(f"{what}: shape {found}, {has}; check dataset and target class")


def load_poison(x_path: Path, dataset: Dataset, target_class: int) -> np.ndarray:
    """Poisoned training images of the target class, float32 (N, height, width, channels) in [0, 1].

    Where the label file (Y_ for X_, same folder) exists, its labels must be the target class. A name without an ending
    means a poison in data/poisons.

    Raises InputError if the file is missing, damaged, out of range, divided by 255 twice, or of another shape or class.
    """
    x_path = Path(x_path)
    clean = dataset.x_train[target_mask(dataset.y_train, target_class)]
    name = ready_name(x_path)
    found = read_ready_poison(name, dataset.x_train, target_class).images if name else load_array(x_path)
    poison_x = _images(found, x_path)
    _require_same_shape(str(x_path), poison_x.shape, clean.shape)
    if poison_x.any():
        _require_bright(poison_x, x_path)
    y_path = x_path.with_name("Y_" + x_path.name.removeprefix("X_"))
    if x_path.name.startswith("X_") and y_path.is_file():
        poison_y, shape = _one_hot(load_array(y_path), y_path), (len(poison_x), dataset.num_classes)
        if poison_y.shape != shape:
            raise InputError(f"{y_path}: shape {poison_y.shape}, expected {shape}; make the poison again")
        if (others := np.setdiff1d(labels(poison_y), target_class)).size:
            mend = "choose the matching target class"
            raise InputError(f"{y_path}: labels class {others[0]}, the target class is {target_class}; {mend}")
    return poison_x


def save_labels(path: Path, y: np.ndarray) -> None:
    """Write a poison's labels, one-hot (N, K), unless the file holds them already."""
    with suppress(InputError):  # missing or damaged
        if (found := load_array(path)).dtype == y.dtype and np.array_equal(found, y):
            return
    save_array(path, y)


def replace_target_class(dataset: Dataset, poison_x: np.ndarray, target_class: int, share: float = 1.0) -> Dataset:
    """The data set with a share of the target class's training images replaced by the poison, in order.

    poison_x: float32, one image for each training image of the class. share: see ``poisoned_places``. All other arrays
    are shared with ``dataset``, which is not changed. Raises InputError when the shape does not fit.
    """
    mask = target_mask(dataset.y_train, target_class)
    x_train = dataset.x_train.copy()
    x_train[mask] = partly_poisoned(poison_x, x_train[mask], share)
    return replace(dataset, x_train=x_train)
