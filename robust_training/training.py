"""The training loop of every victim: one certified training method, on clean or poisoned data, from scratch."""

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import tyro

from bilevel_optimizer.adam import AdamState, adam_init, adam_step
from bilevel_optimizer.autodiff import jit, value_and_grad
from data.augmentation import Augmentation
from data.datasets import X_FILES, Dataset, Share, Sigma, load_dataset, poison_paths, replace_target_class, target_mask
from data.poison_files import training_poison
from data.ready_poisons import ready_name
from models.registry import build_model, require_architecture
from models.saving import load_model, save_model, victim_name
from models.stateless import StatelessModel
from models.voting import majority_vote
from robust_training.defences import DefenceName, defended
from robust_training.loss import LossState, Randomness, TrainingLoss, clean_accuracies
from robust_training.schedules import ONE_CYCLE, Schedule, ScheduleName, learning_rate
from runtime.bounds import POSITIVE, Seed
from runtime.checkpoints import checkpoint_settings
from runtime.checks import require_usable
from runtime.files import InputError, array_sha256, file_sha256, read_json
from runtime.lazy import keras, ops, tree
from runtime.long_run import CheckpointOptions, LongRun, identity
from runtime.noise import Stream, epoch_order, seed_pair
from runtime.provenance import printed_path, project_path
from runtime.stop import Stop

BY_SCHEDULE = tyro.conf.arg(help_behavior_hint="(default: the schedule's, see above)")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Augmentation, CheckpointOptions):
    """Constants of victim training that do not depend on the training method."""

    # Each victim of a run has its own file, named by its seed. Hashes identify the training data.
    not_in_identity: ClassVar[frozenset[str]] = frozenset({"runs", "training_data", "poison", "share"})

    target_class: int = 8
    """Class whose training images are replaced by poison. Its test accuracy is also reported after clean training."""
    loss: TrainingLoss
    """Settings of the training method."""
    training_data: Literal["clean", "poisoned_radius"] = "clean"
    """Train on the clean data, or with the target class's training images replaced by poison."""
    poison: Path | None = None
    """Poison file, also from elsewhere (docs/enter_a_poison.md), or the name of a poison in data/poisons. By default
    the poison in data_dir made against the same method, with the same sigma and class."""
    share: Share = 1.0
    """Share of the poisoned images that are used. They are the same in every run. The rest of the class stays clean."""
    sigma: Sigma = 0.5
    """Standard deviation of the training noise. Pixels are in [0, 1]."""
    runs: Annotated[int, POSITIVE] = 1
    """Victims to train, with seeds seed, seed + 1, ..."""
    constant: ClassVar[Schedule] = Schedule(epochs=101, batch_size=200, learning_rate=1e-3)
    one_cycle: ClassVar[Schedule] = ONE_CYCLE["MNIST"]
    schedule: ScheduleName = "constant"
    """Course of Adam's learning rate. constant: as published. one_cycle: up to a peak and down to 0, in a fifth of the
    published epochs, with the constants of robust_training/schedules.py."""
    epochs: Annotated[Annotated[int, POSITIVE] | None, BY_SCHEDULE] = None
    """Passes over the training data."""
    batch_size: Annotated[Annotated[int, POSITIVE] | None, BY_SCHEDULE] = None
    """Images in a batch. The last partial batch of an epoch is left out, and every epoch is shuffled anew."""
    learning_rate: Annotated[Annotated[float, POSITIVE] | None, BY_SCHEDULE] = None
    """Learning rate of Adam, or its peak where the rate changes."""
    batch_norm: Literal["fixed_affine", "proper"] = "fixed_affine"
    """How models with BatchNorm are trained: as a fixed affine map (published code), or with batch statistics. Dropout
    acts only with batch statistics."""
    defence: DefenceName = "none"
    """Defence that changes the training images beforehand: JPEG of quality 10, two bits a channel, grayscale, or
    removal of the tenth of each class that is farthest from its validation images. See robust_training/defences.py."""
    partitions: Annotated[int, POSITIVE] = 1
    """Number of networks. Above 1, each is trained with the same seed on its own part of the training images, and the
    victim is their majority vote (Deep Partition Aggregation, arXiv 2006.14768)."""
    architecture: str = "mnist_cnn"
    """Model of the victim, see models/registry.py."""
    seed: Seed = 0
    """Seed of the first run's weights, batches and noise."""

    def constants(self) -> Schedule:
        """The schedule's epochs, batch size and learning rate. Values that the config gives replace the schedule's."""
        schedule = self.constant if self.schedule == "constant" else self.one_cycle
        given = {name: getattr(self, name) for name in ("epochs", "batch_size", "learning_rate")}
        return schedule._replace(**{name: value for name, value in given.items() if value is not None})

    def in_force(self) -> "TrainingConfig":
        """The settings with the schedule's values filled in. The run uses them, and its record holds them."""
        values = self.constants()._asdict()
        return replace(self, loss=self.loss.ramped(values.pop("ramp_epochs")), **values)

    @classmethod
    def help_note(cls) -> str:
        """The values of each schedule."""
        shown = (
            f"{name}: {it.epochs} epochs, batches of {it.batch_size}, learning rate {it.learning_rate:g}"
            for name, it in (("constant", cls.constant), ("one_cycle", cls.one_cycle))
        )
        return f"--schedule {'; '.join(shown)}. --epochs, --batch-size and --learning-rate replace a schedule's value."

    def check(self) -> None:
        """Raise InputError on a value that cannot work, also of the schedule."""
        require_usable(self.in_force())
        require_architecture(self.architecture)
        for name, unused in (("poison", None), ("share", 1.0)):
            if self.training_data == "clean" and (value := getattr(self, name)) != unused:
                raise InputError(f"{name} is {value}, but training_data is clean; add --training-data poisoned_radius")


