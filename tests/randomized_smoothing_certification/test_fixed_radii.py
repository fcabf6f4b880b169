"""Decisions at fixed radii: the evidence against its definition, coverage over many sequences, and when votes end."""

from functools import cache

import numpy as np
import pytest
from scipy import special, stats

from randomized_smoothing_certification import fixed_radii
from randomized_smoothing_certification.core import ABSTAIN, Certificate
from randomized_smoothing_certification.fixed_radii import decide, is_shown, log_evidence, required_probabilities
from randomized_smoothing_certification.sampling import NOISE_BLOCK, Sampling
from runtime.files import InputError

IMAGE = np.zeros((2, 2, 1), np.float32)


@pytest.mark.parametrize(
    ("successes", "failures"), [(0, 0), (1, 0), (0, 3), (40, 10), (99_990, 10), (70_000, 30_000), (2**31 - 4, 3)]
)
@pytest.mark.parametrize("probability", [0.5, 0.7, 0.999, 0.99999999])
def test_evidence_is_the_average_likelihood_ratio(successes: int, failures: int, probability: float) -> None:
    """As a sum over the prior, which is uniform in the arc sine of the root."""
    start = np.arcsin(np.sqrt(probability))
    angles = start + (np.pi / 2 - start) * (np.arange(1_000_000) + 0.5) / 1_000_000
    ratios = special.xlogy(successes, np.sin(angles) ** 2 / probability)
    ratios += special.xlogy(failures, np.cos(angles) ** 2 / (1 - probability))
    expected = special.logsumexp(ratios) - np.log(len(angles))
    found = float(log_evidence(successes, failures, probability))
    # Where SciPy has no digits left for the tail above the probability there is no evidence either.
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-4) or (found == -np.inf and expected < 0)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("probability", [0.5, 0.7, 0.841344746, 0.97724987, 0.999])
def test_looking_after_every_vote_is_wrong_no_more_often_than_alpha(probability: float, alpha: float) -> None:
    """At the hardest probability, the one that the test is about; and the test is not trivially silent. No draws."""
    wrong, going_on = 0.0, np.ones(1)  # probability of each number of successes where nothing was shown before
    for count in range(1, 501):
        going_on = np.append(going_on * (1 - probability), 0) + np.append(0, going_on * probability)
        shown = is_shown(np.arange(count + 1), count - np.arange(count + 1), probability, alpha)
        wrong += going_on[shown].sum()
        going_on[shown] = 0
    assert wrong + going_on.sum() == pytest.approx(1)
    assert wrong <= alpha
    assert wrong > 0.1 * alpha or probability == 0.999


class Votes:
    """Stands in for a VoteCounter of two classes: the class 1 has a known probability."""

    sigma, failure_mass = 0.5, 0.0

    def __init__(self, probability: float) -> None:
        self.generator, self.probability = np.random.default_rng(1), probability
        self.parts: list[tuple[int, int]] = []

    def count_votes(self, image: np.ndarray, n: int, seed: np.ndarray, first: int = 0) -> np.ndarray:
        self.parts.append((first, n))
        count = self.generator.binomial(n - first, self.probability)
        return np.array([n - first - count, count])


def decided(
    counter: Votes, radii: tuple[float, ...], n: int = 10_000, alpha: float = 0.001, **more: int
) -> tuple[Certificate, bool]:
    counter.parts.clear()
    return decide(counter, IMAGE, None, radii, Sampling(n=n, alpha=alpha), seed=0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("true_radius", [0.1, 0.2499, 0.6, 0.75])
def test_any_radius_of_the_list_is_certified_wrongly_no_more_often_than_alpha(
    true_radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed_radii, "is_shown", cache(is_shown))  # of the same few thousand counts again and again
    counter = Votes(float(stats.norm.cdf(true_radius / 0.5)))
    radii, alpha, runs = (0.0, 0.25, 0.5, 0.75, 1.0), 0.05, 2_000
    wrong = 0
    for _ in range(runs):
        found, _ = decided(counter, radii, 2_000, alpha)
        wrong += found.prediction != 1 and found.prediction != ABSTAIN
        wrong += found.prediction != ABSTAIN and found.radius >= true_radius
    assert stats.binom.sf(wrong - 1, runs, alpha) > 1e-4, wrong


def test_votes_end_when_all_is_decided() -> None:
    sure = decided(Votes(1.0), (0.0, 0.25, 0.5))
    assert sure == ((1, 0.5, NOISE_BLOCK), True)
    refuted, is_decided = decided(Votes(0.75), (0.25, 1.0))  # radius 0.337
    assert (refuted[:2], is_decided) == ((1, 0.25), True) and refuted.votes < 2_000
    below, is_decided = decided(Votes(0.6), (0.5,))
    assert (below[:2], is_decided) == ((ABSTAIN, 0), True) and below.votes < 1_000


def test_what_n_votes_do_not_settle_is_undecided_and_costs_no_more() -> None:
    edge = Votes(float(stats.norm.cdf(1.0)))
    found, is_decided = decided(edge, (0.25, 0.5), 1_050)
    assert (found[:2], is_decided) == ((1, 0.25), False) and found.votes <= 1_050
    selection, *parts = edge.parts
    assert selection == (0, 100) and parts[0][0] == 0
    assert [first for first, _ in parts[1:]] == [until for _, until in parts[:-1]]  # each vote is counted once
    # Hopeless well before n: no agreement of the rest could certify it.
    hopeless, _ = decided(Votes(0.95), (1.0,), 400)
    assert hopeless[:2] == (ABSTAIN, 0) and hopeless.votes < 400


def test_another_class_than_the_wanted_one_gets_no_votes() -> None:
    counter = Votes(1.0)
    assert decided(counter, (0.5,), only_class=0) == ((ABSTAIN, 0, 0), True)
    assert counter.parts == [(0, 100)]


def test_looks_grow_in_whole_blocks_up_to_n() -> None:
    edge = Votes(float(stats.norm.cdf(1.0)))
    decided(edge, (0.5,), 1_000_050)
    looks = [until for _, until in edge.parts[1:]]
    steps = np.diff(looks)
    assert looks[0] == NOISE_BLOCK and not np.any(steps[:-1] % NOISE_BLOCK) and len(looks) < 100
    assert np.all(steps <= np.maximum(NOISE_BLOCK, 0.1 * np.array(looks[:-1]) + NOISE_BLOCK))


@pytest.mark.parametrize(
    "radii", [(), (0.5, 0.25), (0.25, 0.25), (-0.1,), (float("nan"),), (0.25, float("nan")), (0.25, float("inf"))]
)
def test_radii_that_do_not_ascend_are_refused(radii: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="radii"):
        required_probabilities(radii, 0.5, 1_000, 0.001)


def test_a_radius_that_n_votes_cannot_certify_is_refused() -> None:
    assert len(required_probabilities((0.0, 1.2), 0.5, 1_000, 0.001)) == 2
    with pytest.raises(InputError, match=r"1000 unanimous votes certify the radius 1\.6 at sigma 0\.5"):
        required_probabilities((0.0, 1.6), 0.5, 1_000, 0.001)
