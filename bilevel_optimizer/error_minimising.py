"""Error-minimising noise: min over u and v of g(u, v), by turns. It is the bilevel problem whose f is g itself.

Source: "Unlearnable Examples" (Huang et al., ICLR 2021, arXiv 2101.04898) and, with a training loss under Gaussian
noise for g, its stable form (Liu et al., arXiv 2311.13091). With the loss at adversarial images for g, it is close to
robust error-minimising noise (REM: Fu et al., ICLR 2022, arXiv 2203.14533).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from bilevel_optimizer.adam import AdamState, adam_init
from bilevel_optimizer.autodiff import value_and_grad
from bilevel_optimizer.bilevel import Direction, Problem, TwoLoops, minimise_lower
from bilevel_optimizer.trees import Tree, norm


@dataclass(frozen=True, kw_only=True)
class ErrorMinimising(TwoLoops):
    """Alternating minimisation: poison and weights both lower the training loss, so that the class is easy to learn.

    By the envelope theorem the derivative of u -> g(u, v*(u)), v*(u) = argmin_v g(u, v), is g_u(u, v*): no second
    derivative is needed.

    f is not evaluated. The steps on v see draws 0 .. lower_steps - 1 of g. The step on u, by Adam, sees the next
    draw. The public code of arXiv 2101.04898 takes ten steps on v, each on another batch, then 20 sign steps on every
    image's u. That of arXiv 2311.13091 has uniform noise, and 10 sign steps on u for each step on v.
    """

    name: ClassVar[str] = "error_minimising"

    def init_lower(self, v: Tree) -> AdamState:
        return adam_init(v)

    def direction(self, problem: Problem, u: Tree, v: Tree, lower: AdamState, data: Any) -> Direction:
        """The steps on v, then the gradient g_u. The metrics are those at the new v."""
        v, lower = minimise_lower(problem, u, v, lower, data, self.lower_steps, self.lr_v)
        g, gradient = value_and_grad(lambda u: problem.g(u, v, data, self.lower_steps))(u)
        metrics = {"f": g, "g": g, "hypergradient_norm": norm(gradient)}  # the upper objective is the lower one
        return gradient, v, lower, metrics

    def gradients(self, cost_of_f: float) -> float:
        """One gradient for each step on v, and one for u. f costs nothing."""
        return self.lower_steps + 1
