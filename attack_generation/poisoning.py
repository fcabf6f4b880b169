"""The attack loop: poison that lowers the certified radius of one target class.

Source: "How Robust are Randomized Smoothing based Defenses to Data Poisoning?" (CVPR 2021, arXiv 2012.01274),
section 3: min over u of the target class's differentiable certified radius, subject to the victim's weights v
minimising a certified defence's training loss on the poisoned data.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from keras import ops, tree

from attack_generation.controls import starting_poison
from attack_generation.figures import save_image_grid
from bilevel_optimizer.adam import AdamState, adam_init
from bilevel_optimizer.approxgrad import ApproxGrad, LowerState, Metrics
from bilevel_optimizer.autodiff import jit
from bilevel_optimizer.linear_solvers import solver_named
from data.augmentation import random_crop_and_flip
from data.datasets import Dataset, check_poison, load_dataset, poison_paths, split_target_class
from models.registry import build_model
from models.stateless import StatelessModel
from randomized_smoothing_certification.soft_radius import mean_soft_radius, smoothed_probabilities
from robust_training.loss import (
    Memory,
    Randomness,
    TrainingLoss,
    clean_accuracies,
    mean_cross_entropy,
    noise_of_copies,
)
from runtime.checkpoints import (
    OnOtherSettings,
    OtherSettings,
    discard_where_allowed,
    require_finite,
    require_same_settings,
    resume,
    save_checkpoint,
)
from runtime.files import InputError, array_sha256, read_json, save_array, write_json
from runtime.noise import fold_in, seed_pair
from runtime.progress import Scalars, progress
from runtime.provenance import project_path, provenance, settings, shown_path
from runtime.stop import Stop, StoppedEarly

# Streams of randomness, so that no two uses share one (see runtime.noise.seed_pair).
_WEIGHTS, _BATCHES, _UPPER_NOISE, _LOWER_NOISE, _AUGMENTATION = range(5)
_FIXED_UPPER_NOISE, _FIXED_LOWER_NOISE = range(5, 7)


@dataclass(frozen=True, kw_only=True)
class PoisonConfig:
    """Constants of an attack that do not depend on the training method it is made against."""

    target_class: int = 8
    """Class whose training images are poisoned."""
    epsilon: float = 0.1
    """l-infinity bound on the change of each pixel; pixels are in [0, 1]."""
    sigma: float = 0.5
    """Standard deviation of the smoothing noise; pixels are in [0, 1]."""
    batch_clean: int = 900
    """Images of the other classes in a batch."""
    batch_poison: int = 100
    """Poisoned images in a batch, drawn at random for each outer step."""
    batch_validation: int = 100
    """Clean validation images of the target class on which the objective is measured."""
    objective: Literal["soft_radius", "cross_entropy"] = "soft_radius"
    """What the poison lowers on the target class's validation images: their mean soft radius, or minus their
    cross entropy without noise (the attack on standard training)."""
    radius_copies: int = 20
    """Noisy copies of each validation image in the soft radius (k)."""
    radius_beta: float = 16.0
    """Inverse temperature of the softmax in the soft radius (beta)."""
    radius_margin: float = 1e-3
    """Keeps the soft radius finite: probabilities are mapped into [a, 1 - a] (a)."""
    epochs: int = 50
    """Epochs of outer steps; an epoch visits every image of the other classes once."""
    reinitialise_every: int = 10
    """Epochs after which the weights, p and all Adam moments start afresh."""
    lower_steps: int = 10
    """Adam steps on the weights in an outer step (T1)."""
    solver: Literal["adam", "cg", "neumann"] = "adam"
    """Solver of the linear system: Adam on the residual (published), conjugate gradient, Neumann series."""
    solver_steps: int = 10
    """Iterations of the linear solver in an outer step (T2)."""
    lr_u: float = 0.1
    """Adam learning rate of the poison. At epsilon or above a step is close to a sign step and a projection."""
    lr_v: float = 1e-3
    """Adam learning rate of the weights."""
    lr_p: float = 1e-2
    """Adam learning rate of the linear system's solution; the scale of the Neumann series."""
    damping: float = 1e-3
    """Multiple of the identity added to the lower level's Hessian."""
    redraw_noise: bool = True
    """Whether each iteration of the linear solver redraws the training noise (published). False holds one draw
    for the whole system, which conjugate gradient needs and which spares each iteration a forward pass.
    A training loss with fixed noise has one system in either case."""
    fixed_validation_noise: bool = False
    """Whether each validation image keeps its noisy copies throughout the attack (published for MACER)."""
    start: Literal["zero", "random", "constant", "contrast"] = "zero"
    """Where the poison starts: the clean images, random signs of epsilon, a brightness shift of epsilon, or less
    contrast (dark pixels epsilon brighter, bright ones epsilon darker)."""
    augment: bool = False
    """Random crop and flip of training, poison and validation images (published for CIFAR10)."""
    architecture: str = "mnist_cnn"
    """Model of the lower level, see models/registry.py."""
    seed: int = 0
    """Seed of weights, batches and noise."""
    data_dir: Path = Path("data/MNIST")
    """Folder of the prepared arrays."""
    out_dir: Path | None = None
    """Folder of the poison files; data_dir when not given."""
    run_dir: Path | None = None
    """Folder of checkpoint, TensorBoard scalars and picture; runs/<dataset>/<poison name> when not given."""
    overwrite: bool = False
    """Start afresh, replacing a poison or a checkpoint that is already there; leave it out to continue."""
    on_other_settings: OnOtherSettings = "refuse"
    """What to do where a poison or checkpoint made with other settings is in the way: name the difference and
    stop, or delete it and start afresh."""
    max_minutes: float | None = None
    """Stop cleanly after this long; the same command continues."""
    checkpoint_minutes: float = 5.0
    """Longest time between checkpoints."""

    def check(self) -> None:
        """Raise InputError on a value that cannot work."""
        positive = (
            "epsilon", "sigma", "batch_clean", "batch_poison", "batch_validation", "radius_copies", "radius_beta",
            "epochs", "reinitialise_every", "lower_steps", "solver_steps", "lr_u", "lr_v", "lr_p", "checkpoint_minutes",
        )  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.radius_margin < 0.5:
            raise InputError(f"radius_margin must lie between 0 and 0.5, got {self.radius_margin}")
        if self.seed < 0:
            raise InputError(f"seed must not be negative, got {self.seed}")
        if self.damping < 0:
            raise InputError(f"damping must not be negative, got {self.damping}")
        if self.epsilon > 1:
            raise InputError(f"epsilon must be at most 1 (pixels are in [0, 1]), got {self.epsilon}")
        if self.solver == "cg" and self.redraw_noise:
            raise InputError("solver cg needs one fixed linear system; add --no-redraw-noise")


