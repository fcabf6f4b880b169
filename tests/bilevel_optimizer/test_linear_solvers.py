"""Every solver finds the solution; what keeps each of them safe on hard systems."""

from typing import Any

import numpy as np
import pytest
from keras import ops

from bilevel_optimizer.approxgrad import SOLVERS, ApproxGrad
from bilevel_optimizer.autodiff import jit
from bilevel_optimizer.linear_solvers import AdamResidual, ConjugateGradient, Ended, LinearSolver, NeumannSeries, System
from runtime.files import InputError

numpy_of = ops.convert_to_numpy


def symmetric(eigenvalues: Any, seed: int = 0) -> np.ndarray:
    """A float64 matrix with these eigenvalues and random eigenvectors."""
    size = len(eigenvalues)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]
    return basis @ np.diag(np.float64(eigenvalues)) @ basis.T


def system(a: np.ndarray, b: Any) -> System:
    """A x = b, the same at each iteration."""
    return lambda _: (lambda p: ops.matmul(ops.convert_to_tensor(a), p), b)


def solve(solver: LinearSolver, a: np.ndarray, b: np.ndarray, x0: np.ndarray | None = None, state: Any = None) -> Any:
    state = solver.init(b) if state is None else state
    x, state, *_ = jit(lambda b, x0, s: solver(system(a, b), x0, s))(b, b * 0 if x0 is None else x0, state)
    return numpy_of(x), state


@pytest.mark.parametrize("solver", [AdamResidual(2000, 2e-2), ConjugateGradient(12), NeumannSeries(60, 0.5)], ids=repr)
def test_solvers_find_the_solution(solver: LinearSolver, float64: None) -> None:
    a, b = symmetric([1, 1.5, 2, 2.5]), np.array([1.0, -2, 0.5, 3])
    np.testing.assert_allclose(solve(solver, a, b)[0], np.linalg.solve(a, b), rtol=1e-5, atol=1e-6)


def test_conjugate_gradient_is_exact_after_as_many_steps_as_dimensions(float64: None) -> None:
    a, b = symmetric([0.01, 0.3, 2, 50]), np.array([1.0, -2, 0.5, 3])
    np.testing.assert_allclose(solve(ConjugateGradient(4, 0), a, b)[0], np.linalg.solve(a, b), rtol=1e-7)
    assert not np.allclose(solve(ConjugateGradient(3, 0), a, b)[0], np.linalg.solve(a, b), rtol=1e-2)


def test_adam_lowers_the_residual_and_keeps_its_moments(float64: None) -> None:
    a, b = symmetric([0.2, 1, 2, 5]), np.array([1.0, -2, 0.5, 3])
    solver = AdamResidual(20, 0.01)
    first, state = solve(solver, a, b)
    assert int(state.steps) == 20
    second, state = solve(solver, a, b, first, state)
    assert int(state.steps) == 40
    residuals = [np.linalg.norm(a @ x - b) for x in (0 * b, first, second)]
    assert residuals[0] > residuals[1] > residuals[2]
    # Two calls of 20 steps are one of 40: the second went on where the first had stopped.
    np.testing.assert_allclose(second, solve(AdamResidual(40, 0.01), a, b)[0], rtol=1e-10)


def test_neumann_is_the_truncated_series(float64: None) -> None:
    a, b = symmetric([0.5, 1, 1.5]), np.array([1.0, -2, 0.5])
    series = sum(0.3 * np.linalg.matrix_power(np.eye(3) - 0.3 * a, j) @ b for j in range(5))
    np.testing.assert_allclose(solve(NeumannSeries(5, 0.3), a, b)[0], series, rtol=1e-10)


@pytest.mark.parametrize(
    ("eigenvalues", "iterations", "ended", "made"),
    [
        ([1.0, 2, 3, 4], 12, Ended.CONVERGED, 4),
        ([1.0, 2, 3, 4], 4, Ended.CONVERGED, 4),  # seen after the last iteration too
        ([1.0, 2, 3, 4], 2, Ended.OUT_OF_ITERATIONS, 2),
        ([-4.0, -3, -2, -1], 12, Ended.NEGATIVE_CURVATURE, 0),
    ],
)
def test_conjugate_gradient_says_how_it_ended(
    eigenvalues: list[float], iterations: int, ended: Ended, made: int, float64: None
) -> None:
    solver, b = ConjugateGradient(iterations), np.ones(4)
    solution = jit(lambda b: solver(system(symmetric(eigenvalues), b), b * 0, ()))(b)
    assert (int(solution.ended), int(solution.iterations)) == (ended, made)


