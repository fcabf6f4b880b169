"""CERTIFY and PREDICT of randomized smoothing: what Monte Carlo votes (votes.py) say, statistics in float64.

Source: Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing" (ICML 2019),
section 3.2 and the pseudocode in figure "Prediction and certification".
"""

import hashlib
from decimal import ROUND_FLOOR, Decimal
from functools import cache
from typing import NamedTuple

import numpy as np

from randomized_smoothing_certification.votes import NOISE_BLOCK, VoteCounter
from runtime.files import InputError
from runtime.lazy import stats
from runtime.noise import Stream, seed_pair

ABSTAIN = -1
# Published: votes that select the class, fresh votes that bound its probability, probability of a wrong certificate.
N0, N, ALPHA = 100, 100_000, 0.001

# Sizes among which a point's own number of votes is chosen, and quantiles that its expectation is taken over.
_SIZES, _QUANTILES = 32, 64


class Certificate(NamedTuple):
    """Outcome of CERTIFY at one point."""

    prediction: int  # the class, ABSTAIN where none
    radius: float  # l2, in pixel units
    votes: int  # that bounded its probability


def certify(
    counter: VoteCounter,
    image: np.ndarray,
    index: int | None,
    *,
    n0: int,
    n: int,
    alpha: float,
    seed: int,
    radius_loss: float = 0.0,
    only_class: int | None = None,
) -> Certificate:
    """CERTIFY: the smoothed classifier's class at one image and an l2 radius within which it is constant.

    index: the image's number in its set of images; with ``seed`` it names the noise, so that other points, shards and
        restarts do not change it. None: the noise that all images of a run share.
    seed: names the run's noise. A set of images on which something is chosen needs another one than the set that is
        reported, see ``noise_seed``.
    n0: votes that select the class. n: fresh votes that bound its probability.
    alpha: probability, over the noise, that a returned class or radius is wrong.
    radius_loss: above 0 the n0 votes also choose how many of the n are drawn, see ``votes_needed``.
    only_class: ABSTAIN without further votes where another class is selected.
    Returns ABSTAIN and radius 0 where the bound is below one half.

    What is guaranteed, for every image by itself: alpha as above. The votes on one image are independent whether or
    not other images see the same noise, so sharing it leaves this as it is; what it takes away is that the errors
    of several images are independent of each other. A number of votes that the n0 votes chose is a constant for the
    fresh ones, which are independent of them: given the former, the bound is Clopper and Pearson's of a binomial
    count. To abstain claims nothing, for whatever reason it is done.

    Raises as VoteCounter.count_votes; InputError for n0 < 1, n < 1 or alpha outside (0, 1).
    """
    require_vote_settings(n0, n, alpha)
    candidate, votes = select_class(counter, image, index, n0, seed)
    if only_class not in (None, candidate):
        return Certificate(ABSTAIN, 0.0, 0)
    if radius_loss > 0:
        n = votes_needed(votes, n0, n, alpha=alpha, sigma=counter.sigma, radius_loss=radius_loss)
    if not n:
        return Certificate(ABSTAIN, 0.0, 0)
    votes = int(counter.count_votes(image, n, vote_seed(seed, index, Stream.VOTES_THAT_BOUND))[candidate])
    return certificate_of_count(candidate, votes, n, alpha, counter.sigma, counter.failure_mass)


def certificate_of_count(
    candidate: int, count: int, n: int, alpha: float, sigma: float, failure_mass: float = 0.0
) -> Certificate:
    """What ``count`` of n votes for the candidate certify: ABSTAIN and radius 0 where the bound is below one half."""
    bound = lower_confidence_bound(count, n, alpha) - failure_mass
    if bound < 0.5:
        return Certificate(ABSTAIN, 0.0, n)
    return Certificate(candidate, radius_of_probability(bound, sigma), n)


def select_class(counter: VoteCounter, image: np.ndarray, index: int | None, n0: int, seed: int) -> tuple[int, int]:
    """The most frequent class of n0 votes, the lowest of equals, and its votes. Arguments as in ``certify``."""
    votes = counter.count_votes(image, n0, vote_seed(seed, index, Stream.VOTES_THAT_SELECT))
    return int(np.argmax(votes)), int(votes.max())


def noise_seed(seed: int, images_sha256: str) -> int:
    """A run's seed of the noise for one set of images, named by its hash: other images, other noise.

    What is chosen by certificates of validation images depends on their noise. Were the test images certified with
    the same noise, their certificates would hold with less than the stated probability. With 50 classifiers to choose
    from and alpha = .01, 35 % of the test certificates could be wrong.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed} {images_sha256}".encode(), digest_size=8).digest(), "little")


def vote_seed(seed: int, index: int | None, stage: Stream) -> np.ndarray:
    """Names the noise of one stage of a run's votes: of one image, or (index None) of all images."""
    return seed_pair(seed, stage) if index is None else seed_pair(seed, index, stage)


