"""CERTIFY and PREDICT of randomized smoothing: Monte Carlo votes on the device, statistics in float64.

Source: Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing" (ICML 2019),
section 3.2 and the pseudocode in figure "Prediction and certification".
"""

from collections.abc import Callable
from decimal import ROUND_FLOOR, Decimal
from functools import cache, partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from bilevel_optimizer.autodiff import jit
from data.datasets import require_sigma
from randomized_smoothing_certification.grid_noise import GridNoise, as_steps
from runtime.files import InputError
from runtime.noise import Stream, fold_in, normal, seed_pair

ABSTAIN = -1
# Published: votes that select the class, fresh votes that bound its probability, probability of a wrong certificate.
N0, N, ALPHA = 100, 100_000, 0.001

# Noise is drawn in blocks of this many votes, each from its own seed, and a batch is a whole number of
# blocks. Vote number v is therefore row v % 100 of block v // 100 whatever the batch size. 100 is the usual
# n0, so that selection evaluates nothing that it does not count.
NOISE_BLOCK = 100
# Sizes among which a point's own number of votes is chosen, and quantiles that its expectation is taken over.
_SIZES, _QUANTILES = 32, 64
KEPT_BYTES = 2**29  # of noise that serves several images
# The backends' float32 normals are functions of 23 or 24 random bits: none is larger, in standard deviations.
FLOAT32_CUT_OFF = 5.7


class Certificate(NamedTuple):
    """Outcome of CERTIFY at one point."""

    prediction: int  # the class, ABSTAIN where none
    radius: float  # l2, in pixel units
    votes: int  # that bounded its probability


