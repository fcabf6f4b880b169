"""The common base of all optimisers of min_u f(u, v*(u)), v*(u) = argmin_v g(u, v).

An optimiser knows f, g, u and v, and no images. Costs are counted in gradients g_v, so that optimisers that work in
different ways can be compared. A product with second derivatives of g counts 2, because reverse over reverse goes
through the gradient's own graph once more. The value of g with its derivatives by u and v counts 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

from bilevel_optimizer.adam import AdamState, adam_step
from bilevel_optimizer.autodiff import grad
from bilevel_optimizer.trees import Tree, mean
from runtime.bounds import POSITIVE, require_bounds, require_recordable
from runtime.lazy import ops

# Arguments: u, v, data (whatever one outer step needs: minibatches, seeds) and draw (int32, (): the number of
# this evaluation within the outer step, so that a stochastic objective can redraw its noise).
Objective = Callable[[Tree, Tree, Any, Any], Any]
Metrics = dict[str, Any]  # scalars of one step by name, f and g among them
Several = tuple[Tree, ...]  # one structure for each network of the lower level
Direction = tuple[Tree, Tree, Any, Metrics]  # estimate of df/du shaped as u, new v, new state for v, metrics


class Problem(NamedTuple):
    """The bilevel problem: min over feasible u of f(u, v*(u)), where v*(u) = argmin_v g(u, v)."""

    f: Objective  # upper objective, (u, v, data, draw) -> scalar tensor
    g: Objective  # lower objective, likewise
    project: Callable[[Tree, Any], Tree] = lambda u, data: u  # the nearest feasible point. Default: all are feasible


@dataclass(frozen=True, kw_only=True)
class BilevelOptimizer(ABC):
    """An optimiser: a frozen dataclass of its settings. All methods are pure and may be compiled with autodiff.jit.

    Raises InputError on a setting outside its declared bounds, and for a class without its own name and decorator.
    """

    name: ClassVar[str]
    """Name of the optimiser in plans, records and on the command line."""

    lr_u: Annotated[float, POSITIVE] = 0.1
    """Adam learning rate of the poison (u), in pixel units of [0, 1], for a class_pattern in multiples of epsilon. If
    it is epsilon (for a class_pattern: 1) or more, a step is nearly a sign step with projection."""
    lr_v: Annotated[float, POSITIVE] = 1e-3
    """Adam learning rate of the weights (v)."""

    def __post_init__(self) -> None:
        require_recordable(type(self))
        require_bounds(self)

    @abstractmethod
    def init_lower(self, v: Tree) -> Any:
        """The optimiser's state for v, at the start and after v is re-initialised."""

    @abstractmethod
    def direction(self, problem: Problem, u: Tree, v: Tree, lower: Any, data: Any) -> Direction:
        """One step of the lower level, and the direction of u. lower: the optimiser's state for v."""

    @abstractmethod
    def gradients(self, cost_of_f: float) -> float:
        """Cost of a step of one lower level in gradients g_v. cost_of_f: cost of one gradient of f."""

    def step(
        self, problem: Problem, u: Tree, v: Several, lower: Several, upper: AdamState, data: Any
    ) -> tuple[Tree, Several, Several, AdamState, Metrics]:
        """One outer step: one of each lower level, then a projected Adam step on u by the mean of their directions.

        v, lower: tuples of the weights and of the optimiser's state of each network. With several networks, f is the
        mean over them. Different weights and ages keep the upper level from overfitting to one network ("MetaPoison",
        NeurIPS 2020, arXiv 2004.00225). Returns the new (u, v, lower, upper) and the mean metrics.

        u may be a minibatch of the variables to optimise. Then ``upper`` has the minibatch's shape. Its moments persist
        from one minibatch to the next, though these hold other images, as in the published code.
        """
        steps = [self.direction(problem, u, *one, data) for one in zip(v, lower, strict=True)]
        directions, v, lower, metrics = zip(*steps, strict=True)
        u, upper = adam_step(u, mean(directions), upper, self.lr_u)
        return problem.project(u, data), v, lower, upper, mean(metrics)


@dataclass(frozen=True, kw_only=True)
class TwoLoops(BilevelOptimizer):
    """An optimiser that moves v several times in each outer step."""

    lower_steps: Annotated[int, POSITIVE] = 10
    """Adam steps on the weights in an outer step (T1)."""


def minimise_lower(
    problem: Problem, u: Tree, v: Tree, adam: AdamState, data: Any, steps: int, lr_v: float
) -> tuple[Tree, AdamState]:
    """Adam steps on v with gradient g_v and fixed u. Uses draws 0 .. steps - 1. Returns the new v and Adam state."""

    def step(i: Any, carry: tuple[Tree, AdamState]) -> tuple[Tree, AdamState]:
        v, adam = carry
        return adam_step(v, grad(lambda v: problem.g(u, v, data, i))(v), adam, lr_v)

    return ops.fori_loop(0, steps, step, (v, adam))