class TrainingState(NamedTuple):
    """Everything that changes during training. A checkpoint holds it."""

    weights: list[Any]
    statistics: list[Any]  # the model's non-trainable variables (BatchNorm averages)
    adam: AdamState
    loss_state: LossState  # of the training loss


def train_victims(config: TrainingConfig) -> list[Path]:
    """Train ``config.runs`` victims with ``config.loss``. Returns the paths of the saved models.

    Each model is saved as <out_dir>/<method>_<sigma>_<training data>_seed<k>.keras (out_dir: saved_models/<dataset>
    when not given), with its settings and accuracies beside it as .json. A model with the same settings is kept.

    Raises InputError, StoppedEarly and FloatingPointError as attack_generation.poisoning.poison_radius does.
    """
    config.check()
    dataset = load_dataset(config.data_dir)
    target_mask(dataset.y_test, config.target_class)  # refuses a class that is not there
    out_dir = config.out_dir or project_path("saved_models") / dataset.name
    method, name, recorded = config.loss.name, "clean", dict[str, Any]()
    if config.training_data != "clean":
        poison = config.poison or poison_paths(config.data_dir, method, config.sigma, config.target_class)[0]
        if not (ready_name(poison) or poison.exists()):
            there = [path.name for path in sorted(config.data_dir.glob("X_*.npy")) if path.name not in X_FILES]
            raise InputError(
                f"{poison}: no such poison; make it with a script of attack_generation/, or give another by --poison "
                f"FILE (in {printed_path(config.data_dir)}: {', '.join(there) or 'none'})"
            )
        images = training_poison(poison, dataset, config.data_dir, config.target_class)
        dataset = replace_target_class(dataset, images, config.target_class, config.share)
        recorded["poison_sha256"] = array_sha256(images)
        name = poison.stem.removeprefix("X_") + (f"_share_{config.share:g}" if config.share < 1 else "")
    dataset = defended(dataset, config.defence)
    with Stop(config.max_minutes) as stop:
        paths = []
        for seed in range(config.seed, config.seed + config.runs):
            path = out_dir / victim_name(method, config.sigma, name, seed)
            paths.append(train_victim(replace(config, seed=seed), dataset, path, stop, **recorded))
        return paths


