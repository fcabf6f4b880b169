"""The operations that differ between TensorFlow and JAX: compilation, gradients and second derivatives.

No other file of the project calls a backend directly. Every function takes and returns nested structures (lists,
tuples, dicts) of tensors and works inside and outside compiled code.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from bilevel_optimizer.trees import Tree
from runtime import backend_name
from runtime.lazy import LazyModule, keras

Scalar = Any  # a tensor of shape ()


class SecondDerivatives(NamedTuple):
    """A function g(u, v) at one point, and products with its second derivatives. No matrix of these is formed."""

    value: Scalar
    gradient: Tree  # g_v
    matvec: Callable[[Tree], Tree]  # p -> g_vv p, p shaped as v
    both: Callable[[Tree], tuple[Tree, Tree]]  # p -> (g_uv p, g_vv p), for little more than the cost of one product


if backend_name() == "tensorflow":
    tf = LazyModule("tensorflow", after="keras")

    def jit(function: Callable) -> Callable:
        """Compile a pure function of nested tensors. It is traced once per argument shapes and dtypes.

        XLA stays off: on CPUs it halves the speed of convolutions. AutoGraph is off too: loops over tensors
        are written with keras.ops.

        On CPUs the compiled function takes and returns flat lists. tf.function spends a millisecond of Python on the
        thirty nested tensors of a training step. That is much of a small model's step. Inside other compiled code, the
        original function is called.
        """
        # Every run compiles its own steps on purpose. TensorFlow would warn of retracing after the fifth step function.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        if tf.config.list_physical_devices("GPU"):
            return tf.function(function, jit_compile=False, autograph=False)
        traced: dict[Any, tuple[Tree, Callable, Tree]] = {}

        def compiled(*arguments: Tree) -> Tree:
            if not tf.executing_eagerly():
                return function(*arguments)
            leaves = [x if isinstance(x, tf.Tensor) else tf.convert_to_tensor(x) for x in keras.tree.flatten(arguments)]
            key = tuple((x.shape, x.dtype) for x in leaves)
            if key not in traced:
                traced[key] = _trace(function, arguments, leaves)
            structure, call, results = traced[key]
            tf.nest.assert_same_structure(structure, arguments)
            return keras.tree.pack_sequence_as(results, call(leaves))

        return compiled

    def _trace(function: Callable, arguments: Tree, leaves: list[Any]) -> tuple[Tree, Callable, Tree]:
        """Structure of the arguments, the function from flat list to flat list, structure of the results."""
        structure, structure_of_results = _without_leaves(arguments), None

        def flat(*leaves: Any) -> list[Any]:
            nonlocal structure_of_results
            results = function(*keras.tree.pack_sequence_as(structure, leaves))
            structure_of_results = _without_leaves(results)
            return [tf.convert_to_tensor(x) for x in keras.tree.flatten(results)]

        graph = tf.function(flat, jit_compile=False, autograph=False).get_concrete_function(*leaves)
        types, captured = [x.dtype for x in graph.outputs], list(graph.captured_inputs)

        def call(leaves: list[Any]) -> list[Any]:
            return tf.raw_ops.StatefulPartitionedCall(args=leaves + captured, Tout=types, f=graph)

        return structure, call, structure_of_results

    def _without_leaves(x: Tree) -> Tree:
        return keras.tree.map_structure(lambda _: None, x)

    def fused(function: Callable) -> Callable:
        """An elementwise function of tensors in one pass over memory, instead of one pass for each operation.

        XLA compiles it in a fifth of a second for each shape. This pays off only for large tensors.
        """
        return tf.function(function, jit_compile=True, autograph=False)

    def value_and_grad(function: Callable[[Tree], Any], has_aux: bool = False) -> Callable[[Tree], Any]:
        """Return x -> (function(x), d function / dx). With has_aux, function returns (value, aux)."""

        def value_and_gradient(x: Tree) -> Any:
            x = _as_tensors(x)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                result = function(x)
                value = result[0] if has_aux else result
            return result, _pullback(tape, value, x)

        return value_and_gradient

    def second_derivatives(g: Callable[[Tree, Tree], Scalar], u: Tree, v: Tree) -> SecondDerivatives:
        """See SecondDerivatives. The first-order graph is evaluated once, in reverse over reverse mode."""
        u, v = _as_tensors(u), _as_tensors(v)
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as outer:
            outer.watch((u, v))
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(v)
                with _moments_to_differentiate_twice():
                    value = g(u, v)
            gradient = _pullback(inner, value, v)

        return SecondDerivatives(
            value,
            gradient,
            matvec=lambda p: _pullback(outer, gradient, v, p),
            both=lambda p: _pullback(outer, gradient, (u, v), p),
        )

    @contextmanager
    def _moments_to_differentiate_twice() -> Iterator[None]:
        """Replace TensorFlow's moments (mean and variance), which Keras's normalisation layers call.

        They treat the mean inside the variance as a constant. That is right for a gradient and wrong for second
        derivatives.
        """

        def moments(x: Any, axes: Any, shift: Any = None, keepdims: bool = False, name: Any = None) -> tuple[Any, Any]:
            mean = tf.reduce_mean(x, axes, keepdims=True)
            variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=keepdims)
            return mean if keepdims else tf.squeeze(mean, axes), variance

        before, tf.nn.moments = tf.nn.moments, moments
        try:
            yield
        finally:
            tf.nn.moments = before

    def mapped(function: Callable[[Any], Any], x: Any) -> Any:
        """The stacked values function(x[i])."""
        return tf.stack([function(one) for one in tf.unstack(x)])

    def _as_tensors(x: Tree) -> Tree:
        return keras.tree.map_structure(tf.convert_to_tensor, x)

    def _pullback(tape: Any, target: Tree, sources: Tree, cotangent: Tree | None = None) -> Tree:
        return tape.gradient(target, sources, cotangent, unconnected_gradients=tf.UnconnectedGradients.ZERO)

else:
    jax = LazyModule("jax", after="keras")

    def jit(function: Callable) -> Callable:
        """Compile a pure function of nested tensors. It is traced once per argument shapes and dtypes."""
        return jax.jit(function)

    def fused(function: Callable) -> Callable:
        """An elementwise function of tensors in one pass over memory. JAX fuses compiled code without help."""
        return function

    def value_and_grad(function: Callable[[Tree], Any], has_aux: bool = False) -> Callable[[Tree], Any]:
        """Return x -> (function(x), d function / dx). With has_aux, function returns (value, aux)."""
        return jax.value_and_grad(function, has_aux=has_aux)

    def second_derivatives(g: Callable[[Tree, Tree], Scalar], u: Tree, v: Tree) -> SecondDerivatives:
        """See SecondDerivatives. The first-order graph is evaluated once, in forward over reverse mode.

        The derivative of (g_u, g_v) along p in v is (g_uv p, g_vv p), because mixed derivatives are symmetric. Reverse
        over reverse gives the same result, but needs convolutions for which cuDNN has no fast kernel.
        """

        def first_order(v: Tree) -> tuple[Scalar, tuple[Tree, Tree]]:
            return jax.value_and_grad(g, argnums=(0, 1))(u, v)

        (value, (_, gradient)), along = jax.linearize(first_order, v)
        return SecondDerivatives(value, gradient, matvec=lambda p: along(p)[1][1], both=lambda p: along(p)[1])

    def mapped(function: Callable[[Any], Any], x: Any) -> Any:
        """The stacked values function(x[i]), compiled as one computation for any number of x[i]."""
        return jax.vmap(function)(x)


def grad(function: Callable[[Tree], Scalar]) -> Callable[[Tree], Tree]:
    """Return x -> d function / dx, shaped as x. It is 0 where the function does not depend on x."""
    return lambda x: value_and_grad(function)(x)[1]
