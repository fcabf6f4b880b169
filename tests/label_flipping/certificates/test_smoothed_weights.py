"""Certificates against label flips, checked against enumeration, a linear program and exhaustive attacks."""

import itertools
from functools import cache

import mpmath
import numpy as np
import pytest
from scipy.optimize import linprog

from label_flipping.certificates.fixed_weights import RidgeRegression, greedy_flips
from label_flipping.certificates.label_flips import LabelFlips, certified_accuracy
from label_flipping.certificates.smoothed_weights import _log_chernoff, class_scores, smooth_weights
from randomized_smoothing_certification.core import ABSTAIN
from runtime.files import InputError


@cache
def label_vectors(n: int, classes: int) -> np.ndarray:
    return np.array(list(itertools.product(range(classes), repeat=n)))


def probabilities(vectors: np.ndarray, y: np.ndarray, noise: LabelFlips) -> np.ndarray:
    """Probability of each noisy label vector when the labels are y."""
    kept = (vectors == y).sum(axis=1)
    return (1 - noise.q) ** kept * noise.to_each ** (len(y) - kept)


def win_probability(alpha: np.ndarray, y: np.ndarray, noise: LabelFlips, winner: int, rival: int) -> float:
    """Exact probability, by enumeration, that the winner's score is above the rival's under flipped labels."""
    vectors = label_vectors(len(y), noise.num_classes)
    margin = ((vectors == winner) * 1.0 - (vectors == rival)) @ alpha
    return float(probabilities(vectors, y, noise)[margin > 1e-12].sum())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("q", [1e-4, 0.1, 0.3, 0.49])
def test_the_bound_is_never_below_the_exact_probability(classes: int, q: float) -> None:
    noise = LabelFlips(q, classes)
    informative = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        n = int(random.integers(2, 16 if classes == 2 else 9))
        alpha, y = random.normal(0.3, 1, size=n), random.integers(0, classes, n)
        for winner, rival in itertools.permutations(range(classes), 2):
            signed = np.concatenate([alpha[y == winner], -alpha[y == rival]])
            rest = alpha[(y != winner) & (y != rival)]
            log_eps = _log_chernoff(signed[None], rest[None], noise)[0]
            assert np.exp(log_eps) >= 1 - win_probability(alpha, y, noise, winner, rival) - 1e-12
            informative += log_eps < 0
    assert informative > 20


def test_the_bound_is_the_minimum_over_t() -> None:
    """Against a fine grid of t: Newton's method ends at the least value, from both K = 2 and K = 4."""
    random = np.random.default_rng(0)
    for classes, q in ((2, 0.2), (4, 0.3)):
        noise = LabelFlips(q, classes)
        signed, rest = random.normal(0.5, 1, size=(3, 40)), random.normal(size=(3, 30 if classes > 2 else 0))
        grid = np.linspace(0, 5, 20001)[:, None, None]

        def moment(a: np.ndarray, keep: float, noise: LabelFlips = noise, grid: np.ndarray = grid) -> np.ndarray:
            move = noise.to_each
            total = keep * np.exp(-grid * a) + move * np.exp(grid * a) + 1 - keep - move
            return np.log(total).sum(axis=-1)

        expected = (moment(signed, 1 - q) + moment(rest, noise.to_each)).min(axis=0)
        found = _log_chernoff(signed, rest, noise)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.all(found < 0)


def test_published_and_measured_numbers_of_flips() -> None:
    cases = [(0.1, 1e-6, 5, 3), (0.3, 0.01, 7, 4), (0.45, 0.01, 135, 80), (0.475, 1e-12, 4944, 2622)]
    for q, eps, tight, closed in cases:
        log_eps = np.log([eps])
        assert LabelFlips(q, 2).certified(log_eps, 10**6) == tight
        assert LabelFlips(q, 2, "closed_form").certified(log_eps, 10**6) == closed


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_closed_form_is_never_above_the_tight_bound(classes: int) -> None:
    log_eps = -np.geomspace(0.70, 2000, 300)
    for q in (0.01, 0.1, 0.3, 0.45):
        tight = LabelFlips(q, classes).certified(log_eps, 3000)
        closed = LabelFlips(q, classes, "closed_form").certified(log_eps, 3000)
        assert np.all(closed <= tight) and np.any(closed < tight)
        assert np.all(np.diff(tight) >= 0) and np.all(np.diff(closed) >= 0)  # a smaller eps certifies more


