"""The bilevel attack as pure steps: poison that lowers the certified radius of one target class.

Source: "How Robust are Randomized Smoothing based Defenses to Data Poisoning?" (CVPR 2021, arXiv 2012.01274),
section 3: min over the poison u of f(u, v), the soft radius of the target class, where the weights v minimise g(u, v),
the loss of the victims' training method on clean and poisoned images.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from attack_generation.config import OBJECTIVES, PoisonConfig
from attack_generation.parametrisation import PARAMETRISATIONS
from bilevel_optimizer.adam import AdamState, adam_init
from bilevel_optimizer.autodiff import jit
from bilevel_optimizer.bilevel import Metrics, Problem
from bilevel_optimizer.trees import Tree
from data.datasets import Dataset, poisoned_places, require_within_epsilon, split_target_class, target_mask
from models.registry import build_model
from models.saving import with_precision
from models.stateless import StatelessModel
from robust_training.loss import LossState, Randomness, clean_accuracies
from runtime.files import InputError
from runtime.lazy import ops, tree
from runtime.noise import Stream, epoch_order, fold_in, seed_pair

_POISON_DRAW = 2**20  # added to a draw for the augmentation of the poisoned images. All draws are smaller than this


class AttackState(NamedTuple):
    """Everything that changes during an attack. A checkpoint holds it."""

    u: Tree  # variables of the poison, see attack_generation.parametrisation
    weights: tuple[Any, ...]  # v: the weights of each network of the lower level
    lower_states: tuple[Tree, ...]  # the optimiser's state of each network
    upper_state: AdamState  # of Adam on u, see Parametrisation.own_moments
    loss_state: LossState  # of the training loss


class Images(NamedTuple):
    """The images from which minibatches are gathered on the device. Pixels: float32 in [0, 1]. Labels: one-hot."""

    x_clean: Any  # (N, H, W, C), training images that stay clean: other classes, then the rest of the target class
    y_clean: Any  # (N, K)
    x_to_poison: Any  # (M, H, W, C), the share of the target class that is poisoned, as clean images
    y_to_poison: Any  # (M, K)
    x_validation: Any  # (V, H, W, C), of the target class
    y_validation: Any  # (V, K)


class Indices(NamedTuple):
    """The images of an outer step, as int32 indices into the arrays of ``Images``."""

    clean: np.ndarray  # (B_clean,)
    poison: np.ndarray  # (B_poison,)
    validation: np.ndarray  # (B_validation,)


class Seeds(NamedTuple):
    """Seeds of one outer step, int32 (2,). Each evaluation of an objective folds its number (the draw) into them."""

    upper_noise: Any
    lower_noise: Any
    augmentation: Any


class Batch(NamedTuple):
    """The data of one outer step. B = B_clean + B_poison images of the lower level, clean ones first."""

    x_clean: Any  # (B_clean, H, W, C)
    x_to_poison: Any  # (B_poison, H, W, C), the clean images behind the poisoned ones
    y: Any  # (B, K)
    numbers: Any  # int32 (B,), numbers of the training images: those of Images.x_clean come first
    x_validation: Any  # (B_validation, H, W, C)
    y_validation: Any  # (B_validation, K)
    validation: Any  # int32 (B_validation,), numbers of the validation images
    seeds: Seeds
    age: Any  # float32 (), epochs since the first network's weights were initialised
    perturbation: Any = 0.0  # (B, H, W, C), change of the images by the training method's inner attack (SmoothAdv)


class Attack:
    """The attack on a dataset: f, g and the compiled outer step. Subclasses may override fresh_model, draw_indices."""

    def __init__(self, config: PoisonConfig, dataset: Dataset) -> None:
        self.config, self.dataset = config, dataset
        self.x_to_poison, y_to_poison, x_clean, y_clean = split_target_class(
            dataset.x_train, dataset.y_train, config.target_class, config.share
        )
        x_validation, y_validation, _, _ = split_target_class(dataset.x_val, dataset.y_val, config.target_class)
        for name, images in (("batch_clean", x_clean), ("batch_poison", self.x_to_poison)):
            if (size := getattr(config, name)) > len(images):
                raise InputError(
                    f"{name} is {size}, but {config.data_dir} has only {len(images)} such images; lower it"
                )
        self._batch_validation = min(config.batch_validation, len(x_validation))
        self.steps_per_epoch = len(x_clean) // config.batch_clean
        self.total_steps = config.epochs * self.steps_per_epoch
        self._model = self.fresh_model(0, 0)
        _, self._model_state = self._model.initial()
        # Moved to the device once. Batches are gathered there.
        all_images = Images(x_clean, y_clean, self.x_to_poison, y_to_poison, x_validation, y_validation)
        self._images = tree.map_structure(ops.convert_to_tensor, all_images)
        self._parametrisation = PARAMETRISATIONS[config.parametrisation](config.epsilon)
        self._objective = OBJECTIVES[config.objective](config)
        self._problem = Problem(self._f, self._g, self._project)
        self._compiled_step = jit(self._step)
        self._compiled_images = jit(self._parametrisation.images)
        self._compiled_logits = jit(self._logits)

    def fresh_model(self, restart: int, network: int) -> StatelessModel:
        """A network of the lower level with fresh weights, the same for the same restart and network."""
        # 0 is left out, so that the first network has the seeds of an attack with one network.
        seed = int(seed_pair(self.config.seed, Stream.ATTACK_WEIGHTS, restart, network or None)[0])
        shape, classes = self.dataset.image_shape, self.dataset.num_classes
        model = build_model(self.config.architecture, shape, classes, seed, self.config.standardise)
        return StatelessModel(with_precision(model, self.config.precision))

    def gradients_per_step(self, epoch: int) -> float:
        """Cost of an outer step of this epoch, in gradients of the training loss on one batch: see bilevel.py.

        A gradient of the upper objective counts in proportion to the images that it evaluates.
        """
        config = self.config
        images_of_f = self._batch_validation * max(1, self._objective.copies)
        images_of_g = (config.batch_clean + config.batch_poison) * config.loss.noisy_copies
        of_networks = config.networks * config.optimiser.gradients(images_of_f / images_of_g)
        return of_networks + config.loss.gradients_before(epoch % config.reinitialise_every)

    # The outer loop ----------------------------------------------------------------------------------------

    def initial_state(self, restart: int = 0, u: Tree = None) -> AttackState:
        """The state after restart number ``restart``: fresh weights, and fresh states of optimiser and training loss.

        u: variables of the poison, by default the configured start.
        """
        config = self.config
        if u is None:
            u = self._parametrisation.start(config.start, self.x_to_poison, config.seed)
        weights = tuple(self.fresh_model(restart, network).initial()[0] for network in range(config.networks))
        lower_states = tuple(map(config.optimiser.init_lower, weights))
        if self._parametrisation.own_moments:
            moments = adam_init(u)._replace(steps=ops.zeros((len(self.x_to_poison), 1, 1, 1), "int32"))
        else:
            moments = adam_init(self._parametrisation.select(u, np.arange(config.batch_poison, dtype=np.int32)))
        batch_shape = (config.batch_clean + config.batch_poison, *self.dataset.image_shape)
        return AttackState(u, weights, lower_states, moments, config.loss.initial_state(batch_shape))

    def outer_step(self, state: AttackState, number: int) -> tuple[AttackState, Metrics]:
        """Outer step ``number`` of the run: a pure function of the state, the number and the seed."""
        epoch, step = divmod(number, self.steps_per_epoch)
        if number and step == 0:
            state = self._restarted(state, epoch)
        streams = Stream.ATTACK_UPPER_NOISE, Stream.ATTACK_LOWER_NOISE, Stream.ATTACK_AUGMENTATION
        seeds = Seeds(*(seed_pair(self.config.seed, stream, number) for stream in streams))
        age = np.float32(epoch % self.config.reinitialise_every)
        return self._compiled_step(state, self._images, self.draw_indices(epoch, step), seeds, age)

    def _restarted(self, state: AttackState, epoch: int) -> AttackState:
        """The state at the start of an epoch. If a network is due in this epoch, it gets fresh weights.

        With a single network, the moments of u and the state of the training loss start afresh, too.
        """
        networks = self.config.networks
        epochs_of_a_turn = self.config.reinitialise_every // networks
        if epoch % epochs_of_a_turn:
            return state
        restart, network = divmod(epoch // epochs_of_a_turn, networks)
        if networks == 1:
            return self.initial_state(restart, state.u)
        if network > 0:  # restart 0 of every network is the start of the attack
            restart += 1
        weights, lower_states = list(state.weights), list(state.lower_states)
        weights[network] = self.fresh_model(restart, network).initial()[0]
        lower_states[network] = self.config.optimiser.init_lower(weights[network])
        return state._replace(weights=tuple(weights), lower_states=tuple(lower_states))

    def draw_indices(self, epoch: int, step: int) -> Indices:
        """Indices of one step. Clean images are shuffled in each epoch. The other images are drawn for each step."""
        config = self.config
        shuffled = epoch_order(config.seed, Stream.ATTACK_BATCHES, epoch, len(self._images.x_clean))
        clean = shuffled[step * config.batch_clean : (step + 1) * config.batch_clean]
        random = np.random.default_rng([config.seed, Stream.ATTACK_BATCHES, epoch, step + 1])
        poison = random.choice(len(self.x_to_poison), config.batch_poison, replace=False)
        validation = random.choice(len(self._images.x_validation), self._batch_validation, replace=False)
        return Indices(clean, poison.astype(np.int32), validation.astype(np.int32))

    # One outer step, compiled ------------------------------------------------------------------------------

    def _step(
        self, state: AttackState, images: Images, indices: Indices, seeds: Seeds, age: Any
    ) -> tuple[AttackState, Metrics]:
        parametrisation = self._parametrisation
        batch = self._gather(images, indices, seeds, age)
        u = parametrisation.select(state.u, indices.poison)
        moments = state.upper_state
        if parametrisation.own_moments:
            moments = parametrisation.select(moments, indices.poison)
        x = ops.concatenate([batch.x_clean, parametrisation.images(u, batch.x_to_poison)])
        # The inner attack of the training method attacks the first network.
        logits = partial(self._logits, state.weights[0])
        randomness = self._lower_randomness(batch, 0)
        perturbed, loss_state = self.config.loss.perturbed(logits, x, batch.y, randomness, age, state.loss_state)
        batch = batch._replace(perturbation=perturbed - x)
        u, weights, lower_states, moments, metrics = self.config.optimiser.step(
            self._problem, u, state.weights, state.lower_states, moments, batch
        )
        u = parametrisation.write_back(state.u, indices.poison, u)
        if parametrisation.own_moments:
            moments = parametrisation.write_back(state.upper_state, indices.poison, moments)
        return AttackState(u, weights, lower_states, moments, loss_state), metrics

    def _gather(self, images: Images, indices: Indices, seeds: Seeds, age: Any) -> Batch:
        take = partial(ops.take, axis=0)
        return Batch(
            x_clean=take(images.x_clean, indices.clean),
            x_to_poison=take(images.x_to_poison, indices.poison),
            y=ops.concatenate([take(images.y_clean, indices.clean), take(images.y_to_poison, indices.poison)]),
            numbers=ops.concatenate([indices.clean, images.x_clean.shape[0] + indices.poison]),
            x_validation=take(images.x_validation, indices.validation),
            y_validation=take(images.y_validation, indices.validation),
            validation=indices.validation,
            seeds=seeds,
            age=age,
        )

    def _g(self, u: Tree, v: Any, batch: Batch, draw: Any) -> Any:
        """The lower objective: the training loss on the clean and the poisoned images together."""
        x = ops.concatenate([batch.x_clean, self._parametrisation.images(u, batch.x_to_poison)]) + batch.perturbation
        x = self._augmented(x, batch, draw)
        return self.config.loss(partial(self._logits, v), x, batch.y, self._lower_randomness(batch, draw), batch.age)

    def _augmented(self, x: Any, batch: Batch, draw: Any) -> Any:
        """A batch of the lower level after the augmentation, clean images first."""
        seed = fold_in(batch.seeds.augmentation, draw)
        if not self.config.separate_crops:
            return self.config.augmented(x, seed)
        clean, another = self.config.batch_clean, fold_in(batch.seeds.augmentation, draw + _POISON_DRAW)
        return ops.concatenate([self.config.augmented(x[:clean], seed), self.config.augmented(x[clean:], another)])

    def _f(self, u: Tree, v: Any, batch: Batch, draw: Any) -> Any:
        """The upper objective that the poison lowers, on clean validation images of the target class."""
        x = self.config.for_validation().augmented(batch.x_validation, fold_in(batch.seeds.augmentation, draw))
        fixed = seed_pair(self.config.seed, Stream.ATTACK_FIXED_UPPER_NOISE)
        randomness = Randomness(self.config.sigma, fold_in(batch.seeds.upper_noise, draw), fixed, batch.validation)
        return self._objective(partial(self._logits, v), x, batch.y_validation, randomness)

    def _lower_randomness(self, batch: Batch, draw: Any) -> Randomness:
        fixed = seed_pair(self.config.seed, Stream.ATTACK_FIXED_LOWER_NOISE)
        return Randomness(self.config.sigma, fold_in(batch.seeds.lower_noise, draw), fixed, batch.numbers)

    def _project(self, u: Tree, batch: Batch) -> Tree:
        return self._parametrisation.project(u, batch.x_to_poison, batch.perturbation[self.config.batch_clean :])

    def _logits(self, v: Any, x: Any) -> Any:
        return ops.cast(self._model(v, self._model_state, x)[0], "float32")

    # What comes out ----------------------------------------------------------------------------------------

    def poison(self, state: AttackState, path: Any) -> np.ndarray:
        """All images of the class, float32, checked to be within epsilon and [0, 1]. path: file that an error names."""
        clean = self.dataset.x_train[target_mask(self.dataset.y_train, self.config.target_class)]
        images = clean.copy()
        images[poisoned_places(len(images), self.config.share)] = self._poisoned_images(state)
        require_within_epsilon(images, clean, self.config.epsilon, path)
        return images

    def _poisoned_images(self, state: AttackState) -> np.ndarray:
        return ops.convert_to_numpy(self._compiled_images(state.u, self.x_to_poison))

    def evaluate(self, state: AttackState) -> dict[str, float]:
        """Clean validation accuracy of the lower level's first network, and the poison's distortion."""
        logits = partial(self._compiled_logits, state.weights[0])
        found = clean_accuracies(logits, self.dataset.x_val, self.dataset.y_val, self.config.target_class)
        distortion = np.abs(self._poisoned_images(state) - self.x_to_poison)
        return {
            "validation_accuracy": found["accuracy"],
            "validation_accuracy_target_class": found["target_accuracy"],
            "distortion_mean": float(distortion.mean()),
            "distortion_max": float(distortion.max()),
        }
