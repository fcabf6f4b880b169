"""The decision boundary before and after poisoning, on points in the plane: a linear classifier and a small network.

Paper: arXiv 2012.01274, the picture of the decision boundary.

    python evaluation/boundary/two_dimensional.py
"""

from dataclasses import dataclass

from evaluation.boundary.experiment import draw_boundaries
from evaluation.boundary.study import BoundaryConfig
from runtime.command_line import run_script


@dataclass(frozen=True, kw_only=True)
class Config(BoundaryConfig):
    target_class: int = 1  # 0 or 1
    epsilon: float = 0.08  # l-infinity, coordinates in [0, 1]
    sigma: float = 0.08  # standard deviation of the noise
    runs: int = 3  # victims per row
    seed: int = 0


if __name__ == "__main__":
    run_script(draw_boundaries, Config, __doc__)