@pytest.mark.parametrize("classes", [2, 3])
def test_the_tight_bound_equals_a_linear_program(classes: int) -> None:
    """Over all events on the changed labels' noisy values: the least attacked probability of a clean 1 - eps."""
    random = np.random.default_rng(0)
    for _ in range(60):
        noise = LabelFlips(float(random.uniform(0.01, 0.49)), classes)
        eps = float(np.exp(random.uniform(-12, np.log(0.5))))
        certified = 0
        for r in range(1, 5):
            vectors = label_vectors(r, classes)
            clean = probabilities(vectors, np.zeros(r, int), noise)
            attacked = probabilities(vectors, np.ones(r, int), noise)
            # The event is a function of the outcome in [0, 1]; the labels that did not change are in the mixture.
            program = linprog(
                attacked, A_eq=clean[None], b_eq=[1 - eps], bounds=(0, 1), options={"dual_feasibility_tolerance": 1e-10}
            )  # fmt: skip
            if abs(program.fun - 0.5) < 1e-6:
                break  # too close to one half to compare
            if program.fun < 0.5:
                assert noise.certified(np.log([eps]), 10**6) == certified
                break
            certified = r
        else:
            assert noise.certified(np.log([eps]), 10**6) >= 4


@pytest.mark.parametrize(("classes", "points"), [(2, 12), (2, 9), (3, 8)])
@pytest.mark.parametrize("bound", ["tight", "closed_form"])
def test_no_set_of_certified_flips_changes_the_smoothed_prediction(classes: int, points: int, bound: str) -> None:
    """Exhaustive search over the adversary's labels, with the smoothed prediction computed exactly."""
    tried = 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        noise = LabelFlips(float(np.exp(random.uniform(-12, -3))), classes, bound)  # type: ignore[arg-type]
        y = random.integers(0, classes, points)
        y[1:] *= random.random(points - 1) < 0.3  # most are of class 0
        alpha = np.abs(random.normal(1, 0.1, size=(1, points)))
        smoothed = smooth_weights(alpha, y, noise)
        flips = int(smoothed.certified(noise, points)[0])
        predicted = int(smoothed.prediction[0])
        if not flips:
            continue
        for changed in itertools.combinations(range(points), min(flips, 3)):
            for values in itertools.product(range(1, classes), repeat=len(changed)):
                attacked = y.copy()
                attacked[list(changed)] = (attacked[list(changed)] + values) % classes
                for rival in set(range(classes)) - {predicted}:
                    assert win_probability(alpha[0], attacked, noise, predicted, rival) > 0.5
                tried += 1
    assert tried >= 20


def test_kernel_vectors_are_those_of_ridge_regression() -> None:
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 30)
    for features in (5, 80):  # the primal system, and the dual one
        x, x_test = random.normal(size=(30, features)), random.normal(size=(7, features))
        weights = np.linalg.inv(x.T @ x + 0.3 * np.eye(features)) @ x.T @ np.eye(3)[y]
        alpha = RidgeRegression(x, 0.3)(x_test)
        np.testing.assert_allclose(class_scores(alpha, y, 3), x_test @ weights, rtol=1e-8, atol=1e-10)


def test_ridge_zero_interpolates_or_says_that_it_cannot() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(6, 20))
    np.testing.assert_allclose(RidgeRegression(x, 0.0)(x), np.eye(6), atol=1e-8)  # fewer points than features
    with pytest.raises(InputError, match="ridge 0 leaves a singular system"):
        RidgeRegression(np.concatenate([x, x[:1]]), 0.0)  # a repeated point
    with pytest.raises(InputError, match="singular"):
        RidgeRegression(np.ones((10, 2)), 0.0)  # repeated features
    duplicated = RidgeRegression(np.concatenate([x, x[:1]]), 0.1)(x)
    np.testing.assert_allclose(duplicated[:, 0], duplicated[:, 6], atol=1e-12)  # share the weight equally


