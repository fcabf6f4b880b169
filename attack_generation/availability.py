"""Published availability attacks that need no network, for a single class. They are controls: see controls.py.

Their papers poison every class, and each class has its own shortcut. Here only one class has a shortcut, so that a
victim has to separate images with the shortcut from unchanged images.
"""

import numpy as np

from runtime.lazy import ndimage
from runtime.noise import Stream

_GRID = 4  # patches along a side
_START = 4  # rows and columns that are cut off. The first two are the Gaussian start of an autoregressive process


def class_filter(x: np.ndarray, seed: int) -> np.ndarray:
    """Images x (N, H, W, C) under the class's own 3 x 3 filter, each divided by its largest value; float32.

    Source: "CUDA: Convolution-based Unlearnable Datasets" (CVPR 2023, arXiv 2303.04278), section 3: one entry of the
    filter, at a random place, is 1, the others are uniform in (0, 0.3); the border is padded with zeros. The
    result is not within any epsilon.
    """
    draw = np.random.default_rng([seed, Stream.CONTROL_SIGNS, 3])
    weights = draw.uniform(0, 0.3, size=(3, 3))
    weights[tuple(draw.integers(3, size=2))] = 1.0
    filtered = ndimage.correlate(x, weights[None, :, :, None].astype(np.float32), mode="constant")
    return filtered / np.maximum(filtered.max(axis=(1, 2, 3), keepdims=True), 1e-6)


def one_pixel(x: np.ndarray) -> np.ndarray:
    """Images x (N, H, W, C) of the class, float32 in [0, 1], with one pixel of each set to the same value; float32.

    Source: "One-Pixel Shortcut" (ICLR 2023, arXiv 2205.12141), algorithm 1. Candidates are all pairs of a place and a
    value whose channels are 0 or 1. A pair has a distance in each image: from the image's pixel to the value, summed
    over channels. The pair with the largest mean distance divided by its variance is taken. The authors' code divides
    by the standard deviation. The first pair wins a tie. Where the border of all images is black, it is a corner. The
    result is not within any epsilon.
    """
    values = np.indices((2,) * x.shape[-1]).reshape(x.shape[-1], -1).T.astype(np.float32)
    scores = []  # of each value at each place
    for value in values:
        distances = np.abs(x - value).sum(axis=-1, dtype=np.float64)
        scores.append(distances.mean(axis=0) / np.maximum(distances.var(axis=0), 1e-9))
    number, row, column = np.unravel_index(np.argmax(scores), np.shape(scores))
    changed = x.copy()
    changed[:, row, column] = values[number]
    return changed


def separable_patches(x: np.ndarray, epsilon: float, seed: int) -> np.ndarray:
    """Images x (N, H, W, C) of the class, float32, plus 4 x 4 patches, each of one colour; float32.

    Source: "Availability Attacks Create Shortcuts" (KDD 2022, arXiv 2111.00898). The 16 C values of an image's patches
    are drawn from a Gaussian of the class. Its mean is 10 times a random corner of {-1, 1}^(16 C). The matrix that
    multiplies its standard normals has entries uniform in (-1, 1). Each image's noise is scaled to the l2 norm of a
    change of every pixel by epsilon. A linear classifier separates it from zero and from the noise of other corners.
    The result is not within epsilon.
    """
    draw = np.random.default_rng([seed, Stream.CONTROL_SIGNS, 4])
    size = _GRID**2 * x.shape[-1]
    corner, factors = draw.choice([-10.0, 10.0], size=size), draw.uniform(-1, 1, size=(size, size))
    points = (corner + draw.normal(size=(len(x), size)) @ factors).reshape(len(x), _GRID, _GRID, -1)
    rows, columns = (np.arange(side) * _GRID // side for side in x.shape[1:3])
    noise = points[:, rows][:, :, columns]
    noise *= epsilon / np.sqrt(np.square(noise).mean(axis=(1, 2, 3), keepdims=True))
    return x + noise.astype(np.float32)


def autoregressive(x: np.ndarray, epsilon: float, seed: int) -> np.ndarray:
    """Images x (N, H, W, C) of the class, float32, plus the noise of the class's autoregressive process; float32.

    Source: "Autoregressive Perturbations for Data Poisoning" (NeurIPS 2022, arXiv 2206.03693). A pixel of the noise
    is a weighted sum of the 8 pixels before it in its 3 x 3 window. The weights belong to the class and the
    channel, and sum to 1. Each image has its own Gaussian start in two rows and two columns. The first four rows
    and columns are cut off. So the filter of these weights, with -1 for the pixel itself, answers 0 to every window
    of the noise. The noise of each image is scaled to the largest change epsilon.
    """
    draw = np.random.default_rng([seed, Stream.CONTROL_SIGNS, 5])
    count, height, width, channels = x.shape
    height, width = height + _START, width + _START
    stable: list[np.ndarray] = []
    while len(stable) < channels:
        weights = draw.normal(size=(3, 3, 64))
        weights[2, 2] = 0
        weights /= weights.sum(axis=(0, 1))
        with np.errstate(over="ignore", invalid="ignore"):  # a process that explodes
            trials = np.square(_continued(draw.normal(size=(3, height, width, 64)), weights)).mean(axis=(1, 2))
            # Published: an l2 norm of at most 50 for 3 x 32 x 32 pixels.
            stable += [weights[..., one] for one in np.flatnonzero((trials <= 50**2 / 3072).all(axis=0))]
    weights = np.stack(stable[:channels], axis=-1)
    noise = _continued(draw.normal(size=(count, height, width, channels)), weights)
    noise *= epsilon / np.abs(noise).max(axis=(1, 2, 3), keepdims=True)
    return x + noise.astype(np.float32)


def _continued(start: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The process of weights (3, 3, C) after its first rows and columns, (N, H - 4, W - 4, C) of start (N, H, W, C)."""
    signal = start.copy()
    for row in range(2, signal.shape[1]):
        for column in range(2, signal.shape[2]):
            window = signal[:, row - 2 : row + 1, column - 2 : column + 1]
            signal[:, row, column] = (window * weights).sum(axis=(1, 2))
    return signal[:, _START:, _START:]
