"""The majority vote of several networks as one model."""

from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from bilevel_optimizer.autodiff import jit
from models.registry import all_layers, build_model
from models.saving import load_model, save_model, with_precision
from models.stateless import StatelessModel
from models.voting import majority_vote

X = np.random.default_rng(0).uniform(size=(60, 8, 8, 1)).astype(np.float32)


def test_scores_are_the_shares_of_votes_and_survive_saving(tmp_path: Path) -> None:
    seeds = (0, 0, 0, 1, 1, 2)  # some agree, whatever the backend draws
    models = [build_model("digits_cnn", (8, 8, 1), 10, seed=seed) for seed in seeds]
    vote = majority_vote(models)
    of_each = np.stack([ops.convert_to_numpy(model(X)).argmax(axis=1) for model in models])
    wanted = np.stack([(of_each == label).mean(axis=0) for label in range(10)], axis=1)
    assert len(np.unique(wanted)) > 3
    np.testing.assert_allclose(vote(X), wanted, atol=1e-3)
    save_model(vote, tmp_path / "vote.keras")
    np.testing.assert_allclose(load_model(tmp_path / "vote.keras", (8, 8, 1))(X), vote(X), atol=1e-6)
    in_bfloat16 = ops.convert_to_numpy(ops.cast(with_precision(vote, "bfloat16")(X), "float32"))
    assert np.mean(in_bfloat16.argmax(axis=1) == wanted.argmax(axis=1)) > 0.8


def test_the_parts_of_a_vote_compute_in_bfloat16_and_the_vote_in_float32() -> None:
    vote = majority_vote([build_model("mlp", (8, 8, 1), 10, seed=seed) for seed in range(2)])
    coarse = all_layers(with_precision(vote, "bfloat16"))
    of_parts = [layer for layer in coarse if isinstance(layer, keras.layers.Dense | keras.layers.Flatten)]
    of_vote = [layer for layer in coarse if isinstance(layer, keras.layers.Softmax | keras.layers.Average)]
    assert len(of_parts) == 8 and {layer.compute_dtype for layer in of_parts} == {"bfloat16"}
    assert len(of_vote) == 7 and {layer.compute_dtype for layer in of_vote} == {"float32"}


def test_one_network_votes_alone() -> None:
    model = build_model("mlp", (8, 8, 1), 10, seed=1)
    votes = ops.convert_to_numpy(majority_vote([model])(X))
    np.testing.assert_array_equal(votes.argmax(axis=1), ops.convert_to_numpy(model(X)).argmax(axis=1))
    np.testing.assert_allclose(votes.max(axis=1), 1, atol=1e-3)


def always(label: int, classes: int = 10) -> keras.Model:
    """A network that gives every image the same class, with logits as large as those of trained ones."""
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(classes)])
    kernel = np.random.default_rng(label).normal(size=(64, classes)).astype(np.float32) / 10
    model.set_weights([kernel, 37.1 * np.eye(classes, dtype=np.float32)[label]])
    return model


def test_among_a_thousand_classes_one_vote_more_wins() -> None:
    found = majority_vote([always(999 if number % 2 == 0 else 0, 1000) for number in range(11)])(X[:2])
    assert ops.convert_to_numpy(found).argmax(axis=1).tolist() == [999, 999]


@pytest.mark.parametrize(("labels", "winner"), [((7, 3, 5), 3), ((9, 0), 0), ((2, 8, 8, 2, 1), 2), ((4, 4, 1), 4)])
def test_of_classes_with_equally_many_votes_the_smallest_wins_compiled_or_not(
    labels: tuple[int, ...], winner: int
) -> None:
    vote = majority_vote([always(label) for label in labels])
    stateless = StatelessModel(vote)
    compiled = jit(partial(stateless, *stateless.initial()))
    wanted = [labels.count(label) / len(labels) for label in range(10)]
    for scores in (vote(X), compiled(X)[0]):
        found = ops.convert_to_numpy(scores)
        np.testing.assert_array_equal(found.argmax(axis=1), winner)
        np.testing.assert_allclose(found, np.tile(wanted, (len(X), 1)), atol=1e-3)
