"""The training loop of every victim: one certified training method, on clean or poisoned data, from scratch."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from keras import ops, tree

from bilevel_optimizer.adam import AdamState, adam_init, adam_step
from bilevel_optimizer.autodiff import jit, value_and_grad
from bilevel_optimizer.trees import norm
from data.augmentation import random_crop_and_flip
from data.datasets import (
    Dataset,
    load_dataset,
    load_poison,
    poison_paths,
    replace_target_class,
    split_target_class,
)
from models.registry import build_model
from models.saving import save_model
from models.stateless import StatelessModel
from robust_training.loss import Memory, Randomness, TrainingLoss, clean_accuracies
from runtime.checkpoints import (
    OnOtherSettings,
    OtherSettings,
    discard_where_allowed,
    require_finite,
    require_same_settings,
    resume,
    save_checkpoint,
)
from runtime.files import InputError, array_sha256, read_json, write_json
from runtime.noise import seed_pair
from runtime.progress import Scalars, progress
from runtime.provenance import project_path, provenance, settings, shown_path
from runtime.stop import Stop, StoppedEarly

# Streams of randomness, so that no two uses share one (see runtime.noise.seed_pair).
_WEIGHTS, _BATCHES, _NOISE, _AUGMENTATION, _FIXED_NOISE = range(100, 105)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Constants of victim training that do not depend on the training method."""

    target_class: int = 8
    """Class whose training images are replaced by poison; its test accuracy is reported in either case."""
    dataset: Literal["clean", "poisoned_radius"] = "clean"
    """Train on the clean data, or with the target class's training images replaced by poison."""
    poison: Path | None = None
    """Poison file; the one of the same method, sigma and class in data_dir when not given."""
    sigma: float = 0.5
    """Standard deviation of the training noise; pixels are in [0, 1]."""
    runs: int = 1
    """Independent runs, with seeds seed, seed + 1, ..."""
    epochs: int = 101
    """Passes over the training data."""
    batch_size: int = 200
    """Images in a batch; the last partial batch of an epoch is left out, and every epoch is shuffled anew."""
    learning_rate: float = 1e-3
    """Learning rate of Adam."""
    augment: bool = False
    """Random crop and flip of the training images."""
    batch_norm: Literal["fixed_affine", "proper"] = "fixed_affine"
    """How models with BatchNorm are trained: as a fixed affine map (published code) or with batch statistics."""
    architecture: str = "mnist_cnn"
    """Model of the victim, see models/registry.py."""
    seed: int = 0
    """Seed of the first run's weights, batches and noise."""
    data_dir: Path = Path("data/MNIST")
    """Folder of the prepared arrays."""
    model_dir: Path | None = None
    """Folder of the trained models; saved_models/<dataset> when not given."""
    run_dir: Path = project_path("runs")
    """Folder of checkpoints and TensorBoard scalars."""
    overwrite: bool = False
    """Train afresh, replacing a model or a checkpoint that is already there; leave it out to continue."""
    on_other_settings: OnOtherSettings = "refuse"
    """What to do where a model or checkpoint made with other settings is in the way: name the difference and
    stop, or delete it and start afresh."""
    max_minutes: float | None = None
    """Stop cleanly after this long; the same command continues."""
    checkpoint_minutes: float = 5.0
    """Longest time between checkpoints."""

    def check(self) -> None:
        """Raise InputError on a value that cannot work."""
        for name in ("runs", "epochs", "batch_size", "learning_rate", "checkpoint_minutes"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"seed must not be negative, got {self.seed}")
        if self.dataset == "clean" and self.poison is not None:
            raise InputError(f"poison is {self.poison}, but dataset is clean; add --dataset poisoned_radius")


class TrainingState(NamedTuple):
    """Everything that changes during training; what a checkpoint holds."""

    weights: list[Any]
    statistics: list[Any]  # the model's non-trainable variables (BatchNorm averages)
    adam: AdamState
    memory: Memory  # of the training loss


