"""Statistics over several runs: mean, spread, and the reduction of a radius with its interval."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from runtime.lazy import optimize, special

CONFIDENCE = 0.95
RESAMPLES = 2_000  # of the bootstrap over points
_FEW = 10  # points. If fewer than these keep, lose or lower their radius, the bootstrap over points is too narrow


def mean_and_std(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation of the known values. The mean of none and the deviation of one are None."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None, float(np.std(known, ddof=1)) if len(known) > 1 else None


def mean_and_std_text(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation as text. For a single value only the mean."""
    mean, std = mean_and_std(values)
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"


def share_interval(share: Any, points: Any) -> tuple[Any, Any]:
    """Wilson's 95 % interval of a share of ``points`` points. Both may be arrays. NaN where points is NaN."""
    from statsmodels.stats.proportion import proportion_confint

    return proportion_confint(np.round(share * points), points, 1 - CONFIDENCE, method="wilson")


class Reduction(NamedTuple):
    """Reduction of a mean radius against another, in percent, with its 95 % interval. Sorted by percent, then low."""

    percent: float
    low: float  # -inf where the interval has no lower end
    high: float
    over: tuple[str, ...]  # sources of the interval: attack runs, victims, points
    runs: int = 0  # victims of poisoned data in it

    @property
    def text(self) -> str:
        """For example '51.7 % (33.2 to 70.1)'. Without an interval where nothing varies."""
        percent, low, high = (f"{value:.1f}".replace("-0.0", "0.0") for value in (self.percent, self.low, self.high))
        interval = f" ({'below -999' if self.low < -999 else low} to {high})" if self.over else ""
        return f"{percent} %{interval}"


def reduction_of(poisoned: np.ndarray, clean: np.ndarray, *, same_points: bool = True) -> Reduction | None:
    """The reduction of the mean radius. None: the clean mean radius is 0.

    poisoned: radii float (A, S, P) of A attack runs, S victims and P points, 0 where a point is not certified. clean:
    (S, Q), radii of clean victims with the same seeds. same_points: both have the same points in order (Q is P).

    The interval has two parts. The part of attack runs and victims holds all ratios that a t test of the paired
    differences poisoned - ratio * clean does not reject (Fieller's method, exact for one attack run and normally
    distributed victims). With several attack runs the variances of the means of attack runs and of victims are added,
    with Satterthwaite's degrees of freedom. The sum counts the interaction of attack runs and victims twice, so the
    interval is rather too wide than too narrow. The part of points is a percentile bootstrap (``stretched``). Variance
    estimates recovery (Zou and Donner 2008) joins both parts: it adds the squares of their distances from the ratio.
    """
    after, before = poisoned.mean(axis=2), clean.mean(axis=1)
    if not before.mean():
        return None
    ratio = float(after.mean() / before.mean())
    over = [name for name, count in zip(("attack runs", "victims"), after.shape, strict=True) if count > 1]
    parts = [_over_runs(after, before, ratio)] if over else []
    if poisoned.shape[2] > 1:
        over.append("points")
        parts.append(_over_points([poisoned.mean(axis=(0, 1))], [clean.mean(axis=0)], same_points))
    return _joined(ratio, parts, over)._replace(runs=after.size)


def mean_reduction(kinds: Sequence[tuple[np.ndarray, np.ndarray]]) -> Reduction | None:
    """The mean over several kinds of victims of their reductions.

    None: there is no kind, a clean mean radius is 0, numbers of points differ, or only some kinds have one victim.

    kinds: for each kind the radii (S, P) of S victims of poisoned and of clean data at the same P points. The interval
    is of these kinds: only victims and points vary, and victims of two kinds are independent. Its part for victims is a
    t interval with Satterthwaite's degrees of freedom for the mean of each kind's differences poisoned - ratio * clean,
    divided by the clean mean radius.
    """
    if not kinds or not all(before.mean() for _, before in kinds):
        return None
    if len({one.shape[1] for kind in kinds for one in kind}) > 1 or len({len(one) == 1 for one, _ in kinds}) > 1:
        return None
    ratios = [float(after.mean() / before.mean()) for after, before in kinds]
    ratio, over, parts = float(np.mean(ratios)), [], []
    if len(kinds[0][1]) > 1:
        over.append("victims")
        pairs = zip(ratios, kinds, strict=True)
        differences = [(after - one * before).mean(axis=1) / before.mean() for one, (after, before) in pairs]
        variances = np.array([np.var(one, ddof=1) / len(one) for one in differences]) / len(kinds) ** 2
        half = _half_width(variances, np.array([len(one) - 1 for one in differences]))
        parts.append((ratio - half, ratio + half))
    if kinds[0][0].shape[1] > 1:
        over.append("points")
        parts.append(_over_points([after.mean(axis=0) for after, _ in kinds], [one.mean(axis=0) for _, one in kinds]))
    return _joined(ratio, parts, over)


def _joined(ratio: float, parts: Sequence[tuple[float, float]], over: Sequence[str]) -> Reduction:
    """The reduction with an interval that joins its parts: the squares of their distances from the ratio are added."""
    low, high = (float(np.sqrt(sum((ratio - part[end]) ** 2 for part in parts))) for end in (0, 1))
    return Reduction(100 * (1 - ratio), 100 * (1 - ratio - high), min(100.0, 100 * (1 - ratio + low)), tuple(over))


