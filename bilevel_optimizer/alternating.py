"""Alternating minimisation of one objective: min over u and v of g(u, v), the bilevel problem whose f is g itself.

Source: error-minimising noise (Huang et al., "Unlearnable Examples", ICLR 2021, arXiv 2101.04898) and, with a training
loss under Gaussian noise for g, its stable form (Liu et al., arXiv 2311.13091).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from bilevel_optimizer.adam import AdamState, adam_init
from bilevel_optimizer.autodiff import value_and_grad
from bilevel_optimizer.bilevel import TwoLoops
from bilevel_optimizer.trees import Tree, norm


class AlternatingMetrics(NamedTuple):
    """Scalars of one step, at the new v."""

    f: Any  # g: the upper objective is the lower one
    g: Any
    hypergradient_norm: Any


@dataclass(frozen=True)
class Alternating(TwoLoops):
    """Adam steps on v, then one projected Adam step on u, both down g.

    By the envelope theorem the derivative of u -> g(u, v*(u)), v*(u) = argmin_v g(u, v), is g_u(u, v*): no second
    derivative is needed.

    f is not looked at. The steps on v see draws 0 .. lower_steps - 1 of g, that on u the next one.
    """

    def init_lower(self, v: Tree) -> AdamState:
        """Fresh moments."""
        return adam_init(v)

    def direction(
        self, u: Tree, v: Tree, lower: AdamState, data: Any
    ) -> tuple[Tree, Tree, AdamState, AlternatingMetrics]:
        """The steps on v, and g_u. See bilevel.BilevelOptimizer."""
        v, lower = self.minimise_lower(u, v, lower, data)
        g, gradient = value_and_grad(lambda u: self.g(u, v, data, self.lower_steps))(u)
        return gradient, v, lower, AlternatingMetrics(g, g, norm(gradient))

    def gradients(self, of_f: float) -> float:
        """Those of the steps on v, and one more; there is no f. See bilevel.BilevelOptimizer."""
        return self.lower_steps + 1
