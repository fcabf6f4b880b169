"""What the attack moves: images within the ball, gradients, and where the pattern for the class starts."""

import re
from typing import Any, get_args

import numpy as np
import pytest
from keras import ops

from attack_generation.attack import Attack
from attack_generation.config import OBJECTIVES, PoisonConfig
from attack_generation.controls import StartName, starting_poison
from attack_generation.gaussian_data_augmentation.DIGITS.poison_radius_gaussianaug import Config as DigitsConfig
from attack_generation.objectives import CrossEntropy, SoftRadius
from attack_generation.parametrisation import PARAMETRISATIONS, ClassPattern, PerImage, PerImageOwnMoments
from bilevel_optimizer.adam import adam_init, adam_step
from bilevel_optimizer.approxgrad import ApproxGrad
from bilevel_optimizer.autodiff import grad
from bilevel_optimizer.error_minimising import ErrorMinimising
from data.datasets import load_dataset
from robust_training.gaussian_augmentation import GaussianAugmentationLoss
from runtime.command_line import parsed
from runtime.files import InputError

EPSILON = 0.1
X = np.random.default_rng(0).uniform(size=(6, 4, 4, 1)).astype(np.float32)
INDEX = np.array([4, 1, 5], np.int32)


@pytest.mark.parametrize("name", PARAMETRISATIONS)
@pytest.mark.parametrize("kind", get_args(StartName))
def test_every_start_is_within_the_ball(name: str, kind: str) -> None:
    poison = PARAMETRISATIONS[name](EPSILON)
    u = poison.start(kind, X, seed=3)
    images = ops.convert_to_numpy(poison.images(u, X))
    assert images.min() >= 0 and images.max() <= 1
    assert np.abs(images - X).max() <= EPSILON + 1e-6
    assert np.allclose(images, X) == (kind == "zero")
    with pytest.raises(InputError, match="start must be"):
        poison.start("bright", X, seed=3)


def test_the_pattern_holds_the_controls() -> None:
    pattern = ClassPattern(EPSILON)
    constant = ops.convert_to_numpy(pattern.images(pattern.start("constant", X, 0), X))
    np.testing.assert_allclose(constant, starting_poison("constant", X, EPSILON, 0), atol=1e-7)
    halves = ops.convert_to_numpy(pattern.images(pattern.start("halves", X, 0), X))
    np.testing.assert_allclose(halves, starting_poison("halves", X, EPSILON, 0), atol=1e-7)
    binary = np.round(X)
    contrast = ops.convert_to_numpy(pattern.images(pattern.start("contrast", X, 0), binary))
    np.testing.assert_allclose(contrast, starting_poison("contrast", binary, EPSILON, 0), atol=1e-7)
    u = {"a": np.full((4, 4, 1), 0.3, np.float32), "b": np.full((4, 4, 1), -0.5, np.float32)}
    wanted = np.clip(X + EPSILON * np.clip(0.3 - 0.5 * (1 - 2 * X), -1, 1), 0, 1)
    np.testing.assert_allclose(ops.convert_to_numpy(pattern.images(u, X)), wanted, atol=1e-6)


def test_a_minibatch_moves_its_own_images_or_the_whole_pattern() -> None:
    per_image, pattern = PerImage(EPSILON), ClassPattern(EPSILON)
    u = per_image.start("zero", X, 0)
    moved = per_image.project(ops.convert_to_tensor(X[INDEX] + 5), X[INDEX], 0.0)
    after = ops.convert_to_numpy(per_image.write_back(ops.convert_to_tensor(u), INDEX, moved))
    np.testing.assert_allclose(after[INDEX], np.minimum(X[INDEX] + EPSILON, 1), atol=1e-7)
    others = [0, 2, 3]
    np.testing.assert_array_equal(after[others], X[others])
    np.testing.assert_array_equal(ops.convert_to_numpy(per_image.select(u, INDEX)), X[INDEX])
    both = pattern.start("constant", X, 0)
    assert pattern.select(both, INDEX) is both and pattern.write_back(None, INDEX, both) is both


