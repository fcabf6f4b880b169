"""Certify a model of the bundled 8x8 digits, the offline stand-in for MNIST (CVPR 2021, section 4).

    python randomized_smoothing_certification/certify_digits.py --model m.keras --out m_class8.tsv
    python randomized_smoothing_certification/certify_digits.py --help

Run the same command again to continue a run that was stopped.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.runs import project_path, run_script
from randomized_smoothing_certification.certification_run import CertificationConfig, certify_test_points


@dataclass(frozen=True, kw_only=True)
class Config(CertificationConfig):
    """Settings of the certification."""

    target_class: int | Literal["all"] = 8
    """Class whose test points are certified, or 'all'."""
    sigma: float = 0.25
    """Noise standard deviation in pixel units of [0, 1]."""
    points: int = 500
    """Test points per class, drawn at random."""
    n0: int = 100
    """Noisy votes that select the class."""
    n: int = 100_000
    """Fresh noisy votes that bound the class's probability."""
    alpha: float = 0.001
    """Probability that a certificate is wrong, per point."""
    data_dir: Path = project_path("data/DIGITS")
    """Folder of the prepared arrays."""


if __name__ == "__main__":
    run_script(certify_test_points, Config, __doc__)
