"""A user's own Keras model, a subclassed one, as victim, in the attack and under the certificate."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from attack_generation.gaussian_data_augmentation.DIGITS.poison_radius_gaussianaug import Config as AttackConfig
from attack_generation.poisoning import poison_radius
from bilevel_optimizer.approxgrad import ApproxGrad
from evaluation.DIGITS.gaussian_augmented_training import Config as TrainingConfig
from models.registry import BUILDERS, all_layers, build_model, require_architecture
from models.saving import load_model, save_model, with_precision
from models.stateless import StatelessModel
from randomized_smoothing_certification.certify_digits import Config as CertificationConfig
from randomized_smoothing_certification.certify_digits import certify_test_points
from robust_training.training import train_victims
from runtime.files import InputError

X = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype(np.float32)


@pytest.fixture(autouse=True)
def one_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("own_model", "own_dropout", "own_softmax_of_pixels", "own_without_initializer"):
        monkeypatch.setitem(BUILDERS, name, "tests.models.own_model")


def logits(model: keras.Model) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(model(X), "float32"))


def test_seeds_give_its_weights_and_saved_files_load(tmp_path: Path) -> None:
    require_architecture("own_model")
    first, again, other = (build_model("own_model", (8, 8, 1), 10, seed, standardise=True) for seed in (3, 3, 4))
    assert (logits(first) == logits(again)).all() and (logits(first) != logits(other)).all()
    save_model(first, tmp_path / "own.keras")
    loaded = load_model(tmp_path / "own.keras", (8, 8, 1))
    np.testing.assert_array_equal(logits(loaded), logits(first))
    np.testing.assert_array_equal(logits(with_precision(loaded, "float32")), logits(first))
    coarse = with_precision(loaded, "bfloat16")
    assert keras.backend.standardize_dtype(coarse(X).dtype) == "bfloat16"
    assert {layer.compute_dtype for layer in all_layers(coarse)} == {"bfloat16"}
    np.testing.assert_allclose(logits(coarse), logits(first), atol=0.05)


def test_proper_batch_norm_reaches_into_a_subclassed_model() -> None:
    model = StatelessModel(build_model("own_model", (8, 8, 1), 10, 0), batch_norm="proper")
    trainable, state = model.initial()
    _, changed = model(trainable, state, X, training=True)
    assert any((ops.convert_to_numpy(a) != b).any() for a, b in zip(changed, state, strict=True))


def test_layers_that_draw_random_numbers_draw_them_from_the_seed() -> None:
    models = [StatelessModel(build_model("own_dropout", (8, 8, 1), 10, seed), "proper") for seed in (0, 0, 1)]
    first, again, other = (ops.convert_to_numpy(one(*one.initial(), X, training=True)[0]) for one in models)
    fixed = [StatelessModel(build_model("own_dropout", (8, 8, 1), 10, seed)) for seed in (0, 1)]
    assert (first == again).all() and (first == 0).any() and ((first == 0) != (other == 0)).any()
    assert not any((ops.convert_to_numpy(one(*one.initial(), X, training=True)[0]) == 0).any() for one in fixed)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_softmax_of_pixels", r"goes to \(None, 11\), not to logits \(None, 10\)"),
        ("own_without_initializer", "scale has no scale_initializer, which draws weights from the seed"),
    ],
)
def test_what_cannot_be_a_model_is_refused_in_a_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(name, (8, 8, 1), 10, seed=0)


def test_it_is_poisoned_trained_and_certified(tiny_data_dir: Path, tmp_path: Path) -> None:
    places = {"data_dir": tiny_data_dir, "out_dir": tmp_path, "run_dir": tmp_path / "runs"}
    attack = AttackConfig(
        architecture="own_model",
        epochs=1,
        batch_clean=495,
        batch_poison=10,
        optimiser=ApproxGrad(lower_steps=1),
        radius_copies=2,
        **places,
    )
    poison_radius(attack)
    (victim,) = train_victims(
        TrainingConfig(
            architecture="own_model", epochs=1, training_data="poisoned_radius", batch_norm="proper",
            poison=tmp_path / "X_poisoned_radius_gaussianaug_0.25_8.npy", **places,
        )
    )  # fmt: skip
    certify_test_points(
        CertificationConfig(model=victim, out=tmp_path / "own.tsv", points=2, n=20, n0=10, data_dir=tiny_data_dir)
    )
    assert json.loads((tmp_path / "own.summary.json").read_text())
