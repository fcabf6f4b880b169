"""Certificates at given radii. Votes are drawn until all radii are decided: far fewer than for a certified radius.

Robbins' mixture tests whether a class's probability is above a number (Annals of Mathematical Statistics 41, 1970, and
as a test martingale Howard, Ramdas, McAuliffe, Sekhon, Annals of Statistics 49, 2021). The test may be evaluated after
any vote. CERTIFY in core.py bounds the probability with a fixed number of votes instead.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from randomized_smoothing_certification.core import ABSTAIN, Certificate, select_class
from randomized_smoothing_certification.sampling import NOISE_BLOCK, Sampling, in_whole_blocks
from randomized_smoothing_certification.votes import VoteCounter
from runtime.files import InputError
from runtime.lazy import special, stats
from runtime.noise import Stream, seed_pair

_ROUNDING = 1e-4  # more than the rounding errors of the logarithms below for 2^31 votes
_GROWTH = 0.1  # new votes between two evaluations of the test, as a share of the votes so far, in whole noise blocks

Numbers = np.ndarray | float


def log_evidence(successes: Numbers, failures: Numbers, probability: Numbers) -> np.ndarray:
    """Log of the evidence that votes give against "the success probability is at most ``probability``", float64.

    The likelihood ratio to ``probability`` (p0), averaged over Beta(1/2, 1/2) restricted to values above p0, is

        B(a + S, b + F) / (B(a, b) p0^S (1 - p0)^F)  *  (1 - I_p0(a + S, b + F)) / (1 - I_p0(a, b)),  a = b = 1/2.

    It is 1 before the first vote. If the statement is true, the ratio is a supermartingale, because each vote
    multiplies it by at most 1 in expectation. So the probability that it ever reaches 1 / alpha is at most alpha
    (Ville), for any number of evaluations. The arguments broadcast.
    """
    a = b = 0.5  # parameters of the Beta prior (Jeffreys)
    ratio = special.betaln(a + successes, b + failures) - special.betaln(a, b)
    ratio = ratio - special.xlogy(successes, probability) - special.xlog1py(failures, -np.asarray(probability))
    with np.errstate(divide="ignore"):  # no evidence at all
        above = np.log(special.betaincc(a + successes, b + failures, probability))
    return ratio + above - np.log(special.betaincc(a, b, probability))


def is_shown(successes: Numbers, failures: Numbers, probability: Numbers, alpha: float) -> np.ndarray:
    """Whether the votes show at level alpha that the success probability is above ``probability``."""
    return log_evidence(successes, failures, probability) >= np.log(1 / alpha) + _ROUNDING


def decide(
    counter: VoteCounter,
    image: np.ndarray,
    index: int | None,
    radii: Sequence[float],
    sampling: Sampling,
    *,
    seed: int,
    only_class: int | None = None,
) -> tuple[Certificate, bool]:
    """Decide for each of the ascending radii whether the smoothed classifier is certified as constant around an image.

    sampling: n is the largest number of fresh votes, and alpha the probability, over the noise, that any radius of the
    list is certified wrongly. The other arguments and the noise are as in ``core.certify``.

    Returns the certificate for the largest certified radius, and whether every radius is decided: False where n votes
    were too few for the next one. Without a certified radius the certificate is ABSTAIN and radius 0.

    A radius is certified only if all smaller radii are. So the first radius that is certified wrongly can only be the
    smallest radius that does not hold. This radius does not depend on the votes. So there is a single test at level
    alpha, and the number of radii needs no correction.

    Votes end, and claim nothing more, as soon as they show at the same level that the probability is too low for the
    next radius, or when the remaining votes could not certify it even if all agreed.

    Raises as ``core.certify``, and InputError for radii that ``required_probabilities`` refuses.
    """
    candidate, _ = select_class(counter, image, index, sampling, seed)
    n, alpha = sampling.n, sampling.alpha
    required = required_probabilities(radii, counter.sigma, n, alpha, counter.failure_mass)
    if only_class not in (None, candidate):
        return Certificate(ABSTAIN, 0.0, 0), True
    stream = seed_pair(seed, index, Stream.VOTES_THAT_BOUND)
    certified = successes = votes = 0
    decided = False
    while votes < n:
        more = max(NOISE_BLOCK, int(_GROWTH * votes))
        until = min(n, in_whole_blocks(votes + more))
        successes += int(counter.count_votes(image, until, stream, first=votes)[candidate])
        votes = until
        failures = votes - successes
        while certified < len(required) and is_shown(successes, failures, required[certified], alpha):
            certified += 1
        decided = certified == len(required) or bool(is_shown(failures, successes, 1 - required[certified], alpha))
        if decided or not is_shown(successes + n - votes, failures, required[certified], alpha):
            break
    if not certified:
        return Certificate(ABSTAIN, 0.0, votes), decided
    return Certificate(candidate, radii[certified - 1], votes), decided


def required_probabilities(
    radii: Sequence[float], sigma: float, n: int, alpha: float, failure_mass: float = 0.0
) -> np.ndarray:
    """The probability that the class must exceed for each l2 radius (Cohen et al., theorem 1), float64 (radii,).

    Raises InputError unless the radii ascend from 0 or more and n votes suffice.
    """
    if not radii or not 0 <= radii[0] < np.inf or any(not a < b for a, b in itertools.pairwise(radii)):
        raise InputError(f"radii must be ascending numbers, none negative, got {' '.join(map(str, radii))}")
    required = stats.norm.cdf(np.asarray(radii) / sigma) + failure_mass
    for radius, probability in zip(radii, required, strict=True):
        if not (probability < 1 and is_shown(n, 0, probability, alpha)):
            raise InputError(
                f"radii: not even {n} unanimous votes certify the radius {radius:g} at sigma {sigma:g}; "
                "leave it out or raise n"
            )
    return required
