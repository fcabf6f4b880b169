"""SOBA, F2SA, alternating minimisation and several networks where the answer is known, from v far from its minimum."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from keras import ops, tree

from bilevel_optimizer.adam import BETA1, adam_init, adam_step
from bilevel_optimizer.approxgrad import ApproxGrad, FewSteps
from bilevel_optimizer.autodiff import jit
from bilevel_optimizer.bilevel import BilevelOptimizer, Problem
from bilevel_optimizer.error_minimising import ErrorMinimising
from bilevel_optimizer.f2sa import F2sa
from bilevel_optimizer.soba import Soba
from bilevel_optimizer.trees import zeros_like
from tests.bilevel_optimizer.problems import Quadratic, Ridge, flat, relative_error


def settled(optimiser: Any, problem: Problem, u: Any, v: Any, steps: int = 2500) -> tuple[Any, Any, Any]:
    """(u, v, lower state) after steps that do not move u, the last with a hundredth of the rate of v."""
    u, v = tree.map_structure(ops.convert_to_tensor, (u, v))
    carry = u, (v,), (optimiser.init_lower(v),), adam_init(u)
    for lr_v in (1.0, 0.1, 0.01):
        still = replace(optimiser, lr_u=1e-30, lr_v=lr_v * optimiser.lr_v)
        step = partial(still.step, problem)
        loop = jit(lambda *at, step=step: ops.fori_loop(0, steps // 3, lambda _, at: step(*at, ())[:4], at))
        carry = loop(*carry)
    u, (v,), (lower,), _ = carry
    return u, v, lower


def hypergradient(optimiser: Any, on: Any, u: Any, v: Any) -> np.ndarray:
    """D_u where v, and p or y, have settled. on: an object with f and g."""
    problem = Problem(on.f, on.g)
    u, v, lower = settled(optimiser, problem, u, v)
    if isinstance(optimiser, Soba):
        return flat(optimiser.directions(problem, u, v, lower.p, ())[0])
    return flat(optimiser.directions(problem, u, v, lower.y, optimiser.multiplier, ())[0])


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_soba_settles_at_the_hypergradient_of_a_quadratic(damping: float, float64: None) -> None:
    q = Quadratic()
    start = tree.map_structure(lambda leaf: leaf + 0.5, q.nested_v)
    optimiser = Soba(lr_v=0.02, lr_p=0.2, damping=damping)
    assert relative_error(hypergradient(optimiser, q, q.nested_u, start), q.closed_form(damping)) < 1e-4


def test_f2sa_settles_at_it_up_to_the_multiplier(float64: None) -> None:
    q = Quadratic()
    start = tree.map_structure(lambda leaf: leaf + 0.5, q.nested_v)
    errors = [
        relative_error(hypergradient(F2sa(lr_v=0.02, multiplier=lam), q, q.nested_u, start), q.closed_form(0.0))
        for lam in (30.0, 300.0, 3000.0)
    ]
    assert errors[2] < 1e-3
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 10, rtol=0.2)  # O(1 / multiplier)


@pytest.mark.parametrize("optimiser", [Soba(lr_v=0.02, lr_p=0.3, damping=0.0), F2sa(lr_v=0.02, multiplier=3e4)])
def test_hypergradient_of_ridge_regression(optimiser: BilevelOptimizer, float64: None) -> None:
    ridge = Ridge()
    found = hypergradient(optimiser, ridge, ridge.u, zeros_like(ridge.v))
    assert relative_error(found[:1], ridge.by_strength) < 1e-3
    assert relative_error(found[1:], ridge.by_targets) < 1e-3


def test_a_step_of_soba_moves_all_three_from_one_point(float64: None) -> None:
    q, lr_p, damping = Quadratic(), 0.1, 0.5
    u, v, upper = q.nested_u, tree.map_structure(lambda leaf: leaf + 0.5, q.nested_v), adam_init(q.nested_u)
    optimiser = Soba(lr_v=0.02, lr_p=lr_p, lr_u=0.03, damping=damping)
    lower, step = optimiser.init_lower(v), jit(partial(optimiser.step, Problem(q.f, q.g)))
    for _ in range(3):
        p, flat_v, flat_u = flat(lower.p), flat(v), flat(u)
        f_v, f_u = flat_v - q.t + q.d.T @ flat_u, q.d @ flat_v + q.c
        wanted_p = p - lr_p * (q.h @ p + damping * p - f_v)
        wanted_u, _ = adam_step(flat_u, f_u + q.b.T @ p, adam_init(flat_u)._replace(
            first=flat(upper.first), second=flat(upper.second), steps=upper.steps), 0.03)  # fmt: skip
        u, (v,), (lower,), upper, metrics = step(u, (v,), (lower,), upper, ())
        np.testing.assert_allclose(flat(lower.p), wanted_p, rtol=1e-10)
        np.testing.assert_allclose(flat(u), wanted_u, rtol=1e-10)
        assert float(metrics["hypergradient_norm"]) == pytest.approx(np.linalg.norm(f_u + q.b.T @ p))


def test_the_multiplier_grows_by_steps_and_both_lower_levels_share_a_draw() -> None:
    seen: list[tuple[str, int]] = []

    def objective(name: str) -> Callable:
        def evaluate(u: Any, v: Any, _data: Any, draw: int) -> Any:
            seen.append((name, draw))
            return ops.sum((u - v) ** 2)

        return evaluate

    optimiser, problem = F2sa(multiplier=2.0, growth=0.5), Problem(objective("f"), objective("g"))
    u = v = np.float32([1.0])
    lower, upper = optimiser.init_lower(v), adam_init(u)
    for step in range(3):
        u, (v,), (lower,), upper, metrics = optimiser.step(problem, u, (v,), (lower,), upper, ())
        assert float(metrics["multiplier"]) == 2 + 0.5 * step
    assert sorted(set(seen)) == [("f", 1), ("g", 0)] and len(seen) == 9


def test_alternating_minimisation_follows_the_derivative_of_the_minimum(float64: None) -> None:
    """Of a quadratic, min_v g(u, v) = -u'B'H^-1 B u / 2."""
    q = Quadratic()
    v = tree.map_structure(lambda leaf: ops.convert_to_tensor(leaf + 0.5), q.nested_v)
    coarse, fine = (ErrorMinimising(lr_v=rate, lower_steps=3_000) for rate in (0.02, 0.0002))
    problem, u = Problem(q.f, q.g), tree.map_structure(ops.convert_to_tensor, q.nested_u)
    _, v, lower, _ = jit(partial(coarse.direction, problem))(u, v, coarse.init_lower(v), ())
    found, v, _, metrics = jit(partial(fine.direction, problem))(u, v, lower, ())
    wanted = -q.b.T @ np.linalg.solve(q.h, q.b @ q.u)
    assert relative_error(flat(found), wanted) < 1e-3
    assert float(metrics["g"]) == float(metrics["f"]) == pytest.approx(q.u @ wanted / 2)
    assert float(metrics["hypergradient_norm"]) == pytest.approx(np.linalg.norm(wanted), rel=1e-3)


def test_alternating_minimisation_redraws_at_every_step() -> None:
    seen: list[int] = []

    def g(u: Any, v: Any, _data: Any, draw: Any) -> Any:
        return ops.sum((u - v) ** 2) + 0 * ops.cast(draw, "float32")

    def f(*_: Any) -> Any:
        seen.append(1)
        return 0.0

    u = v = np.float32([1.0, 2.0])
    optimiser, problem = ErrorMinimising(lower_steps=4, lr_u=0.5), Problem(f, g, lambda u, _data: ops.clip(u, 0, 1))
    u, _, _, _, _ = optimiser.step(problem, u, (v + 1,), (optimiser.init_lower(v),), adam_init(u), ())
    assert not seen and float(ops.max(u)) <= 1 and optimiser.gradients(5.0) == 5


MEMBERS = [
    FewSteps(lower_steps=2, lr_v=0.02, solver_steps=3),
    Soba(lr_v=0.02, lr_p=0.2),
    F2sa(lr_v=0.02, multiplier=10.0, growth=0.01),
]


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: type(member).__name__)
def test_several_networks_move_u_by_the_mean_of_their_directions(member: BilevelOptimizer, float64: None) -> None:
    q = Quadratic()
    u = q.nested_u
    several = tuple(tree.map_structure(lambda leaf, by=by: leaf + by, q.nested_v) for by in (0.0, 0.5, -2.0))
    optimiser, problem = replace(member, lr_u=1e-30), Problem(q.f, q.g)  # u stays
    step = jit(partial(optimiser.step, problem))
    still, v, lower, before, _ = step(u, several, tuple(map(optimiser.init_lower, several)), adam_init(u), ())
    still, v, lower, after, metrics = step(still, v, lower, before, ())
    np.testing.assert_array_equal(flat(still), flat(u))
    direction = (flat(after.first) - BETA1 * flat(before.first)) / (1 - BETA1)
    wanted = []
    for i, one in enumerate(several):
        of_one = member.init_lower(one)
        _, one, of_one, _ = member.direction(problem, u, one, of_one, ())
        alone, one, of_one, of_metrics = member.direction(problem, u, one, of_one, ())
        np.testing.assert_allclose(flat(v[i]), flat(one), rtol=1e-10)
        np.testing.assert_allclose(flat(lower[i]), flat(of_one), rtol=1e-8, atol=1e-12)
        wanted.append((flat(alone), float(of_metrics["f"])))
    np.testing.assert_allclose(direction, np.mean([one for one, _ in wanted], axis=0), rtol=1e-8)
    assert float(metrics["f"]) == pytest.approx(np.mean([f for _, f in wanted]))


TARGET = np.float32([1.3, 1.8, 5.0, -2.0])


def distance(_u: Any, v: Any, _data: Any, _draw: Any) -> Any:
    return ops.sum((v - TARGET) ** 2) / 2


def shifted(u: Any, v: Any, data: Any, _draw: Any) -> Any:
    return ops.sum((v - u - data["shift"]) ** 2) / 2


RATES = {"lr_v": 0.1, "lr_u": 0.02}
OPTIMISERS: list[BilevelOptimizer] = [
    FewSteps(damping=0.0, solver_steps=1, **RATES),
    Soba(lr_p=0.5, damping=0.0, **RATES),
    F2sa(multiplier=30.0, growth=0.01, **RATES),
]


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda optimiser: optimiser.name)
def test_single_steps_find_the_known_optimum_inside_the_feasible_set(optimiser: BilevelOptimizer) -> None:
    """min_u ||v* - t||^2/2 with v* = u + 1, u in [0, 1]: the optimum is clip(t - 1, 0, 1)."""
    problem = Problem(distance, shifted, project=lambda u, data: ops.clip(u, data["low"], 1.0))
    step = jit(partial(optimiser.step, problem))
    u = v = np.zeros(4, np.float32)
    lower, upper = optimiser.init_lower(v), adam_init(u)
    data = {"shift": np.float32(1), "low": np.float32(0)}
    for _ in range(400):
        u, (v,), (lower,), upper, metrics = step(u, (v,), (lower,), upper, data)
        assert float(ops.min(u)) >= 0 and float(ops.max(u)) <= 1
    np.testing.assert_allclose(ops.convert_to_numpy(u), [0.3, 0.8, 1, 0], atol=0.03)
    assert np.isfinite([float(value) for value in metrics.values()]).all()


def test_costs_in_gradients() -> None:
    """Every g_v is 1, every product 2, and f what the caller says."""
    approxgrad = ApproxGrad(redraw_noise="none")  # T1 = T2 = 10, Adam: two products an iteration
    assert approxgrad.gradients(2.0) == 10 + 2 + (1 + 2 + 20 * 2)
    redrawn = replace(approxgrad, redraw_noise="training_and_validation")
    assert redrawn.gradients(2.0) == 10 + 11 * 2 + (1 + 2 + 20 * 2) + 10
    assert FewSteps().gradients(0.5) == 1 + 0.5 + (1 + 2 + 3 * 2)
    assert Soba().gradients(2.0) == 5 and F2sa().gradients(2.0) == 4
