"""The features of a study of certificates against changed labels. No feature may depend on a label.

They are fitted to the training images, or read from an .npz file: arrays train, val and test, a row for each image of
the split. The features in a file must not have been made from this dataset's labels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.datasets import SPLITS, Dataset
from evaluation.label_flipping.config import LabelFlippingConfig
from evaluation.label_flipping.images import Images
from models.diffusion import fit_diffusion_map
from models.embeddings import fit_embedding
from runtime.files import InputError, load_archive

Pair = tuple[np.ndarray, np.ndarray]  # features of the images that they are fitted to, and of others


class Features:
    """The features that a config names, of one dataset."""

    def __init__(self, config: LabelFlippingConfig, dataset: Dataset) -> None:
        self._config = config
        self._read = load_features(config.features_file, dataset) if config.features_file else None

    def __call__(self, fitted: Sequence[Images], others: Images) -> Pair:
        """Features, float64, of the images that they are fitted to, and of others: (n, d) and (m, d)."""
        config, read = self._config, self._read
        if read is None or config.joined:
            x, embed = fit_embedding(
                config.features, np.concatenate([images.x for images in fitted]), config.seed, config.centroids
            )
            pair = x, embed(others.x)
        if read is not None:
            of_file = (
                np.concatenate([read[images.split][images.numbers] for images in fitted]),
                read[others.split][others.numbers],
            )
            pair = _beside(pair, of_file) if config.joined else of_file
        if config.diffusion:
            x, to_map = fit_diffusion_map(pair[0], config.diffusion, config.diffusion_neighbours, config.seed)
            return x, to_map(pair[1])
        return pair


def _beside(embedded: Pair, read: Pair) -> Pair:
    """Both centred and scaled to a mean squared norm of 1 on the fitted images; the embedding ends with a constant."""

    def scaled(x: np.ndarray, x_others: np.ndarray) -> Pair:
        mean = x.mean(axis=0)
        scale = np.sqrt(x.var(axis=0).sum()) or 1.0
        return (x - mean) / scale, (x_others - mean) / scale

    constant = [x[:, -1:] for x in embedded]
    parts = scaled(*(x[:, :-1] for x in embedded)), scaled(*read), constant
    x, x_others = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
    return x, x_others


def features_name(config: LabelFlippingConfig) -> str:
    """What the features are called in names of files and in tables."""
    name = config.features_file.stem if config.features_file else config.features
    name = f"{config.features}_{name}" if config.joined else name
    return f"{name}_diffusion" if config.diffusion else name


def load_features(path: Path, dataset: Dataset) -> dict[str, np.ndarray]:
    """Features, float64 (N, d), of each split. Raises InputError unless each image has a row of finite numbers."""
    features = load_archive(path, SPLITS)
    width = features[SPLITS[0]].shape[1] if features[SPLITS[0]].ndim == 2 else 0
    for split, array in features.items():
        shape = len(getattr(dataset, f"x_{split}")), width
        if array.dtype.kind != "f" or array.shape != shape or not width:
            raise InputError(
                f"{path}: {split} is {array.dtype} of shape {array.shape}, floats of shape {shape} expected: a row of "
                f"features for each {split} image of {dataset.name}"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{path}: {split} holds NaN or infinite values; make it again")
    return {split: array.astype(np.float64) for split, array in features.items()}
