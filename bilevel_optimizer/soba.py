"""SOBA: a single loop for min_u f(u, v*(u)), v*(u) = argmin_v g(u, v), that moves u, v and p once at each step.

Source: Dagréou, Ablin, Vaiter, Moreau, "A framework for bilevel optimization that enables stochastic and global
variance reduction algorithms" (NeurIPS 2022, arXiv 2201.13409), section 2 and algorithm 1.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

from bilevel_optimizer.adam import AdamState, adam_init, adam_step
from bilevel_optimizer.autodiff import second_derivatives, value_and_grad
from bilevel_optimizer.bilevel import BilevelOptimizer, Direction, Metrics, Problem
from bilevel_optimizer.trees import Tree, add_scaled, norm, zeros_like
from runtime.bounds import NOT_NEGATIVE, POSITIVE
from runtime.lazy import ops, tree


class SobaState(NamedTuple):
    """The state of the lower level: the Adam state of v, and p, which follows the solution of g_vv p = f_v."""

    adam: AdamState
    p: Tree


@dataclass(frozen=True, kw_only=True)
class Soba(BilevelOptimizer):
    """A single loop with second derivatives (SOBA, arXiv 2201.13409).

    It has three directions (eq. 4), from one evaluation of g's derivatives:
    D_v = g_v, D_p = (g_vv + damping I) p - f_v, D_u = f_u - g_uv p, all at the point before the step. No direction
    waits for another, and one pass through the graph of g_v gives both products. u and v move by Adam, as in
    approxgrad.py. p moves by -lr_p D_p, as in the paper: p is a running average of f_v, whose scale Adam would lose.

    g sees draw 0, f draw 1.
    """

    name: ClassVar[str] = "soba"

    lr_p: Annotated[float, POSITIVE] = 1e-2
    """Learning rate of the linear system's solution (p). Stable below 2 / (largest eigenvalue of g_vv + damping)."""
    damping: Annotated[float, NOT_NEGATIVE] = 0.1
    """Multiple of the identity added to the lower level's Hessian."""

    def init_lower(self, v: Tree) -> SobaState:
        return SobaState(adam_init(v), zeros_like(v))

    def directions(self, problem: Problem, u: Tree, v: Tree, p: Tree, data: Any) -> tuple[Tree, Tree, Tree, Metrics]:
        """(D_u, D_v, D_p) shaped as (u, v, v), and the metrics.

        Where D_v and D_p are 0 and damping is 0, D_u is the derivative of u -> f(u, v*(u)). The metric residual is that
        of the linear system, ||A p - f_v|| / ||f_v||.
        """
        f, (f_u, f_v) = value_and_grad(lambda uv: problem.f(uv[0], uv[1], data, 1))((u, v))
        g = second_derivatives(lambda u, v: problem.g(u, v, data, 0), u, v)
        cross, product = g.both(p)
        d_u = add_scaled(f_u, -1.0, cross)
        d_p = tree.map_structure(lambda hp, p, b: hp + self.damping * p - b, product, p, f_v)
        residual = norm(d_p) / ops.maximum(norm(f_v), 1e-30)
        metrics = {"f": f, "g": g.value, "residual": residual, "hypergradient_norm": norm(d_u)}
        return d_u, g.gradient, d_p, metrics

    def direction(self, problem: Problem, u: Tree, v: Tree, lower: SobaState, data: Any) -> Direction:
        """One step of v and p, and D_u at the point before it."""
        d_u, d_v, d_p, metrics = self.directions(problem, u, v, lower.p, data)
        v, adam = adam_step(v, d_v, lower.adam, self.lr_v)
        return d_u, v, SobaState(adam, add_scaled(lower.p, -self.lr_p, d_p)), metrics

    def gradients(self, cost_of_f: float) -> float:
        """Cost of g with its gradient, of both products, and of the gradient of f."""
        return 1 + 2 + cost_of_f
