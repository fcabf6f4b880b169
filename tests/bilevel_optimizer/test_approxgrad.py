"""ApproxGrad where the answer is known: a quadratic, ridge regression, a small network, a toy problem."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import scipy.optimize
from keras import ops

from bilevel_optimizer.adam import adam_init, adam_step
from bilevel_optimizer.approxgrad import ApproxGrad, LowerState
from bilevel_optimizer.autodiff import grad, jit
from bilevel_optimizer.linear_solvers import AdamResidual, ConjugateGradient, LinearSolver, NeumannSeries
from tests.bilevel_optimizer.problems import Quadratic, Ridge, flat, relative_error

numpy_of = ops.convert_to_numpy
SOLVERS = [AdamResidual(3000, 2e-2), ConjugateGradient(20), NeumannSeries(100, 0.3)]
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)


def hypergradient(problem: ApproxGrad, u: Any, v: Any, data: Any = ()) -> tuple[np.ndarray, LowerState, Any]:
    gradient, lower, metrics = jit(problem.hypergradient)(u, v, problem.init_lower(v), data)
    return flat(gradient), lower, metrics


@each_solver
@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_hypergradient_of_a_quadratic(solver: LinearSolver, damping: float, float64: None) -> None:
    q = Quadratic()
    problem = ApproxGrad(q.f, q.g, damping=damping, solver=solver)
    found, lower, metrics = hypergradient(problem, q.nested_u, q.nested_v)
    wanted = q.closed_form(damping)
    assert relative_error(found, wanted) < 1e-4
    assert float(metrics.residual) < 1e-3
    assert float(metrics.hypergradient_norm) == pytest.approx(np.linalg.norm(wanted), rel=1e-4)
    keras.tree.assert_same_structure(lower.p, q.nested_v)
    assert relative_error(q.closed_form(0.7), q.closed_form(0.0)) > 0.05  # the damping is seen


def test_undamped_hypergradient_is_the_total_derivative(float64: None) -> None:
    q, h = Quadratic(), 1e-6

    def total(u: np.ndarray) -> float:
        v = np.linalg.solve(q.h, q.b @ u)
        return np.sum((v - q.t) ** 2) / 2 + u @ (q.d @ v + q.c)

    differences = [(total(q.u + h * e) - total(q.u - h * e)) / (2 * h) for e in np.eye(5)]
    np.testing.assert_allclose(q.closed_form(0.0), differences, rtol=1e-6)


@each_solver
def test_hypergradient_of_ridge_regression(solver: LinearSolver, float64: None) -> None:
    ridge = Ridge()
    found, _, _ = hypergradient(ApproxGrad(ridge.f, ridge.g, damping=0.0, solver=solver), ridge.u, ridge.v)
    assert relative_error(found[:1], ridge.by_strength) < 1e-4
    assert relative_error(found[1:], ridge.by_targets) < 1e-4


class SmallNetwork:
    """Two inputs, three tanh units, one logit; u perturbs the training inputs and weighs the regulariser."""

    def __init__(self) -> None:
        random = np.random.default_rng(5)
        self.x, self.x_val = random.normal(size=(6, 2)), random.normal(size=(5, 2))
        self.sign, self.sign_val = np.sign(random.normal(size=6)), np.sign(random.normal(size=5))
        self.u, self.start = 0.1 * random.normal(size=13), random.normal(size=13)

    @staticmethod
    def logit(v: Any, x: Any, tanh: Callable, matmul: Callable, reshape: Callable) -> Any:
        hidden = tanh(matmul(x, reshape(v[:6], (2, 3))) + v[6:9])
        return matmul(hidden, reshape(v[9:12], (3, 1)))[:, 0] + v[12]

    def losses(self, library: Any, softplus: Callable) -> tuple[Callable, Callable]:
        """f and g of (u, v), written once for NumPy and once for Keras."""
        parts = library.tanh, library.matmul, library.reshape

        def g(u: Any, v: Any, *_: Any) -> Any:
            logit = self.logit(v, self.x + library.reshape(u[:12], (6, 2)), *parts)
            return library.mean(softplus(-self.sign * logit)) + library.exp(u[12]) * library.sum(v**2) / 10

        def f(u: Any, v: Any, *_: Any) -> Any:
            logit = self.logit(v, self.x_val, *parts)
            return library.mean(softplus(-self.sign_val * logit)) + library.sum(u**2) / 10

        return f, g

    def minimise(self, g: Callable, u: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Weights at which the gradient of g, by complex steps, vanishes."""

        def gradient(v: np.ndarray) -> np.ndarray:
            return np.array([g(u + 0j, v + 1e-30j * e).imag / 1e-30 for e in np.eye(13)])

        v = scipy.optimize.minimize(lambda v: g(u, v), start, jac=gradient, method="BFGS").x
        v = scipy.optimize.root(gradient, v, tol=1e-13).x
        assert np.linalg.norm(gradient(v)) < 1e-10
        return v


