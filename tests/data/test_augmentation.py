"""Random crop and flip, jitter, blur."""

import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from bilevel_optimizer import autodiff
from data.augmentation import PADDING, Augmentation, fractal_field, gaussian_blur, plasma, random_crop_and_flip
from runtime.checks import require_usable
from runtime.files import InputError
from runtime.noise import seed_pair


def images(count: int = 12, size: int = 7) -> np.ndarray:
    """Images whose pixels all differ and are not 0, so that a place can be read from a value."""
    values = np.arange(1, count * size * size * 2 + 1, dtype=np.float32)
    return values.reshape(count, size, size, 2)


def augment(x: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """random_crop_and_flip as a NumPy array."""
    return ops.convert_to_numpy(random_crop_and_flip(ops.convert_to_tensor(x), seed))


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


def test_every_image_is_a_padded_crop_or_its_mirror() -> None:
    x, offsets, mirrors = images(), set(), set()
    for run in range(6):
        places = [placement(*pair) for pair in zip(x, augment(x, seed_pair(run)), strict=True)]
        assert len({place[:2] for place in places}) == 1
        mirrors |= {mirrored for *_, mirrored in places}
        offsets |= {place[:2] for place in places}
    assert len(offsets) > 3 and mirrors == {True, False}


def test_offsets_and_mirrors_are_uniform() -> None:
    (x,) = one = images(1)
    compiled = autodiff.jit(random_crop_and_flip)
    count = 1000
    places = np.array([placement(x, ops.convert_to_numpy(compiled(one, seed_pair(run)))[0]) for run in range(count)])
    for axis, choices in ((0, 9), (1, 9), (2, 2)):
        counts = np.bincount(places[:, axis], minlength=choices)
        assert len(counts) == choices
        expected = count / choices
        assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
    assert np.abs(np.corrcoef(places.T) - np.eye(3)).max() < 5 / np.sqrt(count)


def test_the_result_is_a_function_of_the_seed() -> None:
    x = images()
    np.testing.assert_array_equal(augment(x, seed_pair(5)), augment(x, seed_pair(5)))
    assert not np.array_equal(augment(x, seed_pair(5)), augment(x, seed_pair(6)))


def test_a_zero_shift_gives_the_image_or_its_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    centre = np.full((12, 3), (PADDING + 0.5) / (2 * PADDING + 1), np.float32)
    for draw, wanted in ((0.25, images()[:, :, ::-1]), (0.75, images())):
        centre[:, 2] = draw
        monkeypatch.setattr("data.augmentation.uniform", lambda *_: ops.convert_to_tensor(centre))
        np.testing.assert_array_equal(augment(images(), seed_pair(0)), wanted)


def test_compiled_code_gives_the_same_images() -> None:
    compiled = autodiff.jit(random_crop_and_flip)
    x = ops.convert_to_tensor(images())
    for run in (1, 2):  # the second seed meets the same compiled code
        seed = ops.convert_to_tensor(seed_pair(run))
        np.testing.assert_array_equal(ops.convert_to_numpy(compiled(x, seed)), augment(images(), seed_pair(run)))


def test_the_gradient_goes_back_to_the_pixels_that_were_kept() -> None:
    seed = seed_pair(4)

    def half_square(x):  # type: ignore[no-untyped-def]
        return ops.sum(ops.square(random_crop_and_flip(x, seed))) / 2

    x = images()
    gradient = ops.convert_to_numpy(autodiff.grad(half_square)(ops.convert_to_tensor(x)))
    kept = np.isin(x, augment(x, seed))
    assert 0 < kept.sum() < x.size
    np.testing.assert_array_equal(gradient, np.where(kept, x, 0))


def augmented(x: np.ndarray, seed: np.ndarray, **settings: float) -> np.ndarray:
    return ops.convert_to_numpy(Augmentation(**settings).augmented(ops.convert_to_tensor(x), seed))  # type: ignore[arg-type]


def test_nothing_is_done_by_default_and_crop_and_flip_alone_are_the_published_ones() -> None:
    x = images()
    assert Augmentation().augmented(x, seed_pair(0)) is x
    np.testing.assert_array_equal(augmented(x, seed_pair(3), augment=True), augment(x, seed_pair(3)))


def test_jitter_shifts_and_scales_each_image_around_mid_grey() -> None:
    """Of each image, slope and offset are found from its pixels; over images they are uniform and independent."""
    x = np.random.default_rng(0).uniform(size=(4_000, 3, 3, 1)).astype(np.float32)
    after = augmented(x, seed_pair(1), jitter_brightness=0.15, jitter_contrast=0.2)
    flat, moved = x.reshape(len(x), -1) - 0.5, after.reshape(len(x), -1) - 0.5
    low, high = flat.argmin(axis=1)[:, None], flat.argmax(axis=1)[:, None]
    of = np.take_along_axis
    slope = (of(moved, high, 1) - of(moved, low, 1)) / (of(flat, high, 1) - of(flat, low, 1))
    np.testing.assert_allclose(
        moved - slope * flat, np.broadcast_to(moved[:, :1] - slope * flat[:, :1], flat.shape), atol=1e-5
    )
    contrast, brightness = slope[:, 0] - 1, moved[:, 0] - slope[:, 0] * flat[:, 0]
    for drawn, width in ((contrast, 0.2), (brightness, 0.15)):
        assert np.abs(drawn).max() <= width + 1e-5
        assert drawn.mean() == pytest.approx(0, abs=0.03 * width) and drawn.std() == pytest.approx(
            width / 3**0.5, rel=0.03
        )
    assert abs(np.corrcoef(contrast, brightness)[0, 1]) < 0.06


@pytest.mark.parametrize(
    ("name", "width"), [("jitter_brightness", 0.3), ("jitter_contrast", 0.3), ("jitter_colour", 0.3), ("blur", 2.0)]
)
def test_one_change_alone_at_another_seed_is_another(name: str, width: float) -> None:
    x = np.random.default_rng(0).uniform(size=(5, 8, 8, 2)).astype(np.float32)
    first = augmented(x, seed_pair(1), **{name: width})
    np.testing.assert_array_equal(first, augmented(x, seed_pair(1), **{name: width}))
    assert all(np.abs(augmented(x, seed_pair(2), **{name: width}) - first).max(axis=(1, 2, 3)) > 0)
    if name == "jitter_brightness":
        np.testing.assert_allclose(np.ptp(first - x, axis=(1, 2, 3)), 0, atol=1e-6)
    if name == "jitter_contrast":
        np.testing.assert_allclose(augmented(x * 0 + 0.5, seed_pair(1), **{name: width}), 0.5, atol=1e-6)


def test_colour_jitter_shifts_each_channel_of_each_image_by_itself() -> None:
    x = np.random.default_rng(0).uniform(size=(4_000, 2, 2, 3)).astype(np.float32)
    shifts = augmented(x, seed_pair(1), jitter_colour=0.1) - x
    np.testing.assert_allclose(np.ptp(shifts, axis=(1, 2)), 0, atol=1e-6)
    shifts = shifts[:, 0, 0]
    assert np.abs(shifts).max() <= 0.1 + 1e-6 and shifts.std() == pytest.approx(0.1 / 3**0.5, rel=0.03)
    assert np.abs(np.corrcoef(shifts.T) - np.eye(3)).max() < 0.06
    both = augmented(x, seed_pair(1), jitter_colour=0.1, jitter_brightness=0.2, jitter_contrast=0.2)
    alone = augmented(x, seed_pair(1), jitter_brightness=0.2, jitter_contrast=0.2)
    np.testing.assert_allclose((both - alone)[:, 0, 0], shifts, atol=1e-6)


def test_blur_is_scipys() -> None:
    x = np.random.default_rng(0).uniform(size=(3, 9, 7, 2)).astype(np.float32)
    std = np.array([0.0, 0.5, 1.0], np.float32)
    found = ops.convert_to_numpy(gaussian_blur(ops.convert_to_tensor(x), ops.convert_to_tensor(std), 3))
    np.testing.assert_array_equal(found[0], x[0])
    for image, of_image, blurred in zip(x[1:], std[1:], found[1:], strict=True):
        wanted = ndimage.gaussian_filter(image, (of_image, of_image, 0), mode="mirror", radius=(3, 3, 0))
        np.testing.assert_allclose(blurred, wanted, atol=1e-6)


def test_all_changes_are_compiled_and_differentiable() -> None:
    settings = Augmentation(augment=True, jitter_brightness=0.1, jitter_contrast=0.2, jitter_colour=0.1, blur=0.4)
    x, seed = ops.convert_to_tensor(images() / 1000), ops.convert_to_tensor(seed_pair(3))
    compiled = autodiff.jit(settings.augmented)
    np.testing.assert_allclose(compiled(x, seed), settings.augmented(x, seed), atol=1e-6)
    # Affine in x: the gradient of the sum is one array, whatever x is.
    gradient = autodiff.jit(autodiff.grad(lambda x: ops.sum(settings.augmented(x, seed))))
    np.testing.assert_allclose(gradient(x), gradient(0 * x), atol=1e-6)
    assert ops.convert_to_numpy(gradient(x)).max() > 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"jitter_brightness": -0.1}, "jitter_brightness must lie between 0 and 1, got -0.1"),
        ({"jitter_contrast": float("nan")}, "jitter_contrast must lie between 0 and 1, got nan"),
        ({"jitter_colour": 1.5}, "jitter_colour must lie between 0 and 1, got 1.5"),
        ({"blur": 9.0}, "blur must lie between 0 and 5, got 9.0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        require_usable(Augmentation(**settings))  # type: ignore[arg-type]


def test_blur_beyond_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="blur reaches 15 pixels, images of 8 x 8"):
        augmented(np.zeros((1, 8, 8, 1), np.float32), seed_pair(0), blur=5.0)


