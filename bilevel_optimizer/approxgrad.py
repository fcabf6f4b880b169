"""ApproxGrad: approximate hypergradient descent on min_u f(u, v*(u)), v*(u) = argmin_v g(u, v).

Source: Pedregosa, "Hyperparameter optimization with approximate gradient" (ICML 2016, arXiv 1602.02355), in the
form used by "How Robust are Randomized Smoothing based Defenses to Data Poisoning?" (CVPR 2021, arXiv
2012.01274), section 3 and algorithm 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias

from bilevel_optimizer.adam import AdamState, adam_init
from bilevel_optimizer.autodiff import grad, second_derivatives, value_and_grad
from bilevel_optimizer.bilevel import Direction, Metrics, Problem, TwoLoops, minimise_lower
from bilevel_optimizer.linear_solvers import AdamResidual, ConjugateGradient, LinearSolver, NeumannSeries
from bilevel_optimizer.trees import Tree, add_scaled, norm, zeros_like
from runtime.bounds import NOT_NEGATIVE, POSITIVE
from runtime.files import InputError
from runtime.lazy import ops, tree

SOLVERS: dict[str, Callable[["ApproxGrad"], LinearSolver]] = {
    "adam": lambda a: AdamResidual(a.solver_steps, a.lr_p),
    "cg": lambda a: ConjugateGradient(a.solver_steps, minimum_curvature=a.damping),
    "neumann": lambda a: NeumannSeries(a.solver_steps, scale=a.lr_p),
}
"""Constructors of the solvers by name, called with the settings of ApproxGrad."""

SolverName: TypeAlias = Literal[tuple(SOLVERS)]  # type: ignore[valid-type]


class ApproxGradState(NamedTuple):
    """The state of the lower level: the Adam state of v, the solution p of the linear system, the solver's state."""

    adam: AdamState
    p: Tree
    solver: Tree