def test_solvers_without_a_test_make_all_iterations(float64: None) -> None:
    b = np.ones(3)
    for solver in (AdamResidual(5), NeumannSeries(5, 0.1)):
        solution = solver(system(np.eye(3), b), b * 0, solver.init(b))
        assert (int(solution.ended), int(solution.iterations)) == (Ended.OUT_OF_ITERATIONS, 5)


@pytest.mark.parametrize("seed", range(3))
def test_conjugate_gradient_stops_at_negative_curvature(seed: int, float64: None) -> None:
    random = np.random.default_rng(seed)
    a, b = symmetric([-3, -1, -1e-3, 1, 2, 4], seed), random.normal(size=6)
    x, _ = solve(ConjugateGradient(30), a, b)
    positive, _ = solve(ConjugateGradient(30), symmetric([-4, -3, -2, -1]), np.ones(4))
    np.testing.assert_array_equal(positive, np.zeros(4))  # no direction to go: x stays at its start
    assert np.all(np.isfinite(x))
    # The model b'x - x'Ax/2 that CG climbs never falls below its value at the start.
    assert b @ x - x @ a @ x / 2 >= 0


def test_minimum_curvature_ends_the_iteration_at_curvature_of_the_damping(float64: None) -> None:
    a, b = np.diag([0.5, 2.0]), np.array([1.0, 0])
    np.testing.assert_allclose(solve(ConjugateGradient(5, minimum_curvature=0.4), a, b)[0], [2, 0])
    np.testing.assert_array_equal(solve(ConjugateGradient(5, minimum_curvature=0.6), a, b)[0], [0, 0])


def test_a_warm_start_worse_than_zero_is_dropped(float64: None) -> None:
    a, b = symmetric([1, 2, 3]), np.array([1.0, -2, 0.5])
    cold, _ = solve(ConjugateGradient(1), a, b)
    dropped, _ = solve(ConjugateGradient(1), a, b, x0=np.full(3, 1e6))
    np.testing.assert_array_equal(dropped, cold)
    missing, _ = solve(ConjugateGradient(1), a, b, x0=np.full(3, np.nan))
    np.testing.assert_array_equal(missing, cold)
    nearly = np.linalg.solve(a, b) * 1.01
    warm, _ = solve(ConjugateGradient(1), a, b, x0=nearly)
    assert np.linalg.norm(a @ warm - b) < 0.1 * np.linalg.norm(a @ cold - b)


def test_a_solved_or_empty_system_stays_finite(float64: None) -> None:
    a = symmetric([1, 2, 3])
    np.testing.assert_array_equal(solve(ConjugateGradient(20), a, np.zeros(3))[0], np.zeros(3))
    b = np.array([1.0, -2, 0.5])
    np.testing.assert_allclose(solve(ConjugateGradient(50), a, b)[0], np.linalg.solve(a, b), rtol=1e-5)


@pytest.mark.parametrize("solver", [AdamResidual(4, 0.1), NeumannSeries(4, 0.1)], ids=repr)
def test_each_iteration_sees_its_own_matrix(solver: LinearSolver, float64: None) -> None:
    scales = np.array([1.0, 2, 3, 4])
    table = ops.convert_to_tensor(scales)
    b = np.array([1.0])
    x, *_ = solver(lambda i: (lambda p: p * table[i], b), b * 0, solver.init(b))
    expected, m, s = 0.0, 0.0, 0.0
    for t, a in enumerate(scales, start=1):
        if isinstance(solver, NeumannSeries):
            expected += 0.1 * (1 - a * expected)
            continue
        gradient = a * (a * expected - 1)
        m, s = 0.9 * m + 0.1 * gradient, 0.999 * s + 0.001 * gradient**2
        expected -= 0.1 * (m / (1 - 0.9**t)) / np.sqrt(s / (1 - 0.999**t))
    assert solver.evaluations == 4
    assert float(x[0]) == pytest.approx(expected, rel=1e-5)


def test_solvers_by_name() -> None:
    settings = ApproxGrad(solver_steps=7, lr_p=0.1, damping=1e-3)
    found = {name: make(settings) for name, make in SOLVERS.items()}
    assert found == {
        "adam": AdamResidual(7, 0.1), "cg": ConjugateGradient(7, minimum_curvature=1e-3),
        "neumann": NeumannSeries(7, 0.1),
    }  # fmt: skip
    with pytest.raises(InputError, match="solver must be one of adam, cg, neumann, got 'lu'"):
        ApproxGrad(solver="lu")
