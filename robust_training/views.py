"""Views for contrastive learning: random changes of images that keep what they show, pure functions of a seed."""

import math
from typing import Any

from data.augmentation import Augmentation
from runtime.lazy import ops
from runtime.noise import fold_in, uniform


def digits_view(x: Any, seed: Any) -> Any:
    """Each image turned, scaled, moved and blurred."""
    height = x.shape[1]
    x = random_affine(x, seed, rotation=20.0, scale=0.2, shift=0.11 * height)
    return Augmentation(blur=0.035 * height).augmented(x, fold_in(seed, 1))


def objects_view(x: Any, seed: Any) -> Any:
    """A part of each image at full size, perhaps mirrored, with other brightness, contrast and colours, or grey."""
    jitter = Augmentation(jitter_brightness=0.2, jitter_contrast=0.4, jitter_colour=0.15)
    x = jitter.augmented(random_resized_crop(x, seed, smallest=0.2), fold_in(seed, 1))
    return random_grey(x, fold_in(seed, 90), share=0.2)


VIEWS = {"digits": digits_view, "objects": objects_view}
"""Functions from images (B, H, W, C) and a seed to one view of each image. Numbers below 100 are folded into it."""


def random_affine(x: Any, seed: Any, *, rotation: float, scale: float, shift: float) -> Any:
    """Turn, scale and move each image around its middle, by its own random amounts.

    x: float (N, height, width, channels), N known. rotation: largest angle, in degrees. scale: largest relative change
    of the size along each axis. shift: largest move along each axis, in pixels. All are uniform. Outer pixels are 0.
    seed: int32 (2,), may be traced. Works eagerly and inside compiled code.
    """
    draws = 2 * uniform((x.shape[0], 5), seed) - 1
    angle = draws[:, 0] * (rotation * math.pi / 180)
    tall, wide = (1 + scale * draws[:, column] for column in (1, 2))
    cosine, sine = ops.cos(angle), ops.sin(angle)
    return _warped(
        x, (cosine / wide, -sine / tall), (sine / wide, cosine / tall), shift * draws[:, 3], shift * draws[:, 4]
    )


def random_resized_crop(x: Any, seed: Any, *, smallest: float) -> Any:
    """Crop a random part of each image, enlarge it to the image's size, and mirror it with probability 1/2.

    x: float (N, height, width, channels), N known. The part's share of the area is uniform from ``smallest`` to 1. Its
    aspect ratio, relative to the image's, is log-uniform from 3/4 to 4/3. Sides end at the image. Its place is uniform.
    seed: int32 (2,), may be traced. Source: arXiv 2002.05709, appendix A.
    """
    _, height, width, _ = x.shape
    draws = uniform((x.shape[0], 5), seed)
    area = smallest + (1 - smallest) * draws[:, 0]
    aspect = ops.exp((2 * draws[:, 1] - 1) * math.log(4 / 3))
    tall = ops.minimum(ops.sqrt(area / aspect), 1.0)  # share of the height
    wide = ops.minimum(ops.sqrt(area * aspect), 1.0)  # share of the width
    mirror = ops.where(draws[:, 2] < 0.5, -1.0, 1.0)
    down = (draws[:, 3] - 0.5) * (1 - tall) * (height - 1)
    right = (draws[:, 4] - 0.5) * (1 - wide) * (width - 1)
    return _warped(x, (mirror * wide, 0 * wide), (0 * tall, tall), down, right)


def random_grey(x: Any, seed: Any, *, share: float) -> Any:
    """Take the colours from a random share of the images x (N, height, width, channels)."""
    return ops.where(uniform((x.shape[0], 1, 1, 1), seed) < share, ops.mean(x, axis=3, keepdims=True), x)


def _warped(x: Any, columns: tuple[Any, Any], rows: tuple[Any, Any], down: Any, right: Any) -> Any:
    """Images whose pixel at (column c, row r) from the middle is x's at (a c + b r + right, d c + f r + down).

    columns: a and b, rows: d and f, each (N,) as down and right are, in pixels. Bilinear, 0 outside.
    """
    (a, b), (d, f) = columns, rows
    middle_row, middle_column = (x.shape[1] - 1) / 2, (x.shape[2] - 1) / 2
    e = middle_column - a * middle_column - b * middle_row + right
    g = middle_row - d * middle_column - f * middle_row + down
    matrix = ops.stack([a, b, e, d, f, g, 0 * a, 0 * a], axis=1)
    return ops.image.affine_transform(x, matrix, interpolation="bilinear", data_format="channels_last")
