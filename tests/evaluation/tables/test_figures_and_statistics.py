"""Figures, and what tables say of several runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image
from scipy import stats

from evaluation.tables import figures
from evaluation.tables.figures import (
    BLACK,
    BLUE,
    MOST,
    ORANGE,
    has_budgets,
    save_acr,
    save_acr_against_gradients,
    save_distributions,
    shown_entries,
)
from evaluation.tables.frame import Entries, frame_of
from evaluation.tables.make_tables import draw_figures
from evaluation.tables.plan import Plan, plan_of
from evaluation.tables.runs import Entry, Run
from randomized_smoothing_certification.run_statistics import (
    Reduction,
    mean_and_std,
    mean_and_std_text,
    mean_reduction,
    reduction_of,
    stretched,
)


def test_spread_is_the_sample_standard_deviation_and_a_single_run_has_none() -> None:
    assert mean_and_std([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, np.std([1, 2, 4], ddof=1)))
    assert mean_and_std([0.5]) == (0.5, None)
    assert mean_and_std_text([0.5]) == "0.500"
    assert mean_and_std_text([0.5, 0.7]) == "0.600 ± 0.141"


# Intervals of reductions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 0.7, 0.1, 1 / 3, 0.123456, 1.0, 1.7])
def test_victims_that_all_lose_the_same_share_add_nothing_to_the_interval(share: float) -> None:
    """Their part has no width, whatever the rounding."""
    clean = np.array([[1.0, 1.3], [0.9, 0.7], [1.1, 1.7]])
    found = reduction_of(share * clean[None], clean)
    assert found is not None and found.over == ("victims", "points")
    assert found[:3] == pytest.approx(3 * (100 * (1 - share),), abs=1e-9)
    # Here the points differ, and the interval is that of the mean victim's points.
    poisoned = share * clean[:, ::-1][None] * (clean.mean(axis=1) / clean[:, ::-1].mean(axis=1))[:, None]
    of_points = reduction_of(poisoned.mean(axis=1, keepdims=True), clean.mean(axis=0, keepdims=True))
    found = reduction_of(poisoned, clean)
    assert found is not None and of_points is not None and of_points.over == ("points",)
    assert found[:3] == pytest.approx(of_points[:3], abs=1e-9) and found.low < found.high


def test_there_is_no_reduction_of_nothing_and_one_of_everything() -> None:
    assert reduction_of(np.ones((1, 2, 3)), np.zeros((2, 3))) is None
    hardly = np.zeros((3, 50))
    hardly[0, 0] = 1e-7  # the ratio is above 10^6, and the clean mean may be 0
    assert reduction_of(np.full((1, 3, 50), 0.3) + np.eye(3, 50), hardly).low == -np.inf
    everything = reduction_of(np.zeros((2, 3, 4)), np.ones((3, 4)))
    assert everything is not None and everything[3:] == (("attack runs", "victims", "points"), 6)
    assert everything[:3] == pytest.approx((100.0, 39.8, 100.0), abs=0.1)  # of 4 points with 0 right, at most 60 %


@pytest.mark.parametrize("share", [0.005, 0.03, 0.05])
def test_where_hardly_a_point_keeps_a_radius_the_interval_is_not_of_these_alone(share: float) -> None:
    """A bootstrap of 100 points with few radii is too narrow. Half of the clean points have a radius."""
    random, held, clean = np.random.default_rng(0), [], np.repeat([1.0, 0.0], 50)[None]
    for _ in range(300):
        found = reduction_of((random.random((1, 1, 100)) < share / 2) * clean, clean)
        assert found is not None
        held.append(found.low <= 100 * (1 - share / 2) <= found.high)
    assert np.mean(held) > 0.94
    many = reduction_of(np.repeat([1.0, 0.0], [10, 90])[None, None], np.ones((1, 100)))
    assert many is not None and many.low > 83  # the bootstrap's own


@pytest.mark.parametrize("share", [0.01, 0.03, 0.05, 0.1])
@pytest.mark.parametrize("points", [10, 20, 50])
def test_where_nearly_all_points_are_at_the_ceiling_the_interval_has_a_width(points: int, share: float) -> None:
    """A bootstrap of radii that are all equal has none, but one point in twenty may lose its radius."""
    random, held = np.random.default_rng(0), []
    for _ in range(300):
        found = reduction_of(
            (random.random((1, 1, points)) >= share) * np.full((1, 3, 1), 0.8), np.full((3, points), 0.8)
        )
        assert found is not None
        held.append(found.low <= 100 * share <= found.high)
    assert np.mean(held) > 0.94


def test_points_at_the_ceiling_are_known_for_several_attack_runs_for_other_points_and_for_a_mean_over_kinds() -> None:
    highest = 100 * (1 - 0.025 ** (1 / 19))  # of 20 points, at most this share is below the ceiling
    clean = np.full((3, 20), 0.7996)
    for found in (
        reduction_of(np.full((2, 3, 20), 0.7996), clean),
        reduction_of(np.full((2, 3, 20), 0.7996), clean[:, :15], same_points=False),
        mean_reduction([(clean, clean), (clean, clean)]),
    ):
        assert found is not None and found[:3] == pytest.approx((0.0, 0.0, highest))
    below = np.repeat([0.7, 0.8], [10, 20])[None]  # ten points below it: the bootstrap's own
    found = reduction_of(below[None], np.full((1, 30), 0.8))
    assert found is not None and found.high < 6.5


@pytest.mark.parametrize("points", [20, 50])
def test_where_clean_victims_have_other_points_the_rare_points_are_counted_among_the_poisoned_ones(points: int) -> None:
    random, held = np.random.default_rng(0), []
    for _ in range(300):
        clean = 1.0 * (random.random((1, 500)) < 0.98)
        found = reduction_of(1.0 * (random.random((1, 1, points)) < 0.05), clean, same_points=False)
        assert found is not None
        held.append(found.low <= 100 * (1 - 0.05 / 0.98) <= found.high)
    assert np.mean(held) > 0.94


@pytest.mark.parametrize("share", [0.01, 0.03, 0.05])
def test_where_few_clean_points_have_a_radius_the_interval_is_not_of_these_alone(share: float) -> None:
    """Each keeps between 10 and 90 % of it."""
    random, held = np.random.default_rng(0), []
    for _ in range(300):
        clean = (random.random(50) < share) * random.gamma(4, 0.1, size=50)
        found = reduction_of((clean * random.uniform(0.1, 0.9, size=50))[None, None], clean[None])
        if found is not None:
            held.append(found.low <= 50 <= found.high)
    assert np.mean(held) > 0.94


def test_of_one_victim_the_interval_is_over_points_alone() -> None:
    """It is about that of the delta method; a single number has no interval."""
    random = np.random.default_rng(0)
    clean = random.gamma(4, 0.25, size=(1, 400))
    poisoned = 0.4 * clean[None] * random.gamma(4, 0.25, size=(1, 1, 400))
    found = reduction_of(poisoned, clean)
    assert found is not None and found.over == ("points",)
    ratio = poisoned.mean() / clean.mean()
    half = 1.96 * np.std(poisoned[0, 0] - ratio * clean[0], ddof=1) / np.sqrt(400) / clean.mean()
    assert [found.percent - found.low, found.high - found.percent] == pytest.approx([100 * half] * 2, rel=0.15)
    apart = reduction_of(poisoned, clean, same_points=False)
    assert apart is not None and apart.high - apart.low > found.high - found.low  # nothing cancels
    single = reduction_of(np.array([[[0.25]]]), np.array([[1.0]]))
    assert single == Reduction(75.0, 75.0, 75.0, (), 1) and single.text == "75.0 %"


def test_where_clean_victims_cannot_be_told_from_none_the_interval_has_no_lower_end() -> None:
    clean = np.array([[1.0], [0.0], [0.05]])
    assert stats.ttest_1samp(clean[:, 0], 0).pvalue > 0.05
    found = reduction_of(np.array([[[0.1], [0.3], [0.05]]]), clean)
    assert found is not None and found.low == -np.inf and found.percent == pytest.approx(100 * (1 - 0.45 / 1.05))
    assert found.text == f"{found.percent:.1f} % (below -999 to {found.high:.1f})"


def test_an_interval_without_an_end_has_none_where_some_ratios_within_it_are_refused() -> None:
    clean = np.array([0.1, 0.2])
    found = reduction_of((0.8 * clean - 0.015)[None, :, None], clean[:, None])  # ratios from 0.781 to 7.6 are refused
    assert found is not None and found.low == -np.inf


def test_text_of_a_reduction() -> None:
    assert Reduction(51.68, 33.21, 70.06, ("victims",)).text == "51.7 % (33.2 to 70.1)"


def fieller(after: np.ndarray, before: np.ndarray) -> tuple[float, float]:
    """The interval of the ratio of two paired means, in closed form."""
    t = stats.t.ppf(0.975, len(after) - 1)
    (of_after, both), (_, of_before) = t**2 * np.cov(after, before) / len(after)
    x, y = before.mean(), after.mean()
    a, b, c = x**2 - of_before, x * y - both, y**2 - of_after
    root = np.sqrt(b**2 - a * c)
    return (b - root) / a, (b + root) / a


@pytest.mark.parametrize("victims", [2, 3, 5, 20])
def test_over_victims_the_interval_is_fiellers(victims: int) -> None:
    random = np.random.default_rng(victims)
    for _ in range(20):
        before = random.normal(1, 0.05, size=victims)
        after = 0.5 * before + random.normal(0, 0.03, size=victims)
        low, high = fieller(after, before)
        if victims == 2 and (low < 0 or high > 3):  # cut at 0, or of two victims that differ much
            continue
        found = reduction_of(after[None, :, None], before[:, None])
        assert found is not None and found.over == ("victims",)
        assert [found.low, found.high] == pytest.approx([100 * (1 - high), 100 * (1 - low)], abs=1e-6)


def test_over_attack_runs_of_one_victim_the_interval_is_that_of_their_mean() -> None:
    after = np.array([0.5, 0.4, 0.45, 0.6])
    found = reduction_of(after[:, None, None], np.array([[2.0]]))
    half = stats.t.ppf(0.975, 3) * np.std(after, ddof=1) / np.sqrt(4) / 2
    assert found is not None and found.over == ("attack runs",)
    assert found[:3] == pytest.approx([100 * (1 - after.mean() / 2 + d) for d in (0, -half, half)])


def test_attack_runs_that_are_all_the_same_add_nothing() -> None:
    random = np.random.default_rng(0)
    before, after = random.normal(1, 0.1, size=(5, 1)), random.normal(0.5, 0.1, size=(5, 1))
    single, several = (reduction_of(np.repeat(after[None], runs, axis=0), before) for runs in (1, 3))
    assert single is not None and several is not None and several.over == ("attack runs", "victims")
    assert several[:3] == pytest.approx(single[:3])


def test_no_unit_changes_a_reduction_and_no_interval_goes_above_everything() -> None:
    random = np.random.default_rng(0)
    before, after = random.uniform(size=(3, 50)), random.uniform(size=(2, 3, 50)) / 20
    one, other = reduction_of(after, before), reduction_of(8 * after, 8 * before)
    assert one is not None and other is not None and one[:3] == pytest.approx(other[:3])
    assert one.low < one.percent < one.high <= 100


def simulated(random: np.random.Generator, runs: int, victims: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Radii whose mean is lower by 60 %: every attack run, victim and point differs, and the rest by chance.

    Of one attack run the reduction is its own, since nothing shows what another would be.
    """
    of_victims = random.normal(size=(2, victims))
    of_runs = random.normal(size=(runs, 1)) if runs > 1 else np.zeros((1, 1))
    of_points, left = random.gamma(4, 0.25, size=(2, points))
    clean = (1 + 0.1 * of_victims[0])[:, None] * of_points + 0.1 * random.normal(size=(victims, points))
    factors = 1 + 0.08 * of_victims[0] + 0.13 * of_victims[1] + 0.15 * of_runs
    factors = factors + 0.05 * random.normal(size=(runs, victims))
    poisoned = 0.4 * factors[:, :, None] * of_points * left
    return poisoned + 0.1 * random.normal(size=(runs, victims, points)), clean


