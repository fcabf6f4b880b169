"""Bilevel problems whose lower minimum and hypergradient are known."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from bilevel_optimizer.autodiff import second_derivatives


def flat(x: Any) -> np.ndarray:
    return np.concatenate([ops.convert_to_numpy(leaf).ravel() for leaf in keras.tree.flatten(x)])


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def hessian_vector_product(function: Callable[[Any], Any], x: Any, p: Any) -> Any:
    """The Hessian of ``function`` at x times p, nested as x."""
    return second_derivatives(lambda _, x: function(x), (), x).matvec(p)


class Quadratic:
    """g = v'Hv/2 - v'Bu and f = ||v - t||^2/2 + u'Dv + c'u, on nested u (5 numbers) and v (7 numbers)."""

    def __init__(self) -> None:
        random = np.random.default_rng(3)
        basis = np.linalg.qr(random.normal(size=(7, 7)))[0]
        self.h = basis @ np.diag(np.linspace(1, 4, 7)) @ basis.T
        self.b, self.d = random.normal(size=(7, 5)), random.normal(size=(5, 7))
        self.t, self.c = random.normal(size=7), random.normal(size=5)
        self.u = random.normal(size=5)
        self.v = np.linalg.solve(self.h, self.b @ self.u)
        self.nested_u = {"first": self.u[:2], "second": [self.u[2:]]}
        self.nested_v = ([self.v[:4].reshape(2, 2)], {"rest": (self.v[4:],)})

    @staticmethod
    def _vector(x: Any) -> Any:
        return ops.concatenate([ops.reshape(leaf, (-1,)) for leaf in keras.tree.flatten(x)])

    def g(self, u: Any, v: Any, _data: Any, _draw: Any) -> Any:
        u, v = self._vector(u), self._vector(v)
        return ops.sum(v * (0.5 * ops.matmul(self.h, v) - ops.matmul(self.b, u)))

    def f(self, u: Any, v: Any, _data: Any, _draw: Any) -> Any:
        u, v = self._vector(u), self._vector(v)
        return ops.sum((v - self.t) ** 2) / 2 + ops.sum(u * (ops.matmul(self.d, v) + self.c))

    def closed_form(self, damping: float) -> np.ndarray:
        f_v = self.v - self.t + self.d.T @ self.u
        f_u = self.d @ self.v + self.c
        return f_u + self.b.T @ np.linalg.solve(self.h + damping * np.eye(7), f_v)


class Ridge:
    """Ridge regression: u holds the targets and the logarithm of the strength, f is the loss on other points."""

    def __init__(self) -> None:
        random = np.random.default_rng(4)
        self.x, self.x_val = random.normal(size=(20, 3)) / 3, random.normal(size=(8, 3))
        y, self.y_val, strength = random.normal(size=20), random.normal(size=8), np.array([-0.4])
        self.u = {"log_strength": strength, "targets": y}
        hessian = self.x.T @ self.x + np.exp(strength) * np.eye(3)
        self.v = np.linalg.solve(hessian, self.x.T @ y)
        p = np.linalg.solve(hessian, self.x_val.T @ (self.x_val @ self.v - self.y_val))
        self.by_strength, self.by_targets = -np.exp(strength) * (self.v @ p), self.x @ p

    def g(self, u: Any, v: Any, _data: Any, _draw: Any) -> Any:
        residual = ops.matmul(self.x, v) - u["targets"]
        return ops.sum(residual**2) / 2 + ops.sum(ops.exp(u["log_strength"])) * ops.sum(v**2) / 2

    def f(self, _u: Any, v: Any, _data: Any, _draw: Any) -> Any:
        return ops.sum((ops.matmul(self.x_val, v) - self.y_val) ** 2) / 2