def train_victims(config: TrainingConfig, method: str, loss: TrainingLoss) -> list[Path]:
    """Train ``config.runs`` victims with one training method; returns the paths of the saved models.

    method: gaussianaug, macer, ...: the name in file names. loss: its training loss. Each model is saved as
    <model_dir>/<method>_<sigma>_<poison>_seed<k>.keras with its settings and accuracies as .json beside it; a
    model that is already there with the same settings is kept.

    Raises InputError, StoppedEarly and FloatingPointError as attack_generation.poisoning.poison_radius does.
    """
    config.check()
    dataset = load_dataset(config.data_dir)
    split_target_class(
        dataset.x_test, dataset.y_test, config.target_class
    )  # refuses a class that is not there
    trained_on, name = dataset, "clean"
    if config.dataset != "clean":
        poison = config.poison or poison_paths(config.data_dir, method, config.sigma, config.target_class)[0]
        images = load_poison(poison, dataset, config.target_class)
        trained_on = replace_target_class(dataset, images, config.target_class)
        name = poison.stem.removeprefix("X_")
    model_dir = config.model_dir or project_path("saved_models") / dataset.name
    with Stop(config.max_minutes) as stop:
        return [
            train_victim(
                config, method, loss, trained_on, config.seed + run,
                model_dir / f"{method}_{config.sigma}_{name}_seed{config.seed + run}.keras", stop,
            )
            for run in range(config.runs)
        ]  # fmt: skip


def train_victim(
    config: TrainingConfig,
    method: str,
    loss: TrainingLoss,
    dataset: Dataset,
    seed: int,
    path: Path,
    stop: Stop,
) -> Path:
    """Train one victim on ``dataset`` and save it as ``path``; a finished one with the same settings is kept."""
    identity = _identity(config, method, loss, dataset, seed)
    record_path = path.with_suffix(".json")
    if path.is_file() and record_path.is_file() and not config.overwrite:
        try:
            require_same_settings(path, read_json(record_path).get("settings", {}), identity)
        except OtherSettings as other:
            discard_where_allowed(other, config.on_other_settings, path)
        else:
            print(f"{shown_path(path)}: already trained with these settings")
            return path
    training = Training(config, dataset, loss, seed)
    run_dir = config.run_dir / dataset.name / path.stem
    checkpoint = run_dir / "checkpoint.npz"
    if config.overwrite:  # at once, so that the same command without it continues this run
        path.unlink(missing_ok=True)
        checkpoint.unlink(missing_ok=True)
    state, done = training.initial_state(), 0
    if resumed := resume(checkpoint, state, identity, config.on_other_settings):
        state, done = resumed[0], resumed[1]["steps"]
        print(f"continuing {path.stem} after {done} of {training.total_steps} steps")

    with Scalars(run_dir / "tensorboard") as scalars:
        last_save = time.monotonic()
        bar = progress(total=training.total_steps, initial=done, desc=path.stem, unit="step")
        for number in range(done, training.total_steps):
            state, value = training.step(state, number)
            bar.update()
            end_of_epoch = (number + 1) % training.steps_per_epoch == 0
            # The loss is looked at where it is needed, so that the device is not made to wait at every step.
            if end_of_epoch or stop.reason or (number + 1) % 50 == 0:
                training_loss = float(value)
                require_finite(f"step {number}", training_loss=training_loss)
                scalars.write(number, training_loss=training_loss)
                bar.set_postfix(loss=f"{training_loss:.3f}")
            due = time.monotonic() - last_save > 60 * config.checkpoint_minutes
            if (stop.reason or due) and number + 1 < training.total_steps:
                weights = float(norm(state.weights))  # the loss is that of the weights before the step
                require_finite(f"step {number}", training_loss=float(value), weights=weights)
                save_checkpoint(checkpoint, state, {"settings": identity, "steps": number + 1})
                last_save = time.monotonic()
                if stop.reason:
                    raise StoppedEarly(
                        f"{stop.reason} after {number + 1} of {training.total_steps} steps of {path.stem}"
                    )
        bar.close()
        require_finite(f"step {training.total_steps}", weights=float(norm(state.weights)))
        accuracies = training.evaluate(state)
        scalars.write(training.total_steps, **accuracies)

    save_model(training.model.assign(state.weights, state.statistics), path)
    write_json(record_path, {"settings": identity, **accuracies, **provenance(config)})
    checkpoint.unlink(missing_ok=True)
    print(
        f"{shown_path(path)}: test accuracy {accuracies['accuracy']:.4f}, "
        f"of class {config.target_class} {accuracies['target_accuracy']:.4f}"
    )
    return path


