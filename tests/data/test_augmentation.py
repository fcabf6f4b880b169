"""Random crop and flip."""

import numpy as np
import pytest
from keras import ops

from bilevel_optimizer import autodiff
from data.augmentation import PADDING, random_crop_and_flip
from runtime.noise import seed_pair

both_modes = pytest.mark.parametrize("one_offset", [True, False])


def images(count: int = 12, size: int = 7) -> np.ndarray:
    """Images whose pixels all differ and are not 0, so that a place can be read from a value."""
    values = np.arange(1, count * size * size * 2 + 1, dtype=np.float32)
    return values.reshape(count, size, size, 2)


def augment(x: np.ndarray, seed: np.ndarray, one_offset: bool) -> np.ndarray:
    """random_crop_and_flip as a NumPy array."""
    return ops.convert_to_numpy(random_crop_and_flip(ops.convert_to_tensor(x), seed, one_offset))


def placement(original: np.ndarray, result: np.ndarray) -> tuple[int, int, bool]:
    """(top, left, mirrored) that turn ``original`` into ``result``; fails where no placement does."""
    size = len(original)
    padded = np.pad(original, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    for top in range(2 * PADDING + 1):
        for left in range(2 * PADDING + 1):
            crop = padded[top : top + size, left : left + size]
            for mirrored in (False, True):
                if np.array_equal(result, crop[:, ::-1] if mirrored else crop):
                    return top, left, mirrored
    raise AssertionError("no crop and flip of the image gives this result")


@both_modes
def test_every_image_is_a_padded_crop_or_its_mirror(one_offset: bool) -> None:
    x, offsets, mirrors = images(), set(), set()
    for run in range(6):
        places = [placement(*pair) for pair in zip(x, augment(x, seed_pair(run), one_offset), strict=True)]
        assert (len({place[:2] for place in places}) == 1) == one_offset
        mirrors |= {mirrored for *_, mirrored in places}
        offsets |= {place[:2] for place in places}
    assert len(offsets) > 3 and mirrors == {True, False}


def test_offsets_and_mirrors_are_uniform() -> None:
    x = images(2000)
    places = np.array([placement(*pair) for pair in zip(x, augment(x, seed_pair(0), False), strict=True)])
    for axis, choices in ((0, 9), (1, 9), (2, 2)):
        counts = np.bincount(places[:, axis], minlength=choices)
        assert len(counts) == choices
        expected = 2000 / choices
        assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
    assert np.abs(np.corrcoef(places.T) - np.eye(3)).max() < 5 / np.sqrt(2000)


@both_modes
def test_the_result_is_a_function_of_the_seed(one_offset: bool) -> None:
    x = images()
    np.testing.assert_array_equal(augment(x, seed_pair(5), one_offset), augment(x, seed_pair(5), one_offset))
    assert not np.array_equal(augment(x, seed_pair(5), one_offset), augment(x, seed_pair(6), one_offset))


def test_a_zero_shift_gives_the_image_or_its_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    centre = np.full((12, 3), (PADDING + 0.5) / (2 * PADDING + 1), np.float32)
    for draw, wanted in ((0.25, images()[:, :, ::-1]), (0.75, images())):
        centre[:, 2] = draw
        monkeypatch.setattr("data.augmentation.uniform", lambda *_: ops.convert_to_tensor(centre))
        for one_offset in (True, False):
            np.testing.assert_array_equal(augment(images(), seed_pair(0), one_offset), wanted)


@both_modes
def test_compiled_code_gives_the_same_images(one_offset: bool) -> None:
    compiled = autodiff.jit(lambda x, seed: random_crop_and_flip(x, seed, one_offset))
    x = ops.convert_to_tensor(images())
    for run in (1, 2):  # the second seed meets the same compiled code
        seed = ops.convert_to_tensor(seed_pair(run))
        np.testing.assert_array_equal(
            ops.convert_to_numpy(compiled(x, seed)), augment(images(), seed_pair(run), one_offset)
        )


@both_modes
def test_the_gradient_goes_back_to_the_pixels_that_were_kept(one_offset: bool) -> None:
    seed = seed_pair(4)

    def half_square(x):  # type: ignore[no-untyped-def]
        return ops.sum(ops.square(random_crop_and_flip(x, seed, one_offset))) / 2

    x = images()
    gradient = ops.convert_to_numpy(autodiff.grad(half_square)(ops.convert_to_tensor(x)))
    kept = np.isin(x, augment(x, seed, one_offset))
    assert 0 < kept.sum() < x.size
    np.testing.assert_array_equal(gradient, np.where(kept, x, 0))
