"""Contrastive learning of image features, which sees no label.

Paper: "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR, ICML 2020, arXiv 2002.05709),
section 2. Without a projection head the features are the network's output, on the unit sphere. With a projection head
they are the input of the network's last layer. BatchNorm uses batch statistics.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from bilevel_optimizer.adam import adam_init, adam_step
from bilevel_optimizer.autodiff import jit, value_and_grad
from data.datasets import SPLITS, load_dataset
from models.registry import build_model, initial_weights, require_architecture
from models.stateless import StatelessModel, in_batches
from robust_training.schedules import learning_rate
from robust_training.training import TrainingState
from robust_training.views import VIEWS
from runtime.bounds import POSITIVE, Seed
from runtime.checks import require_usable
from runtime.files import InputError, save_archive
from runtime.lazy import keras, layers, ops, tree
from runtime.long_run import CheckpointOptions, LongRun, identity
from runtime.noise import Stream, epoch_order, fold_in, seed_pair
from runtime.provenance import printed_path, project_path
from runtime.stop import Stop


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(CheckpointOptions):
    views: Literal["digits", "objects"] = "digits"
    """How the two views of an image differ. digits: they are turned, scaled, moved and blurred. objects: they are
    cropped and mirrored, and differ in brightness, contrast and colour. Some lose their colours."""
    architecture: str = "cnn_3x3"
    """Network, see models/registry.py."""
    dimension: Annotated[int, POSITIVE] = 128
    """Number of outputs that the loss compares."""
    projection_head: bool = False
    """Compare images by the output of a projection head, which is two dense layers. Its input is the features."""
    temperature: Annotated[float, POSITIVE] = 0.2
    """Temperature of the softmax over similarities (tau)."""
    epochs: Annotated[int, POSITIVE] = 20
    """Passes over the training and validation images."""
    batch_size: Annotated[int, POSITIVE] = 256
    """Images in a batch, two views of each."""
    learning_rate: Annotated[float, POSITIVE] = 2e-3
    """Peak of Adam's one-cycle learning rate."""
    out_dir: Path | None = None
    """Folder of contrastive.npz and its record, by default runs/features/<data set>."""
    run_dir: Path | None = None
    """Folder of checkpoint and TensorBoard scalars, by default the folder contrastive beside contrastive.npz."""
    seed: Seed = 0
    """Seed of weights, batches and views."""


def learn_features(config: ContrastiveConfig) -> Path:
    """Train the network and write the features of all images, float32 of unit length. Returns the file's path.

    Raises InputError, StoppedEarly and FloatingPointError as robust_training.training.train_victims does.
    """
    require_usable(config)
    require_architecture(config.architecture)
    dataset = load_dataset(config.data_dir)
    path = (config.out_dir or project_path("runs/features") / dataset.name) / "contrastive.npz"
    hashes = dataset.hashes(*(f"x_{split}" for split in SPLITS))
    run_dir = config.run_dir or path.with_suffix("")
    with Stop(config.max_minutes) as stop, LongRun(path, identity(config, **hashes), config, run_dir, stop) as run:
        if run.is_finished():
            return path
        training = ContrastiveTraining(config, np.concatenate([dataset.x_train, dataset.x_val]))
        state = run.advance(training.initial_state(), training.step, training.total_steps, epoch=training.per_epoch)
        features = {split: training.features(state, getattr(dataset, f"x_{split}")) for split in SPLITS}
        run.finish(lambda path: save_archive(path, features))
    width = features["train"].shape[1]
    print(f"{printed_path(path)}: {width} features, trained on {len(training.x)} images without labels")
    return path


class ContrastiveTraining:
    """The images, and the compiled training step on them. The loss_state of its state is empty."""

    def __init__(self, config: ContrastiveConfig, x: np.ndarray) -> None:
        if config.batch_size > len(x):
            raise InputError(f"batch_size is {config.batch_size}, but there are {len(x)} images; lower it")
        self.config, self.x = config, x
        self.per_epoch = len(x) // config.batch_size
        self.total_steps = config.epochs * self.per_epoch
        seed = int(seed_pair(config.seed, Stream.CONTRASTIVE_WEIGHTS)[0])
        network = build_model(config.architecture, x.shape[1:], config.dimension, seed)
        if config.projection_head:  # the last layer, a ReLU and a dense layer (section 2.1)
            projected = layers.Dense(config.dimension)(layers.ReLU()(network.output))
            network = keras.Model(network.inputs, [network.layers[-1].input, projected])
            network.set_weights(initial_weights(network, seed))
        else:
            network = keras.Model(network.inputs, [network.output, network.output])
        self._model = StatelessModel(network, "proper")  # returns the features, and the outputs for the loss
        self._images = ops.convert_to_tensor(x)
        self._compiled_step = jit(self._step)
        self._compiled_features = jit(lambda *of: ops.normalize(self._model(*of)[0][0], axis=1))

    def initial_state(self) -> TrainingState:
        """Fresh weights and moments."""
        weights, statistics = tree.map_structure(ops.convert_to_tensor, self._model.initial())
        return TrainingState(weights, statistics, adam_init(weights), loss_state=())

    def step(self, state: TrainingState, number: int) -> tuple[TrainingState, dict[str, Any]]:
        """Step ``number`` of the run: a pure function of the state, the number and the seed."""
        config = self.config
        epoch, step = divmod(number, self.per_epoch)
        order = epoch_order(config.seed, Stream.CONTRASTIVE_BATCHES, epoch, len(self.x))
        batch = order[step * config.batch_size : (step + 1) * config.batch_size]
        rate = learning_rate("one_cycle", config.learning_rate, number, self.total_steps)
        seed = seed_pair(config.seed, Stream.CONTRASTIVE_VIEWS, number)
        state, loss = self._compiled_step(state, self._images, batch, seed, np.float32(rate))
        return state, {"contrastive_loss": loss}

    def features(self, state: TrainingState, x: np.ndarray) -> np.ndarray:
        """Features of images x (N, H, W, C), float32 (N, features), each row of length 1."""
        return in_batches(partial(self._compiled_features, state.weights, state.statistics), x)

    def _step(self, state: TrainingState, images: Any, batch: Any, seed: Any, rate: Any) -> tuple[TrainingState, Any]:
        x = ops.take(images, batch, axis=0)
        x = ops.concatenate([VIEWS[self.config.views](x, fold_in(seed, 100 * number)) for number in range(2)])

        def objective(weights: list[Any]) -> tuple[Any, list[Any]]:
            (_, compared), statistics = self._model(weights, state.statistics, x, training=True)
            return contrastive_loss(ops.normalize(compared, axis=1), self.config.temperature), statistics

        (value, statistics), gradient = value_and_grad(objective, has_aux=True)(state.weights)
        weights, adam = adam_step(state.weights, gradient, state.adam, rate)
        return TrainingState(weights, statistics, adam, state.loss_state), value


def contrastive_loss(z: Any, temperature: float) -> Any:
    """Mean cross entropy of finding an image's other view among all other views (arXiv 2002.05709, equation 1).

    z: unit vectors, float (2 B, d): the first views of B images, then their second views in the same order.
    """
    count = z.shape[0]
    similarity = ops.matmul(z, ops.transpose(z)) / temperature - 1e9 * ops.eye(count)
    with_other = ops.sum(z * ops.roll(z, count // 2, axis=0), axis=1) / temperature
    return ops.mean(ops.logsumexp(similarity, axis=1) - with_other)