@cache
def votes_needed(successes: int, n0: int, n: int, *, alpha: float, sigma: float, radius_loss: float) -> int:
    """The fewest votes, at most n, whose expected radius is at most ``radius_loss`` below that of n votes.

    successes: selection votes, of n0, for the selected class. radius_loss: in pixel units, as sigma.
    0 where the radius that n votes are expected to show is itself no larger than ``radius_loss``.

    The class's probability is taken to be Beta(successes + 1/2, n0 - successes + 1/2) (Jeffreys), by its quantiles.
    A certificate holds whether or not this assumption is right: see ``certify``.
    """
    quantiles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    probabilities = stats.beta.ppf(quantiles, successes + 0.5, n0 - successes + 0.5)
    sizes = np.geomspace(min(NOISE_BLOCK, n), n, _SIZES)
    sizes = np.unique(np.minimum(np.ceil(sizes / NOISE_BLOCK) * NOISE_BLOCK, n))
    # Clopper and Pearson's bound at the expected count, which need not be whole.
    counts = sizes[:, None] * probabilities
    bounds = stats.beta.ppf(alpha, counts, sizes[:, None] - counts + 1)
    expected = np.maximum(0, sigma * stats.norm.ppf(bounds)).mean(axis=1)
    enough = np.concatenate([[0.0], expected]) >= expected[-1] - radius_loss
    return int(np.concatenate([[0], sizes])[np.argmax(enough)])


def predict(counter: VoteCounter, image: np.ndarray, index: int, *, n: int, alpha: float, seed: int) -> int:
    """PREDICT: the smoothed classifier's class at one image, ABSTAIN where n votes do not settle it.

    A two-sided binomial test compares the two most frequent classes at level alpha.
    Arguments and errors as in ``certify``.
    """
    require_vote_settings(1, n, alpha)
    counts = counter.count_votes(image, n, seed_pair(seed, index, Stream.VOTES_THAT_PREDICT))
    first, second = np.argsort(-counts, kind="stable")[:2]
    test = stats.binomtest(int(counts[first]), int(counts[first] + counts[second]), 0.5)
    return ABSTAIN if test.pvalue > alpha else int(first)


def lower_confidence_bound(successes: int, n: int, alpha: float) -> float:
    """One-sided (1 - alpha) Clopper-Pearson lower bound of a binomial probability, in float64.

    0 successes give 0; n give alpha^(1/n). Raises InputError unless 0 <= successes <= n and n >= 1.
    """
    require_vote_settings(1, n, alpha)
    if not 0 <= successes <= n:
        raise InputError(f"successes must lie between 0 and n = {n}, got {successes}")
    from statsmodels.stats.proportion import proportion_confint

    return float(proportion_confint(successes, n, 2 * alpha, method="beta")[0])


def radius_of_probability(probability: float, sigma: float) -> float:
    """sigma * Phi^-1(probability), 0 where the probability is at most one half (Cohen et al., theorem 1)."""
    return max(0.0, float(sigma * stats.norm.ppf(probability)))


def radius_ceiling(sigma: float, n: int, alpha: float, failure_mass: float = 0.0) -> float:
    """The radius that n unanimous votes certify: no larger one can be shown with n votes."""
    return radius_of_probability(lower_confidence_bound(n, n, alpha) - failure_mass, sigma)


def round_down(radius: float, digits: int = 6) -> str:
    """A radius as text with ``digits`` decimals, never above its value."""
    return str(Decimal(radius).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR))


def require_radii_above_0(n: int, alpha: float, sigma: float, radius_loss: float = 0.0, mass: float = 0.0) -> None:
    """Raise InputError where not even n unanimous votes certify a radius above ``radius_loss``.

    sigma, radius_loss: in pixel units. mass: failure mass of the noise, see VoteCounter.failure_mass.
    """
    ceiling = radius_ceiling(sigma, n, alpha, mass)
    if not ceiling:
        taken_off = f" and failure mass {mass:.2g}" if mass else ""
        raise InputError(
            f"n is {n}: with alpha {alpha:g}{taken_off} not even {n} unanimous votes certify a radius; raise n"
            + (f" to at least {int(np.ceil(np.log(alpha) / np.log(0.5 + mass)))}" if mass < 0.5 else "")
        )
    if radius_loss >= ceiling:
        raise InputError(
            f"radius_loss is {radius_loss:g}: {n} votes certify radii up to {round_down(ceiling, 3)}, so that every "
            "point would abstain; lower it"
        )


def require_vote_settings(n0: int, n: int, alpha: float) -> None:
    """Raise InputError unless n0 and n lie between 1 and 2^31 - 1 and 0 < alpha < 1."""
    for name, value in (("n0", n0), ("n", n)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
        if value >= 2**31:
            raise InputError(f"{name} must be below 2^31, got {value}")
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie strictly between 0 and 1, got {alpha}")
