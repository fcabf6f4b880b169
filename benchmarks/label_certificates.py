"""Time of certificates against changed training labels, compared with the matrix product that limits it.

    python benchmarks/label_certificates.py

The first size is MNIST 1 against 7 (n = 13,007 training points, m = 2,163 test points, d = 785 features). The second is
all of MNIST (n = 55,000, ten classes) with a block of test points. The features are random with a class mean, because
any features take the same time. The limit is the product in the kernel vectors: 2 d n m operations at the rate of a
large product.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from timeit import timeit
from typing import Any

import numpy as np

from benchmarks.record import BenchmarkConfig, finish, machine, peak_resident_mib
from label_flipping.certificates.fixed_weights import RidgeRegression
from label_flipping.certificates.label_flips import LabelFlips
from label_flipping.certificates.smoothed_weights import smooth_weights
from runtime.command_line import run_script
from runtime.files import InputError
from runtime.progress import progress

BAR_SECONDS = 10.0  # MNIST 1 against 7, one q, factorisation included
BAR_GIB = 8.0  # the whole of MNIST
_BLOCK = 250  # test points that are certified together
_FEATURES = 785


@dataclass(frozen=True, kw_only=True)
class Config(BenchmarkConfig):
    q: float = 0.2
    """Probability of flipping a label."""
    all_points: bool = False
    """Certify all 10,000 test points of ten classes in place of one block. This takes minutes."""


def main(config: Config) -> list[dict[str, Any]]:
    """Measure and print both sizes. Returns the rows. Raises InputError for a q that cannot work."""
    about = machine()
    shrink = 20 if config.quick else 1
    two = measure("MNIST 1 against 7", 13_007 // shrink, 2_163 // shrink, 2, config.q)
    two |= {"bar": BAR_SECONDS, "met": two["seconds"]["together"] <= BAR_SECONDS}
    points = 10_000 if config.all_points else _BLOCK
    ten = measure("MNIST, ten classes", 55_000 // shrink, points // shrink, 10, config.q)
    peak = peak_resident_mib() / 1024
    ten |= {"peak_gib": peak, "peak_gib_bar": BAR_GIB, "met": peak <= BAR_GIB}
    rows = [two, ten]
    finish(config, about, rows)
    return rows


def measure(name: str, size: int, points: int, classes: int, q: float) -> dict[str, Any]:
    """A row: seconds of factorisation, kernel vectors, Chernoff bounds, numbers of flips, and of the product alone."""
    noise = LabelFlips(q, classes)
    random = np.random.default_rng(0)
    means = random.normal(scale=0.15, size=(classes, _FEATURES))
    y, y_test = random.integers(0, classes, size), random.integers(0, classes, points)
    x, x_test = (random.normal(scale=0.3, size=(len(c), _FEATURES)) + means[c] for c in (y, y_test))

    seconds = defaultdict[str, float](float)

    def timed(stage: str, work: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = work(*arguments)
        seconds[stage] += time.perf_counter() - start
        return result

    kernel = timed("factorisation", RidgeRegression, x, 1e4)
    is_any_certified = False
    for i in progress(range(0, points, _BLOCK), desc=name, unit="block"):
        alpha = timed("kernel vectors", kernel, x_test[i : i + _BLOCK])
        smoothed = timed("Chernoff bound", smooth_weights, alpha, y, noise)
        is_any_certified |= timed("flips", smoothed.certified, noise, size).any()

    product = timeit(lambda: x_test[:_BLOCK] @ x.T, number=3) / 3 / min(points, _BLOCK) * points
    if not is_any_certified:
        raise InputError(f"no test point was certified at q = {q:g}; choose a smaller one")
    return {
        "name": name, "training_points": size, "test_points": points, "classes": classes,
        "seconds": {**seconds, "together": sum(seconds.values()), "product": product},
    }  # fmt: skip


if __name__ == "__main__":
    run_script(main, Config, __doc__)
