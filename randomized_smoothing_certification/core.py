"""CERTIFY and PREDICT of randomized smoothing, with their statistics in float64.

Source: Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing" (ICML 2019), section 3.2
and the pseudocode in figure "Prediction and certification". votes.py counts the votes of any classifier.
"""

from decimal import ROUND_FLOOR, Decimal
from functools import cache
from typing import NamedTuple

import numpy as np

from randomized_smoothing_certification.sampling import Sampling, votes_needed
from randomized_smoothing_certification.votes import VoteCounter
from runtime.bounds import PROBABILITY, require_bounds, require_within
from runtime.files import InputError
from runtime.lazy import optimize, special, stats
from runtime.noise import Stream, seed_pair

ABSTAIN = -1
RADIUS_DIGITS = 6  # decimals of a radius in a file


class Certificate(NamedTuple):
    """Outcome of CERTIFY at one image."""

    prediction: int  # the class, or ABSTAIN
    radius: float  # l2, in pixel units
    votes: int  # votes that bounded the class's probability


def certify(
    counter: VoteCounter,
    image: np.ndarray,
    index: int | None,
    sampling: Sampling,
    *,
    seed: int,
    only_class: int | None = None,
) -> Certificate:
    """CERTIFY: the smoothed classifier's class at one image, and an l2 radius within which it is constant.

    image: float32 (height, width, channels) in [0, 1]. index: number of the image in its set. Together with ``seed`` it
    determines the image's noise. None: all images of a run see the same noise. seed: seed of the run's noise, see
    ``runtime.noise.noise_seed``. only_class: abstain without further votes if another class is selected.

    Returns ABSTAIN and radius 0 if the bound of the probability is below one half. Also returns them, with 0 votes, if
    the selected class is not only_class, or if the expected radius is at most radius_loss.

    For every image, a returned class or radius is wrong with probability at most alpha over the noise. This also holds
    if several images share their noise, but then their errors are not independent. It also holds if the selection votes
    choose the number of fresh votes, because the fresh votes are independent of them. An abstention claims nothing.

    Raises as VoteCounter.count_votes, and InputError if the sampling cannot work.
    """
    candidate, selected = select_class(counter, image, index, sampling, seed)
    n = votes_needed(selected, sampling, counter.sigma) if only_class in (None, candidate) else 0
    if not n:
        return Certificate(ABSTAIN, 0.0, 0)
    count = int(counter.count_votes(image, n, seed_pair(seed, index, Stream.VOTES_THAT_BOUND))[candidate])
    return certificate_of_count(candidate, count, n, sampling.alpha, counter.sigma, counter.failure_mass)


def select_class(
    counter: VoteCounter, image: np.ndarray, index: int | None, sampling: Sampling, seed: int
) -> tuple[int, int]:
    """The most frequent class of n0 votes (at a tie the lowest) and its number of votes. See ``certify``."""
    require_bounds(sampling)
    votes = counter.count_votes(image, sampling.n0, seed_pair(seed, index, Stream.VOTES_THAT_SELECT))
    return int(np.argmax(votes)), int(votes.max())


def certificate_of_count(
    candidate: int, count: int, n: int, alpha: float, sigma: float, failure_mass: float = 0.0
) -> Certificate:
    """The certificate if ``count`` of n votes are for the candidate. failure_mass: see VoteCounter."""
    bound = lower_confidence_bound(count, n, alpha) - failure_mass
    if bound < 0.5:
        return Certificate(ABSTAIN, 0.0, n)
    return Certificate(candidate, radius_of_probability(bound, sigma), n)


def predict(counter: VoteCounter, image: np.ndarray, index: int, *, n: int, alpha: float, seed: int) -> int:
    """PREDICT: the smoothed classifier's class at one image, or ABSTAIN if n votes do not decide it.

    A two-sided binomial test of the two largest counts, without a grid's failure mass. Arguments as in ``certify``.
    """
    require_within("alpha", alpha, PROBABILITY)
    counts = counter.count_votes(image, n, seed_pair(seed, index, Stream.VOTES_THAT_PREDICT))
    first, second = np.argsort(-counts, kind="stable")[:2]
    test = stats.binomtest(int(counts[first]), int(counts[first] + counts[second]), 0.5)
    return ABSTAIN if test.pvalue > alpha else int(first)


def lower_confidence_bound(successes: int, n: int, alpha: float) -> float:
    """One-sided (1 - alpha) Clopper-Pearson lower bound of a binomial probability.

    0 successes give 0. n successes give alpha^(1/n). Raises InputError for other numbers and for alpha that is
    no probability. At 999 failures SciPy's quantile is too large for millions of votes, and too small for some numbers
    from 10,089 on. So it is compared with the distribution function, which bisection solves where they differ.
    """
    if not (0 <= successes <= n and n >= 1 and 0 < alpha < 1):
        raise InputError(
            f"no bound for {successes} successes of n = {n} votes at alpha {alpha}; give 0 to n successes, n of at "
            "least 1, and alpha strictly between 0 and 1"
        )
    a, b = successes, n - successes + 1
    bound = float(stats.beta.ppf(alpha, a, b)) if successes else 0.0
    if successes and not abs(special.betainc(a, b, bound) - alpha) <= 1e-5 * alpha:  # also where a value is NaN
        bound = optimize.bisect(lambda p: np.nan_to_num(special.betainc(a, b, p), nan=1) - alpha, 0.0, 1.0, xtol=1e-16)
    return bound


def radius_of_probability(probability: float, sigma: float) -> float:
    """sigma * Phi^-1(probability), or 0 if the probability is at most one half (Cohen et al., theorem 1)."""
    return max(0.0, float(sigma * stats.norm.ppf(probability)))


@cache
def radius_ceiling(sigma: float, n: int, alpha: float, failure_mass: float = 0.0) -> float:
    """The radius that n unanimous votes certify, which is the largest that n votes can certify. 0 votes give 0."""
    return radius_of_probability(lower_confidence_bound(n, n, alpha) - failure_mass, sigma) if n else 0.0


def round_down(radius: float, digits: int = RADIUS_DIGITS) -> str:
    """A radius as text with ``digits`` decimals, never above its value."""
    return str(Decimal(radius).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR))


def require_radii_above_0(
    n: int, alpha: float, sigma: float, radius_loss: float = 0.0, failure_mass: float = 0.0
) -> None:
    """Raise InputError if not even n unanimous votes certify a radius above ``radius_loss``.

    sigma, radius_loss: in pixel units. failure_mass: see VoteCounter.
    """
    ceiling = radius_ceiling(sigma, n, alpha, failure_mass)
    if not ceiling:
        taken_off = f" and failure mass {failure_mass:.2g}" if failure_mass else ""
        raise InputError(
            f"n is {n}: with alpha {alpha:g}{taken_off} not even {n} unanimous votes certify a radius; raise n"
            + (f" to at least {int(np.log(alpha) / np.log(0.5 + failure_mass)) + 1}" if failure_mass < 0.5 else "")
        )
    if ceiling < 100 * 10**-RADIUS_DIGITS:
        raise InputError(
            f"sigma is {sigma:g}: {n} votes certify radii up to {ceiling:.2g}, and a radius has {RADIUS_DIGITS} "
            "decimals; raise sigma, or n"
        )
    if radius_loss >= ceiling:
        raise InputError(
            f"radius_loss is {radius_loss:g}: {n} votes certify radii up to {round_down(ceiling, 3)}, so that every "
            "point would abstain; lower it"
        )
