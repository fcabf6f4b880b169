"""ApproxGrad where the answer is known: a quadratic, ridge regression, a small network, a toy problem."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
import scipy.optimize
from keras import ops

from bilevel_optimizer.adam import adam_init, adam_step
from bilevel_optimizer.approxgrad import ApproxGrad, ApproxGradState
from bilevel_optimizer.autodiff import grad, jit
from bilevel_optimizer.bilevel import Problem, minimise_lower
from runtime.files import InputError
from tests.bilevel_optimizer.problems import Quadratic, Ridge, flat, relative_error

numpy_of = ops.convert_to_numpy
SOLVERS: dict[str, dict[str, Any]] = {
    "adam": {"solver_steps": 3000, "lr_p": 2e-2}, "cg": {"solver_steps": 20},
    "neumann": {"solver_steps": 100, "lr_p": 0.3},
}  # fmt: skip
each_solver = pytest.mark.parametrize("solver", SOLVERS)


def with_solver(solver: str, damping: float, redraw_noise: Any = "none", **settings: Any) -> ApproxGrad:
    """ApproxGrad with a solver that converges, or one of other settings."""
    settings = {**SOLVERS[solver], **settings}
    return ApproxGrad(solver=solver, damping=damping, redraw_noise=redraw_noise, **settings)


def hypergradient(
    optimiser: ApproxGrad, f: Callable, g: Callable, u: Any, v: Any
) -> tuple[np.ndarray, ApproxGradState, Any]:
    gradient, lower, metrics = jit(partial(optimiser.hypergradient, Problem(f, g)))(u, v, optimiser.init_lower(v), ())
    return flat(gradient), lower, metrics


@each_solver
@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_hypergradient_of_a_quadratic(solver: str, damping: float, float64: None) -> None:
    q = Quadratic()
    found, lower, metrics = hypergradient(with_solver(solver, damping), q.f, q.g, q.nested_u, q.nested_v)
    wanted = q.closed_form(damping)
    assert relative_error(found, wanted) < 1e-4
    assert float(metrics["residual"]) < 1e-3
    assert float(metrics["hypergradient_norm"]) == pytest.approx(np.linalg.norm(wanted), rel=1e-4)
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
def test_hypergradient_of_ridge_regression(solver: str, float64: None) -> None:
    ridge = Ridge()
    found, _, _ = hypergradient(with_solver(solver, 0.0), ridge.f, ridge.g, ridge.u, ridge.v)
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
    found, _, _ = hypergradient(with_solver("cg", 0.0, solver_steps=40), f_keras, g_keras, network.u, v)
    assert relative_error(found, np.array(wanted)) < 1e-5
    direct = numpy_of(grad(lambda u: f_keras(u, ops.convert_to_tensor(v)))(network.u))
    assert relative_error(found, direct) > 0.1  # the implicit part is a real share of it


def test_lower_steps_are_adam_steps_with_the_draw_counted() -> None:
    u, v = np.float32([1.0, 2.0]), [np.float32([0.0, 0.5])]

    def g(u: Any, v: Any, data: Any, draw: Any) -> Any:
        return ops.sum((v[0] - u * data) ** 2 * (1 + ops.cast(draw, "float32")))

    lower_steps = partial(minimise_lower, Problem(g, g), steps=4, lr_v=0.05)
    moved, adam = jit(lower_steps)(u, v, adam_init(v), np.float32(3))
    wanted, state = v, adam_init(v)
    for draw in range(4):
        gradient = [2 * (numpy_of(wanted[0]) - 3 * u) * np.float32(1 + draw)]
        wanted, state = adam_step(wanted, gradient, state, 0.05)
    np.testing.assert_allclose(numpy_of(moved[0]), numpy_of(wanted[0]), rtol=1e-6)
    np.testing.assert_allclose(numpy_of(adam.second[0]), numpy_of(state.second[0]), rtol=1e-6)
    assert int(adam.steps) == 4


@pytest.mark.parametrize("redraw_noise", ["training_and_validation", "validation", "none"])
def test_draws(redraw_noise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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

    optimiser = ApproxGrad(lower_steps=3, solver_steps=4, redraw_noise=redraw_noise)
    fixed_matrix, fixed_right_side = redraw_noise != "training_and_validation", redraw_noise == "none"
    u = v = np.float32([1.0])
    problem = Problem(objective("f"), objective("g"))
    optimiser.step(problem, u, (v,), (optimiser.init_lower(v),), adam_init(u), ())
    lower, rest = seen["g"][:3], seen["g"][3:]
    assert lower == [0, 1, 2]
    assert sorted(seen["f"]) == ([8] if fixed_right_side else [8, 9, 10, 11, 12])
    assert optimiser.gradients(1.0) - optimiser.gradients(0.0) == len(seen["f"])
    assert not set(seen["f"]) & set(seen["g"])
    # The order of evaluation is free. Each matrix is evaluated once, for both products of AdamResidual.
    assert sorted(rest) == ([7] if fixed_matrix else [3, 4, 5, 6, 7])


def test_redrawn_systems_differ_between_iterations(float64: None) -> None:
    """The solution is the recursion through one matrix per iteration, and g_uv has a draw of its own."""
    curvature = np.arange(1.0, 10)
    table = ops.convert_to_tensor(curvature)

    def g(u: Any, v: Any, _data: Any, draw: Any) -> Any:
        return ops.take(table, draw) * ops.sum(v**2 / 2 + u * v)

    def f(_u: Any, v: Any, _data: Any, _draw: Any) -> Any:
        return ops.sum(v)

    optimiser = with_solver("neumann", 0.5, "training_and_validation", lower_steps=2, solver_steps=3, lr_p=0.1)
    found, lower, _ = hypergradient(optimiser, f, g, np.array([1.0]), np.array([1.0]))
    p = 0.0
    for a in curvature[2:5]:
        p += 0.1 * (1 - (a + 0.5) * p)
    assert float(lower.p[0]) == pytest.approx(p, rel=1e-10)
    assert found[0] == pytest.approx(-curvature[5] * p, rel=1e-10)


@pytest.mark.parametrize("solver", ["adam", "neumann"])  # conjugate gradient needs one system
def test_a_right_side_that_is_redrawn_alike_gives_the_closed_form(solver: str, float64: None) -> None:
    """Where f's draws do not differ, drawing f_v anew in each iteration changes nothing."""
    q = Quadratic()
    found, _, _ = hypergradient(with_solver(solver, 0.0, "validation"), q.f, q.g, q.nested_u, q.nested_v)
    assert relative_error(found, q.closed_form(0.0)) < 1e-4