def test_a_fractal_field_is_smooth_and_spans_zero_to_one() -> None:
    field = ops.convert_to_numpy(fractal_field((50, 28, 28), seed_pair(0)))
    assert field.shape == (50, 28, 28, 1)
    np.testing.assert_allclose(field.min(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(field.max(axis=(1, 2, 3)), 1, atol=1e-6)
    steps = np.abs(np.diff(field, axis=1)).mean(axis=(1, 2, 3))
    assert steps.mean() < 0.08 and np.ptp(steps) > 0.02  # smooth, some rougher than others
    assert np.abs(field[0] - field[1]).mean() > 0.05


def test_plasma_of_one_pixel_is_refused() -> None:
    with pytest.raises(InputError, match="plasma: images of 1 x 1 pixel have no field"):
        fractal_field((3, 1, 1), seed_pair(0))
    field = ops.convert_to_numpy(fractal_field((3, 1, 2), seed_pair(0)))
    assert field.min() == 0 and field.max() == 1


def test_plasma_changes_each_image_in_one_of_eight_ways() -> None:
    """Of mid-grey images only brightness is seen; of nearly grey ones contrast and the order of the channels too."""
    x = np.broadcast_to(np.float32([0.5, 0.5, 0.5]), (400, 8, 8, 3))
    after = ops.convert_to_numpy(plasma(ops.convert_to_tensor(x), seed_pair(2)))
    brightened = np.abs(after - x).max(axis=(1, 2, 3)) > 1e-6
    assert 0.4 < brightened.mean() < 0.6 and after.min() >= 0 and after.max() <= 1
    np.testing.assert_allclose(after, after[..., :1].repeat(3, axis=-1), atol=1e-6)
    x = np.broadcast_to(np.float32([0.49, 0.5, 0.51]), (400, 8, 8, 3))
    after = ops.convert_to_numpy(plasma(ops.convert_to_tensor(x), seed_pair(2)))
    order = np.argsort(after.mean(axis=(1, 2)), axis=1, kind="stable")
    shuffled = (order != [0, 1, 2]).any(axis=1)
    assert 0.3 < shuffled.mean() < 0.55  # half, less the shuffles that change nothing (1 of 6)
    stretched = np.abs(np.abs(after[..., 2] - after[..., 0]).mean(axis=(1, 2)) - 0.02) > 1e-4
    assert 0.35 < stretched[~brightened & ~shuffled].mean() < 0.65
    assert Augmentation(plasma=True).for_validation() == Augmentation()


def test_plasma_of_grey_images_is_compiled_and_a_function_of_the_seed() -> None:
    x = ops.convert_to_tensor(np.random.default_rng(0).uniform(size=(6, 9, 7, 1)).astype(np.float32))
    augmentation = Augmentation(plasma=True)
    compiled = autodiff.jit(augmentation.augmented)
    for run in (1, 2):
        seed = ops.convert_to_tensor(seed_pair(run))
        np.testing.assert_allclose(compiled(x, seed), augmentation.augmented(x, seed), atol=1e-5)
    assert (
        np.abs(ops.convert_to_numpy(compiled(x, seed_pair(1))) - ops.convert_to_numpy(compiled(x, seed_pair(2)))).max()
        > 0.05
    )