class AttackState(NamedTuple):
    """Everything that changes during an attack; what a checkpoint holds."""

    poison: Any  # (N, H, W, C) float32, the poisoned training images of the target class
    weights: list[Any]
    lower: LowerState
    upper: AdamState  # shaped as a poison minibatch
    memory: Memory  # of the training loss


def poison_radius(config: PoisonConfig, method: str, loss: TrainingLoss) -> Path:
    """Make poison against one training method, or continue a run that was stopped; returns the poison's path.

    method: the name in the file names, as in X_poisoned_radius_<method>_<sigma>_<class>.npy. loss: the training
    loss of the lower level. Writes the poison, its labels and its settings to out_dir, and a checkpoint,
    TensorBoard scalars and a picture to run_dir.

    Raises InputError on bad settings or data, StoppedEarly when asked to stop, FloatingPointError when a quantity
    becomes NaN or infinite.
    """
    config.check()
    dataset = load_dataset(config.data_dir)
    x_path, y_path = poison_paths(
        config.out_dir or config.data_dir, method, config.sigma, config.target_class
    )
    run_dir = config.run_dir or project_path("runs") / dataset.name / x_path.stem
    identity = _identity(config, method, loss, dataset)
    if x_path.is_file() and not config.overwrite:
        try:
            _require_same_poison(x_path, identity)
        except OtherSettings as other:
            discard_where_allowed(other, config.on_other_settings, x_path)
        else:
            print(f"{shown_path(x_path)}: already made with these settings")
            return x_path
    attack = Attack(config, dataset, loss)
    checkpoint = run_dir / "checkpoint.npz"
    if config.overwrite:  # at once, so that the same command without it continues this run
        x_path.unlink(missing_ok=True)
        checkpoint.unlink(missing_ok=True)
    state, done = attack.initial_state(0), 0
    if resumed := resume(checkpoint, state, identity, config.on_other_settings):
        state, done = resumed[0], resumed[1]["outer_steps"]
        print(f"continuing {shown_path(run_dir)} after {done} of {attack.total_steps} outer steps")

    def save(done: int) -> None:
        save_checkpoint(checkpoint, state, {"settings": identity, "outer_steps": done})

    with Stop(config.max_minutes) as stop, Scalars(run_dir / "tensorboard") as scalars:
        last_save = time.monotonic()
        bar = progress(total=attack.total_steps, initial=done, desc=x_path.stem, unit="step")
        for number in range(done, attack.total_steps):
            state, metrics = attack.outer_step(state, number)
            values = {name: float(value) for name, value in metrics._asdict().items()}
            require_finite(f"outer step {number}", **values)
            scalars.write(number, **values)
            bar.set_postfix(
                f=f"{values['f']:.3f}", g=f"{values['g']:.3f}", residual=f"{values['residual']:.2f}"
            )
            bar.update()
            end_of_epoch = (number + 1) % attack.steps_per_epoch == 0
            if end_of_epoch:
                scalars.write(number, **attack.evaluate(state))
            if (number + 1) % (attack.steps_per_epoch * config.reinitialise_every) == 0:
                epoch = (number + 1) // attack.steps_per_epoch
                save_array(
                    run_dir / f"poison_after_epoch_{epoch}.npy", attack.checked_poison(state, checkpoint)
                )
            reason = stop.reason  # asked once: it may come up between saving and stopping
            if reason or time.monotonic() - last_save > 60 * config.checkpoint_minutes or end_of_epoch:
                save(number + 1)
                last_save = time.monotonic()
            if reason and number + 1 < attack.total_steps:
                raise StoppedEarly(f"{reason} after {number + 1} of {attack.total_steps} outer steps")
        bar.close()

    poison = attack.checked_poison(state, x_path)
    save_array(y_path, attack.y_target)
    # The images last: a run cut short in between then goes on from its checkpoint.
    write_json(x_path.with_suffix(".json"), {"settings": identity, **provenance(config)})
    save_array(x_path, poison)
    checkpoint.unlink(missing_ok=True)
    save_image_grid(run_dir / "poison.png", attack.x_target, poison, config.epsilon)
    distortion = np.abs(poison - attack.x_target)
    print(
        f"{shown_path(x_path)}: {len(poison)} images, |u - x| mean {distortion.mean():.4f} max {distortion.max():.4f}"
    )
    return x_path


