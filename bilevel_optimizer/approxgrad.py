"""ApproxGrad: approximate hypergradient descent on min_u f(u, v*(u)), v*(u) = argmin_v g(u, v).

Source: Pedregosa, "Hyperparameter optimization with approximate gradient" (ICML 2016, arXiv 1602.02355), in the
form used by "How Robust are Randomized Smoothing based Defenses to Data Poisoning?" (CVPR 2021, arXiv
2012.01274), section 3 and algorithm 1.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bilevel_optimizer.adam import AdamState, adam_init
from bilevel_optimizer.autodiff import grad, second_derivatives, value_and_grad
from bilevel_optimizer.bilevel import TwoLoops
from bilevel_optimizer.linear_solvers import AdamResidual, LinearSolver
from bilevel_optimizer.trees import Tree, add_scaled, norm, tree_map, zeros_like
from runtime.lazy import ops


class LowerState(NamedTuple):
    """What follows v: its Adam state, the solution p of the linear system, and the solver's own state."""

    adam: AdamState
    p: Tree
    solver: Tree


class Metrics(NamedTuple):
    """Scalars of one outer step, at the new v."""

    f: Any  # upper objective
    g: Any  # lower objective
    residual: Any  # of the linear system, ||A p - f_v|| / ||f_v||
    hypergradient_norm: Any
    solver_ended: Any  # how the linear solver ended, see linear_solvers.Ended
    solver_iterations: Any


@dataclass(frozen=True)
class ApproxGrad(TwoLoops):
    """The bilevel algorithm.

    solver: of (g_vv + damping I) p = f_v; p is kept between outer steps (warm start).
    fixed_system: whether g is one function within an outer step's linear system and cross derivative (draw is
    held), which lets every product share one first-order evaluation. When False each solver iteration sees its
    own draw of g, as the published code does with redrawn noise.
    fixed_right_side: the same of f_v. When False each solver iteration sees its own draw of f.
    """

    damping: float = 1e-3
    solver: LinearSolver = field(default_factory=AdamResidual)
    fixed_system: bool = True
    fixed_right_side: bool = True

    def init_lower(self, v: Tree) -> LowerState:
        """The state at the start and after v is re-initialised: p = 0, fresh moments."""
        return LowerState(adam_init(v), zeros_like(v), self.solver.init(v))

    def hypergradient(self, u: Tree, v: Tree, lower: LowerState, data: Any) -> tuple[Tree, LowerState, Metrics]:
        """df/du = f_u - g_uv p at (u, v), where p solves (g_vv + damping I) p = f_v approximately.

        The invariant: where g_v(u, v) = 0, the solver has converged and damping is 0, this is the derivative of
        u -> f(u, v*(u)) with v*(u) = argmin_v g(u, v), by the implicit function theorem. Elsewhere it is the
        approximation of arXiv 1602.02355, algorithm 1 (arXiv 2012.01274, eq. 4).

        u: variables of the upper level. v: those of the lower level, near its minimum. Both nested structures of
        float tensors. lower: p of the step before, where the solver starts, and the solver's state; its Adam state
        is passed through. data: what f and g are given, as in ``step``. T2: the solver's evaluations. g sees draw
        T1 + T2 and, unless fixed_system, draws T1 .. T1 + T2 - 1 within the linear system. f sees draw T1 + T2 + 1 and,
        unless fixed_right_side, draws T1 + T2 + 2 .. T1 + 2 T2 + 1 within the linear system. The residual among the
        metrics is that of f's and g's draws outside it.
        Returns (hypergradient shaped as u, lower state with the new p, metrics). Raises nothing: NaN shows in the
        metrics.
        """
        draw = self.lower_steps + self.solver.evaluations
        f, (f_u, f_v) = value_and_grad(lambda uv: self.f(uv[0], uv[1], data, draw + 1))((u, v))
        g = second_derivatives(lambda u, v: self.g(u, v, data, draw), u, v)

        def damped(p: Tree) -> Tree:
            return add_scaled(g.matvec(p), self.damping, p)

        def redrawn(p: Tree, i: Any) -> Tree:
            own = second_derivatives(lambda _, v: self.g(u, v, data, self.lower_steps + i), (), v).matvec
            return add_scaled(own(p), self.damping, p)

        def redrawn_right_side(i: Any) -> Tree:
            return grad(lambda v: self.f(u, v, data, draw + 2 + i))(v)

        matvec = (lambda p, _: damped(p)) if self.fixed_system else redrawn
        right_side = (lambda _: f_v) if self.fixed_right_side else redrawn_right_side
        solution = self.solver(matvec, right_side, lower.p, lower.solver)
        p = solution.x
        cross, product = g.both(p)
        hypergradient = tree_map(lambda a, b: a - b, f_u, cross)
        residual = tree_map(lambda hp, p, b: hp + self.damping * p - b, product, p, f_v)
        metrics = Metrics(
            f,
            g.value,
            norm(residual) / ops.maximum(norm(f_v), 1e-30),
            norm(hypergradient),
            solution.ended,
            solution.iterations,
        )
        return hypergradient, LowerState(lower.adam, p, solution.state), metrics

    def direction(self, u: Tree, v: Tree, lower: LowerState, data: Any) -> tuple[Tree, Tree, LowerState, Metrics]:
        """T1 steps on v and the linear system. See bilevel.BilevelOptimizer."""
        v, adam = self.minimise_lower(u, v, lower.adam, data)
        hypergradient, lower, metrics = self.hypergradient(u, v, LowerState(adam, lower.p, lower.solver), data)
        return hypergradient, v, lower, metrics

    def gradients(self, of_f: float) -> float:
        """T1 gradients, the solver's products, those that end the step, and f's. See bilevel.BilevelOptimizer."""
        systems = 0 if self.fixed_system else self.solver.evaluations
        right_sides = 0 if self.fixed_right_side else self.solver.evaluations
        return self.lower_steps + (1 + right_sides) * of_f + systems + 2 * self.solver.products + 1 + 2
