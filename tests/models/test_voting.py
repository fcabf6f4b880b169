"""The majority vote of several networks as one model."""

from pathlib import Path

import numpy as np
from keras import ops

from models.registry import build_model
from models.saving import load_model, save_model, with_precision
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


def test_one_network_votes_alone() -> None:
    model = build_model("mlp", (8, 8, 1), 10, seed=1)
    votes = ops.convert_to_numpy(majority_vote([model])(X))
    np.testing.assert_array_equal(votes.argmax(axis=1), ops.convert_to_numpy(model(X)).argmax(axis=1))
    np.testing.assert_allclose(votes.max(axis=1), 1, atol=1e-3)