class VoteCounter:
    """Counts the classes that a base classifier gives to noisy copies of one image.

    classifier: a Keras model (run in inference mode) or any function of keras.ops operations that maps
        images, float32 of shape (B, *image_shape), to scores (B, num_classes). It must be deterministic.
    image_shape: (height, width, channels). num_classes: at least 2.
    sigma: standard deviation of the noise, in pixel units of an image in [0, 1]; added to the image before
        any normalisation that the classifier contains, and not clipped.
    batch_size: votes evaluated together, rounded up to a multiple of NOISE_BLOCK. It changes speed and
        memory, not the noise; memory does not depend on the number of votes.
    levels: steps per unit of the grid that the images' pixels lie on, for noise that is exact in floating point
        (see grid_noise); None for float32 noise, whose certificates hold for classifiers that do not read the
        last bits of their inputs.

    The vote loop is compiled once per counter (and once more for what is left of a batch, and for kept noise).
    Raises InputError for a sigma that cannot be used, batch_size < 1, or a model of other input or output shape.
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
        if self._model is not None:
            _require_shapes(self._model, self.image_shape, num_classes)
        scores = _inference(self._model) if self._model is not None else lambda _, images: classifier(images)
        shape = (NOISE_BLOCK, *self.image_shape)
        self._draw = partial(normal, shape) if self._grid is None else partial(self._grid.draw, shape)
        add = _add_float32 if self._grid is None else partial(_add_grid, self._grid)
        self._blocks_to_keep: dict[tuple[int, ...], int] = {}
        self._kept: dict[tuple[int, ...], Any] = {}

        def loops(noisy: Callable) -> dict[int, Callable]:
            return {size: jit(_vote_loop(scores, num_classes, noisy, size)) for size in {self.batch_size, NOISE_BLOCK}}

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


def certify(
    counter: VoteCounter,
    image: np.ndarray,
    index: int | None,
    *,
    n0: int,
    n: int,
    alpha: float,
    seed: int,
    radius_loss: float = 0.0,
    only_class: int | None = None,
) -> Certificate:
    """CERTIFY: the smoothed classifier's class at one image and an l2 radius within which it is constant.

    index: the image's number in its test set; with ``seed`` (the run's) it names the noise, so that other
        points, shards and restarts do not change it. None: the noise that all images of a run share.
    n0: votes that select the class. n: fresh votes that bound its probability.
    alpha: probability, over the noise, that a returned class or radius is wrong.
    radius_loss: above 0 the n0 votes also choose how many of the n are drawn, see ``votes_needed``.
    only_class: ABSTAIN without further votes where another class is selected.
    Returns ABSTAIN and radius 0 where the bound is below one half.

    What is guaranteed, for every image by itself: alpha as above. The votes on one image are independent whether or
    not other images see the same noise, so sharing it leaves this as it is; what it takes away is that the errors
    of several images are independent of each other. A number of votes that the n0 votes chose is a constant for the
    fresh ones, which are independent of them: given the former, the bound is Clopper and Pearson's of a binomial
    count. To abstain claims nothing, for whatever reason it is done.

    Raises as VoteCounter.count_votes; InputError for n0 < 1, n < 1 or alpha outside (0, 1).
    """
    require_vote_settings(n0, n, alpha)
    candidate, votes = select_class(counter, image, index, n0, seed)
    if only_class not in (None, candidate):
        return Certificate(ABSTAIN, 0.0, 0)
    if radius_loss > 0:
        n = votes_needed(votes, n0, n, alpha=alpha, sigma=counter.sigma, radius_loss=radius_loss)
    if not n:
        return Certificate(ABSTAIN, 0.0, 0)
    votes = int(counter.count_votes(image, n, vote_seed(seed, index, Stream.VOTES_THAT_BOUND))[candidate])
    return certificate_of_count(candidate, votes, n, alpha, counter.sigma, counter.failure_mass)


def certificate_of_count(
    candidate: int, count: int, n: int, alpha: float, sigma: float, failure_mass: float = 0.0
) -> Certificate:
    """What ``count`` of n votes for the candidate certify: ABSTAIN and radius 0 where the bound is below one half."""
    bound = lower_confidence_bound(count, n, alpha) - failure_mass
    if bound < 0.5:
        return Certificate(ABSTAIN, 0.0, n)
    return Certificate(candidate, radius_of_probability(bound, sigma), n)


def select_class(counter: VoteCounter, image: np.ndarray, index: int | None, n0: int, seed: int) -> tuple[int, int]:
    """The most frequent class of n0 votes, the lowest of equals, and its votes. Arguments as in ``certify``."""
    votes = counter.count_votes(image, n0, vote_seed(seed, index, Stream.VOTES_THAT_SELECT))
    return int(np.argmax(votes)), int(votes.max())


def vote_seed(seed: int, index: int | None, stage: Stream) -> np.ndarray:
    """Names the noise of one stage of a run's votes: of one image, or (index None) of all images."""
    return seed_pair(seed, stage) if index is None else seed_pair(seed, index, stage)


@cache
def votes_needed(successes: int, n0: int, n: int, *, alpha: float, sigma: float, radius_loss: float) -> int:
    """The fewest votes, at most n, whose expected radius is at most ``radius_loss`` below that of n votes.

    successes: selection votes, of n0, for the selected class. radius_loss: in pixel units, as sigma.
    0 where the radius that n votes are expected to show is itself no larger than ``radius_loss``.

    The class's probability is taken to be Beta(successes + 1/2, n0 - successes + 1/2) (Jeffreys), by its quantiles.
    Nothing has to be right about that for a certificate to hold: see ``certify``.
    """
    quantiles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    probabilities = stats.beta.ppf(quantiles, successes + 0.5, n0 - successes + 0.5)
    sizes = np.geomspace(min(NOISE_BLOCK, n), n, _SIZES)
    sizes = np.unique(np.minimum(np.ceil(sizes / NOISE_BLOCK) * NOISE_BLOCK, n))
    # Clopper and Pearson's bound at the expected count, which need not be whole.
    counts = sizes[:, None] * probabilities
    bounds = stats.beta.ppf(alpha, counts, sizes[:, None] - counts + 1)
    expected = np.maximum(0, sigma * stats.norm.ppf(bounds)).mean(axis=1)
    enough = np.concatenate([[0.0], expected]) >= expected[-1] - radius_loss
    return int(np.concatenate([[0], sizes])[np.argmax(enough)])