def _identity(
    config: TrainingConfig, method: str, loss: TrainingLoss, dataset: Dataset, seed: int
) -> dict[str, Any]:
    """The settings that make a victim what it is, the training images among them."""
    shared = (
        "target_class",
        "epochs",
        "batch_size",
        "learning_rate",
        "augment",
        "batch_norm",
        "architecture",
    )
    own = {name: value for name, value in settings(config).items() if name in shared}
    return {
        **own,
        "method": method,
        "loss": repr(loss),
        "seed": seed,
        "x_train": array_sha256(dataset.x_train),
    }


class Training:
    """One dataset, one loss and the compiled training step over them."""

    def __init__(self, config: TrainingConfig, dataset: Dataset, loss: TrainingLoss, seed: int) -> None:
        if config.batch_size > len(dataset.x_train):
            raise InputError(
                f"batch_size is {config.batch_size}, but {config.data_dir} has {len(dataset.x_train)} training images"
            )
        self.config, self.dataset, self.seed = config, dataset, seed
        self.steps_per_epoch = len(dataset.x_train) // config.batch_size
        self.total_steps = config.epochs * self.steps_per_epoch
        weights_seed = int(seed_pair(seed, _WEIGHTS)[0])
        network = build_model(
            config.architecture, dataset.image_shape, dataset.num_classes, seed=weights_seed
        )
        self.model = StatelessModel(network, config.batch_norm)
        self._loss = loss
        # Moved to the device once; batches are gathered there.
        self._x, self._y = ops.convert_to_tensor(dataset.x_train), ops.convert_to_tensor(dataset.y_train)
        self._compiled_step = jit(self._step)
        self._logits = jit(lambda weights, statistics, x: self.model(weights, statistics, x)[0])
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def initial_state(self) -> TrainingState:
        """Fresh weights, Adam moments and memory of the loss."""
        weights, statistics = tree.map_structure(ops.convert_to_tensor, self.model.initial())
        memory = self._loss.initial_memory((self.config.batch_size, *self.dataset.image_shape))
        return TrainingState(weights, statistics, adam_init(weights), memory)

    def step(self, state: TrainingState, number: int) -> tuple[TrainingState, Any]:
        """Step ``number`` of the run: a pure function of the state, the number and the seed."""
        epoch, step = divmod(number, self.steps_per_epoch)
        if self._order[0] != epoch:
            shuffle = np.random.default_rng([self.seed, _BATCHES, epoch])
            self._order = epoch, shuffle.permutation(len(self.dataset.x_train)).astype(np.int32)
        size = self.config.batch_size
        batch = self._order[1][step * size : (step + 1) * size]
        seeds = seed_pair(self.seed, _NOISE, number), seed_pair(self.seed, _AUGMENTATION, number)
        return self._compiled_step(state, self._x, self._y, batch, seeds, np.float32(epoch))

    def _step(
        self, state: TrainingState, x_train: Any, y_train: Any, batch: Any, seeds: tuple[Any, Any], epoch: Any
    ) -> tuple[TrainingState, Any]:
        x, y = ops.take(x_train, batch, axis=0), ops.take(y_train, batch, axis=0)
        noise_seed, augmentation_seed = seeds
        if self.config.augment:
            x = random_crop_and_flip(x, augmentation_seed)
        randomness = Randomness(noise_seed, seed_pair(self.seed, _FIXED_NOISE), batch)

        def inference_logits(x: Any) -> Any:
            return self.model(state.weights, state.statistics, x)[0]

        x, memory = self._loss.perturbed(inference_logits, x, y, randomness, epoch, state.memory)

        def objective(weights: list[Any]) -> tuple[Any, list[Any]]:
            statistics = [state.statistics]

            def logits(x: Any) -> Any:
                scores, after = self.model(weights, state.statistics, x, training=True)
                statistics.append(after)
                return scores

            return self._loss(logits, x, y, randomness, epoch), statistics[-1]

        (value, statistics), gradient = value_and_grad(objective, has_aux=True)(state.weights)
        weights, adam = adam_step(state.weights, gradient, state.adam, self.config.learning_rate)
        return TrainingState(weights, statistics, adam, memory), value

    def evaluate(self, state: TrainingState) -> dict[str, float]:
        """Accuracy on the clean test images without noise: overall, of the target class and of each class."""
        logits = partial(self._logits, state.weights, state.statistics)
        overall, of_class = clean_accuracies(logits, self.dataset.x_test, self.dataset.y_test)
        of_classes = {f"accuracy_class_{label}": value for label, value in enumerate(of_class)}
        return {"accuracy": overall, "target_accuracy": of_class[self.config.target_class], **of_classes}