def test_the_pattern_is_differentiated_through_images_that_are_not_clipped() -> None:
    pattern = ClassPattern(EPSILON)
    x = np.full((2, 4, 4, 1), 0.25, np.float32)
    zero = pattern.start("zero", x, 0)
    gradient: Any = grad(lambda u: ops.sum(pattern.images(u, x)))(
        {name: ops.convert_to_tensor(value) for name, value in zero.items()}
    )
    np.testing.assert_allclose(ops.convert_to_numpy(gradient["a"]), 2 * EPSILON, rtol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(gradient["b"]), 2 * EPSILON * 0.5, rtol=1e-5)


def test_a_pixel_clipped_in_every_image_comes_back_into_reach_and_no_other_moves() -> None:
    """Four pixels: black, white, one that is black in half of the images, and one that is clipped in none."""
    pattern = ClassPattern(EPSILON)
    x = np.array([[0, 1, 0, 0.5], [0, 1, 0.5, 0.5]], np.float32).reshape(2, 2, 2, 1)

    def moved(a: float, b: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        u = {name: ops.full((2, 2, 1), value, "float32") for name, value in (("a", a), ("b", b))}
        after = pattern.project(u, ops.convert_to_tensor(x), 0.0)
        np.testing.assert_array_equal(after["b"], u["b"])
        before, images = (ops.convert_to_numpy(pattern.images(one, x)) for one in (u, after))
        np.testing.assert_allclose(images, before, atol=2e-3 * EPSILON)  # the images stay what they were
        gradient: Any = grad(lambda u: ops.sum(pattern.images(u, x)))(after)
        return ops.convert_to_numpy(after["a"]).ravel(), images, ops.convert_to_numpy(gradient["a"]).ravel()

    a, _, gradient = moved(-0.7, 0.0)
    np.testing.assert_allclose(a, [0.001, -0.7, -0.7, -0.7], atol=1e-6)
    assert np.all(gradient > 0)
    a, _, gradient = moved(0.4, 0.2)
    np.testing.assert_allclose(a, [0.4, 0.199, 0.4, 0.4], atol=1e-6)
    assert np.all(gradient > 0)
    a, _, gradient = moved(-3.0, 0.0)
    np.testing.assert_allclose(a, [0.001, -0.999, -0.999, -0.999], atol=1e-6)
    assert np.all(gradient > 0)
    a, _, gradient = moved(0.0, 2.0)  # less contrast
    np.testing.assert_allclose(a, [-1.001, 1.001, 0, 0], atol=1e-6)


def test_a_pattern_moves_with_every_outer_step(tiny_data_dir: Any, tmp_path: Any) -> None:
    config = PoisonConfig(
        loss=GaussianAugmentationLoss(), parametrisation="class_pattern", objective="noisy_cross_entropy",
        target_class=3, sigma=0.25, batch_clean=450, batch_poison=10, batch_validation=10, radius_copies=2,
        optimiser=ApproxGrad(lower_steps=2, solver_steps=2), architecture="digits_cnn", data_dir=tiny_data_dir,
    )  # fmt: skip
    attack = Attack(config, load_dataset(tiny_data_dir))
    state = attack.initial_state()
    for number in range(2):
        before = attack.poison(state, tmp_path)
        state, _ = attack.outer_step(state, number)
        after = attack.poison(state, tmp_path)
        assert np.mean(np.abs(after - before).max(axis=(1, 2, 3)) > 1e-3) == 1  # every image of the class
    assert np.abs(after - attack.x_to_poison).max() <= config.epsilon + 1e-6


def attack_with_own_moments(data_dir: Any) -> Attack:
    config = PoisonConfig(
        loss=GaussianAugmentationLoss(), parametrisation="per_image_own_moments", target_class=3, batch_clean=450,
        batch_poison=20, epsilon=EPSILON, optimiser=ErrorMinimising(lr_u=0.01), architecture="digits_cnn",
        data_dir=data_dir,
    )  # fmt: skip
    return Attack(config, load_dataset(data_dir))


def test_with_moments_of_its_own_an_image_moves_as_if_it_were_alone(
    tiny_data_dir: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def direction(self: Any, problem: Any, u: Any, v: Any, lower: Any, data: Any) -> Any:
        return ops.sin(9 * u) - 1.1, v, lower, {}

    monkeypatch.setattr(ErrorMinimising, "direction", direction)
    attack = attack_with_own_moments(tiny_data_dir)
    state = attack.initial_state()
    alone = [(image, adam_init(image)) for image in attack.x_to_poison]
    for number in range(5):
        state, _ = attack.outer_step(state, number)
        for image in attack.draw_indices(*divmod(number, attack.steps_per_epoch)).poison:
            x, moments = alone[image]
            x, moments = adam_step(x, ops.sin(9 * x) - 1.1, moments, 0.01)
            alone[image] = ops.clip(x, 0.0, 1.0), moments
    np.testing.assert_allclose(ops.convert_to_numpy(state.u), [ops.convert_to_numpy(x) for x, _ in alone], atol=1e-5)
    steps = [int(moments.steps) for _, moments in alone]
    assert ops.convert_to_numpy(state.upper_state.steps).ravel().tolist() == steps and len(set(steps)) > 1


def test_moments_are_of_an_image_also_where_it_has_several_variables(
    tiny_data_dir: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of variables was taken for the number of images."""

    class TwoLayers(PerImageOwnMoments):
        def start(self, kind: Any, x: np.ndarray, seed: int) -> Any:
            return {"one": x, "other": x}

        def images(self, u: Any, x: Any) -> Any:
            return (u["one"] + u["other"]) / 2

        def project(self, u: Any, x: Any, delta: Any) -> Any:
            return {name: PerImage.project(self, layer, x, delta) for name, layer in u.items()}

    monkeypatch.setitem(PARAMETRISATIONS, "per_image_own_moments", TwoLayers)
    attack = attack_with_own_moments(tiny_data_dir)
    state, _ = attack.outer_step(attack.initial_state(), 0)
    moved = np.zeros(len(attack.x_to_poison), int)
    moved[attack.draw_indices(0, 0).poison] = 1
    np.testing.assert_array_equal(ops.convert_to_numpy(state.upper_state.steps).ravel(), moved)
    change = np.abs(ops.convert_to_numpy(state.u["other"]) - attack.x_to_poison).max(axis=(1, 2, 3))
    np.testing.assert_allclose(change, 0.01 * moved, atol=1e-3)


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_the_learning_rate_is_in_pixel_units_or_for_a_pattern_in_multiples_of_epsilon(
    name: Any, tiny_data_dir: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adam's first step moves a variable by the learning rate. The help says in which unit."""
    config = PoisonConfig(
        loss=GaussianAugmentationLoss(), parametrisation=name, target_class=3, sigma=0.25, batch_clean=450,
        batch_poison=10, epsilon=EPSILON, optimiser=ErrorMinimising(lower_steps=1, lr_u=0.01),
        architecture="digits_cnn", data_dir=tiny_data_dir,
    )  # fmt: skip
    attack = Attack(config, load_dataset(tiny_data_dir))
    state, _ = attack.outer_step(attack.initial_state(), 0)
    change = np.abs(attack.poison(state, tmp_path) - attack.x_to_poison).max()
    # ``b`` is 0 at grey. At black and white it moves the pattern as much as ``a`` does.
    assert change == pytest.approx(2 * 0.01 * EPSILON if name == "class_pattern" else 0.01, rel=0.02)
    with pytest.raises(SystemExit):
        parsed(DigitsConfig, "An attack.", ["--help"])
    assert "in pixel units of [0, 1], for a class_pattern in multiples of epsilon" in " ".join(
        re.sub("[│─]", " ", capsys.readouterr().out).split()
    )


def test_objectives_by_name(tmp_path: Any) -> None:
    def named(name: Any) -> Any:
        return OBJECTIVES[name](PoisonConfig(loss=GaussianAugmentationLoss(), objective=name, data_dir=tmp_path))

    assert named("soft_radius") == SoftRadius(copies=20, beta=16.0, clip=1e-3, fixed_noise=False)
    assert named("cross_entropy") == CrossEntropy(copies=0)
    assert named("noisy_cross_entropy") == CrossEntropy(copies=20)
