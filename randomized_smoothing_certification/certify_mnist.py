"""Certify an MNIST model on 500 random test points of the target class (CVPR 2021, section 4).

    python randomized_smoothing_certification/certify_mnist.py --model m.keras --out m_class8.tsv
    python randomized_smoothing_certification/certify_mnist.py --help

Run the same command again to continue a run that was stopped.
"""

from pathlib import Path
from typing import Literal

from randomized_smoothing_certification.certification_run import CertificationConfig, certify_test_points
from runtime.command_line import run_script
from runtime.provenance import project_path


class Config(CertificationConfig):
    target_class: int | Literal["all"] = 8
    sigma: float = 0.5  # smoothing noise, pixels in [0, 1]. The paper has 0.25, 0.5 and 0.75
    points: int = 500
    n: int = 100_000  # fresh noisy votes that bound the class's probability
    data_dir: Path = project_path("data/MNIST")


if __name__ == "__main__":
    run_script(certify_test_points, Config, __doc__, CertificationConfig)
