"""Adam on nested structures, state in and state out.

Keras's optimizers own their variables; ApproxGrad also needs Adam on a poison minibatch and on the solution
of a linear system, whose states are carried through compiled loops and checkpoints.
"""

from typing import Any, NamedTuple

from keras import ops

from bilevel_optimizer.trees import Tree, tree_map, zeros_like


class AdamState(NamedTuple):
    """First and second moments, shaped as the parameters, and the number of steps taken (int32, ())."""

    first: Tree
    second: Tree
    steps: Any


def adam_init(x: Tree) -> AdamState:
    """The state before the first step on parameters shaped as x."""
    return AdamState(zeros_like(x), zeros_like(x), ops.zeros((), dtype="int32"))


def adam_step(
    x: Tree,
    gradient: Tree,
    state: AdamState,
    learning_rate: Any,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> tuple[Tree, AdamState]:
    """One step of Adam (Kingma and Ba, ICLR 2015, the form at the end of section 2).

    x, gradient: nested structures of float tensors of one shape. learning_rate: scalar.
    Returns the new parameters and the new state.
    """
    steps = state.steps + 1
    first = tree_map(lambda m, g: beta1 * m + (1 - beta1) * g, state.first, gradient)
    second = tree_map(lambda s, g: beta2 * s + (1 - beta2) * g * g, state.second, gradient)

    def move(x: Any, m: Any, s: Any) -> Any:
        t = ops.cast(steps, x.dtype)
        rate = learning_rate * ops.sqrt(1 - beta2**t) / (1 - beta1**t)
        return x - rate * m / (ops.sqrt(s) + epsilon)

    return tree_map(move, x, first, second), AdamState(first, second, steps)
