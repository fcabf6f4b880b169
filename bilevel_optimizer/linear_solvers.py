"""Approximate solvers of A x = b with symmetric A, from matrix-vector products. All have the same signature.

``solver.init(b)`` makes the state that is kept between calls. ``solver(system, x0, state)`` starts at x0 and returns a
Solution: x, the new state, how the solver ended, and the number of iterations. ``system(i)`` is the function p -> A p
and b at iteration i. A deterministic problem ignores i. If the objectives redraw their noise at every evaluation, each
i has its own A and b.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from bilevel_optimizer.adam import adam_init, adam_step
from bilevel_optimizer.trees import Tree, add_scaled, dot
from runtime.lazy import ops, tree

System = Callable[[Any], tuple[Callable[[Tree], Tree], Tree]]


class Ended(IntEnum):
    """How a solver ended."""

    OUT_OF_ITERATIONS = 0  # all iterations were made
    CONVERGED = 1  # the residual is within the tolerance
    NEGATIVE_CURVATURE = 2  # the system is not positive definite along the next direction


class Solution(NamedTuple):
    """Result of a solver."""

    x: Tree
    state: Tree  # kept between calls
    ended: Any  # int32 (), a value of Ended
    iterations: Any  # int32 (), number of iterations that moved x


@dataclass(frozen=True)
class LinearSolver(ABC):
    """A solver that makes at most ``iterations`` iterations (T2)."""

    iterations: int = 10

    @property
    def evaluations(self) -> int:
        """Number of different values of i that the solver passes to the system."""
        return self.iterations

    @property
    def products(self) -> int:
        """Matrix-vector products in a call that makes all iterations."""
        return self.iterations

    def init(self, b: Tree) -> Tree:
        """The state before the first call, for right-hand sides shaped as b. Empty by default."""
        return ()

    @abstractmethod
    def __call__(self, system: System, x0: Tree, state: Tree) -> Solution:
        """An approximate solution of A x = b, shaped as x0."""


@dataclass(frozen=True)
class AdamResidual(LinearSolver):
    """Adam on the squared residual ||A x - b||^2 (the paper's solver). The moments are kept between calls.

    Each step takes two matrix-vector products, for the residual r = A x - b and for A r, half the gradient. The factor
    2 does not change the steps of Adam. A step moves each entry of x by about the learning rate at most. So x stays
    finite, but the solver is slow, and the residual may grow.
    """

    learning_rate: float = 1e-2

    @property
    def products(self) -> int:
        return 2 * self.iterations

    def init(self, b: Tree) -> Tree:
        return adam_init(b)

    def __call__(self, system: System, x0: Tree, state: Tree) -> Solution:
        def step(i: Any, carry: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
            x, adam = carry
            matvec, b = system(i)
            residual = add_scaled(matvec(x), -1.0, b)
            return adam_step(x, matvec(residual), adam, self.learning_rate)

        return _all_iterations(self.iterations, *ops.fori_loop(0, self.iterations, step, (x0, state)))


@dataclass(frozen=True)
class ConjugateGradient(LinearSolver):
    """Conjugate gradient: one matrix-vector product per iteration and one for the residual at the start.

    The system must not change between iterations. The solver stops when the residual is small. Hessians of deep
    networks are indefinite. So the solver also stops, and keeps x, at the first direction whose curvature is not above
    ``minimum_curvature``: there the quadratic has no useful minimum (Nocedal and Wright, Numerical Optimization,
    section 7.1). The matrix differs between calls. So a warm start is dropped if x = 0 has no larger residual.

    tolerance: stop at ||r|| <= tolerance ||b||. minimum_curvature: curvature of A along a unit vector. ApproxGrad sets
    it to the damping, because A = H + damping I: then negative curvature of H ends the iteration.
    """

    tolerance: float = 1e-6
    minimum_curvature: float = 0.0

    @property
    def evaluations(self) -> int:
        return 1

    @property
    def products(self) -> int:
        return 1 + self.iterations

    def __call__(self, system: System, x0: Tree, state: Tree) -> Solution:
        matvec, b = system(0)
        enough = self.tolerance**2 * dot(b, b)  # for the square of the residual's norm
        residual_at_x0 = add_scaled(b, -1.0, matvec(x0))
        keeps_x0 = dot(residual_at_x0, residual_at_x0) < dot(b, b)
        x = tree.map_structure(lambda leaf: ops.where(keeps_x0, leaf, 0.0), x0)
        residual = tree.map_structure(lambda warm, cold: ops.where(keeps_x0, warm, cold), residual_at_x0, b)

        def step(_: Any, carry: tuple) -> tuple:
            x, residual, direction, squares, active, made = carry
            product = matvec(direction)
            curvature = dot(direction, product)
            convex = curvature > self.minimum_curvature * dot(direction, direction)  # False where it is NaN
            active = ops.logical_and(active, ops.logical_and(squares > enough, convex))
            length = ops.where(active, squares / ops.where(active, curvature, 1.0), 0.0)  # 0: x stays
            x = add_scaled(x, length, direction)
            residual = add_scaled(residual, -length, product)
            new_squares = dot(residual, residual)
            direction = add_scaled(residual, new_squares / ops.where(squares > 0, squares, 1.0), direction)
            return x, residual, direction, new_squares, active, made + ops.cast(active, "int32")

        start = (x, residual, residual, dot(residual, residual), ops.convert_to_tensor(True), ops.zeros((), "int32"))
        x, _, _, squares, active, made = ops.fori_loop(0, self.iterations, step, start)
        unsolved = ops.where(active, np.int32(Ended.OUT_OF_ITERATIONS), np.int32(Ended.NEGATIVE_CURVATURE))
        return Solution(x, state, ops.where(squares <= enough, np.int32(Ended.CONVERGED), unsolved), made)


@dataclass(frozen=True)
class NeumannSeries(LinearSolver):
    """Richardson steps x += eta (b - A x), eta = ``scale``: from x = 0 the truncated series eta sum_j (I - eta A)^j b.

    A later call continues from the last x (warm start). The series converges when 0 < eta < 2 / ||A||. It does not
    resolve directions of curvature below 1 / (eta iterations) (Lorraine, Vicol and Duvenaud, AISTATS 2020).
    """

    scale: float = 1e-2

    def __call__(self, system: System, x0: Tree, state: Tree) -> Solution:
        def step(i: Any, x: Tree) -> Tree:
            matvec, b = system(i)
            return tree.map_structure(lambda x, ax, b: x + self.scale * (b - ax), x, matvec(x), b)

        return _all_iterations(self.iterations, ops.fori_loop(0, self.iterations, step, x0), state)


def _all_iterations(iterations: int, x: Tree, state: Tree) -> Solution:
    ended, made = np.int32(Ended.OUT_OF_ITERATIONS), np.int32(iterations)
    return Solution(x, state, ops.convert_to_tensor(ended), ops.convert_to_tensor(made))
