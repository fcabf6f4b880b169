"""Reading and checking an entry of the ranking: a poison that anybody can put into one file.

    numpy.savez("mine.npz", X_poisoned=images, index=places, target_class=8, epsilon=0.1, name="mine", source="URL")

X_poisoned, index: as data/ready_poisons.py says. Places may include validation and test images.
target_class: the class. epsilon: l-infinity bound on the change of a pixel. Pixels are in [0, 1].
name: small letters, digits and _. source: the origin of the poison, in one line.

The same images may lie in a folder of PNG files that are named by place: 00042.png.
"""

import re
from pathlib import Path

import numpy as np

from data.datasets import EPSILON_TOLERANCE, MANIFEST, Dataset, Epsilon, changed_images, load_poison, target_mask
from data.preparation import DARK, split_at_random
from data.prepare_digits import SOURCE, digits, split_digits
from data.ready_poisons import KEY, ReadyPoison, as_unit_floats, load_ready_poison, ready_name, require_poison_name
from data.sources import prepared_with, read_source
from runtime.bounds import require_within
from runtime.checks import LARGEST_COUNT, require_label
from runtime.files import InputError, array_sha256, atomic_path, file_sha256, load_archive, one_line, read_record
from runtime.lazy import pandas

KINDS = {KEY: "fiu", "index": "iu", "target_class": "iu", "epsilon": "fiu", "name": "U", "source": "U"}
"""The kinds of NumPy types (dtype.kind) that each array may have."""
ABOUT = ("target_class", "epsilon", "name", "source")
LARGEST = 2**31  # bytes of an unpacked file
PNGS = "[!.]*.[pP][nN][gG]"  # names of PNG files. Hidden ones are left by killed runs
MENDS = {
    "grid": "scale its pixels to 0 to 255, round them, and save them as uint8",
    "clean-label": "leave these images out, or mend target_class",
    "places": "give each place of a training image once, as in the data set as published",
    "epsilon": "clip its images to the clean ones +- epsilon, or give the epsilon that it has",
}
"""How to mend a failed check, by its name. The cause stands first: a failed check can make those after it fail."""
Checks = dict[str, tuple[bool, str]]  # by name: (passed, finding)


def read_poison_file(path: Path) -> ReadyPoison:
    """The poison in a file, with the settings ABOUT, or the poison in data/poisons/ of this name or path.

    Pixels may have any number type. The check 'grid' wants uint8.

    Raises InputError where the file is missing, damaged or lacks an array, or where an array is impossible.
    """
    if name := ready_name(path):
        return load_ready_poison(name)
    arrays = load_archive(path, tuple(KINDS), LARGEST)
    if arrays[KEY].ndim == 3:
        arrays[KEY] = arrays[KEY][..., np.newaxis]
    pixels, index = arrays[KEY], arrays["index"]
    shapes = {KEY: pixels.shape if pixels.ndim == 4 else (), "index": pixels.shape[:1]}
    for name, array in arrays.items():
        if array.shape != shapes.get(name, ()) or array.dtype.kind not in KINDS[name] or not array.size:
            raise InputError(
                f"{path}: {name} has shape {array.shape}, dtype {array.dtype}; make it as docs/enter_a_poison.md says"
            )
    about = {name: arrays[name].item() for name in ABOUT}
    require_within(f"{path}: epsilon", about["epsilon"], Epsilon)
    require_label(f"{path}: source", about["source"])
    require_poison_name(f"{path}: name", about["name"])
    hashes = {KEY: array_sha256(pixels), "index": array_sha256(index)}
    return ReadyPoison(pixels, index, {"settings": about, "arrays_sha256": hashes})


