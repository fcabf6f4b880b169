"""Contrastive features: the loss, what is learned, and that a stopped run ends with the same file."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from data.datasets import SPLITS, labels, load_dataset
from label_flipping.features import load_features
from models.neighbours import nearest
from robust_training.contrastive import ContrastiveConfig, ContrastiveTraining, contrastive_loss, learn_features
from runtime.files import InputError
from runtime.stop import StoppedEarly


def config(tiny_data_dir: Path, folder: Path, **changes: object) -> ContrastiveConfig:
    settings = {
        "data_dir": tiny_data_dir, "out_dir": folder, "epochs": 12, "batch_size": 50, "dimension": 16,
        "architecture": "digits_cnn", "learning_rate": 5e-3,
    }  # fmt: skip
    return ContrastiveConfig(**{**settings, **changes})  # type: ignore[arg-type]


def test_the_loss_is_its_formula() -> None:
    z = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    similarity = np.exp(z @ z.T / 0.5)
    expected = [
        -np.log(similarity[i, (i + 3) % 6] / (similarity[i].sum() - similarity[i, i])) for i in range(6)
    ]  # fmt: skip
    assert float(contrastive_loss(ops.convert_to_tensor(z), 0.5)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_features_lie_below_the_projection_head(tiny_data_dir: Path, tmp_path: Path) -> None:
    dataset = load_dataset(tiny_data_dir)
    training = ContrastiveTraining(
        config(tiny_data_dir, tmp_path, architecture="resnet8v1", projection_head=True), dataset.x_train
    )
    state = training.initial_state()
    before = training.features(state, dataset.x_test[:5])
    assert before.shape == (5, 64)
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), 1, atol=1e-5)
    after, _ = training.step(state, 0)
    assert all(np.abs(new - old).max() > 0 for new, old in zip(after.weights[-4:], state.weights[-4:], strict=True))
    changed = [np.abs(new - old).max() > 0 for new, old in zip(after.statistics, state.statistics, strict=True)]
    assert all(changed) and len(changed) > 10  # BatchNorm's averages follow the batches


def test_neighbours_share_more_classes_than_before_training(tiny_data_dir: Path, tmp_path: Path) -> None:
    dataset = load_dataset(tiny_data_dir)
    y, y_test = labels(dataset.y_train), labels(dataset.y_test)
    purity = []
    for name, changes in (("trained", {}), ("untrained", {"epochs": 1, "learning_rate": 1e-9})):
        path = learn_features(config(tiny_data_dir, tmp_path / name, **changes))
        features = load_features(path, dataset)
        for split in SPLITS:
            np.testing.assert_allclose(np.linalg.norm(features[split], axis=1), 1, atol=1e-5)
        purity.append((y[nearest(features["test"], features["train"], 10)] == y_test[:, None]).mean())
    assert purity[0] > purity[1] + 0.05 and purity[0] > 0.75


@pytest.mark.parametrize("head", [False, True])
def test_a_stopped_run_ends_with_the_same_features(head: bool, tiny_data_dir: Path, tmp_path: Path) -> None:
    whole = learn_features(config(tiny_data_dir, tmp_path / "whole", epochs=1, projection_head=head))
    stopped = config(tiny_data_dir, tmp_path / "stopped", epochs=1, projection_head=head)
    with pytest.raises(StoppedEarly):
        learn_features(dataclasses.replace(stopped, max_minutes=1e-9))
    path = learn_features(stopped)
    assert path.read_bytes() == whole.read_bytes() or all(
        np.array_equal(a, b)
        for a, b in zip(*(load_features(p, load_dataset(tiny_data_dir)).values() for p in (path, whole)), strict=True)
    )
    assert learn_features(stopped) == path  # kept
    with pytest.raises(InputError, match="made with epochs = 1, this run has 2"):
        learn_features(dataclasses.replace(stopped, epochs=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"architecture": "none"}, "no architecture 'none'"),
        ({"batch_size": 10**6}, "batch_size is 1000000, but there are"),
    ],
)
def test_bad_settings(changes: dict[str, object], message: str, tiny_data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        learn_features(config(tiny_data_dir, tmp_path, **changes))
