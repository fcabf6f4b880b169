"""Monte Carlo votes: how often a classifier gives each class to noisy copies of an image, counted on the device.

Source: Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing" (ICML 2019),
SampleUnderNoise in the pseudocode of section 3.2.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from bilevel_optimizer.autodiff import jit, mapped
from data.preparation import DARK
from randomized_smoothing_certification.classifiers import as_function, require_scores, try_classifier, winners
from randomized_smoothing_certification.grid_noise import GridNoise
from randomized_smoothing_certification.sampling import NOISE_BLOCK, in_whole_blocks
from runtime.bounds import POSITIVE, WHOLE, at_least, require_within
from runtime.checks import require_keras_settings
from runtime.files import InputError
from runtime.lazy import keras, ops
from runtime.noise import fold_in, normal

KEPT_BYTES = 2**29  # largest amount of noise that is kept of one stream


class Float32Noise:
    """The backend's normal noise. Certificates hold for classifiers that do not read the last bits of their inputs."""

    cut_off = 5.7  # the largest draw, in standard deviations: normals in float32 are functions of 23 or 24 random bits
    draw, dtype = staticmethod(normal), np.float32

    def prepared(self, image: np.ndarray) -> np.ndarray:
        """The image that noise is added to."""
        return image

    def added(self, image: Any, sigma: Any, noise: Any) -> Any:
        """Noisy copies: image (*shape), noise (B, *shape)."""
        return image + sigma * noise

    def record(self, _: int) -> dict[str, Any]:
        """The entry on noise in a certificate's record."""
        return {"mode": "float32", "cut_off": self.cut_off}


