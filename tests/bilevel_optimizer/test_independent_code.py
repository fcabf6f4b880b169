"""SOBA and F2SA beside independent code: github.com/benchopt/benchmark_bilevel, by authors of SOBA.

    KERAS_BACKEND=jax BENCHMARK_BILEVEL=<a clone of it> pytest tests/bilevel_optimizer/test_independent_code.py

The independent code takes plain gradient steps, this project takes Adam's. The tests therefore compare directions at
the points that the independent code visits, on a small quadratic problem without noise, and SOBA without damping. They
also compare the ends with the known minimum. They passed with commit 3ad65dc of the independent code. make test skips
them.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from bilevel_optimizer.adam import adam_init
from bilevel_optimizer.bilevel import Problem
from bilevel_optimizer.f2sa import F2sa
from bilevel_optimizer.soba import Soba
from tests.bilevel_optimizer.problems import Quadratic

CLONE = os.environ.get("BENCHMARK_BILEVEL")
pytestmark = pytest.mark.skipif(
    not CLONE or keras.backend.backend() != "jax", reason="needs BENCHMARK_BILEVEL=<a clone> and KERAS_BACKEND=jax"
)

QUADRATIC = Quadratic()
H, B, T, g = QUADRATIC.h, QUADRATIC.b, QUADRATIC.t, QUADRATIC.g  # the minimum of g is v = M u
WEIGHT, MULTIPLIER = 0.5, 4.0
M = np.linalg.solve(H, B)
OPTIMUM = np.linalg.solve(M.T @ M + WEIGHT * np.eye(5), M.T @ T)


def f(u: Any, v: Any, _data: Any = (), _draw: Any = 0) -> Any:
    """The upper objective. u -> f(u, M u) is strongly convex with its minimum at OPTIMUM."""
    return ops.sum((v - T) ** 2) / 2 + WEIGHT * ops.sum(u**2) / 2


@pytest.fixture
def independent(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """(name of the solver, its settings) -> (its first carry, its step). Stand-ins replace the program around it."""

    def load(name: str, **settings: Any) -> tuple[dict, Callable]:
        benchopt, base = ModuleType("benchopt"), ModuleType("benchmark_utils.stochastic_jax_solver")
        benchopt.safe_import_context = nullcontext
        base.StochasticJaxSolver = type("Base", (), {"parameters": {}})
        monkeypatch.syspath_prepend(CLONE)
        monkeypatch.setitem(sys.modules, "benchopt", benchopt)
        monkeypatch.setitem(sys.modules, base.__name__, base)
        spec = importlib.util.spec_from_file_location(name, f"{CLONE}/solvers/{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        start = SimpleNamespace(inner_var0=np.zeros(7), outer_var0=np.full(5, 0.5))
        solver = module.Solver()
        vars(solver).update(
            vars(start), **settings, state_inner_sampler=0, state_outer_sampler=0,
            f_inner=lambda v, u, _: g(u, v, (), 0), f_outer=lambda v, u, _: f(u, v),
        )  # fmt: skip

        def sampler(state: int) -> tuple[int, int]:
            return 0, state

        return solver.init(), solver.get_step(sampler, sampler)

    return load


def test_soba_has_the_directions_of_the_independent_code(independent: Callable, float64: None) -> None:
    before, step = independent("soba", step_size=0.2, outer_ratio=1.0)
    optimiser = Soba(damping=0.0)
    for number in range(1, 201):
        after, _ = step(dict(before), None)
        # Their p solves the system with the opposite sign.
        found = optimiser.directions(Problem(f, g), before["outer_var"], before["inner_var"], -before["v"], ())
        for direction, name, sign in zip(found[:3], ("outer_var", "inner_var", "v"), (1, 1, -1), strict=True):
            moved = (before[name] - after[name]) * np.sqrt(number) / 0.2
            np.testing.assert_allclose(direction, sign * moved, rtol=1e-8, atol=1e-10)
        before = after


def test_f2sa_has_the_directions_of_the_independent_code(independent: Callable, float64: None) -> None:
    settings = {"step_size": 0.1, "outer_ratio": 1.0, "lmbda0": 1.0, "delta_lmbda": 0.5, "n_inner_steps": 1}
    before, step = independent("f2sa", **settings)
    problem, optimiser = Problem(f, g), F2sa()
    for number in range(1, 201):
        after, _ = step(dict(before), None)
        multiplier, rates = before["lmbda"], 0.1 / number ** np.array([5 / 7, 4 / 7])
        # Their y and v move before u, ours together with u. Their y descends f + multiplier g, ours f / multiplier + g.
        at = before["outer_var"], before["inner_approx_star"], before["inner_var"], multiplier, ()
        _, d_v, d_y, _ = optimiser.directions(problem, *at)
        moved_y = (before["inner_var"] - after["inner_var"]) / (rates[0] * multiplier)
        moved_v = (before["inner_approx_star"] - after["inner_approx_star"]) / rates[1]
        at = before["outer_var"], after["inner_approx_star"], after["inner_var"], multiplier, ()
        d_u = optimiser.directions(problem, *at)[0]
        moved_u = (before["outer_var"] - after["outer_var"]) / rates[1]
        for direction, moved in ((d_v, moved_v), (d_y, moved_y), (d_u, moved_u)):
            np.testing.assert_allclose(direction, moved, rtol=1e-8, atol=1e-10)
        before = after


def test_each_optimiser_ends_at_the_minimum_of_its_problem(independent: Callable, float64: None) -> None:
    """SOBA at the minimum of u -> f(u, M u), F2SA with a constant multiplier at that of the penalised problem."""
    import jax

    inverse = np.linalg.inv(np.eye(7) + MULTIPLIER * H)
    curvature = WEIGHT * np.eye(5) + MULTIPLIER * B.T @ (np.linalg.inv(H) - MULTIPLIER * inverse) @ B
    wanted = {"soba": OPTIMUM, "f2sa": np.linalg.solve(curvature, MULTIPLIER * B.T @ inverse @ T)}
    assert np.abs(wanted["soba"] - wanted["f2sa"]).max() > 0.03
    settings = {"step_size": 0.1, "lmbda0": MULTIPLIER, "delta_lmbda": 0.0, "n_inner_steps": 10}
    ratio = {"soba": 2.0, "f2sa": 7.0}  # with smaller ratios the independent code diverges here
    rates = {"lr_u": 0.0002, "lr_v": 0.0008}
    for optimiser in (Soba(lr_p=0.2, damping=0.0, **rates), F2sa(multiplier=MULTIPLIER, **rates)):
        carry, step = independent(optimiser.name, outer_ratio=ratio[optimiser.name], **settings)
        theirs = jax.lax.scan(step, carry, None, length=400_000)[0]["outer_var"]
        start = ops.full((5,), 0.5, "float64"), ops.zeros((7,), "float64")
        one = partial(optimiser.step, Problem(f, g))
        carry = start[0], (start[1],), (optimiser.init_lower(start[1]),), adam_init(start[0])
        ours = ops.fori_loop(0, 20_000, lambda _, at, one=one: one(*at, ())[:4], carry)[0]
        np.testing.assert_allclose(theirs, wanted[optimiser.name], atol=0.01)
        np.testing.assert_allclose(ours, wanted[optimiser.name], atol=0.01)
