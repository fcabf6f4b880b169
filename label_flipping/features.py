"""The images of a study of certificates against changed labels, and their features, which no label may change.

Features are fitted to the training images, or read from a file. Fitted features depend on images, settings of
the embedding and seed alone. The name of the file that keeps them is the hash of exactly these, so that studies with
other learners find it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.datasets import SPLITS, Dataset, labels
from label_flipping.config import LabelFlippingConfig
from models.diffusion import fit_diffusion_map
from models.embeddings import fit_embedding
from runtime.artifact import Artifact
from runtime.files import InputError, array_sha256, file_sha256, json_sha256, load_archive, save_archive
from runtime.provenance import printed_path

_VERSION = 1  # raise it when a change of the code gives other features for the same settings
_ARRAYS = "fitted", "others"
Pair = tuple[np.ndarray, np.ndarray]  # features of the images that they are fitted to, and of others


class Images(NamedTuple):
    """Images of the classes that are told apart."""

    x: np.ndarray  # (n, H, W, C)
    y: np.ndarray  # int64 (n,), numbers of the chosen classes: 0, 1, ...
    numbers: np.ndarray  # int64 (n,), of the images in their set
    read: np.ndarray  # float64 (n, d), their rows of config.features_file. d is 0 without this file

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.y.max()) + 1

    def at(self, rows: np.ndarray) -> "Images":
        """The images at the places ``rows``, int (m,)."""
        return Images(*(array[rows] for array in self))


def images_of_classes(dataset: Dataset, config: LabelFlippingConfig) -> tuple[Images, Images, Images]:
    """Training, held-out and test images of the chosen classes, labelled by their place among these."""
    classes = np.array(config.classes or range(dataset.num_classes))
    read = load_features(config.features_file, dataset) if config.features_file else {}
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
        features = read.get(split, np.empty((len(x), 0)))[index]
        sets.append(Images(x if len(index) == len(x) else x[index], chosen, index, features))
    return sets[0], sets[1], sets[2]


def fit_features(config: LabelFlippingConfig, fitted: Images, others: Images) -> Pair:
    """The features that a config names, float64, of the images that they are fitted to, and of others: (n, d), (m, d).

    Embeddings other than raw pixels, and diffusion maps, take long. They are kept in config.features_dir.
    """
    read = fitted.read, others.read
    takes_images = config.joined or not config.features_file
    arrays = [fitted.x, others.x] if takes_images else []
    if config.features_file:
        arrays.extend(read)
    embedding = {
        "version": _VERSION,
        "arrays": [[array_sha256(array), str(array.dtype), *array.shape] for array in arrays],
        **{name: getattr(config, name) for name in ("features", "centroids", "seed")},
        **({"weights": file_sha256(config.weights)} if config.weights else {}),
    }

    def embedded() -> Pair:
        if not takes_images:
            return read
        x, embed = fit_embedding(config.features, fitted.x, config.seed, config.centroids, config.weights)
        pair = x, embed(others.x)
        return _beside(pair, read) if config.joined else pair

    folder = config.features_dir if takes_images and config.features != "raw" else None  # the others are quick
    if not config.diffusion:
        return _kept(folder, embedding, embedded)

    def mapped() -> Pair:
        x, x_others = _kept(folder, embedding, embedded)
        coordinates, to_map = fit_diffusion_map(x, config.diffusion, config.diffusion_neighbours, config.seed)
        return coordinates, to_map(x_others)

    mapping = {"diffusion": config.diffusion, "diffusion_neighbours": config.diffusion_neighbours}
    return _kept(config.features_dir, {**embedding, **mapping}, mapped)


def _kept(folder: Path | None, made_of: dict[str, Any], make: Callable[[], Pair]) -> Pair:
    """The features that an earlier study kept. Without them it makes new features, and keeps them where it can."""
    if folder is None:
        return make()
    path = folder / f"{json_sha256(made_of)}.npz"
    if path.is_file():
        try:
            x, x_others = load_archive(path, _ARRAYS).values()
            print(f"features: {printed_path(path)}, of an earlier study")
            return x, x_others
        except InputError as error:
            print(f"the features are made again: {error}")
    pair = make()
    try:
        with Artifact(path):
            save_archive(path, dict(zip(_ARRAYS, pair, strict=True)))
    except InputError as error:
        print(f"the features are not kept: {error}")
    return pair


def _beside(embedded: Pair, read: Pair) -> Pair:
    """Features of an embedding and of a file side by side. The last feature of an embedding is a constant.

    Each kind is centred and scaled to a mean squared norm of 1 on the fitted images.
    """

    def scaled(x: np.ndarray, x_others: np.ndarray) -> Pair:
        mean = x.mean(axis=0)
        scale = np.sqrt(x.var(axis=0).sum()) or 1.0
        return (x - mean) / scale, (x_others - mean) / scale

    x, others = embedded
    x_scaled, others_scaled = scaled(x[:, :-1], others[:, :-1])
    x_read, others_read = scaled(*read)
    return np.hstack([x_scaled, x_read, x[:, -1:]]), np.hstack([others_scaled, others_read, others[:, -1:]])


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
                f"{path}: {split} is {array.dtype} of shape {array.shape}, floats of shape {shape} expected; make a "
                f"row of features for each {split} image of {dataset.name}"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{path}: {split} holds NaN or infinite values; make it again")
    return {split: array.astype(np.float64) for split, array in features.items()}
