"""Defences that change untrusted training images before the victim is trained.

Compression, fewer grey levels and grayscale come from "Image Shortcut Squeezing" (ICML 2023, arXiv 2301.13838). There
they undo poison that lowers the accuracy. Removal of the images that are farthest from trusted images is the simplest
sanitisation.
"""

import io
from dataclasses import replace
from typing import Literal

import numpy as np

from data.datasets import Dataset, labels
from runtime.files import InputError

DefenceName = Literal["none", "jpeg", "bit_depth", "grayscale", "removal"]
JPEG_QUALITY = 10  # of 100, arXiv 2301.13838, section 4
BITS = 2  # per channel, from the same section
REMOVED = 0.1  # share of every class


def defended(dataset: Dataset, defence: DefenceName) -> Dataset:
    """The dataset with changed training images. Validation images (trusted) and test images stay the same.

    jpeg: written and read at quality 10. bit_depth: rounded to 2 bits. grayscale: the mean of the channels, weighted by
    luminance. removal: leaves out the tenth of each class whose l2 distance to the nearest validation image of
    the class is largest. Raises InputError for grayscale without 3 channels, and for jpeg without 1 or 3 channels.
    """
    if defence == "none":
        return dataset
    x, y = dataset.x_train, dataset.y_train
    if defence == "removal":
        kept = np.flatnonzero(_near_validation_images(dataset))
        return replace(dataset, x_train=x[kept], y_train=y[kept])
    treated = {"jpeg": _jpeg, "bit_depth": _bit_depth, "grayscale": _grayscale}[defence](x)
    return replace(dataset, x_train=treated)


def _bit_depth(x: np.ndarray) -> np.ndarray:
    steps = np.float32(2**BITS - 1)
    return np.round(x * steps) / steps


def _grayscale(x: np.ndarray) -> np.ndarray:
    if x.shape[-1] != 3:
        raise InputError(f"grayscale needs images of three channels, these have {x.shape[-1]}; choose another defence")
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(grey[..., None], 3, axis=-1)


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


def _near_validation_images(dataset: Dataset) -> np.ndarray:
    """Whether each training image is kept, bool (N,)."""
    train_labels, validation_labels = labels(dataset.y_train), labels(dataset.y_val)
    kept = np.ones(len(train_labels), bool)
    for label in range(dataset.num_classes):
        rows = np.flatnonzero(train_labels == label)
        distance = distance_to_nearest(dataset.x_train[rows], dataset.x_val[validation_labels == label])
        kept[rows[np.argsort(distance, kind="stable")[len(rows) - round(REMOVED * len(rows)) :]]] = False
    return kept


def distance_to_nearest(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """l2 distance from each image of x (N, ...) to the nearest image of reference (M, ...), float (N,)."""
    from sklearn.neighbors import NearestNeighbors  # slow to import: not at every victim's start

    near = NearestNeighbors(n_neighbors=1).fit(reference.reshape(len(reference), -1))
    return near.kneighbors(x.reshape(len(x), -1))[0][:, 0]