@pytest.mark.parametrize("size", [(1, 3, 200), (3, 3, 100), (1, 5, 100), (2, 2, 100)], ids=str)
def test_intervals_hold_the_true_reduction_as_often_as_they_say(size: tuple[int, int, int]) -> None:
    random, holds, tells = np.random.default_rng(0), 0, 0
    for _ in range(400):
        found = reduction_of(*simulated(random, *size))
        assert found is not None
        holds += found.low <= 60 <= found.high
        tells += found.low > 0
    assert holds / 400 >= 0.93
    assert tells / 400 > (0.5 if size == (2, 2, 100) else 0.95)  # not by being so wide that they say nothing


@pytest.mark.parametrize("points", [5, 10, 15])
def test_intervals_over_few_points_hold_the_true_reduction_as_often_as_they_say(points: int) -> None:
    """A percentile bootstrap misses it in 17, 12 and 9 % of these draws."""
    random, holds = np.random.default_rng(0), 0
    for _ in range(400):
        clean = random.normal(1, 0.35, size=points)
        found = reduction_of((0.5 * clean * random.normal(1, 0.25, size=points))[None, None], clean[None])
        assert found is not None
        holds += found.low <= 50 <= found.high
    assert holds / 400 >= 0.92


def test_an_interval_over_thirty_points_is_that_of_its_percentiles() -> None:
    assert stretched(0.5, 2.0, 1.0, 30) == (0.5, 2.0) and stretched(0.5, 2.0, 1.0, 1) == (0.5, 2.0)
    factor = np.sqrt(10 / 9) * stats.t.ppf(0.975, 9) / stats.norm.ppf(0.975)
    assert stretched(0.5, np.inf, 1.0, 10) == pytest.approx((1 - 0.5 * factor, np.inf))


