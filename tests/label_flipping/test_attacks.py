"""Attacks on training labels."""

import numpy as np
import pytest

from label_flipping.attacks import flip_at_random, flip_greedily, flip_nearest, rivals
from label_flipping.certificates.fixed_weights import RidgeRegression
from label_flipping.certificates.label_flips import LabelFlips
from label_flipping.certificates.smoothed_weights import class_scores
from label_flipping.certificates.training_set_smoothing import TrainingSet
from runtime.files import InputError


def test_the_attack_on_all_points_beats_random_flips() -> None:
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 60)
    centres = random.normal(size=(3, 5)) * 2
    x, x_test = centres[y] + random.normal(size=(180, 5)), centres[y] + random.normal(size=(180, 5))
    alpha = RidgeRegression(x, 1.0)(x_test)

    def accuracy(labels: np.ndarray) -> float:
        return float(np.mean(np.argmax(class_scores(alpha, labels, 3), axis=1) == y))

    attacked = flip_greedily(alpha, y, y, 3, 40)
    assert 0 < np.sum(attacked != y) <= 40
    at_random = LabelFlips(0.22, 3).sample(TrainingSet(x, y), np.random.default_rng(1)).y
    assert accuracy(y) > 0.85
    assert accuracy(attacked) < accuracy(at_random) - 0.1
    np.testing.assert_array_equal(flip_greedily(alpha, y, y, 3, 0), y)


def test_more_flips_than_labels_are_refused() -> None:
    with pytest.raises(InputError, match="got 3"):
        flip_greedily(np.ones((1, 2)), np.array([0, 1]), np.array([0]), 2, 3)


def test_random_flips_change_so_many_labels_to_other_classes() -> None:
    y = np.arange(60) % 3
    flipped = flip_at_random(y, 3, 20, seed=1)
    assert np.sum(flipped != y) == 20 and set(flipped) == {0, 1, 2}
    np.testing.assert_array_equal(flip_at_random(y, 3, 20, seed=1), flipped)
    np.testing.assert_array_equal(flip_at_random(y, 3, 0, seed=1), y)


def test_the_attack_on_one_point_takes_its_nearest_images_of_its_class() -> None:
    x = np.array([0.0, 0.3, 0.1, 0.2]).reshape(4, 1, 1, 1)
    y = np.array([0, 0, 1, 0])
    assert flip_nearest(x, y, np.zeros((1, 1, 1)), 0, 1, 2).tolist() == [1, 0, 1, 1]
    assert rivals(np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), np.array([0, 2])).tolist() == [2, 0]