def test_equal_labels_small_and_large_q() -> None:
    alpha = np.random.default_rng(0).normal(1, 0.2, size=(4, 50))
    for labels in (np.zeros(50, int), np.ones(50, int)):
        for q in (1e-6, 0.1, 0.4999999):
            smoothed = smooth_weights(alpha, labels, LabelFlips(q, 2))
            assert np.all(np.isfinite(smoothed.log_eps))
            assert np.all((smoothed.prediction == labels[0]) | (q > 0.49))
            flips = smoothed.certified(LabelFlips(q, 2), 50)
            assert np.all((flips >= 0) & (flips <= 50))
    # The larger the majority's margin, the more flips; a tie abstains.
    tie = smooth_weights(np.ones((1, 4)), np.array([0, 0, 1, 1]), LabelFlips(0.1, 2))
    assert tie.prediction[0] == ABSTAIN and tie.log_eps[0] == 0
    nothing = smooth_weights(np.zeros((1, 4)), np.array([0, 0, 1, 1]), LabelFlips(0.1, 2))
    assert nothing.prediction[0] == ABSTAIN


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.float16, np.float32])
def test_weights_of_any_type_are_smoothed_as_float64(dtype: type) -> None:
    """Of float32 or less, weights of 0 were divided by 0, and a sign of bool or uint8 could not be turned."""
    alpha, y = np.array([[0] * 400, [1] * 400], dtype), np.arange(400) % 4 // 3
    found, wanted = (smooth_weights(one, y, LabelFlips(0.1, 2)) for one in (alpha, alpha.astype(float)))
    np.testing.assert_array_equal(found, wanted)
    assert wanted.prediction.tolist() == [ABSTAIN, 0]


def test_logarithms_stay_finite_where_float64_has_no_such_number() -> None:
    alpha = np.ones((1, 4000))
    smoothed = smooth_weights(alpha, np.zeros(4000, int), LabelFlips(0.1, 2))
    exact_power = 4000 * np.log(2 * np.sqrt(0.1 * 0.9))  # all entries equal: t = log((1 - q)/q)/2
    np.testing.assert_allclose(smoothed.log_eps, exact_power, rtol=1e-9)
    assert smoothed.log_eps[0] < np.log(10) * -600
    for bound in ("tight", "closed_form"):
        flips = smoothed.certified(LabelFlips(0.1, 2, bound), 4000)[0]  # type: ignore[arg-type]
        assert 100 < flips < 2000  # 2,000 flips make it a tie


@pytest.mark.parametrize("classes", [2, 3])
def test_greedy_flips_are_the_exact_robustness_of_ridge(classes: int) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        alpha, y = random.normal(0.5, 1, size=(1, 6)), random.integers(0, classes, 6)
        prediction, survived = greedy_flips(alpha, y, classes)
        broken_at = next(
            (
                r
                for r in range(7)
                for changed in itertools.combinations(range(6), r)
                for values in itertools.product(range(classes), repeat=r)
                if _lost(alpha[0], y, changed, values, int(prediction[0]), classes)
            ),
            7,
        )
        assert survived[0] == broken_at - 1


def test_ties_up_to_rounding_abstain() -> None:
    """Votes that cancel exactly on paper, in sums whose rounding leaves a little to one side."""
    random = np.random.default_rng(0)
    left_over = 0
    for _ in range(300):
        half = np.round(random.uniform(0.01, 1, size=int(random.integers(1, 12))), 2)
        alpha = np.concatenate([half, [half.sum()] if random.random() < 0.5 else random.permutation(half)])
        y = (np.arange(len(alpha)) >= len(half)) * 1
        order = random.permutation(len(alpha))
        alpha, y = alpha[order][None], y[order]
        scores = class_scores(alpha, y, 2)[0]
        left_over += scores[0] != scores[1]
        assert greedy_flips(alpha, y, 2) == (ABSTAIN, 0)
    assert left_over > 20


@pytest.mark.parametrize(
    ("q", "classes", "largest"),
    [(0.05, 2, 10_000), (0.475, 2, 3000), (1e-3, 2, 3000), (0.125, 5, 1000), (0.375, 3, 2000)],
)
def test_thresholds_are_never_above_those_of_exact_arithmetic(q: float, classes: int, largest: int) -> None:
    """And hardly below: the margin for rounding costs no flips."""
    checked = {1, 2, 3, 10, 30, 100, 300, 1000, 2000, 3000, 5000, 7000, 10_000}
    thresholds = itertools.islice(LabelFlips(q, classes)._thresholds(), largest)
    for flips, threshold in enumerate(thresholds, start=1):
        if flips in checked:
            exact = _exact_threshold(flips, q, classes)
            assert threshold < exact
            assert threshold == pytest.approx(float(exact), abs=1e-6)


