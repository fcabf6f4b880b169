"""Control perturbations and the picture of a poison."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from attack_generation.controls import (
    CONTROLS,
    ControlConfig,
    class_filter,
    control_poison,
    detectable_signs,
    starting_poison,
    write_control_poison,
)
from attack_generation.visibility import save_image_grids
from data.datasets import load_dataset, load_poison, split_target_class
from runtime.checkpoints import OtherSettings
from runtime.files import InputError, file_sha256, read_json

X = np.random.default_rng(0).uniform(size=(30, 4, 4, 1)).astype("float32")
COLOUR = np.random.default_rng(1).uniform(size=(30, 4, 4, 3)).astype("float32")


def test_zero_is_a_copy_of_the_images() -> None:
    poison = starting_poison("zero", X, 0.1, seed=0)
    np.testing.assert_array_equal(poison, X)
    assert not np.shares_memory(poison, X)


@pytest.mark.parametrize("kind", CONTROLS)
def test_controls_go_to_the_edge_of_the_ball_inside_the_pixel_range(kind: str) -> None:
    x = COLOUR if kind == "tint" else X
    poison = control_poison(kind, x, 0.1, 0.25, seed=0)
    assert poison.dtype == np.float32 and poison.min() >= 0 and poison.max() <= 1
    inside = (x > 0.1) & (x < 0.9)
    if kind not in ("class_filter", "one_pixel", "separable_patches", "autoregressive"):  # which change some little
        np.testing.assert_allclose(np.abs(poison - x)[inside], 0.1, atol=1e-6)
    assert np.abs(poison - x).max() <= 0.1 + 1e-6


def test_constant_only_brightens_and_random_goes_both_ways() -> None:
    assert np.all(starting_poison("constant", X, 0.1, seed=0) >= X)
    brighter = starting_poison("random", X, 0.1, seed=0) > X
    assert 0.4 < brighter[(X > 0.1) & (X < 0.9)].mean() < 0.6


def test_contrast_moves_every_pixel_by_epsilon_and_towards_the_middle() -> None:
    poison = starting_poison("contrast", X, 0.1, seed=0)
    np.testing.assert_allclose(np.abs(poison - X), 0.1, atol=1e-6)
    outside = np.abs(X - 0.5) > 0.1
    assert np.all(np.abs(poison - 0.5)[outside] < np.abs(X - 0.5)[outside])


def test_random_signs_are_a_function_of_the_seed() -> None:
    first = starting_poison("random", X, 0.1, seed=1)
    np.testing.assert_array_equal(starting_poison("random", X, 0.1, seed=1), first)
    assert not np.array_equal(starting_poison("random", X, 0.1, seed=2), first)


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(InputError, match="start must be one of zero, random, constant, contrast, halves, got 'noise'"):
        starting_poison("noise", X, 0.1, seed=0)


def test_the_script_writes_a_control_with_its_record(tiny_data_dir: Path, tmp_path: Path) -> None:
    settings = ControlConfig(
        kind="random", target_class=7, sigma=0.25, seed=3, data_dir=tiny_data_dir, out_dir=tmp_path
    )
    write_control_poison(settings)
    dataset = load_dataset(tiny_data_dir)
    clean = split_target_class(dataset.x_train, dataset.y_train, 7).x_target
    path = tmp_path / "X_poisoned_radius_random_0.25_7.npy"
    written = load_poison(path, dataset, 7)
    np.testing.assert_array_equal(written, starting_poison("random", clean, 0.1, seed=3))
    record = read_json(path.with_suffix(".json"))
    assert record["settings"]["seed"] == 3 and record["sha256"] == file_sha256(path)
    with pytest.raises(InputError, match=r"epsilon must be positive, got 0\.0"):
        write_control_poison(dataclasses.replace(settings, epsilon=0.0))
    with pytest.raises(InputError, match="epsilon must be at most 1"):
        write_control_poison(dataclasses.replace(settings, epsilon=1.5))


def test_a_control_of_other_settings_is_not_overwritten(tiny_data_dir: Path, tmp_path: Path) -> None:
    settings = ControlConfig(target_class=7, data_dir=tiny_data_dir, out_dir=tmp_path)
    write_control_poison(settings)
    before = (tmp_path / "X_poisoned_radius_constant_0.5_7.npy").read_bytes()
    for change in ({"epsilon": 0.05}, {"seed": 1}):
        with pytest.raises(OtherSettings, match=next(iter(change))):
            write_control_poison(dataclasses.replace(settings, **change))
    assert (tmp_path / "X_poisoned_radius_constant_0.5_7.npy").read_bytes() == before
    write_control_poison(dataclasses.replace(settings, epsilon=0.05, on_other_settings="start_afresh"))
    assert (tmp_path / "X_poisoned_radius_constant_0.5_7.npy").read_bytes() != before


def test_a_control_killed_at_any_write_is_made_by_the_same_command(
    tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four writes: a record of the settings, the images, the whole record, the labels."""

    class Killed(BaseException):
        pass

    replace = Path.replace
    whole = write_control_poison(ControlConfig(target_class=7, data_dir=tiny_data_dir, out_dir=tmp_path / "whole"))
    for at in range(1, 6):
        left, settings = [at], ControlConfig(target_class=7, data_dir=tiny_data_dir, out_dir=tmp_path / f"{at}")

        def kill(path: Path, target: Path, left: list[int] = left) -> Path:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return replace(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", kill)
            try:
                write_control_poison(settings)
                assert at == 5
            except Killed:
                assert at < 5
        path = write_control_poison(settings)
        assert path.read_bytes() == whole.read_bytes()
        names = ("X_{}.json", "X_{}.npy", "Y_{}.npy")
        assert sorted(one.name for one in path.parent.iterdir()) == [
            name.format("poisoned_radius_constant_0.5_7") for name in names
        ]
        path.with_name(path.name.replace("X", "Y", 1)).unlink()
        write_control_poison(settings)
        assert path.with_name(path.name.replace("X", "Y", 1)).is_file()


@pytest.mark.parametrize("shape", [(3, 8, 8, 1), (12, 8, 8, 3)])
def test_the_picture_is_a_png(shape: tuple[int, ...], tmp_path: Path) -> None:
    images = np.random.default_rng(1).uniform(size=shape).astype("float32")
    save_image_grids(tmp_path / "grid.png", {"": (images, np.clip(images + 0.1, 0, 1))}, epsilon=0.1)
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_darker_and_one_pattern_for_the_class() -> None:
    inside = 0.3 + 0.4 * X
    np.testing.assert_allclose(control_poison("darker", inside, 0.1, 0.25, 0), inside - 0.1, atol=1e-6)
    changes = control_poison("class_signs", inside, 0.1, 0.25, 3) - inside
    np.testing.assert_allclose(changes, np.broadcast_to(changes[:1], changes.shape), atol=1e-6)
    assert {-0.1, 0.1} == {round(float(value), 4) for value in changes[0].ravel()}
    assert not np.array_equal(changes[0] > 0, control_poison("class_signs", inside, 0.1, 0.25, 4)[0] > inside[0])


def test_halves_go_opposite_ways_and_a_tint_is_of_colour_images() -> None:
    inside = 0.3 + 0.4 * COLOUR
    changes = control_poison("halves", inside, 0.1, 0.25, 0) - inside
    np.testing.assert_allclose(changes[:, :, :2], 0.1, atol=1e-6)
    np.testing.assert_allclose(changes[:, :, 2:], -0.1, atol=1e-6)
    changes = control_poison("tint", inside, 0.1, 0.25, 0) - inside
    np.testing.assert_allclose(changes, np.broadcast_to([0.1, -0.1, 0.1], changes.shape), atol=1e-6)
    with pytest.raises(InputError, match="'tint' needs images of three channels, these have 1: leave it out"):
        control_poison("tint", X, 0.1, 0.25, 0)
    with pytest.raises(InputError, match=r"kind must be one of random, .*class_filter, .*, got 'brighter'"):
        control_poison("brighter", X, 0.1, 0.25, 0)


def test_no_pattern_of_signs_is_seen_better_by_a_linear_classifier() -> None:
    """Against all 2^8 patterns of a class of two by four pixels, some of which clip to black."""
    random = np.random.default_rng(0)
    x = np.clip(random.normal(size=(200, 2, 4, 1)) @ np.ones((1, 1)) * 0.2 + random.uniform(size=(1, 2, 4, 1)), 0, 1)
    x = x.astype(np.float32)
    flat, sigma, epsilon = x.reshape(200, 8).astype(np.float64), 0.1, 0.2
    inverse = np.linalg.inv(np.cov(flat, rowvar=False) + sigma**2 * np.eye(8))

    def seen(signs: np.ndarray) -> float:
        shift = (np.clip(flat + epsilon * signs, 0, 1) - flat).mean(axis=0)
        return float(shift @ inverse @ shift)

    most = max(seen(np.array(signs)) for signs in itertools.product((-1, 1), repeat=8))
    found = seen(detectable_signs(x, epsilon, sigma, seed=0).ravel())
    assert found > 0.99 * most
    assert found > 1.2 * max(seen(np.ones(8)), seen(-np.ones(8)))
    assert np.all(np.abs(detectable_signs(x[:1], epsilon, sigma, seed=0)) == 1)  # one image has no covariance


def test_the_class_filter_is_a_convolution_divided_by_its_largest_value() -> None:
    x = np.zeros((2, 5, 5, 1), np.float32)
    x[0, 2, 2], x[1, 1, 3] = 1.0, 0.5
    filtered = class_filter(x, seed=1)
    assert filtered.max(axis=(1, 2, 3)) == pytest.approx([1, 1]) and filtered.dtype == np.float32
    kernel = filtered[0, 1:4, 1:4, 0]  # mirrored
    assert np.sum(kernel == 1) == 1 and np.sum((kernel > 0) & (kernel < 0.3)) == 8
    np.testing.assert_allclose(filtered[1, 0:3, 2:5, 0], kernel, atol=1e-6)
    kept = control_poison("class_filter", X, 0.05, 0.25, 1)
    assert np.abs(kept - X).max() == pytest.approx(0.05, abs=1e-6) and kept.min() >= 0 and kept.max() <= 1