def test_redrawn_right_sides_differ_between_iterations(float64: None) -> None:
    """p is the recursion through one right side per iteration, as in the published code; f_u has its own draw."""
    scale = np.arange(1.0, 12)
    table = ops.convert_to_tensor(scale)

    def f(u: Any, v: Any, _data: Any, draw: Any) -> Any:
        return ops.take(table, draw) * ops.sum(v + 2 * u)

    def g(u: Any, v: Any, _data: Any, _draw: Any) -> Any:
        return ops.sum(v**2 + u * v)

    optimiser = with_solver("neumann", 0.5, "validation", lower_steps=2, solver_steps=3, lr_p=0.1)
    found, lower, _ = hypergradient(optimiser, f, g, np.array([1.0]), np.array([1.0]))
    p = 0.0
    for right in scale[7:10]:  # draws T1 + T2 + 2 ... T1 + 2 T2 + 1
        p += 0.1 * (right - 2.5 * p)
    assert float(lower.p[0]) == pytest.approx(p, rel=1e-10)
    assert found[0] == pytest.approx(2 * scale[6] - p, rel=1e-10)


def test_p_and_the_solvers_moments_are_kept_between_steps(float64: None) -> None:
    q = Quadratic()
    optimiser = with_solver("adam", 0.1, solver_steps=10, lr_p=1e-2)
    evaluate = jit(partial(optimiser.hypergradient, Problem(q.f, q.g)))
    lower, residuals = optimiser.init_lower(q.nested_v), []
    for _ in range(4):
        _, lower, metrics = evaluate(q.nested_u, q.nested_v, lower, ())
        residuals.append(float(metrics["residual"]))
    assert residuals == sorted(residuals, reverse=True)
    once = with_solver("adam", 0.1, solver_steps=40, lr_p=1e-2)
    _, whole, _ = hypergradient(once, q.f, q.g, q.nested_u, q.nested_v)
    np.testing.assert_allclose(flat(lower.p), flat(whole.p), rtol=1e-9)
    assert int(lower.solver.steps) == 40


def test_steps_find_the_known_optimum_inside_the_feasible_set() -> None:
    """min_u ||v* - t||^2/2 with v* = u + 1, u in [0, 1]: the optimum is clip(t - 1, 0, 1)."""
    target = np.float32([1.3, 1.8, 5.0, -2.0])

    def f(_u: Any, v: Any, _data: Any, _draw: Any) -> Any:
        return ops.sum((v - target) ** 2) / 2

    def g(u: Any, v: Any, data: Any, _draw: Any) -> Any:
        return ops.sum((v - u - data["shift"]) ** 2) / 2

    problem = Problem(f, g, project=lambda u, data: ops.clip(u, data["low"], 1.0))
    optimiser = with_solver("cg", 0.0, lower_steps=20, lr_v=0.1, lr_u=0.02, solver_steps=3)
    step = jit(partial(optimiser.step, problem))
    u = v = np.zeros(4, np.float32)
    lower, upper = optimiser.init_lower(v), adam_init(u)
    data = {"shift": np.float32(1), "low": np.float32(0)}
    values = []
    for _ in range(150):
        u, (v,), (lower,), upper, metrics = step(u, (v,), (lower,), upper, data)
        assert float(ops.min(u)) >= 0 and float(ops.max(u)) <= 1
        values.append(float(metrics["f"]))
    np.testing.assert_allclose(numpy_of(u), [0.3, 0.8, 1, 0], atol=0.01)
    assert values[-1] < values[0]
    assert int(upper.steps) == 150 and int(lower.adam.steps) == 3000


def test_conjugate_gradient_needs_one_system_and_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match="solver cg needs one fixed linear system; add --redraw-noise none"):
        ApproxGrad(solver="cg")
    with pytest.raises(InputError, match="lower_steps must be positive, got 0"):
        ApproxGrad(lower_steps=0)
    with pytest.raises(InputError, match=r"damping must not be negative, got -1\.0"):
        ApproxGrad(damping=-1.0)