class VoteCounter:
    """Counts the classes that a classifier gives to noisy copies of one image.

    classifier: a Keras model of any kind (run in inference mode), a function of keras.ops operations, or any Python
        callable on NumPy arrays (scikit-learn, PyTorch). It maps images, float32 of shape (B, *image_shape), to scores
        (B, num_classes). A callable on NumPy arrays may return classes, int (B,), instead. It must be deterministic,
        and an image's scores must not depend on the other images of a batch. A few images check this.
    image_shape: (height, width, channels), or any other shape. num_classes: at least 2.
    sigma: standard deviation of the noise, in pixel units of an image in [0, 1]. The noise is added to the image
        before any normalisation that the classifier contains, and the sum is not clipped.
    batch_size: votes evaluated together, rounded up to a multiple of NOISE_BLOCK. It changes speed and
        memory, not the noise. Memory does not depend on the number of votes.
    levels: steps per unit of the grid that the images' pixels lie on, for noise that is exact in floating point
        (see GridNoise). None: float32 noise.
    examples: images (EXAMPLES, *image_shape) on which the classifier is checked. None: random pixels.

    The noise depends only on the seed that count_votes gets, so that all classifiers see the same noise. A Keras
    model's vote loop is compiled. A callable on NumPy arrays is called batch by batch, which is slower.
    Raises InputError for a sigma that cannot be used, batch_size < 1, Keras settings that the user has changed, and a
    classifier that takes other images, returns neither scores nor classes, or is not deterministic.
    """

    def __init__(
        self,
        classifier: Callable[[Any], Any],
        num_classes: int,
        image_shape: tuple[int, ...],
        sigma: float,
        batch_size: int = 1_000,
        levels: int | None = None,
        examples: np.ndarray | None = None,
    ) -> None:
        require_keras_settings()
        require_within("sigma", sigma, POSITIVE)
        require_within("batch_size", batch_size, WHOLE, at_least(1))
        require_within("num_classes", num_classes, WHOLE, at_least(2))
        self.num_classes, self.image_shape, self.sigma = num_classes, tuple(image_shape), float(sigma)
        self.batch_size = in_whole_blocks(batch_size)
        self._noise = Float32Noise() if levels is None else GridNoise(self.sigma, levels)
        self.noise_record = self._noise.record(int(np.prod(self.image_shape)))
        """How the noise is drawn: mode, largest draw in standard deviations, and the failure mass of a grid."""
        self.failure_mass = self.noise_record.get("failure_mass", 0.0)
        """Probability that a certificate subtracts from its lower bound because the noise is not exact."""
        self._model = classifier if isinstance(classifier, keras.Model) else None
        compiled = try_classifier(classifier, self.image_shape, num_classes, examples)
        vote_loop = partial(_compiled_loop, as_function(classifier)) if compiled else partial(_python_loop, classifier)
        noisy = partial(noisy_copies, self._noise)
        self._loops = {size: vote_loop(num_classes, noisy, size) for size in (NOISE_BLOCK, self.batch_size)}
        self._kept: dict[tuple[int, ...], Any] = {}

    def keep_noise(self, seed: np.ndarray, votes: int) -> None:
        """Draw the noise of a stream's first votes once, for several images.

        At most KEPT_BYTES are kept. The votes do not change. seed: as in ``count_votes``.
        """
        shape = (NOISE_BLOCK, *self.image_shape)
        blocks = min(math.ceil(votes / NOISE_BLOCK), KEPT_BYTES // (4 * int(np.prod(shape))))
        words = ops.convert_to_tensor(seed)
        draw = jit(lambda seed, block: self._noise.draw(shape, fold_in(seed, block)))
        noise = np.empty((blocks, *shape), self._noise.dtype)
        for block in range(blocks):
            noise[block] = ops.convert_to_numpy(draw(words, ops.convert_to_tensor(np.int32(block))))
        self._kept[tuple(seed.tolist())] = ops.convert_to_tensor(noise)

    def count_votes(self, image: np.ndarray, n: int, seed: np.ndarray, first: int = 0) -> np.ndarray:
        """Counts per class of votes number ``first`` to n - 1, int64 of shape (num_classes,), with sum n - first.

        image: shape image_shape, values in [0, 1]. seed: int32 of shape (2,), names the noise stream. first: a
        multiple of NOISE_BLOCK, for votes that are counted part by part.
        A tie between scores goes to the lowest class index.
        Raises InputError for a bad image, n or first, and if the scores are not numbers.
        """
        image = np.asarray(image, np.float32)
        if image.shape != self.image_shape:
            raise InputError(
                f"the image has shape {image.shape}, the classifier takes {self.image_shape}; give such images"
            )
        if not (image.min() >= 0 and image.max() <= 1):  # written so that NaN fails too
            mend = "divide by 255 first" if image.max() > DARK else "scale them to [0, 1] first"
            if not np.isfinite(image).all():
                mend = "give images without NaN and infinity"
            elif image.min() < 0:
                mend = "normalise in the classifier, not before"
            raise InputError(f"pixels must lie in [0, 1], found [{image.min()}, {image.max()}]; {mend}")
        prepared = ops.convert_to_tensor(self._noise.prepared(image))
        if not 1 <= n < 2**31:
            raise InputError(f"the number of votes must be at least 1 and below 2^31, got {n}")
        if not 0 <= first < n or first % NOISE_BLOCK:
            raise InputError(f"the first vote must be a multiple of {NOISE_BLOCK} below n = {n}, got {first}")
        sigma = ops.convert_to_tensor(np.float32(self.sigma))
        # The weights are arguments, not constants of the compiled loop: JAX would store a copy of them in it.
        model = self._model
        variables = ([], []) if model is None else (model.trainable_variables, model.non_trainable_variables)
        weights = tuple([variable.value for variable in part] for part in variables)
        counts, invalid = np.zeros(self.num_classes, np.int64), 0
        for loop, source, start, batches in self._batches(seed, first, n):
            numbers = ops.convert_to_tensor(np.array([start // NOISE_BLOCK, batches, n], np.int32))
            votes, bad = loop(weights, prepared, sigma, source, numbers)
            counts += ops.convert_to_numpy(votes)
            invalid += int(bad)
        if invalid:
            raise InputError(
                f"the classifier gave no finite largest score for {invalid} of {n - first} noisy images; "
                "its weights are damaged or its training diverged: train it again, or mend its code"
            )
        return counts

    def _batches(self, seed: np.ndarray, start: int, n: int) -> Iterator[tuple[Callable, Any, int, int]]:
        """Loops that count votes ``start`` to n - 1: each with its source of noise, first vote and number of batches.

        Kept noise comes first, then drawn noise. Each is counted in full batches, and the rest in blocks.
        """
        sources = [(ops.convert_to_tensor(seed), n)]
        if (kept := self._kept.get(tuple(seed.tolist()))) is not None:
            sources.insert(0, (kept, min(n, len(kept) * NOISE_BLOCK)))
        for source, until in sources:
            for size, rounded in ((self.batch_size, math.floor), (NOISE_BLOCK, math.ceil)):
                if (batches := rounded((until - start) / size)) > 0:
                    yield self._loops[size], source, start, batches
                    start += batches * size


def noisy_copies(kind: Any, image: Any, sigma: Any, source: Any, block: Any, blocks: int) -> Any:
    """Noisy copies of an image with the noise of ``blocks`` blocks from number ``block`` of a stream.

    kind: Float32Noise or GridNoise. source: the stream's seed, (2,), or its kept noise, (all blocks, NOISE_BLOCK,
    *image.shape).
    """
    shape = (NOISE_BLOCK, *image.shape)
    if len(source.shape) == 1:
        numbers = block + ops.arange(blocks, dtype="int32")
        noise = mapped(lambda number: kind.draw(shape, fold_in(source, number)), numbers)
    else:
        noise = ops.slice(source, (block, *(0 for _ in shape)), (blocks, *shape))
    return kind.added(image, sigma, ops.reshape(noise, (blocks * NOISE_BLOCK, *image.shape)))


def _compiled_loop(scores: Callable, num_classes: int, noisy: Callable, batch_size: int) -> Callable:
    """A function that counts the votes of several batches of noise without leaving the device.

    noisy(image, sigma, source, block, blocks): noisy copies with the noise of ``blocks`` blocks from number ``block``.
    The function takes (weights, image, sigma, source, numbers), numbers = int32 (first block, batches, n). It returns
    the counts, int32 (num_classes,), of the votes whose number is below n, and how many of these had no finite
    largest score. Tracing it raises InputError if the scores have another shape.
    """
    blocks = batch_size // NOISE_BLOCK

    def count(weights: Any, image: Any, sigma: Any, source: Any, numbers: Any) -> tuple[Any, Any]:
        first_block, batches, n = numbers[0], numbers[1], numbers[2]

        def add_batch(batch: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            counts, invalid = carry
            block = first_block + batch * blocks
            output = scores(weights, noisy(image, sigma, source, block, blocks))
            require_scores(output, batch_size, num_classes)
            output = ops.cast(output, "float32")
            # A vote's number may not fit into int32, but the number of votes that are left does.
            wanted = ops.arange(batch_size, dtype="int32") < n - block * NOISE_BLOCK
            # NaN compares false. -inf is a legitimate log-probability of 0, unless every score is -inf.
            valid = ops.all(output < np.inf, axis=-1) & ops.any(output > -np.inf, axis=-1)
            # Not ops.argmax: its choice between equal scores (or 0 and -0) depends on the backend.
            largest = output >= ops.max(output, axis=-1, keepdims=True)
            winner = ops.min(ops.where(largest, ops.arange(num_classes, dtype="int32"), num_classes), axis=-1)
            votes = ops.one_hot(winner, num_classes, dtype="int32")
            counts += ops.sum(votes * ops.cast(wanted, "int32")[:, None], axis=0)
            return counts, invalid + ops.sum(ops.cast(wanted & ~valid, "int32"))

        start = (ops.zeros((num_classes,), "int32"), ops.zeros((), "int32"))
        return ops.fori_loop(0, batches, add_batch, start)

    return jit(count)


def _python_loop(classifier: Callable[[Any], Any], num_classes: int, noisy: Callable, batch_size: int) -> Callable:
    """As ``_compiled_loop``, for a callable on NumPy arrays, which is called outside compiled code."""
    blocks = batch_size // NOISE_BLOCK
    draw = jit(lambda image, sigma, source, block: noisy(image, sigma, source, block, blocks))

    def count(_: Any, image: Any, sigma: Any, source: Any, numbers: Any) -> tuple[np.ndarray, int]:
        first_block, batches, n = map(int, ops.convert_to_numpy(numbers))
        counts, invalid = np.zeros(num_classes, np.int64), 0
        for block in range(first_block, first_block + batches * blocks, blocks):
            images = ops.convert_to_numpy(draw(image, sigma, source, ops.convert_to_tensor(np.int32(block))))
            images = images[: n - block * NOISE_BLOCK]
            classes, valid = winners(classifier(images), len(images), num_classes)
            counts += np.bincount(classes, minlength=num_classes)
            invalid += int(np.sum(~valid))
        return counts, invalid

    return count
