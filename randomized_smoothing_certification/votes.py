"""Monte Carlo votes: how often a base classifier gives each class to noisy copies of an image, counted on the device.

Source: Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing" (ICML 2019),
SampleUnderNoise in the pseudocode of section 3.2. CERTIFY and PREDICT, which use the votes, are in core.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bilevel_optimizer.autodiff import jit, mapped
from data.datasets import require_sigma
from models.saving import require_float_inputs
from randomized_smoothing_certification.grid_noise import GridNoise, as_steps
from runtime.checks import require_keras_settings
from runtime.files import InputError
from runtime.lazy import keras, ops
from runtime.noise import fold_in, normal

# Noise is drawn in blocks of this many votes, each from its own seed, and a batch is a whole number of
# blocks. Vote number v is therefore row v % 100 of block v // 100 whatever the batch size. 100 is the usual
# n0, so that selection evaluates nothing that it does not count.
NOISE_BLOCK = 100
KEPT_BYTES = 2**29  # of noise that serves several images
# The backends' float32 normals are functions of 23 or 24 random bits: none is larger, in standard deviations.
FLOAT32_CUT_OFF = 5.7


class VoteCounter:
    """Counts the classes that a base classifier gives to noisy copies of one image.

    classifier: a Keras model of any kind (run in inference mode), a function of keras.ops operations, or any Python
        callable on NumPy arrays (scikit-learn, PyTorch). It maps images, float32 of shape (B, *image_shape), to scores
        (B, num_classes); a callable on NumPy arrays may return classes, int (B,), instead. It must be deterministic,
        and an image's scores must not depend on the other images of a batch. It is called on a few noisy images to
        see that it does so, and which kind it is.
    image_shape: (height, width, channels). num_classes: at least 2.
    sigma: standard deviation of the noise, in pixel units of an image in [0, 1]; added to the image before
        any normalisation that the classifier contains, and not clipped.
    batch_size: votes evaluated together, rounded up to a multiple of NOISE_BLOCK. It changes speed and
        memory, not the noise; memory does not depend on the number of votes.
    levels: steps per unit of the grid that the images' pixels lie on, for noise that is exact in floating point
        (see grid_noise); None for float32 noise, whose certificates hold for classifiers that do not read the
        last bits of their inputs.

    The vote loop is compiled once per counter (and once more for what is left of a batch, and for kept noise). A
    callable on NumPy arrays is called batch by batch instead, which is slower.
    Raises InputError for a sigma that cannot be used, batch_size < 1, Keras settings that the user has changed, and a
    classifier that takes other images, gives anything but such scores or classes, or is not deterministic.
    """

    def __init__(
        self,
        classifier: Callable[[Any], Any],
        num_classes: int,
        image_shape: tuple[int, ...],
        sigma: float,
        batch_size: int = 1_000,
        levels: int | None = None,
    ) -> None:
        require_keras_settings()
        require_sigma(sigma)
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        if num_classes < 2:
            raise InputError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.image_shape = tuple(image_shape)
        self.sigma = float(sigma)
        self.batch_size = -(-batch_size // NOISE_BLOCK) * NOISE_BLOCK
        self._grid = None if levels is None else GridNoise(self.sigma, levels)
        self._model = classifier if isinstance(classifier, keras.Model) else None
        is_compiled = _is_of_tensors(classifier, self.image_shape, num_classes)
        scores = _inference(self._model) if self._model is not None else lambda _, images: classifier(images)
        vote_loop = partial(_vote_loop, scores) if is_compiled else partial(_python_vote_loop, classifier)
        shape = (NOISE_BLOCK, *self.image_shape)
        self._draw = partial(normal, shape) if self._grid is None else partial(self._grid.draw, shape)
        add = _add_float32 if self._grid is None else partial(_add_grid, self._grid)
        self._blocks_to_keep: dict[tuple[int, ...], int] = {}
        self._kept: dict[tuple[int, ...], Any] = {}

        def loops(noisy: Callable) -> dict[int, Callable]:
            return {size: vote_loop(num_classes, noisy, size) for size in {self.batch_size, NOISE_BLOCK}}

        self._count_drawn, self._count_kept = loops(partial(_drawn, self._draw, add)), loops(partial(_sliced, add))

    @property
    def failure_mass(self) -> float:
        """By how much a vote's probability may be above the one that the theorem is about; 0 for float32 noise."""
        return self._grid.failure_mass(int(np.prod(self.image_shape))) if self._grid else 0.0

    @property
    def noise_record(self) -> dict[str, Any]:
        """How the noise is drawn: mode, largest draw in standard deviations, and what a grid leaves to be taken off."""
        if self._grid is None:
            return {"mode": "float32", "cut_off": FLOAT32_CUT_OFF}
        cut_off = self._grid.reach / self._grid.levels / self.sigma
        return {
            "mode": "grid", "cut_off": cut_off, "levels": self._grid.levels, "failure_mass": self.failure_mass,
        }  # fmt: skip

    def keep_noise(self, seed: np.ndarray, votes: int) -> None:
        """Draw the noise of a stream's first votes once, when it is first used: for one that serves several images.

        What is kept is as much of it as KEPT_BYTES hold; the votes are the same. seed: as in ``count_votes``.
        """
        of_block = 4 * NOISE_BLOCK * int(np.prod(self.image_shape))
        self._blocks_to_keep[tuple(seed.tolist())] = min(-(-votes // NOISE_BLOCK), KEPT_BYTES // of_block)

    def _kept_noise(self, seed: np.ndarray) -> Any | None:
        """Noise of a stream's first blocks, (blocks, NOISE_BLOCK, *image_shape), None where it is not kept."""
        stream = tuple(seed.tolist())
        if blocks := self._blocks_to_keep.pop(stream, 0):
            draw = jit(lambda seed, block: self._draw(fold_in(seed, block)))
            noise = np.empty((blocks, NOISE_BLOCK, *self.image_shape), np.float32 if self._grid is None else np.int32)
            for block in range(blocks):
                numbers = ops.convert_to_tensor(seed), ops.convert_to_tensor(np.int32(block))
                noise[block] = ops.convert_to_numpy(draw(*numbers))
            self._kept[stream] = ops.convert_to_tensor(noise)
        return self._kept.get(stream)

    def count_votes(self, image: np.ndarray, n: int, seed: np.ndarray, first: int = 0) -> np.ndarray:
        """Votes number ``first`` to n - 1 per class, int64 of shape (num_classes,), summing to n - first exactly.

        image: shape image_shape, values in [0, 1]. seed: int32 of shape (2,), names the noise stream. first: a
        multiple of NOISE_BLOCK, for votes that are counted part by part.
        A tie between scores goes to the lowest class index.
        Raises InputError for a bad image, n or first, FloatingPointError where the scores are not numbers.
        """
        image = self._checked(image)
        if not 1 <= n < 2**31:
            raise InputError(f"the number of votes must be at least 1 and below 2^31, got {n}")
        if not 0 <= first < n or first % NOISE_BLOCK:
            raise InputError(f"the first vote must be a multiple of {NOISE_BLOCK} below n = {n}, got {first}")
        # The weights are arguments, not constants of the compiled loop: JAX would store a copy of them in it.
        weights: tuple[list, list] = ([], [])
        if self._model is not None:
            weights = (
                [variable.value for variable in self._model.trainable_variables],
                [variable.value for variable in self._model.non_trainable_variables],
            )
        counts = np.zeros(self.num_classes, np.int64)
        invalid = 0
        kept = self._kept_noise(seed)
        border = min(n, len(kept) * NOISE_BLOCK) if kept is not None else 0
        for loops, source, start, until in (
            (self._count_kept, kept, first, border),
            (self._count_drawn, ops.convert_to_tensor(seed), max(first, border), n),
        ):
            full = max(0, until - start) // self.batch_size
            rest = start + full * self.batch_size
            for size, vote, batches in (
                (self.batch_size, start, full),
                (NOISE_BLOCK, rest, -(-max(0, until - rest) // NOISE_BLOCK)),
            ):
                if batches:
                    numbers = ops.convert_to_tensor(np.array([vote // NOISE_BLOCK, batches, n], np.int32))
                    sigma = ops.convert_to_tensor(np.float32(self.sigma))
                    votes, bad = loops[size](weights, image, sigma, source, numbers)
                    counts += ops.convert_to_numpy(votes)
                    invalid += int(bad)
        if invalid:
            raise FloatingPointError(
                f"the classifier gave no finite largest score for {invalid} of {n - first} noisy images; "
                "its weights are damaged or its training diverged"
            )
        return counts

    def _checked(self, image: np.ndarray) -> Any:
        image = np.asarray(image, np.float32)
        if image.shape != self.image_shape:
            raise InputError(f"the image has shape {image.shape}, the classifier takes {self.image_shape}")
        if not (image.min() >= 0 and image.max() <= 1):  # written so that NaN fails too
            raise InputError(f"pixels must lie in [0, 1], found [{image.min()}, {image.max()}]; divide by 255 first")
        return ops.convert_to_tensor(image if self._grid is None else as_steps(image, self._grid.levels))


def _inference(model: keras.Model) -> Callable:
    """The model as a function of (weights, images): no dropout, stored batch statistics, no state kept."""

    parameters = inspect.signature(model.call).parameters.values()
    has_mode = any(one.name == "training" or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    mode = {"training": False} if has_mode else {}  # a subclassed model may leave it out

    def scores(weights: tuple[list, list], images: Any) -> Any:
        return model.stateless_call(*weights, images, **mode)[0]

    return scores


def _is_of_tensors(classifier: Callable[[Any], Any], image_shape: tuple[int, ...], num_classes: int) -> bool:
    """Whether a classifier works on tensors of the backend, so that it can be compiled, and not on NumPy arrays.

    Tried on two batches of NOISE_BLOCK noisy images, which also builds a Keras model that is not built yet.
    Raises InputError where it takes no such images, votes cannot be counted from its output, or images that are in both
    batches get different outputs.
    """
    shared = NOISE_BLOCK // 2
    noise = np.random.default_rng(0).uniform(size=(NOISE_BLOCK + shared, *image_shape)).astype(np.float32)
    batches = noise[:NOISE_BLOCK], np.concatenate([noise[:shared], noise[NOISE_BLOCK:]])
    is_model = isinstance(classifier, keras.Model)
    if is_model:
        # A subclassed model has neither input_shape nor inputs.
        shape = getattr(classifier, "input_shape", None)
        if isinstance(shape, tuple) and tuple(shape[1:]) != image_shape:
            raise InputError(f"the model takes images of shape {tuple(shape[1:])}, the data has {image_shape}")
        require_float_inputs(classifier, "the model")
    try:
        # Compiled twice, as two functions: random numbers of NumPy would be constants of one compiled function.
        outputs = [
            (classifier if is_model else jit(lambda x: classifier(x)))(ops.convert_to_tensor(batch))
            for batch in batches
        ]
        said = f"but returns {type(outputs[0]).__name__}"
        is_of_tensors = all(map(ops.is_tensor, outputs))
    except InputError:
        raise
    except Exception as error:  # a function of NumPy arrays raises whatever it likes on a tensor
        said, is_of_tensors = f"({' '.join(str(error).split())[:200]})", False
    if is_of_tensors:
        if is_model and outputs[0].shape[1:-1] == () and outputs[0].shape[-1] != num_classes:
            raise InputError(f"the model has {outputs[0].shape[-1]} classes, the data has {num_classes}")
        _require_scores(outputs[0], NOISE_BLOCK, num_classes)
        scores = [ops.convert_to_numpy(ops.cast(output[:shared], "float32")) for output in outputs]
    elif is_model:
        raise InputError(f"the model does not map images of shape {image_shape} to one tensor of scores {said}")
    else:
        try:
            outputs = [classifier(batch) for batch in batches]
        except Exception as error:
            raise InputError(
                f"the classifier takes neither a tensor nor a NumPy array of {NOISE_BLOCK} images of shape "
                f"{image_shape} ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            ) from error
        for output in outputs:
            _winners(output, NOISE_BLOCK, num_classes)
        scores = [np.asarray(output, np.float64)[:shared] for output in outputs]
    one, other = scores
    tolerance = 1e-3 * float(np.abs(np.nan_to_num(one)).max())
    if not np.allclose(one, other, rtol=1e-3, atol=tolerance, equal_nan=True):
        raise InputError(
            "the classifier gives the same images other scores when it is called again with other images beside them; "
            "switch off dropout, noise and batch statistics"
        )
    return is_of_tensors


def _require_scores(output: Any, count: int, num_classes: int) -> None:
    """Raise InputError unless a classifier's output for ``count`` images has a row of num_classes scores for each."""
    shape = tuple(output.shape)
    if len(shape) != 2 or shape[0] not in (None, count) or shape[1] != num_classes:
        raise InputError(
            f"the classifier's output for {count} images has the shape {shape} and type "
            f"{getattr(output.dtype, 'name', output.dtype)}; scores of shape ({count}, {num_classes}), one column for "
            f"each class, are needed (or, of a function of NumPy arrays, classes: int of shape ({count},))"
        )


def _winners(output: Any, count: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes, int (count,), of scores or classes in NumPy, and whether each is one: bool (count,).

    Raises InputError where the output of a Python callable is neither.
    """
    try:
        found = np.asarray(output)
    except ValueError as error:  # lists of different lengths
        raise InputError(f"the classifier's output is no array ({error})") from error
    if found.shape == (count,) and found.dtype.kind in "iu":
        if found.min() < 0 or found.max() >= num_classes:
            raise InputError(
                f"the classifier returns class {found[(found < 0) | (found >= num_classes)][0]}; classes are 0 to "
                f"{num_classes - 1}"
            )
        return found, np.ones(count, bool)
    _require_scores(found, count, num_classes)
    if found.dtype.kind not in "fiub":
        raise InputError(f"the classifier returns {found.dtype}; numbers are needed")
    found = found.astype(np.float64)
    return np.argmax(found, axis=1), np.all(found < np.inf, axis=1) & np.any(found > -np.inf, axis=1)


def _add_float32(image: Any, sigma: Any, noise: Any) -> Any:
    return image + sigma * noise


def _add_grid(grid: GridNoise, steps: Any, _sigma: Any, noise: Any) -> Any:
    return ops.cast(steps + noise, "float32") / np.float32(grid.levels)


def _drawn(draw: Callable, add: Callable, image: Any, sigma: Any, seed: Any, block: Any, blocks: int) -> Any:
    """Noisy copies with the noise of ``blocks`` blocks from number ``block`` of a stream."""
    noise = mapped(lambda number: draw(fold_in(seed, number)), block + ops.arange(blocks, dtype="int32"))
    return add(image, sigma, ops.reshape(noise, (blocks * NOISE_BLOCK, *image.shape)))


def _sliced(add: Callable, image: Any, sigma: Any, kept: Any, block: Any, blocks: int) -> Any:
    """The same, of noise that is kept: (all blocks, NOISE_BLOCK, *image.shape)."""
    shape = (NOISE_BLOCK, *image.shape)
    noise = ops.slice(kept, (block, *(0 for _ in shape)), (blocks, *shape))
    return add(image, sigma, ops.reshape(noise, (blocks * NOISE_BLOCK, *image.shape)))


def _vote_loop(scores: Callable, num_classes: int, noisy: Callable, batch_size: int) -> Callable:
    """A function that counts the votes of several batches of noise without leaving the device.

    noisy(image, sigma, source, block, blocks): noisy copies with the noise of so many blocks from number ``block``.
    The function takes (weights, image, sigma, source, numbers), numbers = int32 (first block, batches, n), and returns
    the counts, int32 (num_classes,), of those votes whose number is below n, and how many of these had no finite
    largest score. Tracing it raises InputError where the scores have another shape.
    """
    blocks = batch_size // NOISE_BLOCK

    def count(weights: Any, image: Any, sigma: Any, source: Any, numbers: Any) -> tuple[Any, Any]:
        first_block, batches, n = numbers[0], numbers[1], numbers[2]

        def add_batch(batch: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            counts, invalid = carry
            block = first_block + batch * blocks
            images = noisy(image, sigma, source, block, blocks)
            output = scores(weights, images)
            _require_scores(output, batch_size, num_classes)
            output = ops.cast(output, "float32")
            # A vote's number may not fit into int32, what is left of n does.
            wanted = ops.arange(batch_size, dtype="int32") < n - block * NOISE_BLOCK
            # NaN compares false. -inf is a legitimate log-probability of 0, unless every score is -inf.
            valid = ops.all(output < np.inf, axis=-1) & ops.any(output > -np.inf, axis=-1)
            # Not ops.argmax: which of two equal scores it takes (or of 0 and -0) is left to the backend.
            largest = output >= ops.max(output, axis=-1, keepdims=True)
            classes = ops.arange(num_classes, dtype="int32")
            winner = ops.min(ops.where(largest, classes, num_classes), axis=-1)
            votes = ops.one_hot(winner, num_classes, dtype="int32")
            counted = ops.cast(wanted, "int32")
            return (
                counts + ops.sum(votes * counted[:, None], axis=0),
                invalid + ops.sum(ops.cast(wanted & ~valid, "int32")),
            )

        start = (ops.zeros((num_classes,), "int32"), ops.zeros((), "int32"))
        return ops.fori_loop(0, batches, add_batch, start)

    return jit(count)


def _python_vote_loop(classifier: Callable[[Any], Any], num_classes: int, noisy: Callable, batch_size: int) -> Callable:
    """The same for a callable on NumPy arrays, which is called outside compiled code."""
    blocks = batch_size // NOISE_BLOCK
    draw = jit(lambda image, sigma, source, block: noisy(image, sigma, source, block, blocks))

    def count(_: Any, image: Any, sigma: Any, source: Any, numbers: Any) -> tuple[np.ndarray, int]:
        first_block, batches, n = map(int, ops.convert_to_numpy(numbers))
        counts, invalid = np.zeros(num_classes, np.int64), 0
        for block in range(first_block, first_block + batches * blocks, blocks):
            images = ops.convert_to_numpy(draw(image, sigma, source, ops.convert_to_tensor(np.int32(block))))
            images = images[: n - block * NOISE_BLOCK]
            classes, valid = _winners(classifier(images), len(images), num_classes)
            counts += np.bincount(classes, minlength=num_classes)
            invalid += int(np.sum(~valid))
        return counts, invalid

    return count