def _exact_threshold(flips: int, q: float, classes: int) -> mpmath.mpf:
    """The log eps at which ``flips`` changed labels hold half of the attacked mass, to 50 digits.

    Two outcomes a label (binomial) or three, whose numbers have the generating function (b + c x + k x^2)^flips. Its
    coefficients follow one another (by the derivative), exactly, as multiples of a power of 2: q and b are such.
    """
    if classes == 2:
        with mpmath.workdps(50):
            old = mpmath.mpf(1) - mpmath.mpf(q)
            clean = [(1 - old) ** flips]
            for j in range(flips):
                clean.append(clean[-1] * (flips - j) / (j + 1) * old / (1 - old))
            return _threshold_of(clean, mpmath.mpf(1))
    b, c, k = (int(2**5 * p) for p in (q / (classes - 1), q - q / (classes - 1), 1 - q))
    assert b + c + k == 2**5
    of = [b**flips]
    for j in range(2 * flips):
        of.append((c * (flips - j) * of[j] + (k * (2 * flips - j + 1) * of[j - 1] if j else 0)) // (b * (j + 1)))
    assert sum(of) == 2 ** (5 * flips)
    with mpmath.workdps(50):
        return _threshold_of(of, mpmath.ldexp(1, 5 * flips))


def _threshold_of(clean: list, total: mpmath.mpf) -> mpmath.mpf:
    attacked_mass = eps = 0
    for of_clean, attacked in zip(clean, clean[::-1], strict=True):
        if 2 * (attacked_mass + attacked) >= total:
            part = (total / 2 - attacked_mass) / attacked
            return mpmath.log((eps + part * of_clean) / total)
        attacked_mass, eps = attacked_mass + attacked, eps + of_clean
    raise AssertionError("the attacked mass is less than one half")


def _lost(alpha: np.ndarray, y: np.ndarray, changed: tuple, values: tuple, winner: int, classes: int) -> bool:
    labels = y.copy()
    labels[list(changed)] = values
    scores = np.eye(classes)[labels].T @ alpha
    return bool(np.delete(scores, winner).max() >= scores[winner] - 1e-12)


def test_certified_accuracy_counts_right_points_with_enough_flips() -> None:
    flips, correct = np.array([0, 3, 5, 9]), np.array([True, True, False, True])
    np.testing.assert_allclose(certified_accuracy(flips, correct, np.array([0, 3, 4, 10])), [0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelFlips(1e-12, 2), "q must be at least 1e-6 and below 1/2, got 1e-12"),
        (lambda: LabelFlips(0.5, 2), "q must be at least 1e-6 and below 1/2, got 0.5"),
        (lambda: LabelFlips(0.0, 2), "got 0.0"),
        (lambda: LabelFlips(0.1, 1), "num_classes must be at least 2, got 1"),
        (lambda: LabelFlips(np.float32(0.7), np.int64(2)), "q must be at least 1e-6 and below 1/2, got 0.69"),
        (lambda: LabelFlips(0.1, 2, "loose"), "bound must be one of tight, closed_form, got 'loose'"),  # type: ignore[arg-type]
        (lambda: RidgeRegression(np.ones((3, 2)), -1.0), "ridge must be finite and not negative, got -1.0"),
        (lambda: RidgeRegression(np.full((3, 2), np.nan), 1.0), "NaN"),
        (lambda: RidgeRegression(np.ones(3), 1.0), r"shape \(3,\)"),
        (lambda: RidgeRegression(np.ones((3, 2)), 1.0)(np.ones((1, 3))), r"\(1, 3\)"),
        (lambda: class_scores(np.ones((1, 2)), np.array([0, 2]), 2), "from 0 to 2"),
        (lambda: class_scores(np.ones((1, 2)), np.array([-1.0, 1.0]), 2), "float64"),
    ],
)
def test_wrong_arguments_get_one_clear_line(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        make()
