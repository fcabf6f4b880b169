"""What every optimiser of min_u f(u, v*(u)), v*(u) = argmin_v g(u, v), has in common.

An optimiser knows f, g, u and v and nothing of images. Costs are counted in gradients g_v, the unit in which methods
that differ in everything else can be compared: a product with second derivatives of g counts 2 (reverse over reverse
goes through the gradient's own graph once more), the value of g and its derivatives by u and v together 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bilevel_optimizer.adam import AdamState, adam_step
from bilevel_optimizer.autodiff import value_and_grad
from bilevel_optimizer.trees import Tree
from runtime.lazy import ops

# Arguments: u, v, data (whatever one outer step needs: minibatches, seeds) and draw (int32, (): the number of
# this evaluation within the outer step, so that a stochastic objective can redraw its noise).
Objective = Callable[[Tree, Tree, Any, Any], Any]


def unconstrained(u: Tree, _data: Any) -> Tree:
    """The projection of a problem without constraints."""
    return u


@dataclass(frozen=True)
class BilevelOptimizer(ABC):
    """An optimiser: a frozen dataclass of its settings. All methods are pure and may be compiled with autodiff.jit.

    f, g: upper and lower objective, each (u, v, data, draw) -> scalar tensor. lr_v, lr_u: learning rates of Adam on v
    and u. project(u, data): the feasible point nearest to u.
    """

    f: Objective
    g: Objective
    lr_v: float = 1e-3
    lr_u: float = 0.1
    project: Callable[[Tree, Any], Tree] = unconstrained

    @abstractmethod
    def init_lower(self, v: Tree) -> Any:
        """What follows v from step to step, at the start and after v is re-initialised."""

    @abstractmethod
    def direction(self, u: Tree, v: Tree, lower: Any, data: Any) -> tuple[Tree, Tree, Any, Any]:
        """One step of the lower level: (an estimate of df/du shaped as u, the new v and lower, metrics).

        metrics: a named tuple of scalars, f and g among them.
        """

    @abstractmethod
    def gradients(self, of_f: float) -> float:
        """Cost of a step in gradients g_v. of_f: that of one gradient of f."""

    def step(self, u: Tree, v: Tree, lower: Any, upper: AdamState, data: Any) -> tuple[Tree, Tree, Any, AdamState, Any]:
        """One outer step, which ends with one projected Adam step on u: the new (u, v, lower, upper) and the metrics.

        u may be a minibatch of the variables to find; ``upper`` is then shaped as the minibatch, and its moments
        persist while the content of u changes.
        """
        direction, v, lower, metrics = self.direction(u, v, lower, data)
        u, upper = adam_step(u, direction, upper, self.lr_u)
        return self.project(u, data), v, lower, upper, metrics


@dataclass(frozen=True)
class TwoLoops(BilevelOptimizer):
    """An optimiser that moves v several times in each outer step. lower_steps: how often (T1)."""

    lower_steps: int = 10

    def minimise_lower(self, u: Tree, v: Tree, adam: AdamState, data: Any) -> tuple[Tree, AdamState]:
        """T1 Adam steps on v with gradient g_v, u held. Uses draws 0 .. T1 - 1."""

        def step(i: Any, carry: tuple[Tree, AdamState]) -> tuple[Tree, AdamState]:
            v, adam = carry
            _, gradient = value_and_grad(lambda v: self.g(u, v, data, i))(v)
            return adam_step(v, gradient, adam, self.lr_v)

        return ops.fori_loop(0, self.lower_steps, step, (v, adam))