def test_the_interval_of_a_mean_over_kinds_holds_the_true_mean_as_often_as_it_says() -> None:
    random, holds, wide = np.random.default_rng(0), 0, 0
    for _ in range(300):
        points = random.gamma(4, 0.25, size=200)  # the same points for every kind
        kinds = []
        for ratio in (0.2, 0.4, 0.6, 0.8):
            clean = points * random.normal(1, 0.1, size=(3, 1)) + 0.1 * random.normal(size=(3, 200))
            kinds.append(
                (ratio * points * random.normal(1, 0.2, size=(3, 1)) + 0.1 * random.normal(size=(3, 200)), clean)
            )
        found = mean_reduction(kinds)
        assert found is not None and found.over == ("victims", "points")
        holds += found.low <= 50 <= found.high
        wide += found.high - found.low > 40
    assert holds / 300 >= 0.93 and wide / 300 < 0.1


def test_the_mean_over_one_kind_is_its_reduction_and_nothing_is_said_of_no_radius() -> None:
    poisoned, clean = simulated(np.random.default_rng(0), 1, 5, 100)
    one, found = reduction_of(poisoned, clean), mean_reduction([(poisoned[0], clean)])
    assert one and found and found.percent == pytest.approx(one.percent) and found.over == one.over
    assert found.low == pytest.approx(one.low, abs=3) and found.high == pytest.approx(one.high, abs=3)
    assert mean_reduction([(poisoned[0], clean), (poisoned[0], 0 * clean)]) is None
    assert mean_reduction([(poisoned[0], clean), (poisoned[0, :, :9], clean[:, :9])]) is None  # other points
    assert mean_reduction([]) is mean_reduction([(poisoned[0], clean), (poisoned[0, :1], clean[:1])]) is None
    of_one_victim = mean_reduction([(poisoned[0, :1], clean[:1])] * 2)
    assert of_one_victim and of_one_victim.over == ("points",)


