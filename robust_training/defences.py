"""Defences that change untrusted training images before the victim is trained.

JPEG compression, bit depth and grayscale come from "Image Shortcut Squeezing" (ICML 2023, arXiv 2301.13838). There
they undo poison that lowers the accuracy. Removal of the images that are farthest from trusted images is the simplest
sanitisation.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from data.datasets import Dataset, labels
from runtime.checks import chosen
from runtime.files import InputError

JPEG_QUALITY = 10  # of 100, arXiv 2301.13838, section 4
BITS = 2  # per channel, from the same section
REMOVED = 0.1  # share of every class, chosen here


def _bit_depth(dataset: Dataset) -> Dataset:
    steps = np.float32(2**BITS - 1)
    return replace(dataset, x_train=np.round(dataset.x_train * steps) / steps)


def _grayscale(dataset: Dataset) -> Dataset:
    x = dataset.x_train
    if x.shape[-1] != 3:
        raise InputError(f"grayscale needs images of three channels, these have {x.shape[-1]}; choose another defence")
    luminance = x @ np.array([0.299, 0.587, 0.114], np.float32)
    return replace(dataset, x_train=np.repeat(luminance[..., None], 3, axis=-1))


def _jpeg(dataset: Dataset) -> Dataset:
    from PIL import Image

    x = dataset.x_train
    if x.shape[-1] not in (1, 3):
        raise InputError(f"jpeg needs images of 1 or 3 channels, these have {x.shape[-1]}; choose another defence")
    levels = np.round(255 * x).astype(np.uint8)
    compressed = []
    for image in levels.squeeze(-1) if x.shape[-1] == 1 else levels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY)
        compressed.append(np.asarray(Image.open(file)))
    return replace(dataset, x_train=(np.stack(compressed).reshape(x.shape) / np.float32(255)).astype(np.float32))


def _without_farthest(dataset: Dataset) -> Dataset:
    train_labels = labels(dataset.y_train)
    validation_labels = labels(dataset.y_val)
    kept = np.ones(len(train_labels), bool)
    for label in range(dataset.num_classes):
        rows = np.flatnonzero(train_labels == label)
        distance = distance_to_nearest(dataset.x_train[rows], dataset.x_val[validation_labels == label])
        farthest = np.argsort(distance, kind="stable")[len(rows) - round(REMOVED * len(rows)) :]
        kept[rows[farthest]] = False
    return replace(dataset, x_train=dataset.x_train[kept], y_train=dataset.y_train[kept])


DEFENCES: dict[str, Callable[[Dataset], Dataset]] = {
    "none": lambda dataset: dataset,
    "jpeg": _jpeg,
    "bit_depth": _bit_depth,
    "grayscale": _grayscale,
    "removal": _without_farthest,
}
DefenceName: TypeAlias = Literal[tuple(DEFENCES)]  # type: ignore[valid-type]


def defended(dataset: Dataset, defence: DefenceName) -> Dataset:
    """The dataset with changed training images. Validation images (trusted) and test images stay the same.

    jpeg: written and read at quality 10. bit_depth: rounded to 2 bits. grayscale: the mean of the channels, weighted by
    luminance. removal: leaves out the tenth of each class whose l2 distance to the nearest validation image of the
    class is largest. Raises InputError for another name, grayscale without 3 channels, and jpeg without 1 or 3.
    """
    return chosen("defence", DEFENCES, defence)(dataset)


def distance_to_nearest(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """l2 distance from each image of x (N, ...) to the nearest image of reference (M, ...), float (N,)."""
    from sklearn.neighbors import NearestNeighbors  # slow to import: not at every victim's start

    near = NearestNeighbors(n_neighbors=1).fit(reference.reshape(len(reference), -1))
    return near.kneighbors(x.reshape(len(x), -1))[0][:, 0]
