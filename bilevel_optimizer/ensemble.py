"""Several lower levels at once: u is moved by the mean of what each of them asks for.

Networks of other weights and other ages keep the upper level from fitting one of them ("MetaPoison", NeurIPS 2020,
arXiv 2004.00225).
"""

from dataclasses import dataclass, field
from typing import Any

from bilevel_optimizer.bilevel import BilevelOptimizer
from bilevel_optimizer.trees import Tree, mean


@dataclass(frozen=True)
class Ensemble(BilevelOptimizer):
    """One optimiser for each of several v: the upper objective is the mean over them.

    v and what follows it are tuples with an entry per lower level, which may be re-initialised by itself. Metrics are
    means. Make it with ``of``.
    """

    member: BilevelOptimizer = field(kw_only=True)
    count: int = field(kw_only=True)

    @classmethod
    def of(cls, member: BilevelOptimizer, count: int) -> "Ensemble":
        """``count`` lower levels of one optimiser, whose f, g, rates and projection it has."""
        return cls(member.f, member.g, member.lr_v, member.lr_u, member.project, member=member, count=count)

    def init_lower(self, v: tuple[Tree, ...]) -> tuple[Any, ...]:
        """That of every lower level. See bilevel.BilevelOptimizer."""
        return tuple(self.member.init_lower(one) for one in v)

    def direction(
        self, u: Tree, v: tuple[Tree, ...], lower: tuple[Any, ...], data: Any
    ) -> tuple[Tree, tuple[Tree, ...], tuple[Any, ...], Any]:
        """A step of every lower level, and the mean direction. See bilevel.BilevelOptimizer."""
        steps = [self.member.direction(u, one, of_one, data) for one, of_one in zip(v, lower, strict=True)]
        directions, v, lower, metrics = zip(*steps, strict=True)
        return mean(directions), v, lower, mean(metrics)

    def gradients(self, of_f: float) -> float:
        """Those of every lower level. See bilevel.BilevelOptimizer."""
        return self.count * self.member.gradients(of_f)
