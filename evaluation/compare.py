"""Compare the certified radii of victims of clean and of poisoned data: both ACRs, and the reduction.

    python evaluation/compare.py --clean runs/DIGITS/clean.tsv --poisoned runs/DIGITS/poisoned.tsv
    python evaluation/compare.py --clean clean_0.tsv clean_1.tsv --poisoned poisoned_0.tsv poisoned_1.tsv

A file holds the certificates of one victim. Files of other programs in the columns of Cohen et al.'s code work, too.
The interval is that of the tables of plans, see evaluation/tables/statistics.py.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from evaluation.tables.statistics import reduction_of
from randomized_smoothing_certification.certificate_file import (
    is_summarised,
    radii,
    read_certificate_record,
    read_points,
    read_whole_points,
)
from runtime.command_line import run_script
from runtime.files import InputError

SAME = ("n", "alpha", "sigma", "split", "radii")
"""Settings of a certificate that have to be equal. Files of other programs do not have them."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the comparison."""

    clean: tuple[Path, ...]
    """Certificates of victims of clean training data, one file for each seed."""
    poisoned: tuple[Path, ...]
    """Certificates of victims of poisoned training data, with the same seeds in the same order."""


def main(config: Config) -> None:
    """Print both ACRs and the reduction. Raises InputError for files that cannot be compared."""
    if len(config.clean) != len(config.poisoned) or not config.clean:
        raise InputError(
            f"--clean has {len(config.clean)} files and --poisoned {len(config.poisoned)}; give a file for each seed"
        )
    files = (*config.clean, *config.poisoned)
    points, known = [], []
    for file in files:
        if is_summarised(file):
            record = read_certificate_record(file)
            known.append((file, record["settings"]))
            points.append(read_whole_points(file, record))
        else:  # another program's
            points.append(read_points(file))
        if not points[-1] or [one[:2] for one in points[-1]] != [one[:2] for one in points[0]]:
            raise InputError(f"{file}: has other test points than {files[0]}; certify the same points")
    for (file, settings), name in product(known, SAME):
        if settings.get(name) != (other := known[0][1].get(name)):
            raise InputError(f"{file}: {name} is {settings.get(name)}, but {other} in {known[0][0]}; certify alike")
    clean, poisoned = np.maximum([radii(one) for one in points], 0).reshape(2, len(config.clean), -1)
    if (reduction := reduction_of(poisoned[np.newaxis], clean)) is None:
        raise InputError(f"{files[0]}: certifies no point, so that there is nothing to lose; train longer")
    counted = f"{len(clean)} victim{'s' * (len(clean) > 1)}, {len(points[0])} test points"
    print(f"ACR {clean.mean():.4f} of clean data, {poisoned.mean():.4f} of poisoned data ({counted})")
    over = " and ".join(reduction.over) + " of this victim" * (len(clean) == 1)
    print(f"lower by {reduction.text}" + f", 95 % over {over}" * bool(reduction.over))


if __name__ == "__main__":
    run_script(main, Config, __doc__)