def predict(counter: VoteCounter, image: np.ndarray, index: int, *, n: int, alpha: float, seed: int) -> int:
    """PREDICT: the smoothed classifier's class at one image, ABSTAIN where n votes do not settle it.

    A two-sided binomial test compares the two most frequent classes at level alpha.
    Arguments and errors as in ``certify``.
    """
    require_vote_settings(1, n, alpha)
    counts = counter.count_votes(image, n, seed_pair(seed, index, Stream.VOTES_THAT_PREDICT))
    first, second = np.argsort(-counts, kind="stable")[:2]
    test = stats.binomtest(int(counts[first]), int(counts[first] + counts[second]), 0.5)
    return ABSTAIN if test.pvalue > alpha else int(first)


def lower_confidence_bound(successes: int, n: int, alpha: float) -> float:
    """One-sided (1 - alpha) Clopper-Pearson lower bound of a binomial probability, in float64.

    0 successes give 0; n give alpha^(1/n). Raises InputError unless 0 <= successes <= n and n >= 1.
    """
    require_vote_settings(1, n, alpha)
    if not 0 <= successes <= n:
        raise InputError(f"successes must lie between 0 and n = {n}, got {successes}")
    return float(proportion_confint(successes, n, 2 * alpha, method="beta")[0])


def radius_of_probability(probability: float, sigma: float) -> float:
    """sigma * Phi^-1(probability), 0 where the probability is at most one half (Cohen et al., theorem 1)."""
    return max(0.0, float(sigma * stats.norm.ppf(probability)))


def radius_ceiling(sigma: float, n: int, alpha: float, failure_mass: float = 0.0) -> float:
    """The radius that n unanimous votes certify: no larger one can be shown with n votes."""
    return radius_of_probability(lower_confidence_bound(n, n, alpha) - failure_mass, sigma)


def round_down(radius: float, digits: int = 6) -> str:
    """A radius as text with ``digits`` decimals, never above its value."""
    return str(Decimal(radius).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR))


def require_vote_settings(n0: int, n: int, alpha: float) -> None:
    """Raise InputError unless n0 and n lie between 1 and 2^31 - 1 and 0 < alpha < 1."""
    for name, value in (("n0", n0), ("n", n)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
        if value >= 2**31:
            raise InputError(f"{name} must be below 2^31, got {value}")
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie strictly between 0 and 1, got {alpha}")


def _inference(model: keras.Model) -> Callable:
    """The model as a function of (weights, images): no dropout, stored batch statistics, no state kept."""

    def scores(weights: tuple[list, list], images: Any) -> Any:
        return model.stateless_call(*weights, images, training=False)[0]

    return scores


def _require_shapes(model: keras.Model, image_shape: tuple[int, ...], num_classes: int) -> None:
    found_input, found_output = tuple(model.input_shape[1:]), model.output_shape[-1]
    if found_input != image_shape:
        raise InputError(f"the model takes images of shape {found_input}, the data has {image_shape}")
    if found_output != num_classes:
        raise InputError(f"the model has {found_output} classes, the data has {num_classes}")


def _add_float32(image: Any, sigma: Any, noise: Any) -> Any:
    return image + sigma * noise


def _add_grid(grid: GridNoise, steps: Any, _sigma: Any, noise: Any) -> Any:
    return ops.cast(steps + noise, "float32") / np.float32(grid.levels)


def _drawn(draw: Callable, add: Callable, image: Any, sigma: Any, seed: Any, block: Any, blocks: int) -> Any:
    """Noisy copies with the noise of ``blocks`` blocks from number ``block`` of a stream."""
    return ops.concatenate([add(image, sigma, draw(fold_in(seed, block + i))) for i in range(blocks)])


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
    largest score.
    """
    blocks = batch_size // NOISE_BLOCK

    def count(weights: Any, image: Any, sigma: Any, source: Any, numbers: Any) -> tuple[Any, Any]:
        first_block, batches, n = numbers[0], numbers[1], numbers[2]

        def add_batch(batch: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            counts, invalid = carry
            block = first_block + batch * blocks
            images = noisy(image, sigma, source, block, blocks)
            output = ops.cast(scores(weights, images), "float32")
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

    return count
