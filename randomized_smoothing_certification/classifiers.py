"""Checks of a classifier before its votes are counted: its kind of input, and its scores or classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bilevel_optimizer.autodiff import jit
from models.saving import require_float_inputs
from randomized_smoothing_certification.sampling import NOISE_BLOCK
from runtime.files import InputError, one_line
from runtime.lazy import keras, ops

EXAMPLES = 3 * NOISE_BLOCK // 2


def as_function(classifier: Callable[[Any], Any]) -> Callable[[tuple[list, list], Any], Any]:
    """The classifier as a function of (weights, images). Weights count only in a Keras model.

    A model runs in inference mode: no dropout, stored batch statistics, no state kept.
    """
    if not isinstance(classifier, keras.Model):
        return lambda _, images: classifier(images)
    return lambda weights, images: classifier.stateless_call(*weights, images, **_inference(classifier))[0]


def _inference(model: keras.Model) -> dict[str, bool]:
    """The argument for a call of the model in inference mode. A subclassed model may have none."""
    parameters = inspect.signature(model.call).parameters.values()
    has_mode = any(one.name == "training" or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    return {"training": False} if has_mode else {}


def examples_of(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """EXAMPLES images: one of the first class in a third, all classes in a third, one of the last class in a third."""
    last = len(labels) - 1
    places = np.clip(np.linspace(-last, 2 * last, EXAMPLES), 0, last).astype(int)
    return images[np.argsort(labels, kind="stable")[places]]


def try_classifier(
    classifier: Callable[[Any], Any], image_shape: tuple[int, ...], num_classes: int, examples: np.ndarray | None = None
) -> bool:
    """Try a classifier on two batches of NOISE_BLOCK images. Returns whether it takes tensors of the backend.

    Such a classifier can be compiled. Another takes NumPy arrays. A Keras model that is not built yet is built here.
    examples: from ``examples_of``. None: random pixels.
    Raises InputError if it does not take these images, if votes cannot be counted from its output, or if it gives
    different outputs to images that are in both batches.
    """
    if isinstance(classifier, keras.Model):
        require_float_inputs(classifier, "the model")
        shape = getattr(classifier, "input_shape", None)  # a subclassed model has none
        sizes = tuple(shape[1:]) if isinstance(shape, tuple) else image_shape
        if len(sizes) != len(image_shape) or any(a not in (None, b) for a, b in zip(sizes, image_shape, strict=True)):
            raise InputError(f"the model takes images of shape {sizes}, the data has {image_shape}; choose another")
    noise = np.random.default_rng(0).uniform(size=(EXAMPLES, *image_shape)).astype(np.float32)
    images = noise if examples is None else 0.9 * examples + 0.1 * noise
    # The second half of the first batch is in the second batch, too, at other places, also within equal parts into
    # which a classifier may divide a batch. Copies, because a classifier may change its images.
    half = NOISE_BLOCK // 2
    batches = [images[:NOISE_BLOCK].copy(), np.roll(images[half:], 47, axis=0)]
    outputs, reason = _on_tensors(classifier, batches)
    if outputs:
        shape = outputs[0].shape
        if isinstance(classifier, keras.Model) and len(shape) == 2 and shape[1] != num_classes:
            raise InputError(f"the model has {shape[1]} classes, the data has {num_classes}; choose another")
        require_scores(outputs[0], NOISE_BLOCK, num_classes)
        first, second = (ops.convert_to_numpy(ops.cast(output, "float32")) for output in outputs)
    elif isinstance(classifier, keras.Model):
        raise InputError(
            f"the model does not map images of shape {image_shape} to one tensor of scores {reason}; give a classifier"
        )
    else:
        first, second = (_on_array(classifier, batch, num_classes) for batch in batches)
    if not _are_same(first[half:], np.roll(second, -47, axis=0)[:half]):
        if np.isnan([first, second]).any():
            raise InputError("the classifier gives NaN for some images, others beside other images; mend it")
        raise InputError(
            "the classifier gives the same images other scores when it is called again with other images beside them; "
            "switch off dropout, noise and batch statistics"
        )
    return bool(outputs)


def _on_array(classifier: Callable[[Any], Any], batch: np.ndarray, num_classes: int) -> np.ndarray:
    """Output for a batch as a NumPy array, float64. Raises InputError where votes cannot be counted from it."""
    try:
        output = classifier(batch)
    except Exception as error:
        raise InputError(
            f"the classifier takes neither a tensor nor a NumPy array of {NOISE_BLOCK} images of shape "
            f"{batch.shape[1:]} ({type(error).__name__}: {one_line(error)}); mend it"
        ) from error
    winners(output, NOISE_BLOCK, num_classes)
    return np.asarray(output, np.float64)


def _are_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two outputs for the same images, classes (m,) or scores (m, K), are the same up to rounding errors.

    An error is small beside the usual distance between an image's two largest scores, or beside its largest score. The
    score of a masked class, such as -1e9, says nothing about the size of errors.
    """
    if one.ndim == 1:
        return bool(np.array_equal(one, other))
    top, other_top = (np.fmax.reduce(scores, axis=1, keepdims=True) for scores in (one, other))
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        one, other = one - top, other - other_top
    second = np.sort(np.where(np.isnan(one), -np.inf, one), axis=1)[:, -2]
    usual = float(np.median(-second[np.isfinite(second)])) if np.isfinite(second).any() else 0.0
    return np.allclose(one, other, rtol=1e-3, atol=1e-3 * usual + 1e-5 * np.nan_to_num(np.abs(top)), equal_nan=True)