def checks(poison: ReadyPoison, dataset: Dataset, data_dir: Path) -> tuple[Checks, np.ndarray]:
    """Checks 'grid', 'places', 'clean-label', 'epsilon', and the class's images with poison, float32 (N, H, W, C).

    Places of validation or test images are left out. Images without a place stay clean.
    Raises InputError where the data set has images of another shape or no such class.
    """
    clean, settings = dataset.x_train, poison.record["settings"]
    target, epsilon = settings.get("target_class"), settings.get("epsilon")
    in_class = target_mask(dataset.y_train, target)
    if (shape := poison.pixels.shape[1:]) != clean.shape[1:]:
        where = f"those of {dataset.label} are {clean.shape[1:]}; give the --data-dir of its data set"
        raise InputError(f"the poison's images are of shape {shape}, {where}")
    places, count = published_places(dataset, data_dir)
    rows = pandas.Index(places).get_indexer(poison.index)  # in X_train, -1 where the place is of no training image
    is_training = rows >= 0
    rows = rows[is_training]
    images = poison.images[is_training]
    poisoned = clean.copy()
    poisoned[rows] = images
    is_8_bit = poison.pixels.dtype == np.uint8
    found: Checks = {"grid": (is_8_bit, f"pixels are {poison.pixels.dtype} (the 8-bit grid: uint8)")}

    given = np.isin(np.flatnonzero(in_class), rows)
    differ = int(changed_images(poisoned[in_class], clean[in_class]).sum())
    twice = len(poison.index) - len(np.unique(poison.index))
    outside = int(((poison.index < 0) | (poison.index >= count)).sum())
    text = (
        f"{100 * given.mean():.1f} % of the class's {len(given):,} training images are in it, {differ:,} differ from "
        f"the clean ones; {twice} places twice, {outside} outside 0 to {count - 1:,}, "
        f"{(~is_training).sum() - outside} for validation or test, which stay clean"
    )
    found["places"] = not (outside or twice) and bool(given.any()), text

    of_other_classes = dataset.y_train[rows].sum(axis=0).astype(int)  # number of places of each class
    of_other_classes[target] = 0
    text = f"{of_other_classes.sum()} of {len(rows):,} places are of another class than {target}"
    if of_other_classes.any():
        text += f", {of_other_classes.max()} of them of class {of_other_classes.argmax()}"
    found["clean-label"] = not of_other_classes.any(), text

    largest_change = float(np.abs(images - clean[rows]).max(initial=0))
    is_near = largest_change <= epsilon + EPSILON_TOLERANCE
    text = f"largest change {largest_change:.5g}, epsilon {epsilon:g}"
    brightest = poison.pixels.max()
    if not is_near and brightest < DARK:
        text += f", brightest pixel {brightest} of 255: scale them"
    found["epsilon"] = is_near, text

    made = prepared_with(data_dir)
    if flags := [f"--{name.replace('_', '-')}" for name in ("first_label", "transpose") if made.get(name)]:
        for name, (holds, text) in found.items():
            if not holds:
                text += f"; prepared with {' and '.join(flags)}: give classes from 0, and images as prepared"
                found[name] = False, text
    return found, poisoned[in_class]


def require_sound(path: Path, poison: ReadyPoison, dataset: Dataset, found: Checks) -> None:
    """Raise InputError where a check of the poison in this file failed. It names the first one, and how to mend it."""
    if failed := next((name for name in MENDS if not found[name][0]), None):
        where = f"{dataset.label}, class {poison.record['settings']['target_class']}"
        raise InputError(f"{path}: fails {failed} on {where} ({found[failed][1]}); {MENDS[failed]}")


def training_poison(path: Path, dataset: Dataset, data_dir: Path, target_class: int) -> np.ndarray:
    """As ``load_poison``. A file that ends in .npz is one of ``read_poison_file``, and must pass the checks.

    Raises InputError also where the record beside a .npy file names another class, other images or another file.
    """
    if path.suffix == ".npz":
        poison = read_poison_file(path)
        if (made_for := poison.record["settings"]["target_class"]) != target_class:
            raise InputError(f"{path}: is poison of class {made_for}; choose --target-class {made_for}")
        found, images = checks(poison, dataset, data_dir)
        require_sound(path, poison, dataset, found)
        return images
    images = load_poison(path, dataset, target_class)
    if path.suffix == ".npy" and (file := path.with_suffix(".json")).is_file():
        record = read_record(file)
        if isinstance(settings := record.get("settings"), dict):  # else the record is another program's
            recorded = {**settings, "sha256": record.get("sha256")}
            here = {"target_class": target_class, **dataset.hashes("x_train"), "sha256": file_sha256(path)}
            for name, value in here.items():
                if (said := recorded.get(name)) not in (None, value):
                    raise InputError(f"{path}: has {name} {value}, its record says {said}; make the poison again")
    return images