def train_victim(config: TrainingConfig, dataset: Dataset, path: Path, stop: Stop, **recorded: Any) -> Path:
    """Train one victim on ``dataset`` and save it as ``path``, which is returned. A finished victim is kept.

    The victim is a network, or the majority vote of ``config.partitions`` networks. recorded: more values for its
    record. Raises InputError, StoppedEarly and FloatingPointError as ``train_victims`` does.
    """
    config = config.in_force()
    run_dir = (config.run_dir or project_path("runs")) / dataset.name / path.stem
    # The test images decide the record, too: it holds the accuracies on them.
    hashes = dataset.hashes("x_train", "y_train", "x_test", "y_test")
    settings = identity(config, method=config.loss.name, **hashes)
    if config.training_data == "clean" and not config.overwrite:
        # A clean victim serves all classes, though its settings name one. A victim that was begun keeps its class.
        begun = _begun_with(path, run_dir / "checkpoint.npz")
        if begun in [{**settings, "target_class": label} for label in range(dataset.num_classes)]:
            settings, config = begun, replace(config, target_class=begun["target_class"])
    with LongRun(path, settings, config, run_dir, stop) as run:
        if run.is_finished():
            return path
        if config.partitions == 1:
            if note := config.loss.note(config.constants().epochs):
                print(note)
            training = Training(config, dataset)
            start = training.initial_state()
            state = run.advance(start, training.step, training.total_steps, epoch=training.steps_per_epoch)
            model = training.model.assign(state.weights, state.statistics)
            accuracies = training.evaluate(state)
        else:
            model, accuracies = _train_partitions(config, dataset, path.with_suffix(".parts"), stop)
        run.finish(lambda path: save_model(model, path), **accuracies, **recorded)
    _print_accuracies(config, path, accuracies)
    return path


def _begun_with(path: Path, checkpoint: Path) -> Any:
    """The settings of a finished victim, or else those of its checkpoint. None: neither is there and whole."""
    record = path.with_suffix(".json")
    made: Any = read_json(record) if record.is_file() else None
    is_whole = isinstance(made, dict) and path.is_file() and made.get("sha256") == file_sha256(path)
    return made.get("settings") if is_whole else checkpoint_settings(checkpoint)


def _train_partitions(
    config: TrainingConfig, dataset: Dataset, folder: Path, stop: Stop
) -> tuple["keras.Model", dict[str, float]]:
    """The majority vote of networks and its accuracies. Each network has a part of ``dataset`` and is in ``folder``."""
    parts = [
        train_victim(replace(config, partitions=1, run_dir=folder), part, folder / f"part_{number}.keras", stop)
        for number, part in enumerate(partitioned(dataset, config.partitions))
    ]
    model = majority_vote([load_model(part) for part in parts])
    stateless = StatelessModel(model)
    votes = jit(partial(stateless, *stateless.initial()))
    return model, clean_accuracies(lambda x: votes(x)[0], dataset.x_test, dataset.y_test, config.target_class)


def partitioned(dataset: Dataset, count: int) -> list[Dataset]:
    """The training images in ``count`` parts, chosen by their content alone: changing an image changes at most 2 parts.

    Raises InputError if a part is empty.
    """
    content = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in dataset.x_train)
    part_of_image = np.array([int.from_bytes(digest, "little") % count for digest in content])
    parts = [np.flatnonzero(part_of_image == part) for part in range(count)]
    if not all(len(rows) for rows in parts):
        raise InputError(f"partitions is {count}, too many for {len(part_of_image)} training images; lower it")
    return [replace(dataset, x_train=dataset.x_train[rows], y_train=dataset.y_train[rows]) for rows in parts]


def _print_accuracies(config: TrainingConfig, path: Path, accuracies: dict[str, float]) -> None:
    of_class = f"of class {config.target_class} {accuracies['target_accuracy']:.4f}"
    print(f"{printed_path(path)}: test accuracy {accuracies['accuracy']:.4f}, {of_class}")
    if not accuracies["target_accuracy"]:
        wrong = f"no clean test image of class {config.target_class} correctly, so that each ACR of the class is near 0"
        print(f"warning: this victim classifies {wrong}; train longer, or choose another schedule or learning rate")


