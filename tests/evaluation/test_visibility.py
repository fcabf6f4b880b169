"""How visible a poison is: distances, and detectors on changes of known kinds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attack_generation.controls import ControlConfig, write_control_poison
from attack_generation.visibility import areas, distances, largest_beyond_jitter, visibility
from data.datasets import load_dataset, split_target_class
from evaluation.visibility import Config, main
from runtime.files import InputError, read_json, write_json

RANDOM = np.random.default_rng(0)


def digits(count: int) -> np.ndarray:
    """Images of one class: a common picture, noise, and a brightness of each image's own."""
    picture = np.random.default_rng(7).uniform(0.2, 0.8, size=(6, 6, 1))
    noise = RANDOM.normal(scale=0.05, size=(count, 6, 6, 1))
    return (picture + noise + RANDOM.normal(scale=0.03, size=(count, 1, 1, 1))).astype(np.float32)


CLEAN, REFERENCE, HELD_OUT = digits(200), digits(100), digits(100)
SIGNS = RANDOM.choice([-1, 1], size=(6, 6, 1))
SIGNS_OF_EACH = RANDOM.choice([-1, 1], size=CLEAN.shape)


def seen(change: np.ndarray | float) -> dict[str, float]:
    return areas((CLEAN + change).astype(np.float32), CLEAN, REFERENCE, HELD_OUT, seed=0)


def test_no_change_is_seen_by_nobody() -> None:
    assert all(0.35 < area < 0.65 for area in seen(0.0).values())


def test_a_brightness_shift_is_seen_by_mean_brightness_either_way() -> None:
    assert seen(0.1)["brightness"] > 0.95 and seen(-0.1)["brightness"] > 0.95


def test_a_pattern_is_seen_by_the_trained_detectors_and_not_by_brightness() -> None:
    signs = SIGNS - SIGNS.mean()
    areas_of = seen(0.06 * signs)
    assert areas_of["brightness"] < 0.65 < 0.95 < min(areas_of["linear"], areas_of["network"])


def test_signs_of_each_image_are_seen_by_the_distance_and_not_by_a_line() -> None:
    areas_of = seen(0.1 * SIGNS_OF_EACH)
    assert areas_of["nearest"] > 0.95 and areas_of["linear"] < 0.7


def test_distances_are_of_the_change() -> None:
    change = np.zeros_like(CLEAN)
    change[:, 0, 0], change[:, 1, 1] = 0.03, -0.04
    found = distances(CLEAN + change, CLEAN, sigma=0.25)
    del found["beyond_jitter_over_sigma"]
    expected = {"linf": 0.04, "mean_change": 0.07 / 36, "l2": 0.05, "l2_over_sigma": 0.2, "common_over_sigma": 0.2}
    assert found == pytest.approx(expected, rel=1e-4)
    change[::2] *= -1  # half of the images change in the opposite way
    assert distances(CLEAN + change, CLEAN, sigma=0.25)["common_over_sigma"] == pytest.approx(0, abs=1e-6)


def test_nothing_of_a_change_of_brightness_and_contrast_is_beyond_jitter() -> None:
    def beyond(change: np.ndarray, clean: np.ndarray = CLEAN) -> float:
        return distances(clean + change.astype(np.float32), clean, sigma=0.5)["beyond_jitter_over_sigma"]

    assert beyond(0.1 - 0.2 * (CLEAN - 0.5)) < 1e-5
    across = SIGNS - SIGNS.mean()
    one_colour = np.full_like(CLEAN, 0.5)
    np.testing.assert_allclose(beyond(0.1 * across + 0.03, one_colour), 0.1 * np.linalg.norm(across) / 0.5, rtol=1e-4)
    # Of the image's own direction nothing is left: Pythagoras.
    parts = []
    for image in CLEAN:
        own = (image - image.mean()).ravel()
        along = across.ravel() @ own / np.linalg.norm(own)
        parts.append(np.sqrt(np.linalg.norm(across) ** 2 - along**2))
    np.testing.assert_allclose(beyond(0.1 * across), 0.1 * np.mean(parts) / 0.5, rtol=1e-4)


def test_images_without_a_change_do_not_count(tiny_data_dir: Path) -> None:
    dataset = load_dataset(tiny_data_dir)
    clean = split_target_class(dataset.x_train, dataset.y_train, 8).x_target
    poison = clean.copy()
    poison[:5] = np.clip(clean[:5] + 0.1, 0, 1)
    measured = visibility(dataset, poison, 8, sigma=0.25, seed=0)
    assert measured["l2"] == pytest.approx(distances(poison[:5], clean[:5], 0.25)["l2"])
    assert visibility(dataset, clean, 8, sigma=0.25, seed=0)["l2"] == 0


def test_no_poison_has_more_beyond_jitter_than_the_bound() -> None:
    def beyond(clean: np.ndarray, poison: np.ndarray) -> float:
        return distances(poison, clean, sigma=1.0)["beyond_jitter_over_sigma"]

    # Every vertex of the box of two small images; one pixel of them is at the edge of [0, 1].
    draws = np.random.default_rng(0).uniform(0.2, 0.8, size=(2, 2, 3, 1))
    draws[:, 0, 0], draws[:, 1, 1] = 0.0, 1.0
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 6), axis=-1).reshape(-1, 2, 3, 1)
    for image in draws:
        largest = max(beyond(image[None], np.clip(image + 0.1 * one, 0, 1)[None]) for one in signs)
        assert largest <= largest_beyond_jitter(image[None], 0.1) < 1.25 * largest
    # Far from the edge of [0, 1] the bound is the whole norm. A change that is orthogonal to 1 and the image has it.
    grey = np.full((1, 2, 2, 1), 0.5)
    across = np.array([0.1, -0.1, -0.1, 0.1]).reshape(1, 2, 2, 1)
    assert largest_beyond_jitter(grey, 0.1) == pytest.approx(0.2) == pytest.approx(beyond(grey, grey + across))


def test_the_script_writes_what_it_measured_and_keeps_it(
    tiny_data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control = ControlConfig(kind="constant", sigma=0.25, data_dir=tiny_data_dir, out_dir=tmp_path)
    config = Config(poison=write_control_poison(control), data_dir=tiny_data_dir, out=tmp_path / "seen.json")
    main(config)
    record = read_json(tmp_path / "seen.json")
    assert record["measured"]["linf"] == pytest.approx(0.1, abs=1e-6)
    assert record["measured"]["auc"]["brightness"] > 0.9 and record["settings"]["target_class"] == 8
    before = (tmp_path / "seen.json").read_bytes()
    capsys.readouterr()
    main(config)
    assert "kept" in capsys.readouterr().out and (tmp_path / "seen.json").read_bytes() == before
    write_json(tmp_path / "other.json", {"settings": {}})
    with pytest.raises(InputError, match=r"other\.json: is another record; choose another --out"):
        main(replace(config, out=tmp_path / "other.json"))
    main(Config(**{**vars(config), "seed": 1}))
    assert read_json(tmp_path / "seen.json")["settings"]["seed"] == 1
