"""What every optimiser of min_u f(u, v*(u)), v*(u) = argmin_v g(u, v), looks like to its caller.

An optimiser knows f, g, u and v and nothing of images. Costs are counted in gradients g_v, the unit in which methods
that differ in everything else can be compared: a product with second derivatives of g counts 2 (reverse over reverse
goes through the gradient's own graph once more), the value of g and its derivatives by u and v together 1.
"""

from collections.abc import Callable
from typing import Any, Protocol

from bilevel_optimizer.adam import AdamState
from bilevel_optimizer.trees import Tree

# Arguments: u, v, data (whatever one outer step needs: minibatches, seeds) and draw (int32, (): the number of
# this evaluation within the outer step, so that a stochastic objective can redraw its noise).
Objective = Callable[[Tree, Tree, Any, Any], Any]


class BilevelOptimizer(Protocol):
    """An optimiser: a frozen dataclass of its settings, f and g among them. All methods are pure."""

    def init_lower(self, v: Tree) -> Tree:
        """What follows v from step to step, at the start and after v is re-initialised."""

    def step(
        self, u: Tree, v: Tree, lower: Tree, upper: AdamState, data: Any
    ) -> tuple[Tree, Tree, Tree, AdamState, Any]:
        """One outer step, which ends with one projected Adam step on u: the new (u, v, lower, upper) and the metrics.

        u may be a minibatch of the variables to find; ``upper`` is then shaped as the minibatch, and its moments
        persist while the content of u changes. metrics: a named tuple of scalars, f and g among them.
        """

    def gradients(self, of_f: float) -> float:
        """Cost of a step in gradients g_v. of_f: that of one gradient of f."""


def unconstrained(u: Tree, _data: Any) -> Tree:
    """The projection of a problem without constraints."""
    return u
