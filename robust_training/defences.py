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
STEPS = np.float32(2**2 - 1)  # from black to white, with 2 bits per channel, from the same section
REMOVED = 0.1  # share of every class, chosen here


def _grayscale(x: np.ndarray) -> np.ndarray:
    if x.shape[-1] != 3:
        raise InputError(f"grayscale needs images of three channels, these have {x.shape[-1]}; choose another defence")
    return np.repeat((x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None], 3, axis=-1)


def _jpeg(x: np.ndarray) -> np.ndarray:
    from PIL import Image

    if x.shape[-1] not in (1, 3):
        raise InputError(f"jpeg needs images of 1 or 3 channels, these have {x.shape[-1]}; choose another defence")

    def compressed(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "JPEG", quality=JPEG_QUALITY)
        return np.asarray(Image.open(file)).reshape(image.shape)

    levels = np.round(255 * x).astype(np.uint8)
    return (np.stack([compressed(image) for image in levels]) / np.float32(255)).astype(np.float32)


def _near_validation_images(dataset: Dataset) -> Dataset:
    train_labels, validation_labels = labels(dataset.y_train), labels(dataset.y_val)
    kept = np.ones(len(train_labels), bool)
    for label in range(dataset.num_classes):
        rows = np.flatnonzero(train_labels == label)
        distance = distance_to_nearest(dataset.x_train[rows], dataset.x_val[validation_labels == label])
        farthest = np.argsort(distance, kind="stable")[len(rows) - round(REMOVED * len(rows)) :]
        kept[rows[farthest]] = False
    return replace(dataset, x_train=dataset.x_train[kept], y_train=dataset.y_train[kept])


def _changing(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Dataset], Dataset]:
    return lambda dataset: replace(dataset, x_train=change(dataset.x_train))


DEFENCES: dict[str, Callable[[Dataset], Dataset]] = {
    "none": lambda dataset: dataset,
    "jpeg": _changing(_jpeg),
    "bit_depth": _changing(lambda x: np.round(x * STEPS) / STEPS),
    "grayscale": _changing(_grayscale),
    "removal": _near_validation_images,
}
DefenceName: TypeAlias = Literal[tuple(DEFENCES)]  # type: ignore[valid-type]


def defended(dataset: Dataset, defence: DefenceName) -> Dataset:
    """The dataset with changed training images. Validation images (trusted) and test images stay the same.

    jpeg: written and read at quality 10. bit_depth: rounded to 2 bits. grayscale: the mean of the channels, weighted by
    luminance. removal: leaves out the tenth of each class whose l2 distance to the nearest validation image of
    the class is largest. Raises InputError for another name, for grayscale without 3 channels, and for jpeg without 1
    or 3 channels.
    """
    return chosen("defence", DEFENCES, defence)(dataset)


def distance_to_nearest(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """l2 distance from each image of x (N, ...) to the nearest image of reference (M, ...), float (N,)."""
    from sklearn.neighbors import NearestNeighbors  # slow to import: not at every victim's start

    near = NearestNeighbors(n_neighbors=1).fit(reference.reshape(len(reference), -1))
    return near.kneighbors(x.reshape(len(x), -1))[0][:, 0]