# Figures -------------------------------------------------------------------------------------------------------------


def measured(plan: Plan, points: int = 20) -> Entries:
    """Two victims of every entry, each with radii, and what each optimised poison cost."""
    random = np.random.default_rng(0)
    entries = {}
    for number, cell in enumerate(plan.cells()):
        records = {"victim": {}, "poison": {"gradients": 10.0 * (number + 1)} if cell.poison else {}}
        runs = tuple(
            Run(
                seed, random.uniform(-0.2, 1 + (cell.poison is None), points).clip(-1), records, cell.victim.sigma,
                cell.target_class, np.arange(points),
            )
            for seed in range(2)
        )  # fmt: skip
        entries[cell] = Entry(cell, 2, runs)
    return entries


def plan_with(**values: Any) -> Plan:
    small = {
        "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 2,
        "methods": {"macer": [0.5]}, "rows": ["clean", "constant", "optimised"],
    }  # fmt: skip
    return plan_of({**small, **values})


LARGE: dict[str, Any] = {
    "methods": {name: [0.25, 0.5, 0.75] for name in ("gaussianaug", "macer", "smoothadv", "consistency")},
    "victims": {"with_a_rather_long_name": {}, "with_another_rather_long_name": {}},
    "rows": ["clean", "random", "constant", "contrast", "darker", "halves", "optimised"],
    "attacks": {f"an_attack_of_a_rather_long_name_{number}": {"epochs": [1, 5]} for number in range(4)},
    "title": "A title that goes on and on, " * 6,
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures that were drawn, in place of files."""
    kept: list[Any] = []
    monkeypatch.setattr(figures, "save_png", lambda path, figure, **_: kept.append(figure))
    return kept


DRAW: dict[str, Callable[[Path, str, Any], None]] = {
    "acr": save_acr, "gradients": save_acr_against_gradients, "p_a": save_distributions,
    "radii": lambda path, title, frame: save_distributions(path, title, frame, against_radius=True),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in DRAW if name != "radii"])  # as p_a
def test_a_picture_of_24_kinds_of_victims_is_no_wider_than_a_screen_and_not_cut(name: str, tmp_path: Path) -> None:
    few = {"rows": ["clean", "constant", "optimised"], "attacks": {"an_attack_of_a_long_name": {"epochs": [1, 5]}}}
    plan = plan_with(**{**LARGE, **(few if name == "p_a" else {})})  # which shows no more than three lines
    frame = frame_of(plan, measured(plan))
    assert frame.groupby(figures.VICTIMS).ngroups == 24
    DRAW[name](tmp_path / "a.png", plan.title, frame)
    with Image.open(tmp_path / "a.png") as image:
        assert 1_000 < image.width <= 2_000 and image.height > 1_000
    pixels = imread(tmp_path / "a.png")[..., :3]
    for edge in (pixels[:, 0], pixels[:, -1], pixels[0], pixels[-1]):
        assert np.all(edge == 1)
    assert (tmp_path / "a.png").stat().st_size < 600_000


@pytest.mark.parametrize("name", DRAW)
def test_a_panel_has_at_most_twelve_entries(name: str, drawn: list[Any]) -> None:
    plan = plan_with(**{**LARGE, "methods": {"macer": [0.5]}})
    frame = frame_of(plan, measured(plan))
    assert frame["data"].nunique() == 15 > MOST
    DRAW[name](Path("a.png"), plan.title, frame)
    panels = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert len(panels) == 2
    for axes in panels:
        many = len(axes.containers) if name in ("acr", "gradients") else len(axes.lines)
        if name == "gradients":  # clean data is a band, controls are lines
            many += len(axes.patches) + len([line for line in axes.lines if line.get_linestyle() == "--"])
        assert 2 <= many <= MOST
    if name == "p_a":
        said = "Shown: 4 of 15 kinds of training data, among them the control and the poison that lower the ACR most"
        assert said in drawn[0].get_supxlabel().replace("\n", " ")
    for axes in panels:
        if axes.get_legend():
            assert len(axes.get_legend().get_texts()) <= MOST
    if name == "acr":
        labels = [label.get_text() for label in panels[0].get_yticklabels()]
        assert len(labels) == MOST and labels[0] == "clean"
        assert "11 of 14 kinds of training data that lower the ACR most" in drawn[0].get_supxlabel().replace("\n", " ")
        DRAW[name](Path("b.png"), plan.title, frame[frame["data"] != "clean"])  # victims of clean data are missing
        (axes, *_) = (axes for axes in drawn[1].axes if axes.get_visible())
        assert len(axes.get_yticklabels()) == MOST - 1
        assert "11 of 14 kinds of training data that lower the ACR most" in drawn[1].get_supxlabel().replace("\n", " ")
        hidden = (set(frame["data"].str.replace("_", " ")) - set(labels)).pop()  # now the lowest in one panel alone
        of_it = frame["data"].str.replace("_", " ") == hidden
        frame.loc[of_it, "acr_mean"] = [0.0, *[9.0] * (of_it.sum() - 1)]
        DRAW[name](Path("c.png"), plan.title, frame)
        (axes, *_) = (axes for axes in drawn[2].axes if axes.get_visible())
        assert hidden in [label.get_text() for label in axes.get_yticklabels()]


@pytest.mark.parametrize("title", ["A title that goes on and on, " * 60, "word" * 400], ids=["words", "one word"])
def test_a_very_long_title_leaves_the_panels_as_large_as_they_are(title: str, drawn: list[Any]) -> None:
    plan = plan_with()
    for one in ("short", title):
        save_distributions(Path("a.png"), one, frame_of(plan, measured(plan)))
    heights = []
    for figure in drawn:
        figure.draw_without_rendering()
        (axes,) = (axes for axes in figure.axes if axes.get_visible())
        heights.append(axes.get_position().height * figure.get_figheight())
        assert all(len(line) < 120 for line in figure.get_suptitle().splitlines())
    assert heights[1] > 0.9 * heights[0]


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("dataset", ["MNIST", r"costs $\no$ more"])
def test_a_dollar_begins_no_formula(name: str, dataset: str, tmp_path: Path) -> None:
    plan = plan_with(title=r"from $\frac to $5 {a}", attacks={"soba": {"epochs": [1, 5]}})
    entries = measured(plan)
    for cell, entry in entries.items():
        named = {"certificate": {"settings": {"dataset": dataset}}}
        entries[cell] = entry._replace(runs=tuple(run._replace(records={**run.records, **named}) for run in entry.runs))
    DRAW[name](tmp_path / "a.png", plan.title, frame_of(plan, entries))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_title_names_the_data_once(drawn: list[Any]) -> None:
    for title, told in (("Victims of mnist", "Victims of mnist"), ("Victims", "MNIST: Victims")):
        plan = plan_with(title=title)
        save_acr(Path("a.png"), plan.title, frame_of(plan, measured(plan)))
        assert drawn[-1].get_suptitle() == told
    about = drawn[-1].get_supxlabel().replace("\n", " ")
    assert about.endswith("Class: 8; test points: 20; victims per entry: 2; votes n: not known")


def test_acr_is_drawn_as_mean_spread_and_victims(drawn: list[Any]) -> None:
    plan = plan_with()
    entries = measured(plan)
    save_acr(Path("a.png"), plan.title, frame_of(plan, entries))
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["clean", "constant", "optimised"]
    assert [label.get_color() for label in axes.get_yticklabels()] == [BLACK, BLUE, ORANGE]
    for at, (bar, entry) in enumerate(zip(axes.containers, entries.values(), strict=True)):
        acr = [run.acr for run in entry.runs]
        mark, _, (spread,) = bar
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == pytest.approx((np.mean(acr), at))
        (ends,) = spread.get_segments()
        std = np.std(acr, ddof=1)
        assert ends[:, 0] == pytest.approx([np.mean(acr) - std, np.mean(acr) + std])
        dots = next(line for line in axes.lines if list(line.get_ydata()) == [at, at])
        assert list(dots.get_xdata()) == acr


def test_the_curve_of_an_attack_goes_through_the_means_in_order_of_gradients(drawn: list[Any]) -> None:
    plan = plan_with(rows=["clean", "constant"], attacks={"soba": {"epochs": [5, 1]}})
    entries = measured(plan)
    gradients = {"soba_epochs_5": 400.0, "soba_epochs_1": 20.0}
    for cell, entry in entries.items():
        cost = {"poison": {"gradients": gradients.get(cell.row)}}
        entries[cell] = entry._replace(runs=tuple(run._replace(records={"victim": {}, **cost}) for run in entry.runs))
    frame = frame_of(plan, entries)
    assert has_budgets(frame) and not has_budgets(frame_of(plan_with(), measured(plan_with())))
    save_acr_against_gradients(Path("a.png"), plan.title, frame)
    (axes,) = drawn[0].axes
    acr = {cell.row: [run.acr for run in entry.runs] for cell, entry in entries.items()}
    (curve,) = axes.containers
    assert curve.get_label() == "soba" and list(curve[0].get_xdata()) == [20.0, 400.0]
    assert list(curve[0].get_ydata()) == pytest.approx([np.mean(acr[f"soba_epochs_{epochs}"]) for epochs in (1, 5)])
    (band,) = axes.patches
    std = np.std(acr["clean"], ddof=1)
    assert [band.get_y(), band.get_height()] == pytest.approx([np.mean(acr["clean"]) - std, 2 * std])
    flat = {line.get_color(): set(line.get_ydata()) for line in axes.lines if len(set(line.get_ydata())) == 1}
    assert flat[BLACK] == {np.mean(acr["clean"])} and flat[BLUE] == {np.mean(acr["constant"])}
    assert axes.get_xscale() == "log"


def test_each_share_of_the_class_has_a_curve_of_its_own(drawn: list[Any]) -> None:
    plan = plan_with(rows=["clean"], attacks={"soba": {"epochs": [5, 1]}}, shares=[0.25, 1.0])
    frame = frame_of(plan, measured(plan))
    save_acr_against_gradients(Path("a.png"), plan.title, frame)
    (axes,) = drawn[0].axes
    assert [curve.get_label() for curve in axes.containers] == ["soba, 25 % of the class", "soba"]
    assert [len(curve[0].get_xdata()) for curve in axes.containers] == [2, 2]


def test_distributions_without_clean_victims_are_drawn(drawn: list[Any]) -> None:
    plan = plan_with()
    entries = {cell: entry if cell.poison else entry._replace(runs=()) for cell, entry in measured(plan).items()}
    save_distributions(Path("a.png"), plan.title, frame_of(plan, entries))
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["constant", "optimised"]


@pytest.mark.parametrize("against_radius", [False, True])
def test_distributions_are_the_share_of_points_that_reach_each_bound(against_radius: bool, drawn: list[Any]) -> None:
    plan = plan_with(rows=["clean", "random", "constant", "optimised"])
    entries = measured(plan)
    low = next(cell for cell in entries if cell.row == "constant")
    entries[low] = entries[low]._replace(runs=tuple(run._replace(radii=run.radii / 10) for run in entries[low].runs))
    save_distributions(Path("a.png"), plan.title, frame_of(plan, entries), against_radius=against_radius)
    (axes,) = drawn[0].axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["clean", "constant", "optimised"]  # the control that lowers ACR most
    lines = dict(zip(names, (line for line in axes.lines if len(line.get_xdata())), strict=True))
    assert [line.get_color() for line in lines.values()] == [BLACK, BLUE, ORANGE]
    for cell, entry in entries.items():
        if cell.row in lines:
            at = np.array(lines[cell.row].get_xdata()) * (1 if against_radius else cell.victim.sigma)
            shares = np.mean([[np.mean(run.radii >= one) for one in at] for run in entry.runs], axis=0)
            assert np.array_equal(lines[cell.row].get_ydata(), shares)
            assert at[0] == 0 and at[-1] > max(run.radii.max() for run in entry.runs)
    if not against_radius:
        ticks = dict(zip((label.get_text() for label in axes.get_xticklabels()), axes.get_xticks(), strict=True))
        assert ticks["0.97"] == pytest.approx(stats.norm.ppf(0.97)) and ticks["0.5"] == 0


def test_a_line_falls_where_a_point_has_its_radius(drawn: list[Any]) -> None:
    plan = plan_with(rows=["clean"])
    (cell,) = plan.cells()
    radii = np.array([-1.0, 0.0, 0.5, 0.5, 1.0])
    entries = {cell: Entry(cell, 1, (Run(0, radii, {"victim": {}}, 0.5, 8, np.arange(5)),))}
    save_distributions(Path("a.png"), plan.title, frame_of(plan, entries), against_radius=True)
    (line,) = (line for line in drawn[0].axes[0].lines if len(line.get_xdata()))
    shares = {float(at): float(share) for at, share in zip(line.get_xdata(), line.get_ydata(), strict=True)}
    assert shares[0.0] == 0.8 and {share for at, share in shares.items() if 0 < at <= 0.5} == {0.6}
    assert {share for at, share in shares.items() if 0.5 < at <= 1} == {0.2}
    assert {share for at, share in shares.items() if at > 1} == {0.0}


def test_victims_that_are_certified_nowhere_are_drawn(tmp_path: Path) -> None:
    plan = plan_with()
    entries = {
        cell: entry._replace(runs=tuple(run._replace(radii=np.full(20, -1.0)) for run in entry.runs))
        for cell, entry in measured(plan).items()
    }
    draw_figures(plan.title, frame_of(plan, entries), tmp_path, curves=True)
    assert {path.name for path in tmp_path.iterdir()} == {"acr.png", "p_a.png", "certified_accuracy.png"}


def test_several_attack_runs_are_shown_together_and_means_over_classes_are_not() -> None:
    plan = plan_with(rows=["clean"], attacks={"soba": {"seed": [0, 1]}}, target_classes=[1, 2])
    frame = frame_of(plan, measured(plan))
    assert list(shown_entries(frame)["data"]) == 2 * ["clean"] + 2 * ["soba"]


@pytest.mark.parametrize("budgets", [False, True])
def test_where_attacks_have_budgets_acr_is_drawn_against_gradients(
    budgets: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in ("save_acr", "save_acr_against_gradients"):
        monkeypatch.setattr(
            f"evaluation.tables.make_tables.{name}", lambda path, *_, name=name: called.append(f"{name} {path.name}")
        )
    plan = plan_with(attacks={"soba": {"epochs": [1, 5] if budgets else [5]}})
    draw_figures(plan.title, frame_of(plan, measured(plan)), tmp_path, curves=False)
    assert called == [f"save_acr{'_against_gradients' if budgets else ''} acr.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["p_a.png"]


def test_a_legend_of_long_names_is_not_cut(tmp_path: Path) -> None:
    names = {f"a_rather_long_name_of_an_attack_that_was_run_with_some_budget_or_another_{i}": {} for i in range(4)}
    plan = plan_with(rows=["clean"], attacks=names)
    save_acr_against_gradients(tmp_path / "acr.png", plan.title, frame_of(plan, measured(plan)))
    pixels = imread(tmp_path / "acr.png")
    assert pixels.shape[1] < 1_000  # of which the axes have their part
    for edge in (pixels[:, 0], pixels[:, -1], pixels[0], pixels[-1]):
        assert np.all(edge[..., :3] == 1)
