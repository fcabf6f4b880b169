"""Random changes of training images at every step, pure functions of a seed: crop, flip, jitter, blur, plasma."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

from runtime.bounds import between
from runtime.files import InputError
from runtime.lazy import ops
from runtime.noise import fold_in, uniform

PADDING = 4  # pixels of zeros on each side


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Settings of victims and of the attack's lower level. The defaults leave images unchanged.

    The order is: crop and flip, jitter, blur, plasma, noise. SmoothAdv's inner attack comes before the noise in a
    victim, and before all of these in an attack. Jitter is x -> (x - 1/2)(1 + c) + 1/2 + b + s. Each image
    has its own b and c, each channel of an image its own s. Jittered pixels may leave [0, 1]. They are not clipped,
    because a classifier under noise sees pixels outside [0, 1] anyway.
    """

    augment: bool = False
    """Random crop and flip of training images, in an attack also of validation images (published for CIFAR10)."""
    jitter_brightness: Annotated[float, between(0, 1)] = 0.0
    """Largest shift b of a training image's brightness, uniform from -b to b. Pixels are in [0, 1]."""
    jitter_contrast: Annotated[float, between(0, 1)] = 0.0
    """Largest relative change c of a training image's contrast around mid-grey, uniform from -c to c."""
    jitter_colour: Annotated[float, between(0, 1)] = 0.0
    """Largest shift s of each single channel of a training image, uniform from -s to s. On grey images it shifts the
    brightness."""
    blur: Annotated[float, between(0, 5)] = 0.0
    """Largest standard deviation of a Gaussian blur of training images, in pixels, uniform from 0 to blur."""
    plasma: bool = False
    """Strong augmentation against poison: brightness and contrast that vary over each image, and shuffled channels
    (UEraser-Lite, arXiv 2303.15127)."""
    standardise: bool = False
    """Whether the model begins by standardising each image: mean 0 and standard deviation 1 over all its pixels."""

    def for_validation(self) -> "Augmentation":
        """The changes of validation images in an attack: only the published crop and flip."""
        return Augmentation(augment=self.augment)

    def augmented(self, x: Any, seed: Any) -> Any:
        """The changed images x, float (N, height, width, channels), N known. Differentiable with respect to x.

        seed: int32 (2,), see runtime.noise, may be traced. Works eagerly and inside compiled code.
        """
        if self.augment:
            x = random_crop_and_flip(x, seed)
        another = ops.stack([seed[1], seed[0]])  # the crop uses ``seed``
        if self.jitter_brightness or self.jitter_contrast or self.blur:
            draws = uniform((x.shape[0], 3), another)
            change = 2 * draws[:, :, None, None, None] - 1
            x = (x - 0.5) * (1 + self.jitter_contrast * change[:, 1]) + 0.5 + self.jitter_brightness * change[:, 0]
        if self.jitter_colour:
            x = x + self.jitter_colour * (2 * uniform((x.shape[0], 1, 1, x.shape[3]), fold_in(another, 60)) - 1)
        if self.blur:
            x = gaussian_blur(x, self.blur * draws[:, 2], math.ceil(3 * self.blur))
        return plasma(x, fold_in(another, 1)) if self.plasma else x  # folds in fewer than 50 numbers from 1 on


