"""Votes of any classifier: Keras models of every kind, functions of tensors, functions of NumPy arrays."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.linear_model import LogisticRegression

from randomized_smoothing_certification.classifiers import _are_same
from randomized_smoothing_certification.core import certify
from randomized_smoothing_certification.sampling import Sampling
from randomized_smoothing_certification.votes import VoteCounter
from runtime.files import InputError
from runtime.noise import seed_pair

SHAPE, CLASSES = (2, 2, 1), 3
IMAGE = np.array([0.1, 0.9, 0.4, 0.6], np.float32).reshape(SHAPE)
WEIGHTS = np.random.default_rng(0).normal(size=(4, CLASSES)).astype(np.float32)
SEED = seed_pair(1)


def of_tensors(images: Any) -> Any:
    return ops.matmul(ops.reshape(images, (-1, 4)), WEIGHTS)


def of_arrays(images: np.ndarray) -> np.ndarray:
    return np.asarray(images).reshape(len(images), 4) @ WEIGHTS


class Subclassed(keras.Model):
    """A model that knows its shapes only once it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.dropout, self.dense = (
            keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(CLASSES),
        )  # fmt: skip

    def call(self, images: Any) -> Any:
        return self.dense(self.dropout(self.flatten(images)))


class WithMode(Subclassed):
    def call(self, images: Any, training: bool = False) -> Any:
        return self.dense(self.dropout(self.flatten(images), training=training))


def votes(classifier: Callable[[Any], Any], n: int = 1234, **settings: Any) -> np.ndarray:
    return VoteCounter(classifier, CLASSES, SHAPE, 0.25, **settings).count_votes(IMAGE, n, SEED)


@pytest.mark.parametrize("kind", [Subclassed, WithMode])
def test_a_subclassed_model_is_counted_as_a_functional_one(kind: type[Subclassed]) -> None:
    model = kind()
    counted = VoteCounter(model, CLASSES, SHAPE, 0.25)  # builds it
    model.dense.set_weights([WEIGHTS, np.zeros(CLASSES, np.float32)])
    np.testing.assert_array_equal(counted.count_votes(IMAGE, 1234, SEED), votes(of_tensors))


@pytest.mark.parametrize("layer", [keras.layers.RandomFlip(), keras.layers.RandomTranslation(0.5, 0.5)])
def test_a_model_that_changes_images_at_random_in_training_is_checked_and_counted_in_inference_mode(layer: Any) -> None:
    dense = keras.layers.Dense(CLASSES)
    model = keras.Sequential([keras.Input(SHAPE), layer, keras.layers.Flatten(), dense])
    dense.set_weights([WEIGHTS, np.zeros(CLASSES, np.float32)])
    np.testing.assert_array_equal(votes(model), votes(of_tensors))


@pytest.mark.parametrize("batch_size", [100, 300, 1000])
@pytest.mark.parametrize("levels", [None, 255])
def test_a_function_of_numpy_arrays_has_the_same_votes(batch_size: int, levels: int | None) -> None:
    image = np.rint(IMAGE * 255).astype(np.float32) / np.float32(255)
    counts = [
        VoteCounter(of, CLASSES, SHAPE, 0.25, batch_size, levels).count_votes(image, 1234, SEED)
        for of in (of_tensors, of_arrays, lambda images: of_arrays(images).argmax(axis=1))
    ]
    assert counts[0].sum() == 1234 and counts[0].dtype == np.int64
    np.testing.assert_array_equal(counts[1], counts[0])
    np.testing.assert_array_equal(counts[2], counts[0])


def test_a_function_of_arrays_uses_kept_noise_and_counts_part_by_part() -> None:
    counter = VoteCounter(of_arrays, CLASSES, SHAPE, 0.25, 300)
    counter.keep_noise(SEED, 700)
    parts = [counter.count_votes(IMAGE, until, SEED, first) for first, until in ((0, 500), (500, 1234))]
    np.testing.assert_array_equal(sum(parts), votes(of_tensors))


def test_a_scikit_learn_classifier_is_certified() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.uniform(size=(300, 4)), generator.integers(0, CLASSES, 300)
    x[:, 0] += y
    learned = LogisticRegression(max_iter=1000).fit(x, y)
    counter = VoteCounter(lambda images: learned.predict_proba(images.reshape(len(images), -1)), CLASSES, SHAPE, 0.25)
    image = np.zeros(SHAPE, np.float32)
    found = certify(counter, image, 0, Sampling(n0=100, n=1000, alpha=0.001), seed=0)
    assert found.prediction == learned.predict(image.reshape(1, 4))[0] and found.radius > 0.1


class AlwaysDropped(Subclassed):
    def call(self, images: Any) -> Any:
        return self.dense(self.dropout(self.flatten(images), training=True))


class BatchStatistics(Subclassed):
    def call(self, images: Any) -> Any:
        return self.dense(self.flatten(images)) - ops.mean(self.dense(self.flatten(images)), axis=0)


