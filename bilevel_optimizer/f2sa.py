"""F2SA: min_u f(u, v*(u)), v*(u) = argmin_v g(u, v), from first derivatives alone.

Source: Kwon, Kwon, Wright, Nowak, "A fully first-order method for stochastic bilevel optimization" (ICML 2023,
arXiv 2301.10945), section 3 and algorithm 1. The penalty method of the attack's authors (Mehra and Hamm, arXiv
1911.03432) has the same idea with the norm of g_v in place of the difference of two lower levels.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

from bilevel_optimizer.adam import AdamState, adam_init, adam_step
from bilevel_optimizer.autodiff import value_and_grad
from bilevel_optimizer.bilevel import BilevelOptimizer, Direction, Metrics, Problem
from bilevel_optimizer.trees import Tree, norm
from runtime.bounds import NOT_NEGATIVE, POSITIVE
from runtime.lazy import ops, tree


class F2saState(NamedTuple):
    """The state of the lower level beside v: y, which minimises f / multiplier + g, and the Adam states of v and y."""

    adam: AdamState
    y: Tree
    adam_y: AdamState
    steps: Any  # int32 (), steps since v was initialised


@dataclass(frozen=True, kw_only=True)
class F2sa(BilevelOptimizer):
    """A single loop of first derivatives (F2SA, arXiv 2301.10945).

    It has two lower levels: v descends g, and y descends f / multiplier + g. The direction for u is
    D_u = f_u(u, y) + multiplier (g_u(u, y) - g_u(u, v)). For converged v and y it differs from the derivative of
    u -> f(u, v*(u)) by O(1 / multiplier) (arXiv 2301.10945, lemma 3.1). g_u(u, y) and g_u(u, v) see the same draw of g:
    with different draws, the multiplier would scale up the difference of their noise. u, v and y each move by one Adam
    step. The paper's y descends f + multiplier g. Adam ignores the scale of an objective, so the steps are the same.

    g sees draw 0, f draw 1. lr_v is the learning rate of y too. A larger multiplier also scales up the error of a y
    that has not converged. On the digits, 1 made stronger poison than 10 and 100 (a trial that was not recorded).
    """

    name: ClassVar[str] = "f2sa"

    multiplier: Annotated[float, POSITIVE] = 1.0
    """Multiplier of the training loss at the start (lambda)."""
    growth: Annotated[float, NOT_NEGATIVE] = 0.0
    """Growth of the multiplier per outer step."""

    def init_lower(self, v: Tree) -> F2saState:
        y = tree.map_structure(ops.convert_to_tensor, v)
        return F2saState(adam_init(v), y, adam_init(v), ops.zeros((), "int32"))

    def directions(
        self, problem: Problem, u: Tree, v: Tree, y: Tree, multiplier: Any, data: Any
    ) -> tuple[Tree, Tree, Tree, Metrics]:
        """(D_u, gradient of g by v, gradient of f / multiplier + g by y) shaped as (u, v, v), and the metrics.

        The metric f is at y, and g at v. g_of_y is above g, because y also lowers f.
        """

        def penalised(uy: tuple[Tree, Tree]) -> tuple[Any, tuple[Any, Any]]:
            u, y = uy
            f, g = problem.f(u, y, data, 1), problem.g(u, y, data, 0)
            return f / multiplier + g, (f, g)

        (_, (f, g_of_y)), (u_of_y, d_y) = value_and_grad(penalised, has_aux=True)((u, y))
        g, (u_of_v, d_v) = value_and_grad(lambda uv: problem.g(uv[0], uv[1], data, 0))((u, v))
        d_u = tree.map_structure(lambda a, b: multiplier * (a - b), u_of_y, u_of_v)
        metrics = {"f": f, "g": g, "g_of_y": g_of_y, "multiplier": multiplier, "hypergradient_norm": norm(d_u)}
        return d_u, d_v, d_y, metrics

    def direction(self, problem: Problem, u: Tree, v: Tree, lower: F2saState, data: Any) -> Direction:
        """One step of v and y, and D_u at the point before it, as in SOBA. The paper takes D_u after its steps."""
        multiplier = self.multiplier + self.growth * ops.cast(lower.steps, tree.flatten(v)[0].dtype)
        d_u, d_v, d_y, metrics = self.directions(problem, u, v, lower.y, multiplier, data)
        v, adam = adam_step(v, d_v, lower.adam, self.lr_v)
        y, adam_y = adam_step(lower.y, d_y, lower.adam_y, self.lr_v)
        return d_u, v, F2saState(adam, y, adam_y, lower.steps + 1), metrics

    def gradients(self, cost_of_f: float) -> float:
        """Cost of the gradients of g at v and at y, and of the gradient of f."""
        return 2 + cost_of_f
