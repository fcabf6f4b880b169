"""The images of a study of certificates against changed labels."""

from typing import NamedTuple

import numpy as np

from data.datasets import SPLITS, Dataset, labels
from evaluation.label_flipping.config import LabelFlippingConfig
from runtime.files import InputError


class Images(NamedTuple):
    """Images of the classes that are told apart."""

    x: np.ndarray  # (n, H, W, C)
    y: np.ndarray  # int64 (n,), numbers of the chosen classes: 0, 1, ...
    numbers: np.ndarray  # int64 (n,), of the images in their set
    split: str  # that set: train, val, test, or the first two together

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.y.max()) + 1

    def at(self, rows: np.ndarray) -> "Images":
        """The images at the places ``rows``, int (m,)."""
        return Images(self.x[rows], self.y[rows], self.numbers[rows], self.split)


def together(train: Images, held_out: Images) -> Images:
    """Training and held-out images as one set."""
    x, y, numbers = (np.concatenate(pair) for pair in zip(train[:3], held_out[:3], strict=True))
    return Images(x, y, numbers, "train and val")


def images_of_classes(dataset: Dataset, config: LabelFlippingConfig) -> tuple[Images, Images, Images]:
    """Training, held-out and test images of the chosen classes, labelled by their place among these."""
    classes = np.array(config.classes or range(dataset.num_classes))
    sets = []
    for split in SPLITS:
        x, y = getattr(dataset, f"x_{split}"), labels(getattr(dataset, f"y_{split}"))
        index = np.flatnonzero(np.isin(y, classes))
        chosen = np.argmax(y[index, None] == classes, axis=1)
        if missing := set(range(len(classes))) - set(chosen.tolist()):
            raise InputError(
                f"{config.data_dir}: the {split} images have none of class {classes[min(missing)]}; "
                "choose other classes or prepare the data again"
            )
        sets.append(Images(x if len(index) == len(x) else x[index], chosen, index, split))
    return sets[0], sets[1], sets[2]