def _identity(config: PoisonConfig, method: str, loss: TrainingLoss, dataset: Dataset) -> dict[str, Any]:
    """The settings that make a run what it is: two runs that agree on them end with the same poison."""
    free = (
        "data_dir", "out_dir", "run_dir", "overwrite", "on_other_settings", "max_minutes", "checkpoint_minutes",
    )  # fmt: skip
    own = {name: value for name, value in settings(config).items() if name not in free}
    return {**own, "method": method, "loss": repr(loss), "x_train": array_sha256(dataset.x_train)}


def _require_same_poison(x_path: Path, identity: dict[str, Any]) -> None:
    record = x_path.with_suffix(".json")
    if not record.is_file():
        raise OtherSettings(
            f"{x_path}: exists without the settings it was made with; add --overwrite or --out-dir"
        )
    require_same_settings(x_path, read_json(record).get("settings", {}), identity)


class Attack:
    """One dataset, one lower-level loss and the compiled outer step over them."""

    def __init__(self, config: PoisonConfig, dataset: Dataset, loss: TrainingLoss) -> None:
        self.config = config
        target = split_target_class(dataset.x_train, dataset.y_train, config.target_class)
        self.x_target, self.y_target, x_others, y_others = target
        self.x_val, self.y_val = dataset.x_val, dataset.y_val
        x_val_target, y_val_target, _, _ = split_target_class(
            dataset.x_val, dataset.y_val, config.target_class
        )
        for name, size, images in (
            ("batch_clean", config.batch_clean, x_others),
            ("batch_poison", config.batch_poison, self.x_target),
        ):
            if size > len(images):
                raise InputError(
                    f"{name} is {size}, but {config.data_dir} has only {len(images)} such images"
                )
        self.others, self.validation = len(x_others), len(x_val_target)
        self.batch_validation = min(config.batch_validation, self.validation)
        self.steps_per_epoch = self.others // config.batch_clean
        self.total_steps = config.epochs * self.steps_per_epoch
        self._image_shape, self._num_classes = dataset.image_shape, dataset.num_classes
        self._loss = loss
        self._model = self._fresh_model(0)
        _, self._model_state = self._model.initial()
        # Moved to the device once; batches are gathered there.
        self._device = tree.map_structure(
            ops.convert_to_tensor,
            {
                "x_others": x_others, "y_others": y_others, "x_target": self.x_target, "y_target": self.y_target,
                "x_val": x_val_target, "y_val": y_val_target,
            },
        )  # fmt: skip
        self._bilevel = ApproxGrad(
            f=self._upper_objective,
            g=self._lower_objective,
            lower_steps=config.lower_steps,
            lr_v=config.lr_v,
            lr_u=config.lr_u,
            damping=config.damping,
            solver=solver_named(config.solver, config.solver_steps, config.lr_p, config.damping),
            project=self._project,
            fixed_system=not config.redraw_noise,
        )
        self._compiled_step = jit(self._step)
        self._logits = jit(lambda weights, x: self._model(weights, self._model_state, x)[0])

    def _fresh_model(self, restart: int) -> StatelessModel:
        seed = int(seed_pair(self.config.seed, _WEIGHTS, restart)[0])
        return StatelessModel(
            build_model(self.config.architecture, self._image_shape, self._num_classes, seed=seed)
        )

    def initial_state(self, restart: int, poison: Any = None) -> AttackState:
        """Fresh weights, p and moments (number ``restart``), with the given poison or the starting one."""
        config = self.config
        weights, _ = self._fresh_model(restart).initial()
        if poison is None:
            poison = starting_poison(config.start, self.x_target, config.epsilon, config.seed)
        upper = adam_init(ops.zeros((config.batch_poison, *self._image_shape)))
        memory = self._loss.initial_memory((config.batch_clean + config.batch_poison, *self._image_shape))
        return AttackState(poison, weights, self._bilevel.init_lower(weights), upper, memory)

    def outer_step(self, state: AttackState, number: int) -> tuple[AttackState, Metrics]:
        """Outer step ``number`` of the run: a pure function of the state, the number and the seed."""
        epoch, step = divmod(number, self.steps_per_epoch)
        restart, epoch_since = divmod(epoch, self.config.reinitialise_every)
        if number and step == 0 and epoch_since == 0:
            state = self.initial_state(restart, state.poison)
        batch = self._batch_indices(epoch, step)
        seeds = {
            name: seed_pair(self.config.seed, stream, number)
            for name, stream in (("f", _UPPER_NOISE), ("g", _LOWER_NOISE), ("augment", _AUGMENTATION))
        }
        return self._compiled_step(state, self._device, batch, seeds, np.float32(epoch_since))

    def _batch_indices(self, epoch: int, step: int) -> dict[str, np.ndarray]:
        config = self.config
        shuffled = np.random.default_rng([config.seed, _BATCHES, epoch]).permutation(self.others)
        draw = np.random.default_rng([config.seed, _BATCHES, epoch, step + 1])
        return {
            "clean": shuffled[step * config.batch_clean : (step + 1) * config.batch_clean].astype(np.int32),
            "poison": draw.choice(len(self.x_target), config.batch_poison, replace=False).astype(np.int32),
            "validation": draw.choice(self.validation, self.batch_validation, replace=False).astype(np.int32),
        }

    def _step(
        self, state: AttackState, device: dict, batch: dict, seeds: dict, epoch: Any
    ) -> tuple[AttackState, Metrics]:
        u = ops.take(state.poison, batch["poison"], axis=0)
        data = {
            "x_clean": ops.take(device["x_others"], batch["clean"], axis=0),
            "images": ops.concatenate([batch["clean"], self.others + batch["poison"]]),
            "y": ops.concatenate(
                [
                    ops.take(device["y_others"], batch["clean"], axis=0),
                    ops.take(device["y_target"], batch["poison"], axis=0),
                ]
            ),
            "x_original": ops.take(device["x_target"], batch["poison"], axis=0),
            "x_val": ops.take(device["x_val"], batch["validation"], axis=0),
            "y_val": ops.take(device["y_val"], batch["validation"], axis=0),
            "validation": batch["validation"],
            "seeds": seeds,
            "epoch": epoch,
        }
        x = ops.concatenate([data["x_clean"], u])
        logits, randomness = partial(self._bound_logits, state.weights), self._randomness(data, 0)
        perturbed, memory = self._loss.perturbed(logits, x, data["y"], randomness, epoch, state.memory)
        # The step is taken at the perturbed poison, and its perturbation taken off again in the projection.
        count = self.config.batch_clean
        data["x_clean"], data["perturbation"] = perturbed[:count], perturbed[count:] - u
        u, weights, lower, upper, metrics = self._bilevel.step(
            perturbed[count:], state.weights, state.lower, state.upper, data
        )
        poison = ops.scatter_update(state.poison, batch["poison"][:, None], u)
        return AttackState(poison, weights, lower, upper, memory), metrics

    def _randomness(self, data: dict, draw: Any) -> Randomness:
        return Randomness(
            fold_in(data["seeds"]["g"], draw), self._fixed_seed(_FIXED_LOWER_NOISE), data["images"]
        )

    def _fixed_seed(self, stream: int) -> np.ndarray:
        return seed_pair(self.config.seed, stream)

    def _lower_objective(self, u: Any, v: Any, data: dict, draw: Any) -> Any:
        x = self._augmented(ops.concatenate([data["x_clean"], u]), data, draw)
        return self._loss(
            partial(self._bound_logits, v), x, data["y"], self._randomness(data, draw), data["epoch"]
        )

    def _upper_objective(self, u: Any, v: Any, data: dict, draw: Any) -> Any:
        config = self.config
        x, logits = self._augmented(data["x_val"], data, draw), partial(self._bound_logits, v)
        if config.objective == "cross_entropy":
            return -mean_cross_entropy(logits(x), data["y_val"])
        randomness = Randomness(
            fold_in(data["seeds"]["f"], draw), self._fixed_seed(_FIXED_UPPER_NOISE), data["validation"]
        )
        noise = noise_of_copies(x, config.radius_copies, randomness, config.fixed_validation_noise)
        probabilities = smoothed_probabilities(
            logits, x, noise, config.sigma, config.radius_copies, config.radius_beta
        )
        return mean_soft_radius(probabilities, data["y_val"], config.sigma, config.radius_margin)

    def _bound_logits(self, v: Any, x: Any) -> Any:
        return self._model(v, self._model_state, x)[0]

    def _augmented(self, x: Any, data: dict, draw: Any) -> Any:
        return random_crop_and_flip(x, fold_in(data["seeds"]["augment"], draw)) if self.config.augment else x

    def _project(self, u: Any, data: dict) -> Any:
        """The poison behind the perturbed u, into the epsilon-ball around the clean images and into [0, 1]."""
        x, epsilon = data["x_original"], self.config.epsilon
        u = u - data["perturbation"]
        return ops.clip(ops.clip(u, x - epsilon, x + epsilon), 0.0, 1.0)

    def evaluate(self, state: AttackState) -> dict[str, float]:
        """Clean validation accuracy of the lower-level model, and the poison's distortion."""
        logits = partial(self._logits, state.weights)
        overall, of_class = clean_accuracies(logits, self.x_val, self.y_val)
        distortion = np.abs(ops.convert_to_numpy(state.poison) - self.x_target)
        return {
            "validation_accuracy": overall,
            "validation_accuracy_target_class": of_class[self.config.target_class],
            "distortion_mean": float(distortion.mean()),
            "distortion_max": float(distortion.max()),
        }

    def checked_poison(self, state: AttackState, path: Path) -> np.ndarray:
        """The poison as float32, its invariants checked: within epsilon of the clean images and in [0, 1]."""
        poison = ops.convert_to_numpy(state.poison)
        check_poison(poison, self.x_target, self.config.epsilon, path)
        return poison
