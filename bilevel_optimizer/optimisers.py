"""The optimisers by name. A new optimiser is one file and one line here."""

from bilevel_optimizer.approxgrad import ApproxGrad, FewSteps
from bilevel_optimizer.bilevel import BilevelOptimizer
from bilevel_optimizer.error_minimising import ErrorMinimising
from bilevel_optimizer.f2sa import F2sa
from bilevel_optimizer.soba import Soba

OPTIMISERS: dict[str, type[BilevelOptimizer]] = {
    optimiser.name: optimiser for optimiser in (ApproxGrad, FewSteps, Soba, F2sa, ErrorMinimising)
}
