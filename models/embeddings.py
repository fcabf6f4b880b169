"""Feature embeddings, fitted to training images alone: a certificate against changed labels needs features that do not
depend on these labels.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from models.imagenet import imagenet_features
from models.stateless import in_batches
from runtime.checks import chosen
from runtime.files import InputError
from runtime.lazy import ndimage

EmbeddingName = Literal["raw", "pca", "random", "patches", "deskewed", "root_patches", "imagenet"]
Embedding = Callable[[np.ndarray], np.ndarray]  # images (N, H, W, C) in [0, 1] -> features, float64 (N, d)

_BATCH = 200  # images embedded together
_COMPONENTS = 1000  # features of 'random', 'root_patches' and 'imagenet', at most
_PATCHES = 50_000  # patches that k-means is fitted to, 20 of an image, at most
_DISTANCES = 2**22  # approximate number of patch-centroid distances held at once: few enough for a fast cache


def fit_embedding(
    name: EmbeddingName, x_train: np.ndarray, seed: int = 0, centroids: int = 200, weights: Path | None = None
) -> tuple[np.ndarray, Embedding]:
    """Fit an embedding to training images. Returns their features, float64 (N, d), and the embedding of other images.

    Features are centred on the training images and end with a constant 1.

    name: raw: pixels. pca: whitened principal components. random: random Fourier features of a Gaussian kernel (Rahimi
    and Recht, NIPS 2007). patches: k-means on whitened patches of the training images, with triangle activation, pooled
    over the four quadrants (Coates, Lee, Ng, AISTATS 2011, section 3). deskewed: patches of handwriting that is sheared
    upright first. root_patches: principal components of the square roots of the features 'patches', where weak
    activations have more weight. imagenet: as root_patches, from a network's features. The network is outside data: it
    was trained with ImageNet's labels. x_train: float32 (N, H, W, C) in [0, 1]. The same seed gives the same features.
    centroids: number of centroids of k-means, with four features each. weights: file of the network, see
    models/imagenet.py.

    Raises InputError for an unknown name or too few images.
    """
    if len(x_train) < 2:
        raise InputError(f"an embedding needs at least 2 training images, got {len(x_train)}; give more")
    fits: dict[str, Callable[[], Embedding]] = {
        "raw": lambda: _flat,
        "pca": lambda: _pca(x_train),
        "random": lambda: _random(x_train, seed),
        "patches": lambda: _patches(x_train, seed, centroids),
        "deskewed": lambda: _deskewed_patches(x_train, seed, centroids),
        "root_patches": lambda: _root_components(_patches(x_train, seed, centroids), x_train, seed),
        "imagenet": lambda: _root_components(imagenet_features(weights), x_train, seed),
    }
    transform = chosen("features", fits, name)()
    train_features = transform(x_train)
    mean = train_features.mean(axis=0)

    def centred(features: np.ndarray) -> np.ndarray:
        return np.concatenate([features - mean, np.ones((len(features), 1))], axis=1)

    return centred(train_features), lambda x: centred(transform(x))


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float64)


def _pca(x_train: np.ndarray) -> Embedding:
    from sklearn.decomposition import PCA

    flat = _flat(x_train)
    pca = PCA(min(100, *flat.shape), whiten=True, svd_solver="covariance_eigh").fit(flat)
    pca.components_ = pca.components_[pca.explained_variance_ > 1e-9]  # constant pixels have no direction
    pca.explained_variance_ = pca.explained_variance_[: len(pca.components_)]
    return lambda x: pca.transform(_flat(x))


def _random(x_train: np.ndarray, seed: int) -> Embedding:
    from sklearn.kernel_approximation import RBFSampler

    sampler = RBFSampler(gamma="scale", n_components=_COMPONENTS, random_state=seed).fit(_flat(x_train))
    unit_variance = np.sqrt(_COMPONENTS)  # the other embeddings have it, except for the constant
    return lambda x: unit_variance * in_batches(lambda part: sampler.transform(_flat(part)), x, _BATCH)


def _patches(x_train: np.ndarray, seed: int, centroids: int) -> Embedding:
    from sklearn.cluster import MiniBatchKMeans

    if (side := min(x_train.shape[1:3])) < 4:
        raise InputError(f"patches need images of at least 4 x 4 pixels, got {x_train.shape[1:3]}; choose others")
    size = 6 if side >= 24 else 3
    random = np.random.default_rng(seed)
    drawn = []
    for image in x_train[random.permutation(len(x_train))[: _PATCHES // 20]]:
        patches = _patches_of(image[None], size).reshape(-1, size * size * image.shape[-1])
        drawn.append(patches[random.choice(len(patches), min(len(patches), 20), replace=False)])
    sample = _normalised(np.concatenate(drawn))
    mean = sample.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(sample - mean, rowvar=False))
    whiten = ((vectors / np.sqrt(np.maximum(values, 0) + 0.1)) @ vectors.T).astype(np.float32)
    count = min(centroids, len(sample))
    clusters = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=4096).fit((sample - mean) @ whiten)
    centres = clusters.cluster_centers_.astype(np.float32)
    squares = np.square(centres).sum(axis=1)

    def encode(x: np.ndarray) -> np.ndarray:
        grid = _patches_of(x, size)
        whitened = (_normalised(grid.reshape(-1, len(mean))) - mean) @ whiten
        distances = 2 * whitened @ centres.T  # an inner product so far. Each step below replaces it in place
        np.subtract(np.square(whitened).sum(axis=1, keepdims=True), distances, out=distances)
        distances += squares
        np.sqrt(np.maximum(distances, 0, out=distances), out=distances)
        active = np.subtract(distances.mean(axis=1, keepdims=True), distances, out=distances)
        np.maximum(active, 0, out=active)
        active = active.reshape(*grid.shape[:3], count)
        halves = np.split(active, [grid.shape[1] // 2], axis=1)
        quadrants = [part for half in halves for part in np.split(half, [grid.shape[2] // 2], axis=2)]
        return np.concatenate([part.mean(axis=(1, 2)) for part in quadrants], axis=1).astype(np.float64)

    together = max(1, _DISTANCES // (count * int(np.prod(x_train.shape[1:3]))))
    transform = partial(in_batches, encode, size=together)
    scale = transform(x_train[:5000]).std(axis=0) + 1e-6
    return lambda x: transform(x) / scale


def _deskewed_patches(x_train: np.ndarray, seed: int, centroids: int) -> Embedding:
    embed = _patches(deskewed(x_train), seed, centroids)
    return lambda x: embed(deskewed(x))


def _root_components(embed: Embedding, x_train: np.ndarray, seed: int) -> Embedding:
    """Principal components of the square roots of features, standardised and fitted on 10,000 training images."""
    sample = np.sqrt(embed(x_train[np.random.default_rng(seed).permutation(len(x_train))[:10_000]]))
    mean, scale = sample.mean(axis=0), sample.std(axis=0) + 1e-6
    standard = (sample - mean) / scale
    axes = np.linalg.eigh(standard.T @ standard)[1][:, -_COMPONENTS:] / scale[:, None]
    return lambda x: in_batches(lambda part: (np.sqrt(embed(part)) - mean) @ axes, x, _BATCH)


def deskewed(x: np.ndarray) -> np.ndarray:
    """Images (N, H, W, C), float32, with their brightness centred and sheared along the rows until no slant is left.

    The slant is Cov(row, column) / Var(row) under the brightness as density, at most 1 in size. Black images stay
    black.
    """
    height, width = x.shape[1:3]
    rows, columns = np.mgrid[:height, :width]
    upright = np.empty_like(x, dtype=np.float32)
    for number, image in enumerate(x):
        weight = image.sum(axis=2) / max(float(image.sum()), 1e-9)
        middle = np.array([(weight * rows).sum(), (weight * columns).sum()])
        from_row, from_column = rows - middle[0], columns - middle[1]
        slant = (weight * from_row * from_column).sum() / max((weight * from_row**2).sum(), 1e-9)
        shear = np.array([[1, 0], [np.clip(slant, -1, 1), 1]])
        offset = middle - shear @ [(height - 1) / 2, (width - 1) / 2]
        for channel in range(x.shape[3]):
            upright[number, ..., channel] = ndimage.affine_transform(image[..., channel], shear, offset, order=1)
    return upright


def _patches_of(x: np.ndarray, size: int) -> np.ndarray:
    """All patches of images (N, H, W, C), float32 (N, H - size + 1, W - size + 1, C, size, size)."""
    return np.lib.stride_tricks.sliding_window_view(np.asarray(x, np.float32), (size, size), axis=(1, 2))


def _normalised(patches: np.ndarray) -> np.ndarray:
    """Patches (N, d) of mean 0 and standard deviation 1. Patches of little contrast stay small."""
    centred = patches - patches.mean(axis=1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=1, keepdims=True) + 0.01)