GENERATOR = np.random.default_rng(0)


def coin(images: Any) -> np.ndarray:
    return GENERATOR.normal(size=(len(images), CLASSES))


def masked_coin(images: Any) -> np.ndarray:
    """Scores of a masked class must not hide that the others are random."""
    return np.where(np.arange(CLASSES) == 0, -1e9, coin(images))


def coin_without_a_class(images: Any) -> np.ndarray:
    return np.where(np.arange(CLASSES) == 0, -np.inf, coin(images))


def one_coin_a_batch(images: Any) -> Any:
    return of_tensors(images) * 0 + GENERATOR.normal(size=(1, CLASSES)).astype(np.float32)


@pytest.mark.parametrize(
    "classifier", [AlwaysDropped(), BatchStatistics(), coin, masked_coin, coin_without_a_class, one_coin_a_batch]
)
def test_a_classifier_must_be_deterministic_and_see_images_one_by_one(classifier: Callable[[Any], Any]) -> None:
    with pytest.raises(InputError, match="gives the same images other scores when it is called again"):
        votes(classifier, 100)


def test_rounding_errors_are_no_randomness() -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=(50, 4)).astype(np.float32)
    nearly = {
        "constant": 0.1 + 0 * scores,
        "offset": 2e4 + 0.1 * scores,
        "masked": np.where([True, 0, 0, 0], -1e9, scores),
    }
    for name, one in nearly.items():
        assert _are_same(one, one + 1e-7 * np.abs(one) * random.normal(size=one.shape)), name
        assert not _are_same(one, one + 0.01 * np.abs(one.max()) * random.normal(size=one.shape)), name
    assert not _are_same(np.full((5, 2), [np.nan, 1.0]), np.full((5, 2), [np.nan, np.nan]))
    certain = np.tile([0.0, -np.inf], (3, 1))  # logarithms of probabilities
    assert _are_same(certain, certain)
    assert not _are_same(np.append(certain, [[-1, -2]], axis=0), np.append(certain, [[-2, -1]], axis=0))


def test_keras_settings_that_were_changed_are_named() -> None:
    keras.config.set_floatx("float64")
    try:
        with pytest.raises(InputError, match="Keras's floatx is 'float64'"):
            votes(of_tensors, 100)
    finally:
        keras.config.set_floatx("float32")


def not_numbers(images: np.ndarray) -> np.ndarray:
    return np.where(np.arange(CLASSES) < 5, np.nan, np.asarray(images).reshape(-1, 4)[:, :CLASSES])


def test_scores_that_are_no_numbers_are_noticed() -> None:
    with pytest.raises(InputError, match=r"no finite largest score for 100 of 100 noisy images.*train it again"):
        votes(not_numbers, 100)


def whole_numbers() -> keras.Model:
    return keras.Sequential([keras.Input(SHAPE, dtype="uint8"), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])


def two_outputs() -> keras.Model:
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, [keras.layers.Dense(CLASSES)(keras.layers.Flatten()(inputs))] * 2)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (lambda x: x[:, :1, 0, 0] - 0.5, r"shape \(100, 1\) and type float32; return scores of shape \(100, 3\)"),
        (lambda x: x[:, 0, 0, 0], r"has the shape \(100,\)"),
        (lambda x: x, r"has the shape \(100, 2, 2, 1\)"),
        (lambda x: ops.sum(of_tensors(x), axis=0, keepdims=True), r"has the shape \(1, 3\)"),
        (lambda x: of_arrays(x)[:, :2], r"has the shape \(100, 2\)"),
        (lambda x: of_arrays(x)[:50], r"has the shape \(50, 3\)"),
        (lambda x: np.full(len(np.asarray(x)), CLASSES), "returns class 3; classes are 0 to 2"),
        (lambda x: np.full(len(np.asarray(x)), -1), "returns class -1; classes are 0 to 2"),
        (lambda x: [None] * len(x), r"has the shape \(100,\)"),
        (lambda x: None, r"has the shape \(\)"),
        (lambda x: [[1.0], [1.0, 2.0]], "output is no array"),
        (lambda x: np.full(len(np.asarray(x)), "cat"), r"has the shape \(100,\) and type str96"),
        (lambda x: 1 / 0, "takes neither a tensor nor a NumPy array .*ZeroDivisionError"),
        (whole_numbers(), "takes uint8 pixels, this project has floats"),
        (two_outputs(), r"does not map images of shape \(2, 2, 1\) to one tensor of scores"),
        (keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten()]), r"takes images of shape \(3, 3, 1\)"),
    ],
)
def test_outputs_that_are_no_votes_end_in_one_line(classifier: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        votes(classifier, 100)
    assert "\n" not in str(error.value)


def test_an_output_that_changes_its_shape_with_the_batch_is_noticed() -> None:
    with pytest.raises(InputError, match=r"has the shape \(300, 1\)"):
        votes(lambda x: of_tensors(x)[:, : CLASSES if x.shape[0] == 100 else 1], 900, batch_size=300)
