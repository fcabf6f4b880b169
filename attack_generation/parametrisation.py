"""Variables that the attack optimises: each image separately, or one pattern for the whole class.

The variables of the upper level (u) are a nested structure of float32 tensors. An outer step moves the variables that
its minibatch of poisoned images depends on. All methods are pure.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal, TypeAlias

import numpy as np

from attack_generation.controls import starting_poison
from bilevel_optimizer.trees import Tree
from runtime.lazy import ops, tree

INSIDE = 1e-3  # ClassPattern.project moves ``a`` this far inside the clip, where the gradient is not 0 (of epsilon)


class Parametrisation(ABC):
    """How poisoned images depend on the variables u, within an l-infinity bound epsilon. Pixels are in [0, 1].

    By default every image depends on all variables.
    """

    own_moments = False  # whether Adam's state is of each image. Published: of each place in a minibatch

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    @abstractmethod
    def start(self, kind: str, x: np.ndarray, seed: int) -> Tree:
        """u at the start. kind: a controls.StartName. x: the clean images behind the poison, (N, H, W, C)."""

    def select(self, u: Tree, index: Any) -> Tree:
        """The variables of a minibatch. index: int32 (B,), places among the poisoned images."""
        return u

    @abstractmethod
    def images(self, u: Tree, x: Any) -> Any:
        """Poisoned images (B, H, W, C), differentiable in u. u: as ``select`` returns it. x: the clean images."""

    @abstractmethod
    def project(self, u: Tree, x: Any, delta: Any) -> Tree:
        """Feasible variables of a minibatch, near u. x: the clean images (B, H, W, C).

        delta: change of the images by the inner attack of the training method, (B, H, W, C). Only SmoothAdv has one.
        """

    def write_back(self, u: Tree, index: Any, moved: Tree) -> Tree:
        """All variables u, after those of the minibatch ``index`` were replaced by ``moved``."""
        return moved


class PerImage(Parametrisation):
    """Each poisoned image is a variable, within epsilon of its clean image (arXiv 2012.01274, section 3)."""

    def start(self, kind: str, x: np.ndarray, seed: int) -> Tree:
        return starting_poison(kind, x, self.epsilon, seed)

    def select(self, u: Tree, index: Any) -> Tree:
        return tree.map_structure(lambda leaf: ops.take(leaf, index, axis=0), u)

    def images(self, u: Tree, x: Any) -> Any:
        return u

    def project(self, u: Tree, x: Any, delta: Any) -> Tree:
        """The nearest image in the ball, after u + delta is clipped to [0, 1] (published code, for SmoothAdv)."""
        u = ops.clip(u + delta, 0.0, 1.0) - delta
        return ops.clip(ops.clip(u, x - self.epsilon, x + self.epsilon), 0.0, 1.0)

    def write_back(self, u: Tree, index: Any, moved: Tree) -> Tree:
        return tree.map_structure(lambda leaf, new: ops.scatter_update(leaf, index[:, None], new), u, moved)


class PerImageOwnMoments(PerImage):
    """As PerImage, but Adam's moments and number of steps belong to an image, not to its place in a minibatch."""

    own_moments = True


class ClassPattern(Parametrisation):
    """One pattern for the class: clip(x + epsilon * clip(a + b * (1 - 2x), -1, 1)).

    ``a`` and ``b`` have an image's shape. ``a`` brightens all images equally. ``b`` moves bright and dark pixels in
    opposite directions. The constant shift is a = 1 and b = 0. Less contrast is a = 0 and a large b. Every outer step
    moves the whole pattern. The gradient is 0 at a clip: 'contrast' starts at b = 2, which clips the change of pixels
    darker than 1/4 or brighter than 3/4. Where a pixel is clipped in every image of the minibatch, for example a black
    pixel with a negative change, ``project`` moves ``a`` back until it is no longer clipped in at least one image.
    """

    def start(self, kind: str, x: np.ndarray, seed: int) -> Tree:
        zero = np.zeros(x.shape[1:], np.float32)
        if kind == "contrast":
            return {"a": zero, "b": zero + 2}
        grey = np.full((1, *zero.shape), 0.5, np.float32)  # the other starts do not depend on the pixels' values
        return {"a": 2 * starting_poison(kind, grey, 0.5, seed)[0] - 1, "b": zero}

    def images(self, u: Tree, x: Any) -> Any:
        change = ops.clip(u["a"] + u["b"] * (1 - 2 * x), -1.0, 1.0)
        return ops.clip(x + self.epsilon * change, 0.0, 1.0)

    def project(self, u: Tree, x: Any, delta: Any) -> Tree:
        change = u["a"] + u["b"] * (1 - 2 * x)
        # How far below and above its clip a pixel is in every image of the minibatch. Not above 0: it is not clipped.
        below = ops.min(ops.maximum(-x / self.epsilon, -1.0) - change, axis=0)
        above = ops.min(change - ops.minimum((1 - x) / self.epsilon, 1.0), axis=0)
        up = ops.where(below > 0, below + INSIDE, 0.0)
        down = ops.where(above > 0, above + INSIDE, 0.0)
        return {"a": u["a"] + up - down, "b": u["b"]}


PARAMETRISATIONS: dict[str, type[Parametrisation]] = {
    "per_image": PerImage, "per_image_own_moments": PerImageOwnMoments, "class_pattern": ClassPattern,
}  # fmt: skip
"""The parametrisations by name. A new one takes one class and one line here."""

ParametrisationName: TypeAlias = Literal[tuple(PARAMETRISATIONS)]  # type: ignore[valid-type]