def test_hypergradient_of_a_small_network_matches_finite_differences(float64: None) -> None:
    network = SmallNetwork()
    f, g = network.losses(np, lambda x: np.log(1 + np.exp(x)))
    v = network.minimise(g, network.u, network.start)

    def total(u: np.ndarray) -> float:
        return f(u, network.minimise(g, u, v))

    h = 1e-5
    wanted = [(total(network.u + h * e) - total(network.u - h * e)) / (2 * h) for e in np.eye(13)]
    f_keras, g_keras = network.losses(ops, ops.softplus)
    problem = ApproxGrad(f_keras, g_keras, damping=0.0, solver=ConjugateGradient(40, tolerance=1e-10))
    found, _, _ = hypergradient(problem, network.u, v)
    assert relative_error(found, np.array(wanted)) < 1e-5
    direct = numpy_of(grad(lambda u: f_keras(u, ops.convert_to_tensor(v)))(network.u))
    assert relative_error(found, direct) > 0.1  # the implicit part is a real share of it


def test_lower_steps_are_adam_steps_with_the_draw_counted() -> None:
    u, v = np.float32([1.0, 2.0]), [np.float32([0.0, 0.5])]

    def g(u: Any, v: Any, data: Any, draw: Any) -> Any:
        return ops.sum((v[0] - u * data) ** 2 * (1 + ops.cast(draw, "float32")))

    problem = ApproxGrad(f=g, g=g, lower_steps=4, lr_v=0.05)
    lower = problem.init_lower(v)
    moved, adam = jit(problem.minimise_lower)(u, v, lower.adam, np.float32(3))
    wanted, state = v, adam_init(v)
    for draw in range(4):
        gradient = [2 * (numpy_of(wanted[0]) - 3 * u) * np.float32(1 + draw)]
        wanted, state = adam_step(wanted, gradient, state, 0.05)
    np.testing.assert_allclose(numpy_of(moved[0]), numpy_of(wanted[0]), rtol=1e-6)
    np.testing.assert_allclose(numpy_of(adam.second[0]), numpy_of(state.second[0]), rtol=1e-6)
    assert int(adam.steps) == 4


