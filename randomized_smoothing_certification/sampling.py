"""Number of noisy votes of a certificate, and its failure probability."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated

import numpy as np

from runtime.bounds import NOT_NEGATIVE, PROBABILITY, Bound, at_least, between
from runtime.lazy import stats

N0, N, ALPHA = 100, 100_000, 0.001  # published
# Noise is drawn in blocks of this many votes, each from its own seed: vote v is row v % 100 of block v // 100, whatever
# the batch size. 100 is the usual n0, so that selection evaluates no vote that it does not count.
NOISE_BLOCK = 100
_SIZES, _QUANTILES = 32, 64  # numbers of votes that ``votes_needed`` chooses from, quantiles of its expectation

Votes = Annotated[int, at_least(1), Bound("be below 2^31", lambda votes: votes < 2**31)]
Probability = Annotated[float, PROBABILITY, between(1e-100, 0.999)]  # below 1e-240 SciPy errs, near 1 radii overflow


def in_whole_blocks(votes: int) -> int:
    """A number of votes, rounded up to a multiple of NOISE_BLOCK."""
    return -(-votes // NOISE_BLOCK) * NOISE_BLOCK


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Votes of one certificate. The defaults are the published ones."""

    n0: Votes = N0
    """Noisy votes that select the class."""
    n: Votes = N
    """Fresh noisy votes that bound the class's probability."""
    alpha: Probability = ALPHA
    """Probability that a certificate is wrong, per point."""
    radius_loss: Annotated[float, NOT_NEGATIVE] = 0.0
    """Largest expected loss of a point's radius from fewer than n votes, in pixel units. The n0 votes choose the number
    of votes, so n0 should be about 1,000. Points whose expected radius is at most this loss abstain. 0: every point
    gets n votes."""


@cache
def votes_needed(successes: int, sampling: Sampling, sigma: float) -> int:
    """The fewest votes, at most n, whose expected radius is at most ``radius_loss`` below that of n votes.

    successes: selection votes, of n0, for the selected class. sigma: in pixel units, as radius_loss. Returns n if
    radius_loss is 0, and 0 if the expected radius of n votes is at most radius_loss.

    The class's probability is assumed to be distributed as Beta(successes + 1/2, n0 - successes + 1/2) (Jeffreys). The
    expectation is a mean over quantiles of this distribution. A certificate holds even if the assumption is wrong: see
    ``core.certify``.
    """
    n0, n = sampling.n0, sampling.n
    if not sampling.radius_loss:
        return n
    quantiles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    probabilities = stats.beta.ppf(quantiles, successes + 0.5, n0 - successes + 0.5)
    sizes = np.geomspace(min(NOISE_BLOCK, n), n, _SIZES)
    sizes = np.unique(np.minimum(np.ceil(sizes / NOISE_BLOCK) * NOISE_BLOCK, n))
    # Clopper and Pearson's bound at the expected count, which need not be whole.
    counts = sizes[:, None] * probabilities
    bounds = stats.beta.ppf(sampling.alpha, counts, sizes[:, None] - counts + 1)
    expected = np.maximum(0, sigma * stats.norm.ppf(bounds)).mean(axis=1)
    enough = np.concatenate([[0.0], expected]) >= expected[-1] - sampling.radius_loss
    return int(np.concatenate([[0], sizes])[np.argmax(enough)])
