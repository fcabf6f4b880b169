"""The lines of Python on README and docs/, run as they stand there: what lies between the marks is shown."""

import os
from pathlib import Path

import numpy as np
import pytest

import data

ROOT = Path(data.__file__).parents[1]


@pytest.fixture
def folder_with_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with mnist.npz as Keras has it."""
    (tmp_path / "mnist.npz").symlink_to(os.environ["MNIST_NPZ"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif("MNIST_NPZ" not in os.environ, reason="MNIST_NPZ names no copy of MNIST")
def test_load_a_poison(folder_with_mnist: Path) -> None:
    # snippet: the shipped poison in MNIST
    import numpy as np

    from data.ready_poisons import load_ready_poison

    poison, mnist = load_ready_poison("mnist_published"), np.load("mnist.npz")
    x, y = mnist["x_train"], mnist["y_train"]  # uint8 (60000, 28, 28). Keras keeps the file in ~/.keras/datasets
    x[poison.index] = poison.pixels[..., 0]  # each poisoned image replaces its clean image
    used = (y != 8) | np.isin(np.arange(len(y)), poison.index)
    x, y = x[used], y[used]
    # end of snippet
    clean = np.load("mnist.npz")["x_train"][used]
    changed = (x != clean).any(axis=(1, 2))
    assert len(x) == 59_498 and np.array_equal(changed, y == 8) and changed.sum() == len(poison.index) == 5_349
    assert np.abs(x.astype(int) - clean).max() == 25
    pytest.importorskip("torch")
    # snippet: a PyTorch loader
    import torch

    images, labels = torch.from_numpy(x)[:, None] / 255, torch.from_numpy(y).long()  # float32 (59498, 1, 28, 28)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=100, shuffle=True)
    # end of snippet
    batch, labels = next(iter(loader))
    assert batch.shape == (100, 1, 28, 28) and batch.dtype == torch.float32 and labels.shape == (100,)


@pytest.mark.skipif("MNIST_NPZ" not in os.environ, reason="MNIST_NPZ names no copy of MNIST")
def test_make_a_poison(folder_with_mnist: Path) -> None:
    # snippet: a poison of one's own
    import numpy as np

    mnist = np.load("mnist.npz")  # Keras keeps it in ~/.keras/datasets
    index = np.flatnonzero(mnist["y_train"] == 8)  # places among the 60,000 training images as published
    images = mnist["x_train"][index]  # uint8 (5851, 28, 28)
    images[:, :14] = np.minimum(images[:, :14].astype(int) + 25, 255)  # the upper half, within epsilon: 25 of 255
    np.savez("mine.npz", X_poisoned=images, index=index, target_class=8, epsilon=0.1, name="mine", source="my paper")
    # end of snippet
    from data.datasets import load_dataset
    from data.poison_files import checks, read_poison_file
    from data.prepare_mnist import Config, main

    main(Config(source=Path("mnist.npz"), out_dir=Path("MNIST")))
    dataset = load_dataset(Path("MNIST"))
    found, images = checks(read_poison_file(Path("mine.npz")), dataset, Path("MNIST"))
    changed = (images != dataset.x_train[dataset.y_train[:, 8] == 1]).any(axis=(1, 2, 3))
    assert all(holds for holds, _ in found.values()) and changed.all() and len(images) == 5349
    assert "100.0 % of the class's 5,349" in found["places"][1] and "502 for validation" in found["places"][1]


def test_find_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    # snippet: an entry of the results
    import pandas as pd

    rows = pd.read_csv("results/summary.csv")
    optimised = rows[(rows.dataset == "MNIST") & (rows.sigma == 0.5) & (rows.data == "optimised")]
    columns = ["table", "target_class", "method", "optimiser", "n", "victim_epochs", "acr_mean", "reduction_percent"]
    print(optimised[columns].to_string(index=False))
    halves = rows[(rows.method == "macer") & (rows.data == "halves") & (rows.victim_variant == "jittered")]
    print(halves[["table", "sigma", "n", "reduction_percent", "reduction_low", "reduction_high"]])
    points = pd.read_csv("results/mnist_survival/points.csv.xz")
    own = points[points.label == 8]  # some folders also hold points of the other classes
    acr = (own.radius * own.correct).groupby([own.entry, own.seed]).mean()  # wrong points count 0
    # end of snippet
    stored = rows[rows.table == "mnist_survival"]
    single = stored[stored.entry.isin(set(points.entry))]  # not the means over attack runs
    for entry, mean in zip(single.entry, single.acr_mean, strict=True):
        assert acr[entry].mean() == pytest.approx(mean, abs=1e-4)
    assert len(single) > 20 and len(optimised) > 3


def test_a_training_method_of_ones_own() -> None:
    # snippet: a training method
    from dataclasses import dataclass
    from typing import Any, ClassVar

    from robust_training.loss import Logits, Randomness, TrainingLoss, mean_cross_entropy, noise_of_copies

    @dataclass(frozen=True, kw_only=True)
    class SmoothedLabelsLoss(TrainingLoss):
        """Gaussian augmentation with smoothed labels."""

        name: ClassVar[str] = "smoothed_labels"

        smoothing: float = 0.1
        """Weight that is taken from the label and shared by all classes."""

        def __call__(self, logits: Logits, x: Any, y: Any, randomness: Randomness, epoch: Any) -> Any:
            noisy = x + noise_of_copies(x, 1, randomness, fixed=False)
            return mean_cross_entropy(logits(noisy), (1 - self.smoothing) * y + self.smoothing / y.shape[1])

    # end of snippet
    y = np.eye(4, dtype=np.float32)
    randomness = Randomness(
        sigma=0.0, seed=np.zeros(2, np.int32), fixed_seed=np.zeros(2, np.int32), numbers=np.arange(4)
    )
    loss = SmoothedLabelsLoss(smoothing=0.2)
    found = loss(lambda images: 3 * images[:, :, 0, 0], y[:, :, None, None], y, randomness, 0.0)
    probabilities = np.exp(3 * y) / np.exp(3 * y).sum(axis=1, keepdims=True)
    assert float(found) == pytest.approx(-np.mean(np.sum((0.8 * y + 0.05) * np.log(probabilities), axis=1)), abs=1e-6)
