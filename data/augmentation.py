"""Random crop and flip of image batches, a pure function of a seed."""

from typing import Any

from keras import ops

from runtime.noise import uniform

PADDING = 4  # pixels of zeros on each side


def random_crop_and_flip(x: Any, seed: Any, one_offset_per_batch: bool = True) -> Any:
    """Zero-pad images by 4 pixels, crop them to their size at a random place, and mirror half of them.

    x: float (N, height, width, channels), any values, N known; seed: int32 (2,), see runtime.noise, may be
    traced.  one_offset_per_batch: crop the whole batch at one place, as the published code does; otherwise
    every image at its own.  The left-right flip is drawn per image in both cases.
    Returns a tensor like x, differentiable with respect to it; works eagerly and inside compiled code.
    """
    count, height, width, channels = x.shape
    draws = uniform((count, 3), seed)  # one draw for everything: callers count up the seed themselves
    offsets = ops.cast(ops.floor(draws[:, :2] * (2 * PADDING + 1)), "int32")
    padded = ops.pad(x, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    if one_offset_per_batch:
        top, left = offsets[0, 0], offsets[0, 1]
        cropped = ops.slice(padded, (0, top, left, 0), (count, height, width, channels))
    else:
        rows = offsets[:, :1] + ops.arange(height, dtype="int32")
        columns = offsets[:, 1:] + ops.arange(width, dtype="int32")
        cropped = ops.take_along_axis(padded, rows[:, :, None, None], axis=1)
        cropped = ops.take_along_axis(cropped, columns[:, None, :, None], axis=2)
    mirror = draws[:, 2, None, None, None] < 0.5
    return ops.where(mirror, ops.flip(cropped, axis=2), cropped)