def _on_tensors(classifier: Callable[[Any], Any], batches: list[np.ndarray]) -> tuple[list[Any], str]:
    """Outputs for batches of tensors. Where the outputs are not tensors: an empty list, and the reason."""
    try:
        # Two compiled functions, because NumPy's random numbers would be constants of a single compiled function.
        mode = _inference(classifier) if isinstance(classifier, keras.Model) else None  # that votes are counted in
        calls = [jit(lambda x: classifier(x)) if mode is None else partial(classifier, **mode) for _ in batches]
        outputs = [call(ops.convert_to_tensor(batch)) for call, batch in zip(calls, batches, strict=True)]
    except InputError:
        raise
    except Exception as error:  # a function of NumPy arrays may raise any error on a tensor
        return [], f"({one_line(error)})"
    return (outputs, "") if all(map(ops.is_tensor, outputs)) else ([], f"but returns {type(outputs[0]).__name__}")


def require_scores(output: Any, count: int, num_classes: int) -> None:
    """Raise InputError unless the output for ``count`` images has a row of num_classes scores for each."""
    shape = tuple(output.shape)
    if len(shape) != 2 or shape[0] not in (None, count) or shape[1] != num_classes:
        raise InputError(
            f"the classifier's output for {count} images has the shape {shape} and type "
            f"{getattr(output.dtype, 'name', output.dtype)}; return scores of shape ({count}, {num_classes}), a column "
            f"for each class (or, from a function of NumPy arrays, classes: int of shape ({count},)). Or give another "
            "num_classes"
        )


def winners(output: Any, count: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted classes, int (count,), from NumPy scores or classes, and whether the scores are valid, bool (count,).

    Raises InputError if the output of a Python callable is neither scores nor classes.
    """
    try:
        found = np.asarray(output)
    except ValueError as error:  # lists of different lengths
        raise InputError(f"the classifier's output is no array ({error}); return one") from error
    if found.shape == (count,) and found.dtype.kind in "iu":
        if found.min() < 0 or found.max() >= num_classes:
            wrong = found[(found < 0) | (found >= num_classes)][0]
            raise InputError(f"the classifier returns class {wrong}; classes are 0 to {num_classes - 1}")
        return found, np.ones(count, bool)
    require_scores(found, count, num_classes)
    if found.dtype.kind not in "fiub":
        raise InputError(f"the classifier returns {found.dtype}; return numbers")
    found = found.astype(np.float64)
    return np.argmax(found, axis=1), np.all(found < np.inf, axis=1) & np.any(found > -np.inf, axis=1)
