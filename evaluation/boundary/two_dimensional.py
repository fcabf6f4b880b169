"""The decision boundary before and after poisoning, on points in the plane: a linear classifier and a small network.

Paper: arXiv 2012.01274, the picture of the decision boundary.
"""

from evaluation.boundary.experiment import draw_boundaries
from evaluation.boundary.study import BoundaryConfig as Config
from runtime.command_line import run_script

if __name__ == "__main__":
    run_script(draw_boundaries, Config, __doc__)
