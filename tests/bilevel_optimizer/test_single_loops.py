"""SOBA, F2SA, alternating minimisation and ensembles where the answer is known, from v far from its minimum."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from keras import ops

from bilevel_optimizer.adam import adam_init, adam_step
from bilevel_optimizer.alternating import Alternating
from bilevel_optimizer.approxgrad import ApproxGrad
from bilevel_optimizer.autodiff import jit
from bilevel_optimizer.bilevel import BilevelOptimizer
from bilevel_optimizer.ensemble import Ensemble
from bilevel_optimizer.f2sa import F2sa
from bilevel_optimizer.linear_solvers import ConjugateGradient
from bilevel_optimizer.soba import Soba
from bilevel_optimizer.trees import tree_map, zeros_like
from tests.bilevel_optimizer.problems import Quadratic, Ridge, flat, relative_error


def settled(problem: Any, u: Any, v: Any, steps: int = 2500) -> tuple[Any, Any, Any]:
    """(u, v, lower state) after steps that do not move u, the last with a hundredth of the rate of v."""
    u, v = tree_map(ops.convert_to_tensor, (u, v))
    carry = u, v, problem.init_lower(v), adam_init(u)
    for lr_v in (1.0, 0.1, 0.01):
        still = replace(problem, lr_u=0.0, lr_v=lr_v * problem.lr_v)
        loop = jit(lambda *at, still=still: ops.fori_loop(0, steps // 3, lambda _, at: still.step(*at, ())[:4], at))
        carry = loop(*carry)
    return carry[:3]


def hypergradient(problem: Any, u: Any, v: Any) -> np.ndarray:
    """D_u where v, and p or y, have settled."""
    u, v, lower = settled(problem, u, v)
    if isinstance(problem, Soba):
        return flat(problem.directions(u, v, lower.p, ())[0])
    return flat(problem.directions(u, v, lower.y, problem.multiplier, ())[0])


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_soba_settles_at_the_hypergradient_of_a_quadratic(damping: float, float64: None) -> None:
    q = Quadratic()
    start = tree_map(lambda leaf: leaf + 0.5, q.nested_v)
    problem = Soba(q.f, q.g, lr_v=0.02, lr_p=0.2, damping=damping)
    assert relative_error(hypergradient(problem, q.nested_u, start), q.closed_form(damping)) < 1e-4


def test_f2sa_settles_at_it_up_to_the_multiplier(float64: None) -> None:
    q = Quadratic()
    start = tree_map(lambda leaf: leaf + 0.5, q.nested_v)
    errors = [
        relative_error(
            hypergradient(F2sa(q.f, q.g, lr_v=0.02, multiplier=lam, growth=0.0), q.nested_u, start), q.closed_form(0.0)
        )
        for lam in (30.0, 300.0, 3000.0)
    ]
    assert errors[2] < 1e-3
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 10, rtol=0.2)  # O(1 / multiplier)


@pytest.mark.parametrize("make", [lambda f, g: Soba(f, g, lr_v=0.02, lr_p=0.3, damping=0.0),
                                  lambda f, g: F2sa(f, g, lr_v=0.02, multiplier=3e4, growth=0.0)])  # fmt: skip
def test_hypergradient_of_ridge_regression(make: Callable, float64: None) -> None:
    ridge = Ridge()
    found = hypergradient(make(ridge.f, ridge.g), ridge.u, zeros_like(ridge.v))
    assert relative_error(found[:1], ridge.by_strength) < 1e-3
    assert relative_error(found[1:], ridge.by_targets) < 1e-3


def test_a_step_of_soba_moves_all_three_from_one_point(float64: None) -> None:
    q, lr_p, damping = Quadratic(), 0.1, 0.5
    u, v, upper = q.nested_u, tree_map(lambda leaf: leaf + 0.5, q.nested_v), adam_init(q.nested_u)
    problem = Soba(q.f, q.g, lr_v=0.02, lr_p=lr_p, lr_u=0.03, damping=damping)
    lower = problem.init_lower(v)
    for _ in range(3):
        p, flat_v, flat_u = flat(lower.p), flat(v), flat(u)
        f_v, f_u = flat_v - q.t + q.d.T @ flat_u, q.d @ flat_v + q.c
        wanted_p = p - lr_p * (q.h @ p + damping * p - f_v)
        wanted_u, _ = adam_step(flat_u, f_u + q.b.T @ p, adam_init(flat_u)._replace(
            first=flat(upper.first), second=flat(upper.second), steps=upper.steps), 0.03)  # fmt: skip
        u, v, lower, upper, metrics = jit(problem.step)(u, v, lower, upper, ())
        np.testing.assert_allclose(flat(lower.p), wanted_p, rtol=1e-10)
        np.testing.assert_allclose(flat(u), wanted_u, rtol=1e-10)
        assert float(metrics.hypergradient_norm) == pytest.approx(np.linalg.norm(f_u + q.b.T @ p))


def test_the_multiplier_grows_by_steps_and_both_lower_levels_share_a_draw() -> None:
    seen: list[tuple[str, int]] = []

    def objective(name: str) -> Callable:
        def evaluate(u: Any, v: Any, _data: Any, draw: int) -> Any:
            seen.append((name, draw))
            return ops.sum((u - v) ** 2)

        return evaluate

    problem = F2sa(objective("f"), objective("g"), multiplier=2.0, growth=0.5)
    u = v = np.float32([1.0])
    lower, upper = problem.init_lower(v), adam_init(u)
    for step in range(3):
        u, v, lower, upper, metrics = problem.step(u, v, lower, upper, ())
        assert float(metrics.multiplier) == 2 + 0.5 * step
    assert sorted(set(seen)) == [("f", 1), ("g", 0)] and len(seen) == 9


def test_alternating_minimisation_follows_the_derivative_of_the_minimum(float64: None) -> None:
    """Of a quadratic, min_v g(u, v) = -u'B'H^-1 B u / 2."""
    q = Quadratic()
    v = tree_map(lambda leaf: ops.convert_to_tensor(leaf + 0.5), q.nested_v)
    problem, fine = (Alternating(q.f, q.g, lr_v=rate, lower_steps=3_000) for rate in (0.02, 0.0002))
    u = tree_map(ops.convert_to_tensor, q.nested_u)
    _, v, lower, _ = jit(problem.direction)(u, v, problem.init_lower(v), ())
    found, v, _, metrics = jit(fine.direction)(u, v, lower, ())
    wanted = -q.b.T @ np.linalg.solve(q.h, q.b @ q.u)
    assert relative_error(flat(found), wanted) < 1e-3
    assert float(metrics.g) == float(metrics.f) == pytest.approx(q.u @ wanted / 2)
    assert float(metrics.hypergradient_norm) == pytest.approx(np.linalg.norm(wanted), rel=1e-3)


def test_alternating_minimisation_redraws_at_every_step() -> None:
    seen: list[int] = []

    def g(u: Any, v: Any, _data: Any, draw: Any) -> Any:
        return ops.sum((u - v) ** 2) + 0 * ops.cast(draw, "float32")

    def f(*_: Any) -> Any:
        seen.append(1)
        return 0.0

    u = v = np.float32([1.0, 2.0])
    problem = Alternating(f, g, lower_steps=4, lr_u=0.5, project=lambda u, _data: ops.clip(u, 0, 1))
    u, v, _, _, _ = problem.step(u, v + 1, problem.init_lower(v), adam_init(u), ())
    assert not seen and float(ops.max(u)) <= 1 and problem.gradients(5.0) == 5


MEMBERS = [
    ApproxGrad(Quadratic().f, Quadratic().g, lower_steps=2, lr_v=0.02, solver=ConjugateGradient(3)),
    Soba(Quadratic().f, Quadratic().g, lr_v=0.02, lr_p=0.2),
    F2sa(Quadratic().f, Quadratic().g, lr_v=0.02),
]


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: type(member).__name__)
def test_an_ensemble_moves_u_by_the_mean_of_its_members(member: BilevelOptimizer, float64: None) -> None:
    q = Quadratic()
    u = q.nested_u
    several = tuple(tree_map(lambda leaf, by=by: leaf + by, q.nested_v) for by in (0.0, 0.5, -2.0))
    problem = Ensemble.of(member, 3)
    lower = problem.init_lower(several)
    direction, v, lower, metrics = jit(problem.direction)(u, several, lower, ())
    direction, v, lower, metrics = jit(problem.direction)(u, v, lower, ())
    wanted = []
    for i, one in enumerate(several):
        of_one = member.init_lower(one)
        _, one, of_one, _ = member.direction(u, one, of_one, ())
        alone, one, of_one, of_metrics = member.direction(u, one, of_one, ())
        np.testing.assert_allclose(flat(v[i]), flat(one), rtol=1e-10)
        np.testing.assert_allclose(flat(lower[i]), flat(of_one), rtol=1e-8, atol=1e-12)
        wanted.append((flat(alone), float(of_metrics.f)))
    np.testing.assert_allclose(flat(direction), np.mean([one for one, _ in wanted], axis=0), rtol=1e-8)
    assert float(metrics.f) == pytest.approx(np.mean([f for _, f in wanted]))
    assert problem.gradients(2.0) == 3 * member.gradients(2.0)
    assert (problem.lr_u, problem.project) == (member.lr_u, member.project)


TARGET = np.float32([1.3, 1.8, 5.0, -2.0])


def distance(_u: Any, v: Any, _data: Any, _draw: Any) -> Any:
    return ops.sum((v - TARGET) ** 2) / 2


def shifted(u: Any, v: Any, data: Any, _draw: Any) -> Any:
    return ops.sum((v - u - data["shift"]) ** 2) / 2


BOX = {"project": lambda u, data: ops.clip(u, data["low"], 1.0), "lr_v": 0.1, "lr_u": 0.02}
OPTIMISERS: list[BilevelOptimizer] = [
    ApproxGrad(distance, shifted, lower_steps=1, damping=0.0, solver=ConjugateGradient(1), **BOX),
    Soba(distance, shifted, lr_p=0.5, damping=0.0, **BOX),
    F2sa(distance, shifted, multiplier=30.0, **BOX),
]


@pytest.mark.parametrize("problem", OPTIMISERS, ids=lambda problem: type(problem).__name__)
def test_single_steps_find_the_known_optimum_inside_the_feasible_set(problem: BilevelOptimizer) -> None:
    """min_u ||v* - t||^2/2 with v* = u + 1, u in [0, 1]: the optimum is clip(t - 1, 0, 1)."""
    step = jit(problem.step)
    u = v = np.zeros(4, np.float32)
    lower, upper = problem.init_lower(v), adam_init(u)
    data = {"shift": np.float32(1), "low": np.float32(0)}
    for _ in range(400):
        u, v, lower, upper, metrics = step(u, v, lower, upper, data)
        assert float(ops.min(u)) >= 0 and float(ops.max(u)) <= 1
    np.testing.assert_allclose(ops.convert_to_numpy(u), [0.3, 0.8, 1, 0], atol=0.03)
    assert np.isfinite([float(value) for value in metrics]).all()


def test_costs_in_gradients() -> None:
    """Every g_v is 1, every product 2, and f what the caller says."""
    approxgrad = ApproxGrad(distance, shifted)  # T1 = T2 = 10, Adam: two products an iteration
    assert approxgrad.gradients(2.0) == 10 + 2 + (1 + 2 + 20 * 2)
    assert replace(approxgrad, fixed_system=False).gradients(2.0) == 10 + 2 + (1 + 2 + 20 * 2) + 10
    few = ApproxGrad(distance, shifted, lower_steps=1, solver=ConjugateGradient(2))
    assert few.gradients(0.5) == 1 + 0.5 + (1 + 2 + 3 * 2)
    assert Soba(distance, shifted).gradients(2.0) == 5 and F2sa(distance, shifted).gradients(2.0) == 4