def published_places(dataset: Dataset, data_dir: Path, published: Path | None = None) -> tuple[np.ndarray, int]:
    """The place of each training image in the published data set, (N,), and the published number of images.

    The split is a function of its seed. published: the source of the prepared data, with which the places are checked.
    The digits are always checked. Raises InputError where the source has another image at a place.
    """
    manifest = read_record(data_dir / MANIFEST, source=dict, seed=int)
    seed = manifest["seed"]
    of_digits = manifest["source"].get("file") == SOURCE
    if of_digits:
        images = digits()[0]
        count = len(images)
        index = split_digits(seed)["train"]
    else:
        count = len(dataset.x_train) + len(dataset.x_val)
        index, _ = split_at_random(count, len(dataset.x_val), seed, str(data_dir))
        if not published:
            return index, count
        images = as_unit_floats(read_source(published)[0]["x_train"])
        if prepared_with(data_dir).get("transpose"):
            images = np.swapaxes(images, 1, 2)
    fits = images[0].size == dataset.x_train[0].size and len(images) > index.max()
    if not (fits and np.array_equal(images[index].reshape(dataset.x_train.shape), dataset.x_train)):
        raise InputError(
            f"{data_dir}: {SOURCE if of_digits else published} has other images at the places that seed {seed} gives "
            "to the training images; prepare the data again, or give the source that they are from as --published"
        )
    return index, count


def read_pngs(folder: Path) -> dict[str, np.ndarray]:
    """X_poisoned, uint8 (N, height, width[, channels]), from PNG files, and index, (N,), the places in their names.

    Raises InputError for an empty folder, a file that is no 8-bit PNG of the common shape, or a name without a place.
    """
    from PIL import Image

    images, places = list[np.ndarray](), list[int]()
    for file in sorted(folder.glob(PNGS)):
        try:
            if not re.fullmatch(r"-?[0-9]+", file.stem):  # Python alone would read 1_0 as 10
                raise ValueError(f"{file.stem!r} is no number")
            place = int(file.stem)
            with Image.open(file, formats=["PNG"]) as image:
                mode, pixels = image.mode, np.asarray(image)
        except Exception as error:  # Pillow, zlib and struct each raise their own kinds
            raise InputError(
                f"{file}: no whole PNG ({one_line(error)}); mend it, or name it by its place (00042.png)"
            ) from error
        if not 0 <= place <= LARGEST_COUNT or place in places:
            raise InputError(f"{file}: names the place {place}; name each file by a place of its own, as 00042.png")
        if mode not in ("L", "RGB") or (images and pixels.shape != images[0].shape):
            raise InputError(f"{file}: is {pixels.shape} in mode {mode}; give one shape, all in 8-bit grey or RGB")
        images.append(pixels)
        places.append(place)
    if not images:
        raise InputError(f"{folder}: has no .png file; give the folder of the images")
    return {KEY: np.stack(images), "index": np.array(places)}


def write_pngs(folder: Path, poison: ReadyPoison) -> None:
    """Write each image of a poison as a PNG file that is named by its place.

    Raises InputError where the folder holds PNG files, and for images that are not 8-bit in grey or RGB.
    """
    from PIL import Image

    pixels = poison.pixels.squeeze(-1) if poison.pixels.shape[-1] == 1 else poison.pixels
    if any(folder.glob(PNGS)):
        raise InputError(f"{folder}: holds PNG files; choose another folder")
    if pixels.dtype != np.uint8 or (pixels.ndim == 4 and pixels.shape[-1] != 3):
        raise InputError(
            f"images {pixels.dtype} {pixels.shape}: PNG files take uint8 in grey or RGB; leave --png-dir out"
        )
    for place, image in zip(poison.index, pixels, strict=True):
        with atomic_path(folder / f"{place:05d}.png") as temporary:
            Image.fromarray(image).save(temporary)