def _over_runs(after: np.ndarray, before: np.ndarray, ratio: float) -> tuple[float, float]:
    """Interval of the ratio of the means over attack runs and victims. after (A, S), before (S,)."""

    def refused(candidate: float) -> float:
        """Above 0 where the t test rejects this ratio."""
        difference = after - candidate * before
        return float(abs(difference.mean())) - half_width_over_runs(difference)

    if refused(ratio) > 0:  # only by rounding, where all ratios are the same
        return ratio, ratio
    low = 0.0 if refused(0.0) <= 0 else float(optimize.brentq(refused, 0.0, ratio))
    if refused(1e6 * max(1.0, ratio)) <= 0:  # the clean mean may be 0, so that the largest ratios are accepted
        return low, np.inf
    beyond = ratio + 0.1
    while refused(beyond) <= 0:
        beyond *= 2
    return low, float(optimize.brentq(refused, ratio, beyond))


def half_width_over_runs(values: np.ndarray) -> float:
    """Half the width of the t interval of the mean of values (A, S) of A attack runs and S victims, at least 2 values.

    Each victim's seed is in every attack run. The variances of the means of attack runs and of victims are added.
    """
    axes = [axis for axis in (0, 1) if values.shape[axis] > 1]
    counts = np.array([values.shape[axis] for axis in axes])
    variances = np.array([np.var(values.mean(axis=1 - axis), ddof=1) for axis in axes]) / counts
    return _half_width(variances, counts - 1)


def _half_width(variances: np.ndarray, freedoms: np.ndarray) -> float:
    """Half the width of the t interval of a sum. freedoms: of each variance; joined by Satterthwaite's formula."""
    total = variances.sum()
    freedom = total**2 / np.maximum(np.sum(variances**2 / freedoms), 1e-300)
    return float(special.stdtrit(max(freedom, 1.0), (1 + CONFIDENCE) / 2) * np.sqrt(total))


def _over_points(after: Sequence[np.ndarray], before: Sequence[np.ndarray], paired: bool = True) -> tuple[float, float]:
    """Interval of the mean over kinds of the ratio of the means over points. For each kind: after (P,), before (Q,).

    paired: both have the same points in order. The interval is a percentile bootstrap, which cannot see rare points.
    So it reaches at least as far from the ratio as rare points could move it, in the three cases that comments name.
    """
    resampled_after = _resamples(len(after[0]), 0) @ np.transpose(after)
    resampled_before = _resamples(len(before[0]), 0 if paired else 1) @ np.transpose(before)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.nan_to_num(resampled_after / resampled_before, nan=np.inf, posinf=np.inf).mean(axis=1)
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest")
    kinds = list(zip(after, before, strict=True))
    ratio = np.mean([poisoned.mean() / clean.mean() for poisoned, clean in kinds])
    low, high = stretched(low, high, ratio, min(len(after[0]), len(before[0])))
    downwards = upwards = 0.0  # how far rare points could move the ratio
    for poisoned, clean in kinds:
        points = len(poisoned)
        with_radius = np.count_nonzero(poisoned)
        clean_with_radius = np.count_nonzero(clean) * points // len(clean)  # of as many points
        upwards += unseen_share(with_radius, clean_with_radius) / len(kinds)  # few points keep a radius: more may
        ceiling = max(poisoned.max(), clean.max())  # one point is there, so that all but one can be below it
        below_ceiling = np.count_nonzero(poisoned < ceiling * (1 - 1e-9))
        if below_ceiling < min(_FEW, points - 1):  # most points are at the ceiling: more may fall below it
            lowered = np.count_nonzero(poisoned < clean * (1 - 1e-9)) if paired else below_ceiling
            downwards += unseen_share(lowered, points - 1) * ceiling / clean.mean() / len(kinds)
        if clean_with_radius < min(_FEW, points / 2):  # few clean points have a radius: more of them may lose it
            lost = max(clean_with_radius - with_radius, 0)
            downwards += unseen_share(lost, clean_with_radius) / len(kinds)
    return float(min(low, ratio - downwards)), float(max(high, ratio + upwards))


def stretched(low: float, high: float, estimate: float, points: int) -> tuple[float, float]:
    """A percentile interval of a mean over 2 to 29 points is too narrow. This moves its ends away from the estimate.

    The factor puts Student's t in place of the normal quantile, and P - 1 in place of P in the variance. It is 1.06 at
    29 points. The interval of 30 points or more stays as it is.
    """
    if not 1 < points < 30:
        return low, high
    level = (1 + CONFIDENCE) / 2
    factor = np.sqrt(points / (points - 1)) * special.stdtrit(points - 1, level) / special.ndtri(level)
    below, above = (max(float(distance), 0.0) for distance in (estimate - low, high - estimate))
    return float(min(low, estimate - factor * below)), float(max(high, estimate + factor * above))


def unseen_share(count: Any, points: Any) -> float:
    """What Clopper and Pearson's upper bound adds to the share ``count`` of ``points``, 0 from _FEW on."""
    share = special.betaincinv(count + 1, points - count, (1 + CONFIDENCE) / 2)
    return float(share) - count / points if count < min(_FEW, points) else 0.0


@lru_cache(maxsize=8)
def _resamples(points: int, seed: int) -> np.ndarray:
    """Weights of the points in each bootstrap sample, float64 (RESAMPLES, points). Each row has the sum 1."""
    return np.random.default_rng(seed).multinomial(points, np.full(points, 1 / points), size=RESAMPLES) / points