@dataclass(frozen=True, kw_only=True)
class ApproxGrad(TwoLoops):
    """Approximate hypergradient descent (published), with a linear system of second derivatives in each outer step.

    An outer step is T1 steps on v, T2 iterations on (g_vv + damping I) p = f_v, and one step on u. p is kept between
    outer steps (warm start). Raises InputError if conjugate gradient is chosen for a system that changes between
    iterations.
    """

    name: ClassVar[str] = "approxgrad"

    solver: SolverName = "adam"
    """Solver of the linear system: Adam on the residual (published), conjugate gradient, Neumann series."""
    solver_steps: Annotated[int, POSITIVE] = 10
    """Iterations of the linear solver in an outer step (T2)."""
    lr_p: Annotated[float, POSITIVE] = 1e-2
    """Adam learning rate of the linear system's solution (p). With solver neumann: the factor of each step (eta). Not
    used by cg."""
    damping: Annotated[float, NOT_NEGATIVE] = 1e-3
    """Multiple of the identity added to the lower level's Hessian."""
    redraw_noise: Literal["training_and_validation", "validation", "none"] = "training_and_validation"
    """Noise, crops and flips that each iteration of the linear solver draws anew. 'training_and_validation': those of
    the training images (g_vv) and of the validation images (f_v), published for Gaussian augmentation, and for MACER on
    CIFAR10, where only crops and flips change. 'validation': only those of f_v, published for SmoothAdv, whose training
    noise is fixed per image. 'none': one draw for the whole system, published for MACER on MNIST, where both noises are
    fixed per image. 'none' saves a forward pass and a gradient of the objective in each iteration. Conjugate gradient
    needs 'none'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver == "cg" and self.redraw_noise != "none":
            raise InputError("solver cg needs one fixed linear system; add --redraw-noise none")

    @property
    def linear_solver(self) -> LinearSolver:
        """The solver with its settings."""
        return SOLVERS[self.solver](self)

    def init_lower(self, v: Tree) -> ApproxGradState:
        return ApproxGradState(adam_init(v), zeros_like(v), self.linear_solver.init(v))

    def hypergradient(
        self, problem: Problem, u: Tree, v: Tree, lower: ApproxGradState, data: Any
    ) -> tuple[Tree, ApproxGradState, Metrics]:
        """df/du = f_u - g_uv p at (u, v), where p solves (g_vv + damping I) p = f_v approximately.

        Where g_v(u, v) = 0, the solver has converged and damping is 0, this is the derivative of u -> f(u, v*(u)), by
        the implicit function theorem. Elsewhere it is the approximation of arXiv 1602.02355, algorithm 1 (arXiv
        2012.01274, eq. 4).

        u, v: nested structures of float tensors. lower: the last p, from which the solver starts, and the solver's
        state. Its Adam state is passed through. data: the argument ``data`` of f and g.

        Draws: let d be T1 + the solver's evaluations. g sees draw d, and f sees draw d + 1. Within the linear system, g
        sees draws T1 to d - 1 if redraw_noise is training_and_validation, and f sees the draws from d + 2 on unless
        redraw_noise is none.

        Returns (hypergradient shaped as u, lower state with the new p, metrics at v). The metric residual is
        ||A p - f_v|| / ||f_v||, with the draws outside the linear system. solver_ended is a value of
        linear_solvers.Ended. Raises nothing: the metrics show NaN.
        """
        draw = self.lower_steps + self.linear_solver.evaluations
        f, (f_u, f_v) = value_and_grad(lambda uv: problem.f(uv[0], uv[1], data, draw + 1))((u, v))
        g = second_derivatives(lambda u, v: problem.g(u, v, data, draw), u, v)

        def system(i: Any) -> tuple[Callable[[Tree], Tree], Tree]:
            product, b = g.matvec, f_v
            if self.redraw_noise == "training_and_validation":
                product = second_derivatives(lambda _, v: problem.g(u, v, data, self.lower_steps + i), (), v).matvec
            if self.redraw_noise != "none":
                b = grad(lambda v: problem.f(u, v, data, draw + 2 + i))(v)
            return lambda p: add_scaled(product(p), self.damping, p), b

        solution = self.linear_solver(system, lower.p, lower.solver)
        p = solution.x
        cross, product = g.both(p)
        hypergradient = add_scaled(f_u, -1.0, cross)
        residual = tree.map_structure(lambda hp, p, b: hp + self.damping * p - b, product, p, f_v)
        metrics = {
            "f": f, "g": g.value, "residual": norm(residual) / ops.maximum(norm(f_v), 1e-30),
            "hypergradient_norm": norm(hypergradient),
            "solver_ended": solution.ended, "solver_iterations": solution.iterations,
        }  # fmt: skip
        return hypergradient, ApproxGradState(lower.adam, p, solution.state), metrics

    def direction(self, problem: Problem, u: Tree, v: Tree, lower: ApproxGradState, data: Any) -> Direction:
        """T1 steps on v, then the linear system and the hypergradient."""
        v, adam = minimise_lower(problem, u, v, lower.adam, data, self.lower_steps, self.lr_v)
        hypergradient, lower, metrics = self.hypergradient(problem, u, v, lower._replace(adam=adam), data)
        return hypergradient, v, lower, metrics

    def gradients(self, cost_of_f: float) -> float:
        """Cost of T1 gradients of g, the solver, the hypergradient's products and the gradients of f."""
        systems = self.linear_solver.evaluations if self.redraw_noise == "training_and_validation" else 0
        right_sides = 0 if self.redraw_noise == "none" else self.linear_solver.evaluations
        return self.lower_steps + (1 + right_sides) * cost_of_f + systems + 2 * self.linear_solver.products + 1 + 2


@dataclass(frozen=True, kw_only=True)
class FewSteps(ApproxGrad):
    """ApproxGrad with few, warm-started steps (arXiv 2111.14580).

    Source: Arbel and Mairal, "Amortized implicit differentiation for stochastic bilevel optimization" (ICLR 2022).
    """

    name: ClassVar[str] = "few_steps"

    lower_steps: Annotated[int, POSITIVE] = 1
    solver: SolverName = "cg"
    solver_steps: Annotated[int, POSITIVE] = 2
    damping: Annotated[float, NOT_NEGATIVE] = 0.1
    redraw_noise: Literal["none"] = "none"
    """One draw of the noise for the whole linear system."""
