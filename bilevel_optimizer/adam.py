"""Adam on nested structures, as a pure function of parameters, gradient and state.

Keras's optimizers own their variables. Here compiled loops and checkpoints carry Adam's state: that of the weights, of
a minibatch of poison and of the solution of a linear system.
"""

import math
from functools import cache
from typing import Any, NamedTuple

from bilevel_optimizer.autodiff import fused
from bilevel_optimizer.trees import Tree, zeros_like
from runtime.lazy import ops, tree

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # as recommended in the paper of Adam
_WORTH_FUSING = 2**16  # entries
_fused = cache(fused)


class AdamState(NamedTuple):
    """First and second moments, shaped as the parameters, and the number of steps taken (int32, ())."""

    first: Tree
    second: Tree
    steps: Any


def adam_init(x: Tree) -> AdamState:
    """The state before the first step on parameters shaped as x."""
    return AdamState(zeros_like(x), zeros_like(x), ops.zeros((), dtype="int32"))


def adam_step(x: Tree, gradient: Tree, state: AdamState, learning_rate: Any) -> tuple[Tree, AdamState]:
    """One step of Adam (Kingma and Ba, ICLR 2015, the form at the end of section 2).

    x, gradient: nested structures of float tensors of one shape. learning_rate: scalar.
    Returns the new parameters and the new state.
    """
    steps = state.steps + 1
    updated = []  # for each leaf its new parameters and moments
    flat = map(tree.flatten, (x, gradient, state.first, state.second))
    for parameters, g, first, second in zip(*flat, strict=True):
        parameters = ops.convert_to_tensor(parameters)
        t = ops.cast(steps, parameters.dtype)
        rate = learning_rate * ops.sqrt(1 - BETA2**t) / (1 - BETA1**t)
        update = _fused(_update) if math.prod(parameters.shape) >= _WORTH_FUSING else _update
        updated.append(update(parameters, ops.convert_to_tensor(g), first, second, rate))
    x, first, second = (tree.pack_sequence_as(x, leaves) for leaves in zip(*updated, strict=True))
    return x, AdamState(first, second, steps)


def _update(x: Any, g: Any, m: Any, s: Any, rate: Any) -> tuple[Any, Any, Any]:
    """New parameters and moments of one tensor. rate: the learning rate with both bias corrections."""
    m = BETA1 * m + (1 - BETA1) * g
    s = BETA2 * s + (1 - BETA2) * g * g
    return x - rate * m / (ops.sqrt(s) + EPSILON), m, s
