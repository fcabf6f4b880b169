"""A poison as one file that anybody can make: an entry of the ranking, or a poison that ships with the project.

    numpy.savez("mine.npz", X_poisoned=images, index=places, target_class=8, epsilon=0.1, name="mine", source="URL")

X_poisoned, index: as data/ready_poisons.py says. Places may also be of images that are kept for validation or test.
target_class: the class. epsilon: l-infinity bound on the change of a pixel; pixels are in [0, 1].
name: small letters, digits and _. source: a line that says where the poison comes from.

The same images may lie in a folder of PNG files that are named by place: 00042.png.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np

from data.datasets import EPSILON_TOLERANCE, MANIFEST, Dataset, Epsilon, labels, require_label, split_target_class
from data.preparation import as_unit_floats, split_at_random
from data.prepare_digits import SOURCE, digits, split_digits
from data.ready_poisons import DTYPES, FOLDER, KEY, is_ready_name, load_ready_poison
from data.sources import read_source
from runtime.bounds import require_within
from runtime.checks import shortened
from runtime.files import InputError, atomic_path, load_archive, read_record, save_archive

ABOUT = {"target_class": "iu", "epsilon": "fiu", "name": "U", "source": "U"}  # kinds of NumPy's types
LARGEST = 2**31  # bytes of an unpacked file
Checks = dict[str, tuple[bool, str]]  # by name: whether it holds, and what was found


@dataclass(frozen=True)
class Entry:
    """A poison as its file has it."""

    pixels: np.ndarray  # (N, height, width, channels), uint8 where it is as it should be
    index: np.ndarray  # integers (N,), places in the data set as published
    target_class: int
    epsilon: float
    name: str
    source: str


def read_entry(path: Path) -> Entry:
    """The poison of a file, or of a name in data/poisons/.

    Raises InputError where it is missing, damaged or lacks an array, and where an array is not of its kind.
    """
    if is_ready_name(path) or path.resolve().parent == FOLDER:
        ready = load_ready_poison(path.stem)
        about, made = ready.record["settings"], str(ready.record.get("command", "this project"))[:100]
        return Entry(ready.pixels, ready.index, about["target_class"], about["epsilon"], path.stem, made)
    arrays = load_archive(path, (*DTYPES, *ABOUT), LARGEST)
    for name, kinds in ABOUT.items():
        _require(path, name, arrays[name], (), kinds, "one text" if kinds == "U" else "one number")
    return _checked(Entry(arrays[KEY], arrays["index"], *(arrays[name].item() for name in ABOUT)), path)


def _require(path: Path, name: str, array: np.ndarray, shape: tuple[int, ...], kinds: str, wanted: str) -> None:
    """Raise InputError where an array has another shape or kind of type. wanted: both, for the error."""
    if array.shape != shape or array.dtype.kind not in kinds or not array.size:
        raise InputError(f"{path}: {name} has shape {array.shape} and dtype {array.dtype}; give {wanted}")


def _checked(entry: Entry, path: Path) -> Entry:
    """The entry, with a channel axis. Raises InputError where its arrays or texts cannot be those of a poison."""
    pixels, index = entry.pixels, entry.index
    pixels = pixels[..., np.newaxis] if pixels.ndim == 3 else pixels
    some_images = pixels.shape if pixels.ndim == 4 else ()
    _require(path, KEY, pixels, some_images, "fiu", "uint8 (images, height, width, channels)")
    _require(path, "index", index, pixels.shape[:1], "iu", f"a whole number for each of the {len(pixels)} images")
    require_within(f"{path}: epsilon", entry.epsilon, *get_args(Epsilon)[1:])
    require_label(f"{path}: source", entry.source)
    if not re.fullmatch(r"[a-z0-9_]{1,60}", entry.name):
        raise InputError(
            f"{path}: name is made of small letters, digits and _, at most 60, got {shortened(entry.name)}"
        )
    return replace(entry, pixels=pixels)


def write_entry(path: Path, entry: Entry) -> None:
    """Write the .npz file. Raises InputError where it could not be read again."""
    _checked(entry, path)
    about = {name: np.array(getattr(entry, name)) for name in ABOUT}
    save_archive(path, {KEY: entry.pixels, "index": entry.index, **about}, compressed=True)


def checks(entry: Entry, dataset: Dataset, data_dir: Path) -> tuple[Checks, np.ndarray, np.ndarray]:
    """What an entry must be; the class's training images with it, float32 (N, H, W, C); which it changes, bool (N,).

    A place that was kept for validation or test is left out. An image without a place stays clean. Raises InputError
    where the data set's images have another shape, or it has no such class.
    """
    clean, target, epsilon = dataset.x_train, entry.target_class, entry.epsilon
    split_target_class(clean, dataset.y_train, target)  # raises where there is no such class
    if (shape := entry.pixels.shape[1:]) != clean.shape[1:]:
        where = f"those of {dataset.label} have {clean.shape[1:]}; give the --data-dir of its data set"
        raise InputError(f"{entry.name}: has images of shape {shape}, {where}")
    places, count = published_places(dataset, data_dir)
    order = np.argsort(places)
    at = order[np.minimum(np.searchsorted(places, entry.index, sorter=order), len(order) - 1)]
    used = places[at] == entry.index
    at, images, poisoned = at[used], as_unit_floats(entry.pixels[used]), clean.copy()
    poisoned[at] = images
    in_class = labels(dataset.y_train) == target
    changed = np.isin(np.flatnonzero(in_class), at)
    outside = int(((entry.index < 0) | (entry.index >= count)).sum())
    twice, wrong = len(entry.index) - len(np.unique(entry.index)), int((~in_class[at]).sum())
    far = float(np.abs(images - clean[at]).max(initial=0))
    share = f"{100 * changed.mean():.1f} % of the class's {len(changed):,} training images; {twice} places twice, "
    share += f"{outside} outside 0 to {count - 1:,}, {(~used).sum() - outside} for validation or test, which stay clean"
    found = {
        "grid": (entry.pixels.dtype == np.uint8, f"pixels are {entry.pixels.dtype}, to be uint8"),
        "complete": (not (outside or twice) and bool(changed.any()), share),
        "clean-label": (not wrong, f"{wrong} of {len(at):,} places are of another class than {target}"),
        "epsilon": (far <= epsilon + EPSILON_TOLERANCE, f"largest change {far:.4f}, epsilon {epsilon:g}"),
    }
    return found, poisoned[in_class], changed


def published_places(dataset: Dataset, data_dir: Path, published: Path | None = None) -> tuple[np.ndarray, int]:
    """Where each training image lies in the data set as published, (N,), and how many images that has.

    The split is a function of its seed. published: the source as it was prepared from, to check the places against. The
    digits are always checked. Raises InputError where the image that lies there in the source is another.
    """
    path = data_dir / MANIFEST
    manifest = read_record(path, source=dict, seed=int)
    images: np.ndarray | None = None
    count, validation = len(dataset.x_train) + len(dataset.x_val), len(dataset.x_val)
    if manifest["source"].get("file") == SOURCE:
        index, images = split_digits(manifest["seed"])["train"], digits()[0]
        count = len(images)
    else:
        index = split_at_random(count, validation, manifest["seed"], str(data_dir))[0]
        if published:
            images = as_unit_floats(read_source(published)[0]["x_train"])
            if manifest.get("provenance", {}).get("config", {}).get("transpose"):
                images = np.swapaxes(images, 1, 2)
    if images is not None and not (
        images[0].size == dataset.x_train[0].size and len(images) > index.max()
        and np.array_equal(images[index].reshape(dataset.x_train.shape), dataset.x_train)
    ):  # fmt: skip
        raise InputError(
            f"{path}: {published or SOURCE} has other images at the places that seed {manifest['seed']} gives to the "
            "training images; prepare the data again, or give the source that they are from as --published"
        )
    return index, count


def read_pngs(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, height, width[, channels]) of a folder's PNG files; the places that are their names, int32 (N,).

    Raises InputError where there is none, for a file that is no 8-bit PNG of one shape, and for a name without place.
    """
    from PIL import Image

    images: list[np.ndarray] = []
    for file in (files := sorted(folder.glob("*.png"))):
        if not re.fullmatch(r"[0-9]{1,9}", file.stem):
            raise InputError(f"{file}: its name is no place in the data set; name it by the place, as 00042.png")
        try:
            with Image.open(file, formats=["PNG"]) as image:
                mode, pixels = image.mode, np.asarray(image)
        except Exception as error:  # Pillow, zlib and struct each raise their own kinds
            raise InputError(f"{file}: not a whole PNG ({' '.join(str(error).split())}); make it again") from error
        if mode not in ("L", "RGB") or pixels.shape != (images or [pixels])[0].shape:
            raise InputError(f"{file}: is {pixels.shape} in mode {mode}; give one shape, all in 8-bit grey or RGB")
        images.append(pixels)
    if not images:
        raise InputError(f"{folder}: has no .png file; give the folder of the images")
    return np.stack(images), np.array([int(file.stem) for file in files], np.int32)


def write_pngs(folder: Path, entry: Entry) -> None:
    """Write each image of an entry as a PNG file that is named by its place.

    Raises InputError where the folder holds PNG files, and for images that are not 8-bit in grey or RGB.
    """
    from PIL import Image

    if any(folder.glob("*.png")):
        raise InputError(f"{folder}: holds PNG files; choose another folder")
    if entry.pixels.dtype != np.uint8 or entry.pixels.shape[-1] not in (1, 3):
        raise InputError(
            f"{entry.name}: is {entry.pixels.dtype}, {entry.pixels.shape}; PNG files take uint8, grey or RGB"
        )
    for place, pixels in zip(entry.index, entry.pixels, strict=True):
        with atomic_path(folder / f"{place:05d}.png") as temporary:
            Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(temporary)
