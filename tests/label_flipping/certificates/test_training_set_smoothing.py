"""The general recipe by sampling, against the exact least-squares case and with another noise distribution."""

import itertools
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
from scipy import stats

from label_flipping.certificates.fixed_weights import RidgeRegression
from label_flipping.certificates.label_flips import BoundName, LabelFlips
from label_flipping.certificates.smoothed_weights import class_scores, smooth_weights
from label_flipping.certificates.training_set_smoothing import TrainingSet, TrainingSetNoise, smooth_by_sampling
from randomized_smoothing_certification.core import ABSTAIN
from runtime.files import InputError


def ridge(training_set: TrainingSet, x_test: np.ndarray) -> np.ndarray:
    alpha = RidgeRegression(training_set.x, 1.0)(x_test)
    return np.argmax(class_scores(alpha, training_set.y, 2), axis=1)


def two_blobs() -> tuple[TrainingSet, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    y, y_test = np.repeat([0, 1], 100), np.repeat([0, 1], 6)
    shift = np.array([1.0, 0.5])
    x = random.normal(size=(200, 2)) + np.where(y, 1, -1)[:, None] * shift
    return (TrainingSet(x, y), random.normal(size=(12, 2)) + np.where(y_test, 1, -1)[:, None] * shift, y_test)


def test_sampled_and_exact_certificates_agree_within_their_error() -> None:
    training_set, x_test, _ = two_blobs()
    noise = LabelFlips(0.2, 2)
    exact = smooth_weights(RidgeRegression(training_set.x, 1.0)(x_test), training_set.y, noise)
    sampled = smooth_by_sampling(ridge, noise, training_set, x_test, 2, n0=50, n=2000, alpha=1e-3, seed=1)
    both = (exact.prediction != ABSTAIN) & (sampled.prediction != ABSTAIN)
    assert both.sum() >= 6
    np.testing.assert_array_equal(exact.prediction[both], sampled.prediction[both])
    # Both are above the true failure probability, the sampled one by no more than its error.
    error = 4 * np.sqrt(0.25 / 2000)
    assert np.all(np.exp(exact.log_eps[both]) > np.exp(sampled.log_eps[both]) - error)
    # Where Chernoff's bound is small, the sampled one is as small as that many unanimous votes can show.
    certain = exact.log_eps < np.log(1e-3)
    assert certain.any() and np.all(np.exp(sampled.log_eps[certain]) < 1 - 0.001 ** (1 / 2000) + 0.01)


def test_flipped_labels_have_the_stated_frequencies() -> None:
    y = np.random.default_rng(0).integers(0, 4, 40_000)
    with pytest.raises(InputError, match=r"from 0 to 2, got int64 of shape \(40000,\) from 0 to 3"):
        LabelFlips(0.3, 3).sample(TrainingSet(y[:, None], y), np.random.default_rng(1))
    with pytest.raises(InputError, match=r"from 0 to 1, got int64 of shape \(40000,\) from -1 to 1"):
        # -1 + 1 is 0: both labels of {-1, 1} would become 0, which is no flip.
        LabelFlips(0.3, 2).sample(TrainingSet(y[:, None], 2 * (y % 2) - 1), np.random.default_rng(1))
    flipped = LabelFlips(0.3, 4).sample(TrainingSet(y[:, None], y), np.random.default_rng(1)).y
    assert np.mean(flipped != y) == pytest.approx(0.3, abs=0.01)
    for shift in (1, 2, 3):
        assert np.mean((flipped - y) % 4 == shift) == pytest.approx(0.1, abs=0.01)
    column = LabelFlips(0.3, 4).sample(TrainingSet(y[:, None], y[:, None]), np.random.default_rng(1)).y
    np.testing.assert_array_equal(column, flipped[:, None])


@pytest.mark.parametrize("bound", ["tight", "closed_form"])
def test_a_float32_probability_is_computed_in_float64(bound: BoundName) -> None:
    q, log_eps = np.float32(0.1), -np.arange(1.0, 2000.0)
    exact, rounded = (LabelFlips(one, 3, bound) for one in (float(q), q))
    assert rounded == exact and type(rounded.q) is float
    np.testing.assert_array_equal(rounded._closed_form(log_eps, 10**6), exact._closed_form(log_eps, 10**6))
    thresholds = [list(itertools.islice(one._thresholds(), 300)) for one in (exact, rounded)]
    assert thresholds[0] == thresholds[1]


@pytest.mark.parametrize("q", [0.4, 0.4999, 0.5 - 1e-9, 0.5 - 1e-10, 0.5 - 1e-12])
def test_the_closed_form_claims_no_more_than_exact_arithmetic_near_one_half(q: float) -> None:
    """With float64 alone, a probability of 1/2 + 5e-9 at q = 1/2 - 1e-10 certified 1,387 flips in place of 669."""
    log_eps, most = np.log(0.5) - np.logspace(-10, 0, 200), 10**6
    with mpmath.workdps(50):
        p, b = [mpmath.exp(float(one)) for one in log_eps], mpmath.mpf(q)
        limits = [-mpmath.log(4 * one * (1 - one)) / (2 * (1 - 2 * b) * mpmath.log((1 - b) / b)) for one in p]
        exact = np.array([min(int(mpmath.ceil(limit)) - 1, most) for limit in limits])
    found = LabelFlips(q, 2, "closed_form").certified(log_eps, most)
    assert np.all(found <= exact) and np.any(found > 0) and found[-1] == exact[-1]


@dataclass(frozen=True)
class GaussianInputs(TrainingSetNoise):
    """Another noise, in six lines: N(0, sigma^2) on every training input; certifies an l2 distance over all of them."""

    sigma: float

    def sample(self, training_set: TrainingSet, generator: np.random.Generator) -> TrainingSet:
        noise = self.sigma * generator.normal(size=training_set.x.shape)
        return TrainingSet(training_set.x + noise, training_set.y)

    def certified(self, log_eps: np.ndarray, size: int) -> np.ndarray:
        return self.sigma * -stats.norm.ppf(np.exp(log_eps))


def test_another_noise_distribution_is_one_class() -> None:
    training_set, x_test, y_test = two_blobs()
    noise = GaussianInputs(0.5)
    smoothed = smooth_by_sampling(ridge, noise, training_set, x_test, 2, n0=20, n=400)
    radii = smoothed.certified(noise, 200)
    answered = smoothed.prediction != ABSTAIN
    assert np.mean(smoothed.prediction[answered] == y_test[answered]) > 0.8
    assert np.all(radii[~answered] == 0) and 0 < radii.max() <= 0.5 * stats.norm.ppf(0.001 ** (1 / 400))
    # Moving the inputs by less than the radius leaves the prediction.
    moved = training_set.x + radii.max() * 0.9 / np.sqrt(400)
    again = smooth_by_sampling(ridge, noise, TrainingSet(moved, training_set.y), x_test, 2, n0=20, n=400)
    certain = radii == radii.max()
    np.testing.assert_array_equal(again.prediction[certain], smoothed.prediction[certain])


def test_abstains_where_one_half_is_not_shown() -> None:
    training_set, x_test, _ = two_blobs()

    def coin(training_set: TrainingSet, x_test: np.ndarray) -> np.ndarray:
        return np.full(len(x_test), int(training_set.y.sum() % 2))

    smoothed = smooth_by_sampling(coin, LabelFlips(0.4, 2), training_set, x_test, 2, n0=20, n=100)
    assert np.all(smoothed.prediction == ABSTAIN) and np.all(smoothed.log_eps == 0)
    assert np.all(smoothed.certified(LabelFlips(0.4, 2), 200) == 0)


def test_wrong_learners_and_settings_get_one_clear_line() -> None:
    training_set, x_test, _ = two_blobs()
    noise = LabelFlips(0.1, 2)
    with pytest.raises(InputError, match="the learner returned float64"):
        smooth_by_sampling(lambda t, x: np.zeros(len(x)), noise, training_set, x_test, 2, n0=1, n=10)
    for label in (-1, 2):
        with pytest.raises(InputError, match=f"the learner returned class {label}; classes are 0 to 1"):
            smooth_by_sampling(lambda t, x, k=label: np.full(len(x), k), noise, training_set, x_test, 2, n0=1, n=10)
    with pytest.raises(InputError, match="not even 9 unanimous votes certify"):
        smooth_by_sampling(ridge, noise, training_set, x_test, 2, n0=1, n=9)
    with pytest.raises(InputError, match="n must be at least 1, got 0"):
        smooth_by_sampling(ridge, noise, training_set, x_test, 2, n0=1, n=0)


def test_other_test_points_see_other_noisy_training_sets() -> None:
    training_set, x_test, _ = two_blobs()
    seen: list[tuple[int, ...]] = []

    def learner(training_set: TrainingSet, x_test: np.ndarray) -> np.ndarray:
        seen.append(tuple(training_set.y.tolist()))
        return np.zeros(len(x_test), int)

    for x in (x_test, x_test + 1):
        smooth_by_sampling(learner, LabelFlips(0.1, 2), training_set, x, 2, n0=1, n=10)
    assert len(set(seen)) == 22