def plasma(x: Any, seed: Any) -> Any:
    """Vary brightness and contrast over each image and shuffle its channels, each with probability 1/2.

    The brightness changes to x + i (2 p - 1), with i uniform from 0 to 1 for each image. The contrast changes to
    4 p (x - 1/2) + 1/2. Each change has its own random field p, see ``fractal_field``.
    x: float (N, height, width, channels), any values. The result is in [0, 1]. seed: int32 (2,), may be traced. Only
    numbers below 50 are folded into it.
    Source: UEraser-Lite (arXiv 2303.15127, section 3), with fields and ranges from the library Kornia. Kornia draws a
    field for each channel and clips after each change. Here the channels share a field, and pixels are clipped once, at
    the end.
    """
    draws = uniform((x.shape[0], 4 + x.shape[3]), seed)
    chosen = draws[:, :3, None, None, None] < 0.5
    field = 2 * fractal_field(x.shape[:3], fold_in(seed, 1)) - 1
    x = ops.where(chosen[:, 0], x + draws[:, 3, None, None, None] * field, x)
    x = ops.where(chosen[:, 1], 4 * fractal_field(x.shape[:3], fold_in(seed, 25)) * (x - 0.5) + 0.5, x)
    order = ops.argsort(draws[:, 4:], axis=1)
    shuffled = ops.take_along_axis(x, order[:, None, None, :], axis=3)
    return ops.clip(ops.where(chosen[:, 2], shuffled, x), 0.0, 1.0)


def fractal_field(shape: tuple[int, int, int], seed: Any) -> Any:
    """A smooth random field per image, float32 (N, height, width, 1), from 0 to 1 in each.

    The sum of uniform noise on grids of 2, 4, 8, ... points a side. Weights fall by a factor of 0.1 to 0.7 per grid.
    Raises InputError for images of one pixel.
    """
    count, height, width = shape
    if height * width == 1:
        raise InputError("plasma: images of 1 x 1 pixel have no field; leave plasma out")
    rough = 0.1 + 0.6 * uniform((count, 1, 1, 1), seed)
    field, weight, points = ops.zeros((count, height, width, 1)), ops.ones((count, 1, 1, 1)), 2
    while points <= max(height, width):
        grid = uniform((count, points, points, 1), fold_in(seed, points.bit_length()))
        field = field + weight * ops.image.resize(grid, (height, width), data_format="channels_last")
        weight, points = weight * rough, 2 * points
    low, high = (extreme(field, axis=(1, 2, 3), keepdims=True) for extreme in (ops.min, ops.max))
    return (field - low) / (high - low)


def gaussian_blur(x: Any, std: Any, radius: int) -> Any:
    """Blur each image by a Gaussian with its own standard deviation. Pixels beyond the border are reflected.

    x: float (N, height, width, channels). std: float (N,), in pixels, at least 0. 0 leaves an image unchanged. radius:
    pixels on each side that are averaged. Raises InputError where an image is not larger than the radius.
    """
    height, width = x.shape[1:3]
    if radius >= min(height, width):
        raise InputError(f"blur reaches {radius} pixels, images of {height} x {width} are too small for it; lower it")
    distances = ops.arange(-radius, radius + 1, dtype=x.dtype)
    # 0 becomes 1e-3, at which the weights of all neighbours underflow to 0.
    weights = ops.exp(-0.5 * ops.square(distances / ops.maximum(std, 1e-3)[:, None]))
    weights = weights / ops.sum(weights, axis=1, keepdims=True)
    for axis in (1, 2):
        around = [(0, 0)] * 4
        around[axis] = (radius, radius)
        padded = ops.pad(x, around, mode="reflect")
        shifted = [
            ops.take(padded, ops.arange(shift, shift + x.shape[axis]), axis=axis) for shift in range(2 * radius + 1)
        ]
        x = sum(weights[:, shift, None, None, None] * one for shift, one in enumerate(shifted))
    return x


def random_crop_and_flip(x: Any, seed: Any) -> Any:
    """Zero-pad images by 4 pixels, crop all at one random place to their size, and mirror each with probability 1/2.

    x, seed: as in ``Augmentation.augmented``. As in the published code, the whole batch has one place.
    """
    draws = uniform((x.shape[0], 3), seed)  # one draw: callers add to the seed, a second draw could repeat theirs
    top, left = (ops.cast(ops.floor(draws[0, axis] * (2 * PADDING + 1)), "int32") for axis in (0, 1))
    padded = ops.pad(x, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    cropped = ops.slice(padded, (0, top, left, 0), x.shape)
    mirror = draws[:, 2, None, None, None] < 0.5
    return ops.where(mirror, ops.flip(cropped, axis=2), cropped)
