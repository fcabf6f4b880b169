"""Restate certificates at a smaller number of votes, so that files of different numbers of votes can be compared.

    python randomized_smoothing_certification/fewer_votes.py --certificates my_certificates.tsv --n 10000 --out new.tsv
    python randomized_smoothing_certification/fewer_votes.py --certificates public_log.tsv --sigma 0.5 --n 10000 \\
        --out public_log_10000.tsv

A radius shows how many of its votes were for the class. Votes are independent and identically distributed, so n of
them, drawn at random, are distributed as the votes of a run with n votes. The new radii are certificates of the same
confidence. This holds for this project's files, and within three digits for the files of Cohen et al.'s code. Points
with at most n votes keep their certificates.

The settings of a file of this project lie beside it and need not be given. For other files, wrong settings are noticed
only if no number of votes gives a point's radius.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from randomized_smoothing_certification.certificate_file import (
    Point,
    as_text,
    certified_radii,
    read_known_points,
    require_result_name,
    rounding_error,
)
from randomized_smoothing_certification.certificate_record import MadeWith, recorded_settings
from randomized_smoothing_certification.core import ABSTAIN, certificate_of_count, require_radii_above_0, round_down
from randomized_smoothing_certification.sampling import ALPHA, N, Votes
from runtime.artifact import Artifact
from runtime.bounds import Seed, require_bounds
from runtime.command_line import run_script
from runtime.files import InputError, file_sha256, json_sha256, read_record, remove, write_json, write_text
from runtime.noise import Stream, noise_seed
from runtime.part_by_part import settings_path
from runtime.provenance import printed_path, provenance


@dataclass(frozen=True, kw_only=True)
class Config:
    certificates: Path
    """File of certificates, of this project or of Cohen et al.'s code."""
    sigma: float | None = None
    """Noise level of the certificates. When not given: from the record beside the file."""
    votes: int | None = None
    """Votes behind each radius. When not given: from the record, or the published 100,000."""
    alpha: float | None = None
    """Failure probability of the old and the new radii. When not given: from the record, or the published 0.001."""
    failure_mass: float | None = None
    """Probability that --noise grid took off each bound. When not given: from the record, or 0."""
    n: Votes = 10_000
    """Votes of the new radii."""
    seed: Seed = 0
    """Seed of the random draw of votes."""
    out: Path
    """File of the new certificates, .tsv. A record of its making is written beside it as .json."""


def main(config: Config) -> None:
    """Write the new certificates as the config says. Raises InputError if the settings do not fit the file."""
    require_bounds(config)
    require_result_name(config.out)
    if config.out.resolve() == config.certificates.resolve():
        raise InputError(f"{config.out}: is the file of certificates itself; choose another output")
    if (of_run := settings_path(config.out)).exists():
        said = f"{of_run.name} beside it says that it is a certification run's"
        raise InputError(f"{config.out}: {said}; choose another output")
    record = config.out.with_suffix(".json")
    if (record.exists() and "made_with" not in read_record(record)) or (config.out.exists() and not record.exists()):
        raise InputError(f"{config.out}: it or {record.name} is there, and not of this script; choose another output")
    if record.exists() and (n := recorded_settings(config.out)["n"]) != config.n:
        raise InputError(f"{config.out}: has certificates of n = {n}; choose another output, or delete {record.name}")
    points, known = read_known_points(config.certificates), recorded_settings(config.certificates)
    made = _made_with(config, known)
    require_bounds(made)
    require_radii_above_0(config.n, made.alpha, made.sigma, failure_mass=made.failure_mass)
    if config.n > made.votes:
        raise InputError(f"n is {config.n}, more than the file's {made.votes} votes; give fewer")
    # Each file and each n have their own draw, for two reasons: choices on validation points must not depend on the
    # draw for test points, and an output of this script may be its next input. The time of a point decides nothing.
    of_file = noise_seed(config.seed, f"{json_sha256([point._replace(time='') for point in points])} {config.n}")
    new = [_with_fewer(point, made, config.certificates, config.n, of_file) for point in points]
    with Artifact(config.out, record):
        remove(config.out)
        about = {"made_with": made._asdict(), "settings": known, "source_sha256": file_sha256(config.certificates)}
        write_json(record, {**about, **provenance(config)})
        write_text(config.out, as_text(new))
    before, after = (np.maximum(certified_radii(one), 0).mean() for one in (points, new))
    print(
        f"{printed_path(config.out)}: {len(new)} points, ACR {before:.4f} with {made.votes} votes, {after:.4f} with "
        f"{config.n}"
    )


def _made_with(config: Config, known: Mapping[str, Any]) -> MadeWith:
    """The file's settings, from the config or from the record beside the file. Raises InputError if these differ."""
    recorded = MadeWith(known["sigma"], known["n"], known["alpha"], known["failure_mass"])._asdict() if known else {}
    given = {name: value for name in MadeWith._fields if (value := getattr(config, name)) is not None}
    if not recorded and "sigma" not in given:
        raise InputError(f"{config.certificates}: has no record beside it; give --sigma, and --votes where not {N:,}")
    for name, value in recorded.items():
        if given.get(name, value) != value:
            raise InputError(
                f"{name} is {given[name]}, but the record beside {config.certificates} says {value}; leave it out"
            )
    return MadeWith(**{"votes": N, "alpha": ALPHA, "failure_mass": 0.0, **recorded, **given})


@cache  # a file has many points and few counts
def count_of_radius(radius: float, votes: int, alpha: float, sigma: float, failure_mass: float = 0.0) -> int:
    """The number of votes for the class: the count whose certified radius is nearest to ``radius``."""

    def radius_of(count: int) -> float:  # it grows with the count
        found = certificate_of_count(0, count, votes, alpha, sigma, failure_mass)
        return -np.inf if found.prediction == ABSTAIN else found.radius

    last = bisect_right(range(1, votes + 1), radius, key=radius_of)
    return min(max(last, 1), min(last + 1, votes), key=lambda count: abs(radius_of(count) - radius))


def _with_fewer(point: Point, made: MadeWith, path: Path, n: int, seed: int) -> Point:
    """The point's certificate from n of its votes. An abstention stays, because its votes are not known."""
    votes = made.votes if point.votes is None else point.votes
    fewer = point if point.votes is None else point._replace(votes=min(max(votes, 0), n))
    if point.predict == ABSTAIN:
        return fewer
    if not 0 < votes <= made.votes:
        said = f"{votes} votes" if votes >= 0 else "votes that are no number"
        raise InputError(f"{path}: point {point.idx} has {said}; give a whole number of at most {made.votes}")
    settings = made.alpha, made.sigma, made.failure_mass
    count = count_of_radius(float(point.radius), votes, *settings)
    nearest = certificate_of_count(point.predict, count, votes, *settings).radius
    if abs(nearest - float(point.radius)) > rounding_error(point.radius):
        raise InputError(
            f"{path}: no count of {votes} votes has the radius {point.radius} of point {point.idx} at sigma "
            f"{made.sigma:g}, alpha {made.alpha:g}, failure mass {made.failure_mass:.2g}; give those that the file was "
            "made with"
        )
    if votes <= n:
        return fewer
    draw = np.random.default_rng([seed, Stream.VOTES_TAKEN, point.idx])
    taken = int(draw.hypergeometric(count, votes - count, n))
    predict, radius, _ = certificate_of_count(point.predict, taken, n, *settings)
    return fewer._replace(radius=round_down(radius), predict=predict, correct=int(predict == point.label != ABSTAIN))


if __name__ == "__main__":
    run_script(main, Config, __doc__)
