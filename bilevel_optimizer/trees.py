"""Vector-space operations on nested structures of tensors."""

from typing import Any

from runtime.lazy import ops, tree

Tree = Any  # a nested structure of tensors


def zeros_like(x: Tree) -> Tree:
    """Zeros shaped as x."""
    return tree.map_structure(ops.zeros_like, x)


def add_scaled(x: Tree, scale: Any, y: Tree) -> Tree:
    """x + scale * y."""
    return tree.map_structure(lambda a, b: a + scale * b, x, y)


def dot(x: Tree, y: Tree) -> Any:
    """Inner product over all leaves, a scalar tensor."""
    return sum(ops.sum(a * b) for a, b in zip(tree.flatten(x), tree.flatten(y), strict=True))


def norm(x: Tree) -> Any:
    """Euclidean norm over all leaves, a scalar tensor."""
    return ops.sqrt(dot(x, x))


def mean(trees: tuple[Tree, ...]) -> Tree:
    """Mean of structures of one shape, leaf by leaf. A single structure is returned as it is."""
    if len(trees) == 1:
        return trees[0]
    # ops.mean rounds float64 to float32 on JAX.
    return tree.map_structure(lambda *leaves: sum(leaves) / len(leaves), *trees)