@pytest.mark.parametrize("fixed_right_side", [True, False])
@pytest.mark.parametrize("fixed_system", [True, False])
def test_draws(fixed_system: bool, fixed_right_side: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two evaluations share a draw, except that a fixed system or right side is one function throughout."""

    def python_loop(lower: int, upper: int, body: Callable, carry: Any) -> Any:
        for i in range(lower, upper):
            carry = body(i, carry)
        return carry

    monkeypatch.setattr(ops, "fori_loop", python_loop)
    seen: dict[str, list[int]] = {"f": [], "g": []}

    def objective(name: str) -> Callable:
        def evaluate(u: Any, v: Any, _data: Any, draw: int) -> Any:
            seen[name].append(draw)
            return ops.sum((u - v) ** 2)

        return evaluate

    problem = ApproxGrad(
        objective("f"), objective("g"), lower_steps=3, solver=AdamResidual(4),
        fixed_system=fixed_system, fixed_right_side=fixed_right_side,
    )  # fmt: skip
    u = v = np.float32([1.0])
    problem.step(u, v, problem.init_lower(v), adam_init(u), ())
    lower, rest = seen["g"][:3], seen["g"][3:]
    assert lower == [0, 1, 2]
    assert sorted(seen["f"]) == ([8] if fixed_right_side else [8, 9, 10, 11, 12])
    assert problem.gradients(of_f=1.0) - problem.gradients(of_f=0.0) == len(seen["f"])
    assert not set(seen["f"]) & set(seen["g"])
    # The order of evaluation is free; AdamResidual asks for each matrix twice.
    assert sorted(set(rest)) == ([7] if fixed_system else [3, 4, 5, 6, 7])
    assert rest.count(7) == 1


def test_redrawn_systems_differ_between_iterations(float64: None) -> None:
    """The solution is the recursion through one matrix per iteration, and g_uv has a draw of its own."""
    curvature = np.arange(1.0, 10)
    table = ops.convert_to_tensor(curvature)

    def g(u: Any, v: Any, _data: Any, draw: Any) -> Any:
        return ops.take(table, draw) * ops.sum(v**2 / 2 + u * v)

    def f(_u: Any, v: Any, _data: Any, _draw: Any) -> Any:
        return ops.sum(v)

    problem = ApproxGrad(f, g, lower_steps=2, damping=0.5, solver=NeumannSeries(3, 0.1), fixed_system=False)
    found, lower, _ = hypergradient(problem, np.array([1.0]), np.array([1.0]))
    p = 0.0
    for a in curvature[2:5]:
        p += 0.1 * (1 - (a + 0.5) * p)
    assert float(lower.p[0]) == pytest.approx(p, rel=1e-10)
    assert found[0] == pytest.approx(-curvature[5] * p, rel=1e-10)


@each_solver
def test_a_right_side_that_is_redrawn_alike_gives_the_closed_form(solver: LinearSolver, float64: None) -> None:
    """Where f's draws do not differ, drawing f_v anew in each iteration changes nothing."""
    q = Quadratic()
    found, _, _ = hypergradient(ApproxGrad(q.f, q.g, solver=solver, damping=0.0, fixed_right_side=False), q.nested_u,
                                q.nested_v)  # fmt: skip
    assert relative_error(found, q.closed_form(0.0)) < 1e-4


def test_redrawn_right_sides_differ_between_iterations(float64: None) -> None:
    """p is the recursion through one right side per iteration, as in the published code; f_u has its own draw."""
    scale = np.arange(1.0, 12)
    table = ops.convert_to_tensor(scale)

    def f(u: Any, v: Any, _data: Any, draw: Any) -> Any:
        return ops.take(table, draw) * ops.sum(v + 2 * u)

    def g(u: Any, v: Any, _data: Any, _draw: Any) -> Any:
        return ops.sum(v**2 + u * v)

    problem = ApproxGrad(
        f, g, lower_steps=2, damping=0.5, solver=NeumannSeries(3, 0.1), fixed_system=True, fixed_right_side=False
    )
    found, lower, _ = hypergradient(problem, np.array([1.0]), np.array([1.0]))
    p = 0.0
    for right in scale[7:10]:  # draws T1 + T2 + 2 ... T1 + 2 T2 + 1
        p += 0.1 * (right - 2.5 * p)
    assert float(lower.p[0]) == pytest.approx(p, rel=1e-10)
    assert found[0] == pytest.approx(2 * scale[6] - p, rel=1e-10)


def test_p_and_the_solvers_moments_are_kept_between_steps(float64: None) -> None:
    q = Quadratic()
    problem = ApproxGrad(q.f, q.g, damping=0.1, solver=AdamResidual(10, 1e-2))
    evaluate = jit(problem.hypergradient)
    lower, residuals = problem.init_lower(q.nested_v), []
    for _ in range(4):
        _, lower, metrics = evaluate(q.nested_u, q.nested_v, lower, ())
        residuals.append(float(metrics.residual))
    assert residuals == sorted(residuals, reverse=True)
    once = ApproxGrad(q.f, q.g, damping=0.1, solver=AdamResidual(40, 1e-2))
    _, whole, _ = hypergradient(once, q.nested_u, q.nested_v)
    np.testing.assert_allclose(flat(lower.p), flat(whole.p), rtol=1e-9)
    assert int(lower.solver.steps) == 40


def test_steps_find_the_known_optimum_inside_the_feasible_set() -> None:
    """min_u ||v* - t||^2/2 with v* = u + 1, u in [0, 1]: the optimum is clip(t - 1, 0, 1)."""
    target = np.float32([1.3, 1.8, 5.0, -2.0])

    def f(_u: Any, v: Any, _data: Any, _draw: Any) -> Any:
        return ops.sum((v - target) ** 2) / 2

    def g(u: Any, v: Any, data: Any, _draw: Any) -> Any:
        return ops.sum((v - u - data["shift"]) ** 2) / 2

    problem = ApproxGrad(
        f, g, lower_steps=20, lr_v=0.1, lr_u=0.02, damping=0.0, solver=ConjugateGradient(3),
        project=lambda u, data: ops.clip(u, data["low"], 1.0),
    )  # fmt: skip
    step = jit(problem.step)
    u = v = np.zeros(4, np.float32)
    lower, upper = problem.init_lower(v), adam_init(u)
    data = {"shift": np.float32(1), "low": np.float32(0)}
    values = []
    for _ in range(150):
        u, v, lower, upper, metrics = step(u, v, lower, upper, data)
        assert float(ops.min(u)) >= 0 and float(ops.max(u)) <= 1
        values.append(float(metrics.f))
    np.testing.assert_allclose(numpy_of(u), [0.3, 0.8, 1, 0], atol=0.01)
    assert values[-1] < values[0]
    assert int(upper.steps) == 150 and int(lower.adam.steps) == 3000
