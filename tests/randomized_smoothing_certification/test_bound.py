"""Clopper-Pearson bound, radius and rounding, against SciPy, statsmodels and enumeration."""

import numpy as np
import pytest
from scipy import special, stats
from statsmodels.stats.proportion import proportion_confint

from randomized_smoothing_certification.core import (
    lower_confidence_bound,
    radius_ceiling,
    radius_of_probability,
    round_down,
)
from runtime.files import InputError


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("n", [100, 1000])
def test_coverage_is_at_least_one_minus_alpha_by_enumeration(n: int, alpha: float) -> None:
    bounds = np.array([lower_confidence_bound(k, n, alpha) for k in range(n + 1)])
    for p in (0.01, 0.1, 0.5, 0.77, 0.9, 0.99, 0.999):
        coverage = stats.binom.pmf(np.arange(n + 1), n, p)[bounds <= p].sum()
        assert coverage >= 1 - alpha - 1e-12
    assert np.all(np.diff(bounds) > 0)


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_equals_statsmodels(alpha: float) -> None:
    for k, n in ((0, 10), (3, 10), (50, 100), (99_000, 100_000), (100_000, 100_000)):
        # statsmodels is two-sided: 2 alpha leaves alpha below.
        expected = proportion_confint(k, n, alpha=2 * alpha, method="beta")[0]
        assert lower_confidence_bound(k, n, alpha) == pytest.approx(expected, abs=1e-12)


def test_extreme_counts() -> None:
    assert lower_confidence_bound(0, 50, 0.001) == 0.0
    assert lower_confidence_bound(50, 50, 0.001) == pytest.approx(0.001 ** (1 / 50), rel=1e-14)


@pytest.mark.parametrize("alpha", [1e-3, 1e-6])
@pytest.mark.parametrize("n", [10**7, 1_711_328_304, 2**31 - 1])
@pytest.mark.parametrize("failures", [998, 999, 1000])
def test_few_failures_of_very_many_votes_are_poisson(failures: int, n: int, alpha: float) -> None:
    """SciPy's quantile is wrong at 999 failures: with sigma 0.5 radii were up to 0.01 too large."""
    bound = lower_confidence_bound(n - failures, n, alpha)
    # The largest mean at which as few failures have probability alpha.
    assert n * (1 - bound) == pytest.approx(stats.gamma.isf(alpha, failures + 1), rel=1e-4)
    assert special.betainc(n - failures, failures + 1, bound) == pytest.approx(alpha, rel=1e-5, abs=0)


@pytest.mark.parametrize("n", [10_089, 21_192])
def test_a_failure_more_lowers_the_bound_a_little(n: int) -> None:
    """At 999 failures SciPy has 0.749 in place of 0.891, and 0.875 in place of 0.948."""
    bounds = [lower_confidence_bound(n - failures, n, 0.001) for failures in (998, 999, 1000)]
    assert np.diff(bounds) == pytest.approx([-1 / n, -1 / n], rel=0.1)


def test_unanimous_votes_need_ten_of_them_at_alpha_one_in_a_thousand() -> None:
    assert lower_confidence_bound(9, 9, 0.001) < 0.5 < lower_confidence_bound(10, 10, 0.001)


def test_monotone_in_votes_alpha_and_sigma() -> None:
    assert lower_confidence_bound(90, 100, 0.001) < lower_confidence_bound(91, 100, 0.001)
    assert lower_confidence_bound(90, 100, 0.001) < lower_confidence_bound(90, 100, 0.01)
    assert radius_of_probability(0.9, 0.25) < radius_of_probability(0.9, 0.5)
    assert radius_of_probability(0.4, 0.5) == 0.0


def test_ceiling_of_the_published_setting() -> None:
    assert radius_ceiling(1.0, 100_000, 0.001) == pytest.approx(3.811, abs=1e-3)


@pytest.mark.parametrize(
    ("radius", "digits", "text"), [(0.12999999, 2, "0.12"), (1.5, 6, "1.500000"), (0.3, 20, None), (0.0, 3, "0.000")]
)
def test_rounding_never_goes_up(radius: float, digits: int, text: str | None) -> None:
    from fractions import Fraction

    rounded = round_down(radius, digits)
    assert text is None or rounded == text
    assert Fraction(rounded) <= Fraction(radius) < Fraction(rounded) + Fraction(1, 10**digits)


@pytest.mark.parametrize(
    ("successes", "n", "alpha"),
    [(1, 0, 0.1), (3, 2, 0.1), (-1, 2, 0.1), (1, 2, 0.0), (1, 2, 1.0), (1, 2, float("nan"))],
)
def test_refuses_impossible_values(successes: int, n: int, alpha: float) -> None:
    with pytest.raises(InputError):
        lower_confidence_bound(successes, n, alpha)
