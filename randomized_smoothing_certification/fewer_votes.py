"""Certificates as they come out of fewer votes, so that files of different numbers of votes can be compared.

    python randomized_smoothing_certification/fewer_votes.py --certificates public_log.tsv --sigma 0.5 --n 10000 \\
        --out public_log_10000.tsv

A radius is one-to-one with the votes that it was computed from: how many of n fell on the class. Votes are independent
and alike, so n' of them drawn at random are what a run of n' votes counts, and the new radii are certificates of the
same confidence, from this project's files and, as far as the three digits of their radii go, from those that Cohen et
al.'s code wrote.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from data.datasets import require_sigma
from randomized_smoothing_certification.certificate_file import RADIUS_DIGITS, Point, as_text, radii, read_points
from randomized_smoothing_certification.core import (
    ABSTAIN,
    ALPHA,
    N,
    certificate_of_count,
    lower_confidence_bound,
    radius_of_probability,
    require_vote_settings,
    round_down,
)
from runtime.command_line import run_script
from runtime.files import InputError, write_text
from runtime.noise import Stream
from runtime.provenance import shown_path


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the drawing."""

    certificates: Path
    """File of certificates, of this project or of Cohen et al.'s code."""
    sigma: float
    """Noise level that it was made with."""
    votes: int = N
    """Votes that each of its radii was bounded with."""
    alpha: float = ALPHA
    """Failure probability that it was made with, and that of the new radii."""
    n: int = 10_000
    """Votes of the new radii."""
    seed: int = 0
    """Seed of which votes are taken."""
    out: Path
    """File of the new certificates, .tsv."""


def main(config: Config) -> None:
    """Write the new certificates as the config says. Raises InputError where the settings cannot be the file's."""
    require_sigma(config.sigma)
    require_vote_settings(1, config.n, config.alpha)
    require_vote_settings(1, config.votes, config.alpha)
    if config.n > config.votes:
        raise InputError(f"n is {config.n}, more than the file's {config.votes} votes; give fewer")
    points = read_points(config.certificates)
    if not points:
        raise InputError(f"{config.certificates}: has no point; choose another file")
    counts = [_count(point, config) for point in points]
    new = [_with_fewer(point, count, config) for point, count in zip(points, counts, strict=True)]
    write_text(config.out, as_text(new))
    print(f"{shown_path(config.out)}: {len(new)} points, ACR {_acr(points):.4f} with {config.votes} votes, "
          f"{_acr(new):.4f} with {config.n}")  # fmt: skip


def count_of_radius(radius: float, votes: int, alpha: float, sigma: float) -> int:
    """How many of so many votes fell on the class: the count whose certified radius is nearest to ``radius``."""
    probability = float(stats.norm.cdf(radius / sigma))
    # The count c with P(Binomial(votes, probability) >= c) = alpha, up to rounding.
    guess = int(np.clip(stats.binom.isf(alpha, votes, probability) + 1, 1, votes))
    near = range(max(1, guess - 3), min(votes, guess + 3) + 1)
    return min(near, key=lambda count: abs(_radius(count, votes, alpha, sigma) - radius))


def _count(point: Point, config: Config) -> int | None:
    """The votes on the point's class, None where it has no certificate."""
    if point.predict == ABSTAIN:
        return None
    if point.votes is not None:
        raise InputError(f"{config.certificates}: its points have different numbers of votes; certify with one n")
    radius = float(point.radius)
    count = count_of_radius(radius, config.votes, config.alpha, config.sigma)
    found = _radius(count, config.votes, config.alpha, config.sigma)
    digits = len(point.radius.partition(".")[2])
    if abs(found - radius) > 1.01 * 10.0**-digits:  # which may be rounded up as well as down
        raise InputError(
            f"{config.certificates}: no count of {config.votes} votes has the radius {point.radius} of point "
            f"{point.idx} at sigma {config.sigma:g}, alpha {config.alpha:g}; give those that the file was made with"
        )
    return count


def _with_fewer(point: Point, count: int | None, config: Config) -> Point:
    """The point's certificate from ``config.n`` of its votes. One that abstained, whose votes are not known, does."""
    if count is None:
        return point
    draw = np.random.default_rng([config.seed, Stream.VOTES_TAKEN, point.idx])
    taken = int(draw.hypergeometric(count, config.votes - count, config.n))
    predict, radius, _ = certificate_of_count(point.predict, taken, config.n, config.alpha, config.sigma)
    return point._replace(
        radius=round_down(radius, RADIUS_DIGITS), predict=predict, correct=int(predict == point.label)
    )


def _radius(count: int, votes: int, alpha: float, sigma: float) -> float:
    return radius_of_probability(lower_confidence_bound(count, votes, alpha), sigma)


def _acr(points: Sequence[Point]) -> float:
    return float(np.maximum(radii(points), 0).mean())


if __name__ == "__main__":
    run_script(main, Config, __doc__)