class Training:
    """One dataset, one loss and the compiled training step over them."""

    def __init__(self, config: TrainingConfig, dataset: Dataset) -> None:
        self.config, self.dataset = config.in_force(), dataset
        epochs, self._batch_size, self._rate, _ = self.config.constants()
        if self._batch_size > len(dataset.x_train):
            count = f"the network has {len(dataset.x_train)} training images"
            raise InputError(f"batch_size is {self._batch_size}, but {count}; lower it")
        self.steps_per_epoch = len(dataset.x_train) // self._batch_size
        self.total_steps = epochs * self.steps_per_epoch
        weights_seed = int(seed_pair(config.seed, Stream.VICTIM_WEIGHTS)[0])
        network = build_model(
            config.architecture, dataset.image_shape, dataset.num_classes, weights_seed, config.standardise
        )
        self.model = StatelessModel(network, config.batch_norm)
        # Moved to the device once. Batches are gathered there.
        self._data = ops.convert_to_tensor(dataset.x_train), ops.convert_to_tensor(dataset.y_train)
        self._compiled_step = jit(self._step)
        self._logits = jit(lambda weights, statistics, x: self.model(weights, statistics, x)[0])

    def initial_state(self) -> TrainingState:
        """Fresh weights, Adam moments and state of the loss."""
        weights, statistics = tree.map_structure(ops.convert_to_tensor, self.model.initial())
        loss_state = self.config.loss.initial_state((self._batch_size, *self.dataset.image_shape))
        return TrainingState(weights, statistics, adam_init(weights), loss_state)

    def step(self, state: TrainingState, number: int) -> tuple[TrainingState, dict[str, Any]]:
        """Step ``number`` of the run and its loss: a pure function of the state, the number and the seed."""
        epoch, step = divmod(number, self.steps_per_epoch)
        order = epoch_order(self.config.seed, Stream.VICTIM_BATCHES, epoch, len(self.dataset.x_train))
        batch = order[step * self._batch_size : (step + 1) * self._batch_size]
        streams = Stream.VICTIM_NOISE, Stream.VICTIM_AUGMENTATION
        seeds = tuple(seed_pair(self.config.seed, stream, number) for stream in streams)
        rate = learning_rate(self.config.schedule, self._rate, number, self.total_steps)
        state, loss = self._compiled_step(state, self._data, batch, seeds, np.float32(epoch), np.float32(rate))
        return state, {"training_loss": loss}

    def _step(
        self, state: TrainingState, data: tuple[Any, Any], batch: Any, seeds: tuple[Any, ...], epoch: Any, rate: Any
    ) -> tuple[TrainingState, Any]:
        x, y = (ops.take(part, batch, axis=0) for part in data)
        noise_seed, augmentation_seed = seeds
        x = self.config.augmented(x, augmentation_seed)
        fixed_seed = seed_pair(self.config.seed, Stream.VICTIM_FIXED_NOISE)
        randomness = Randomness(self.config.sigma, noise_seed, fixed_seed, batch)
        x, loss_state = self.config.loss.perturbed(
            lambda x: self.model(state.weights, state.statistics, x)[0], x, y, randomness, epoch, state.loss_state
        )

        def objective(weights: list[Any]) -> tuple[Any, list[Any]]:
            statistics = state.statistics

            def logits(x: Any) -> Any:
                nonlocal statistics
                scores, statistics = self.model(weights, state.statistics, x, training=True)
                return scores

            value = self.config.loss(logits, x, y, randomness, epoch)
            return value, statistics

        (value, statistics), gradient = value_and_grad(objective, has_aux=True)(state.weights)
        weights, adam = adam_step(state.weights, gradient, state.adam, rate)
        return TrainingState(weights, statistics, adam, loss_state), value

    def evaluate(self, state: TrainingState) -> dict[str, float]:
        """Accuracy on the clean test images without noise: overall, of the target class and of each class."""
        logits = partial(self._logits, state.weights, state.statistics)
        return clean_accuracies(logits, self.dataset.x_test, self.dataset.y_test, self.config.target_class)
