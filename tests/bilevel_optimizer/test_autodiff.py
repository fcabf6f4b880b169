"""Gradients and second derivatives on nested structures, and Adam, against NumPy."""

from collections import OrderedDict
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

from bilevel_optimizer import adam
from bilevel_optimizer.adam import _WORTH_FUSING, adam_init, adam_step
from bilevel_optimizer.autodiff import grad, jit, second_derivatives, value_and_grad
from bilevel_optimizer.trees import add_scaled, dot, norm
from tests.bilevel_optimizer.problems import hessian_vector_product

numpy_of = ops.convert_to_numpy


def leaves(x: Any) -> list[np.ndarray]:
    return [numpy_of(leaf) for leaf in keras.tree.flatten(x)]


def test_value_and_grad_keeps_the_structure() -> None:
    x = {"a": np.float32([1, 2]), "b": [np.float32([[3]]), (np.float32(4),)]}

    def function(x: Any) -> Any:
        return ops.sum(x["a"] ** 3) * x["b"][1][0] + ops.sum(x["b"][0])

    value, gradient = value_and_grad(function)(x)
    assert float(value) == 9 * 4 + 3
    assert list(gradient) == ["a", "b"] and isinstance(gradient["b"][1], tuple)
    for found, wanted in zip(leaves(gradient), ([12, 48], [[1]], 9), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_auxiliary_values_come_back_and_are_not_differentiated() -> None:
    x = [np.float32([1, 2])]

    def function(x: Any) -> Any:
        return ops.sum(x[0] ** 2), {"cube": x[0] ** 3}

    (value, aux), gradient = value_and_grad(function, has_aux=True)(x)
    assert float(value) == 5
    np.testing.assert_allclose(numpy_of(aux["cube"]), [1, 8])
    np.testing.assert_allclose(numpy_of(gradient[0]), [2, 4])


class Pair(NamedTuple):
    first: Any
    second: Any


def test_compiled_functions_keep_every_structure() -> None:
    traced: list[Any] = []

    def function(x: Any, y: Any) -> Any:
        traced.append(x)
        return {"z": x["b"] * 2, "a": [Pair(x["a"], (y[0], ()))], "o": OrderedDict(q=x["a"] + 1, p=y[0] - 1)}, y[1]

    compiled = jit(function)
    for given in ({"b": np.float32([1, 2]), "a": np.float32(3)}, {"a": np.float32(3), "b": np.float32([1, 2])}):
        found, last = compiled(given, [np.int32(5), 7.0])
        np.testing.assert_array_equal(numpy_of(found["z"]), [2, 4])
        assert float(last) == 7 and [int(x) for x in leaves(found["o"])] == [4, 4] and list(found["o"]) == ["q", "p"]
        pair = found["a"][0]
        assert isinstance(pair, Pair) and float(pair.first) == 3 and int(pair.second[0]) == 5 and pair.second[1] == ()
    assert len(traced) == 1
    longer = {"b": np.float32([1, 2, 3]), "a": np.float32(3)}
    np.testing.assert_array_equal(numpy_of(compiled(longer, [np.int32(5), 7.0])[0]["z"]), [2, 4, 6])
    assert len(traced) == 2
    nested = jit(lambda x: compiled(x, [np.int32(5), x["a"]])[0]["z"] + 1)
    np.testing.assert_array_equal(numpy_of(nested(longer)), [3, 5, 7])


def test_unconnected_leaves_have_zero_gradients() -> None:
    x = {"used": np.float32([1, 2]), "unused": np.ones((2, 3), np.float32)}
    gradient = grad(lambda x: ops.sum(x["used"] ** 2))(x)
    np.testing.assert_array_equal(numpy_of(gradient["unused"]), np.zeros((2, 3)))
    np.testing.assert_allclose(numpy_of(gradient["used"]), [2, 4])
    u, v = np.float32([1, 2]), np.float32([3])
    square = second_derivatives(lambda u, v: ops.sum(v * v), u, v)
    assert float(square.gradient[0]) == 6 and float(square.matvec(v)[0]) == 6
    np.testing.assert_array_equal(numpy_of(square.both(v)[0]), [0, 0])
    # Linear in v: there is no second derivative to connect to.
    linear = second_derivatives(lambda u, v: v[0] * ops.sum(u * u), u, v)
    assert float(linear.matvec(v)[0]) == float(linear.both(v)[1][0]) == 0
    np.testing.assert_allclose(numpy_of(linear.both(v)[0]), [6, 12])


def test_compiled_code_gives_what_eager_code_gives() -> None:
    x = {"a": np.float32([0.3, -0.7]), "b": (np.float32([1.5]),)}
    p = {"a": np.float32([1, 2]), "b": (np.float32([-1]),)}

    def function(x: Any) -> Any:
        return ops.sum(ops.tanh(x["a"]) ** 2) * ops.sum(ops.exp(x["b"][0]))

    def everything(x: Any, p: Any) -> Any:
        return value_and_grad(function)(x), hessian_vector_product(function, x, p)

    for compiled, eager in zip(leaves(jit(everything)(x, p)), leaves(everything(x, p)), strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-5)


def numpy_g(u: np.ndarray, v: np.ndarray) -> Any:
    """A scalar with every second derivative different from zero; analytic, so that complex steps work."""
    w, b = v[:6].reshape(2, 3), v[6:]
    hidden = np.log(1 + np.exp(u.reshape(2, 2) @ w + b))  # not tanh, which Keras rounds to float32 on JAX
    return np.sum(hidden**2 * np.arange(1, 4)) + 0.1 * np.sum(v**3) * np.sum(u)


def keras_g(u: Any, v: Any) -> Any:
    w, b = v["w"], v["b"][0]
    hidden = ops.softplus(u[0] @ w + b)
    weights = ops.convert_to_tensor(np.arange(1.0, 4.0))
    return ops.sum(hidden**2 * weights) + 0.1 * (ops.sum(w**3) + ops.sum(b**3)) * ops.sum(u[0])


def gradient_by_complex_steps(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    steps = 1e-30j * np.eye(len(v))
    return np.array([numpy_g(u + 0j, v + step).imag / 1e-30 for step in steps])


def test_second_derivatives_are_columns_of_the_explicit_matrices(float64: None) -> None:
    random = np.random.default_rng(0)
    u, v, p, h = random.normal(size=4), random.normal(size=9), random.normal(size=9), 1e-5
    nested = {"w": p[:6].reshape(2, 3), "b": [p[6:]]}
    at = (u.reshape(2, 2),), {"w": v[:6].reshape(2, 3), "b": [v[6:]]}
    value, g_v, matvec, both = second_derivatives(keras_g, *at)
    gradient = gradient_by_complex_steps

    def columns(at_plus_and_minus: Any, size: int) -> np.ndarray:
        return np.array([np.subtract(*at_plus_and_minus(h * e)) / (2 * h) for e in np.eye(size)])

    hessian = columns(lambda e: (gradient(u, v + e), gradient(u, v - e)), 9)
    mixed = columns(lambda e: (gradient(u + e, v), gradient(u - e, v)), 4)

    def flat(x: Any) -> np.ndarray:
        return np.concatenate([numpy_of(x["w"]).ravel(), numpy_of(x["b"][0])])

    assert float(value) == pytest.approx(numpy_g(u, v), rel=1e-12)
    np.testing.assert_allclose(flat(g_v), gradient(u, v), rtol=1e-10)
    of_u, of_v = both(nested)
    for product in (matvec(nested), of_v):
        np.testing.assert_allclose(flat(product), hessian @ p, rtol=1e-7)
    np.testing.assert_allclose(numpy_of(of_u[0]).ravel(), mixed @ p, rtol=1e-7)
    product = hessian_vector_product(lambda v: keras_g(at[0], v), at[1], nested)
    np.testing.assert_allclose(flat(product), hessian @ p, rtol=1e-7)


def test_adam_takes_the_steps_of_keras() -> None:
    random = np.random.default_rng(1)
    start = [random.normal(size=(2, 3)).astype("float32"), random.normal(size=4).astype("float32")]
    variables = [keras.Variable(x) for x in start]
    reference = keras.optimizers.Adam(learning_rate=0.03, epsilon=1e-8)
    x, state = {"a": start[0], "b": (start[1],)}, adam_init({"a": start[0], "b": (start[1],)})
    for step in range(6):
        gradients = [random.normal(size=v.shape).astype("float32") * 10.0**-step for v in start]
        reference.apply([ops.convert_to_tensor(g) for g in gradients], variables)
        x, state = adam_step(x, {"a": gradients[0], "b": (gradients[1],)}, state, 0.03)
    assert int(state.steps) == 6
    for found, wanted in zip(leaves(x), variables, strict=True):
        np.testing.assert_allclose(found, numpy_of(wanted), rtol=2e-5)


def test_adam_is_the_same_for_small_and_large_tensors_in_loops_and_again() -> None:
    """A large one is updated in one pass; here both are one tensor, the small one cut out of the large."""
    random = np.random.default_rng(3)
    start, gradient = (random.normal(size=(2, 40_000)).astype("float32") for _ in range(2))
    assert start.size > _WORTH_FUSING

    def steps(x: Any, gradient: Any) -> Any:
        def step(i: Any, carry: Any) -> Any:
            return adam_step(carry[0], gradient * ops.cast(i + 1, "float32"), carry[1], 0.03)

        return ops.fori_loop(0, 4, step, (x, adam_init(x)))

    compiled = jit(steps)
    (large, state), (again, _), (small, part) = (
        compiled(start, gradient), compiled(start, gradient), compiled(start[:, :100], gradient[:, :100])
    )  # fmt: skip
    np.testing.assert_array_equal(numpy_of(large), numpy_of(again))
    np.testing.assert_allclose(numpy_of(large)[:, :100], numpy_of(small), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(numpy_of(state.second)[:, :100], numpy_of(part.second), rtol=1e-6)
    assert int(state.steps) == 4


def test_adam_takes_the_steps_of_the_paper(float64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BETA1": 0.8, "BETA2": 0.9, "EPSILON": 1e-3}.items():
        monkeypatch.setattr(adam, name, value)
    random = np.random.default_rng(2)
    x = wanted = random.normal(size=3)
    state, m, s = adam_init(x), np.zeros(3), np.zeros(3)
    for t in range(1, 8):
        g = random.normal(size=3)
        x, state = adam_step(x, g, state, 0.1)
        m, s = 0.8 * m + 0.2 * g, 0.9 * s + 0.1 * g**2
        wanted = wanted - 0.1 * np.sqrt(1 - 0.9**t) / (1 - 0.8**t) * m / (np.sqrt(s) + 1e-3)
    np.testing.assert_allclose(numpy_of(x), wanted, rtol=1e-12)


def test_trees_are_vectors() -> None:
    x = {"a": np.float32([3]), "b": [np.float32([[0, 4]])]}
    assert float(norm(x)) == 5
    assert float(dot(x, add_scaled(x, 2.0, x))) == 75
