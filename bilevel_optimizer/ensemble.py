"""Several lower levels at once: u moves by the mean of their directions.

Networks with different weights and ages keep the upper level from overfitting to one network ("MetaPoison", NeurIPS
2020, arXiv 2004.00225).
"""

from dataclasses import dataclass
from typing import Any

from bilevel_optimizer.bilevel import BilevelOptimizer, Problem
from bilevel_optimizer.trees import Tree, mean

Several = tuple[Tree, ...]


@dataclass(frozen=True, kw_only=True)
class Ensemble(BilevelOptimizer):
    """One optimiser for each of several v. The upper objective is the mean over them.

    v and the state of the lower level are tuples with an entry per lower level. Metrics are means.
    """

    member: BilevelOptimizer
    """Optimiser of each lower level."""
    count: int
    """Number of lower levels."""

    def init_lower(self, v: Several) -> Several:
        return tuple(self.member.init_lower(one) for one in v)

    def renew(self, v: Several, lower: Several, number: int, fresh: Tree) -> tuple[Several, Several]:
        """(v, lower) with ``fresh`` as v of the given number, and with a fresh state for it."""

        def replaced(several: Several, one: Tree) -> Several:
            return (*several[:number], one, *several[number + 1 :])

        return replaced(v, fresh), replaced(lower, self.member.init_lower(fresh))

    def direction(
        self, problem: Problem, u: Tree, v: Several, lower: Several, data: Any
    ) -> tuple[Tree, Several, Several, Any]:
        steps = [self.member.direction(problem, u, *one, data) for one in zip(v, lower, strict=True)]
        directions, v, lower, metrics = zip(*steps, strict=True)
        return mean(directions), v, lower, mean(metrics)

    def gradients(self, cost_of_f: float) -> float:
        return self.count * self.member.gradients(cost_of_f)
