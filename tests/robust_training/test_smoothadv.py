"""SmoothAdv's inner attack: where it stays, how far it goes, what it raises."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from bilevel_optimizer.autodiff import jit
from robust_training.loss import Randomness
from robust_training.smoothadv import SmoothAdvLoss, into_ball, to_unit
from runtime.files import InputError
from runtime.noise import normal_of_images, seed_pair

COUNT, SHAPE, SIGMA, EPS = 12, (6, 6, 1), 0.25, 0.4
_RANDOM = np.random.default_rng(2)
X = _RANDOM.uniform(size=(COUNT, *SHAPE)).astype("float32")
X[:4] = np.round(X[:4])  # black and white images: half of every direction leads out of [0, 1]
Y = np.eye(3, dtype="float32")[_RANDOM.integers(0, 3, COUNT)]
WEIGHTS = _RANDOM.normal(size=(36, 8)).astype("float32")
LAST = _RANDOM.normal(size=(8, 3)).astype("float32")
DRAWS = Randomness(SIGMA, seed_pair(1), seed_pair(2), np.arange(COUNT, dtype=np.int32))
LATE = np.float32(50)  # after every ramp
ATTACKS = [{"inner_attack": "adam"}, {"inner_attack": "pgd", "samples": 3}]


def logits(x: Any) -> Any:
    return ops.matmul(ops.tanh(ops.matmul(ops.reshape(x, (-1, 36)), WEIGHTS)), LAST)


def loss_with(**settings: Any) -> SmoothAdvLoss:
    return SmoothAdvLoss(**{"eps_adv": EPS, "ramp_epochs": 0, **settings})


def attacked(loss: SmoothAdvLoss, epoch: Any = LATE, draws: Randomness = DRAWS) -> np.ndarray:
    memory = loss.initial_state(X.shape)
    return ops.convert_to_numpy(loss.perturbed(logits, X, Y, draws, epoch, memory)[0])


def norms(delta: np.ndarray) -> np.ndarray:
    return np.linalg.norm(delta.reshape(COUNT, -1), axis=1)


def smoothed_losses(x: np.ndarray, copies: int = 400) -> np.ndarray:
    """-log of the smoothed probability of the label of every image, with noise that no attack saw."""
    noise = ops.convert_to_numpy(normal_of_images((copies, *SHAPE), np.arange(COUNT), seed_pair(77)))
    noisy = (x[:, None] + SIGMA * noise).reshape(-1, *SHAPE)
    z = ops.convert_to_numpy(ops.softmax(logits(noisy))).reshape(COUNT, copies, 3).mean(axis=1)
    return -np.log(np.sum(z * Y, axis=1))


@pytest.mark.parametrize(("epochs", "settings"), [(1, {"ramp_epochs": 5}), (2, {"plain_epochs": 2})])
def test_training_that_ends_before_the_inner_attack_begins_is_told(epochs: int, settings: Any) -> None:
    loss = loss_with(**settings)
    assert f"begins after {epochs} epochs of a network" in loss.note(epochs) and not loss.note(epochs + 1)
    assert [float(loss.radius(np.float32(epoch))) > 0 for epoch in (epochs - 1, epochs)] == [False, True]


@pytest.mark.parametrize("settings", ATTACKS)
def test_the_perturbation_reaches_the_ball_and_stays_in_it_and_in_the_pixel_range(settings: Any) -> None:
    for steps in (1, 2, 10):
        x = attacked(loss_with(attack_steps=steps, **settings))
        assert x.min() >= 0 and x.max() <= 1
        assert norms(x - X).max() <= EPS * (1 + 1e-5)
        np.testing.assert_allclose(norms(x - X)[4:], EPS, rtol=0.02)  # inside [0, 1] there is room


@pytest.mark.parametrize("settings", ATTACKS)
def test_it_raises_the_smoothed_loss_more_than_random_directions_of_the_same_norm(settings: Any) -> None:
    x = attacked(loss_with(attack_steps=4, **settings))
    gained = smoothed_losses(x) - smoothed_losses(X)
    by_chance = []
    for _ in range(20):
        direction = _RANDOM.normal(size=X.shape).astype("float32")
        delta = direction * (norms(x - X) / norms(direction))[:, None, None, None]
        by_chance.append(smoothed_losses(np.clip(X + delta, 0, 1)) - smoothed_losses(X))
    assert gained.mean() > np.max(np.mean(by_chance, axis=1)) + 0.05
    assert np.mean(gained > np.mean(by_chance, axis=0)) > 0.8


def test_into_ball_keeps_what_is_inside() -> None:
    small = 0.01 * np.ones_like(X[4:])
    inside = np.clip(X[4:], 0.1, 0.9)
    np.testing.assert_allclose(ops.convert_to_numpy(into_ball(small, inside, 1.0)), small, atol=1e-6)
    nothing = ops.convert_to_numpy(into_ball(np.zeros_like(X), X, 0.0))
    assert np.all(nothing == 0)


def test_jittered_pixels_go_no_further_out_and_are_not_pulled_back() -> None:
    x = np.array([-0.2, -0.2, 0.5, 1.3, 1.3], np.float32).reshape(1, 1, 5, 1)
    assert not ops.convert_to_numpy(into_ball(np.zeros_like(x), x, 1.0)).any()
    delta = np.array([-0.1, 0.1, 0.1, 0.1, -0.1], np.float32).reshape(1, 1, 5, 1)
    found = ops.convert_to_numpy(into_ball(delta, x, 1.0)).ravel()
    np.testing.assert_allclose(found, [0, 0.1, 0.1, 0, -0.1], atol=1e-6)


def test_the_radius_ramps_up_after_the_plain_epochs() -> None:
    loss = loss_with(ramp_epochs=5, plain_epochs=2)
    found = [float(loss.radius(np.float32(epoch))) for epoch in range(8)]
    np.testing.assert_allclose(found, EPS * np.array([0, 0, 0.4, 0.6, 0.8, 1, 1, 1]), rtol=1e-6)
    assert float(loss_with().radius(np.float32(0))) == pytest.approx(EPS)
    np.testing.assert_array_equal(attacked(loss, np.float32(1)), X)
    assert norms(attacked(loss, np.float32(2)) - X).max() == pytest.approx(0.4 * EPS, rel=1e-3)


@pytest.mark.parametrize("settings", ATTACKS)
def test_the_step_ramps_with_the_radius_unless_it_is_given(settings: Any) -> None:
    for epoch, share in ((2, 0.2), (5, 0.5), (10, 1.0), (30, 1.0)):
        found = attacked(loss_with(ramp_epochs=10, attack_steps=4, **settings), np.float32(epoch))
        for step_size, same in ((2 * share * EPS / 4, True), (2 * EPS / 4, share == 1)):
            given = loss_with(ramp_epochs=10, attack_steps=4, step_size=step_size, **settings)
            assert np.allclose(found, attacked(given, np.float32(epoch)), atol=1e-6) == same
    given = loss_with(ramp_epochs=10, attack_steps=1, step_size=0.05, inner_attack="pgd")
    for epoch in (2, 5, 30):  # of one size, within every radius
        np.testing.assert_allclose(norms(attacked(given, np.float32(epoch)) - X)[4:], 0.05, rtol=0.05)


def test_projected_gradient_ascent_goes_a_random_way_where_the_gradient_is_zero() -> None:
    grey = np.full_like(X, 0.5)
    alive = np.arange(COUNT) % 2 == 0

    def half_dead(x: Any) -> Any:
        return logits(x) * alive[:, None].astype("float32")

    loss = loss_with(inner_attack="pgd", attack_steps=1, step_size=0.1)

    def moved(logits: Any, draws: Randomness = DRAWS, rows: Any = slice(None), loss: Any = loss) -> np.ndarray:
        perturbed = jit(lambda x: loss.perturbed(logits, x, Y[rows], draws, LATE, ())[0])
        return ops.convert_to_numpy(perturbed(grey[rows])) - grey[rows]

    found, everywhere = moved(half_dead), moved(logits)
    np.testing.assert_allclose(norms(found), 0.1, rtol=1e-4)
    np.testing.assert_allclose(found[alive], everywhere[alive], atol=1e-6)  # along the gradient where there is one
    directions = found.reshape(COUNT, -1)[~alive] / 0.1
    assert np.abs(directions @ directions.T - np.eye(len(directions))).max() < 0.6  # every image has its own
    # A pure function of the seed, the image and the step, whatever batch it is in.
    np.testing.assert_array_equal(moved(half_dead), found)
    other = moved(half_dead, DRAWS._replace(seed=seed_pair(8)))
    np.testing.assert_allclose(other[alive], found[alive], atol=1e-6)
    assert np.abs(np.sum(other * found, axis=(1, 2, 3))[~alive]).max() < 0.6 * 0.1**2
    rows = np.array([5, 1])
    alone = moved(lambda x: 0 * logits(x), DRAWS._replace(numbers=DRAWS.numbers[rows]), rows)
    np.testing.assert_allclose(alone, found[rows], atol=1e-6)
    twice = moved(half_dead, loss=loss_with(inner_attack="pgd", attack_steps=2, step_size=0.1))
    assert norms(twice)[~alive].max() < 0.19  # the second step goes another way


def test_a_gradient_is_a_direction_however_small_and_nan_is_not_hidden() -> None:
    gradient = _RANDOM.normal(size=(4, *SHAPE)).astype("float32")
    scales = np.array([1e-30, 1e30, 0, np.nan], "float32")[:, None, None, None]
    otherwise = np.ones_like(gradient)
    found = ops.convert_to_numpy(to_unit(gradient * scales, otherwise))
    expected = gradient[:2] / np.linalg.norm(gradient[:2].reshape(2, -1), axis=1)[:, None, None, None]
    np.testing.assert_allclose(found[:2], expected, rtol=1e-5)
    np.testing.assert_allclose(found[2], otherwise[2] / 6, rtol=1e-6)
    assert np.isnan(found[3]).all()


def test_moments_persist_only_where_asked() -> None:
    for persistent in (True, False):
        loss = loss_with(persistent_moments=persistent)
        step = jit(lambda memory, loss=loss: loss.perturbed(logits, X, Y, DRAWS, LATE, memory))
        first, memory = step(loss.initial_state(X.shape))
        second, memory = step(memory)
        assert np.allclose(first, second, atol=1e-6) != persistent
        if persistent:
            assert int(memory.steps) == 4
            # Epochs without the attack leave the moments alone.
            _, kept = loss_with(plain_epochs=99).perturbed(logits, X, Y, DRAWS, LATE, memory)
            np.testing.assert_array_equal(kept.first, memory.first)


def test_attack_and_training_share_the_noise_and_it_is_fixed_where_asked() -> None:
    seen: list[np.ndarray] = []

    def remember(x: Any) -> Any:
        seen.append(ops.convert_to_numpy(x))
        return logits(x)

    for fixed in (True, False):
        loss, values = loss_with(samples=2, inner_attack="pgd", fixed_noise=fixed), []
        for draws in (DRAWS, DRAWS._replace(seed=seed_pair(8))):
            seen.clear()
            values.append(float(loss(remember, X, Y, draws, LATE)))
            noise = normal_of_images((2, *SHAPE), DRAWS.numbers, DRAWS.fixed_seed)
            copies = X[:, None] + SIGMA * ops.convert_to_numpy(noise)
            assert np.allclose(seen[-1], copies.reshape(-1, *SHAPE), atol=1e-6) == fixed
        assert (values[0] == values[1]) == fixed
    # With two draws of the noise, what the attack gained is most at the noise it was made with.
    loss = loss_with(samples=2, inner_attack="pgd", fixed_noise=False, attack_steps=8, step_size=0.2)
    x = attacked(loss)
    own = float(loss(logits, x, Y, DRAWS, LATE)) - float(loss(logits, X, Y, DRAWS, LATE))
    others = []
    for k in range(10):
        draws = DRAWS._replace(seed=seed_pair(50, k))
        others.append(float(loss(logits, x, Y, draws, LATE)) - float(loss(logits, X, Y, draws, LATE)))
    assert own > np.mean(others)


def test_the_loss_is_cross_entropy_at_the_noisy_copies() -> None:
    loss = loss_with(samples=3)
    noise = ops.convert_to_numpy(normal_of_images((3, *SHAPE), DRAWS.numbers, DRAWS.fixed_seed))
    noisy = (X[:, None] + SIGMA * noise).reshape(-1, *SHAPE)
    expected = keras.losses.CategoricalCrossentropy(from_logits=True)(np.repeat(Y, 3, axis=0), logits(noisy))
    assert float(loss(logits, X, Y, DRAWS, LATE)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps_adv": -1.0}, "eps_adv of smoothadv must be positive, got -1.0"),
        ({"attack_steps": 0}, "attack_steps of smoothadv must be positive, got 0"),
        ({"step_size": 0.0}, "step_size of smoothadv must be positive, got 0.0"),
        ({"step_size": float("inf")}, "step_size of smoothadv must be positive, got inf"),
        ({"eps_adv": float("inf")}, "eps_adv of smoothadv must be positive, got inf"),
        ({"ramp_epochs": -1}, "ramp_epochs of smoothadv must not be negative, got -1"),
        ({"inner_attack": "fgsm"}, "inner_attack of smoothadv must be one of adam, pgd, got 'fgsm'"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loss_with(**changes)
