"""How visible poison is: pictures of it, the size of its change, and how well detectors tell it from clean images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.datasets import SPLITS, Dataset, changed_images, split_target_class
from robust_training.defences import distance_to_nearest
from runtime.plots import default_style, plain_text, save_png

TRAINED_ON = 2_000  # largest number of poisoned images that a detector is trained on


def visibility(dataset: Dataset, poison: np.ndarray, target_class: int, sigma: float, seed: int) -> dict[str, Any]:
    """Visibility of a poison (N, H, W, C) of the class: the entries of ``distances``, and as 'auc' those of ``areas``.

    Unchanged images do not count, unless all are unchanged. sigma: in pixel units of [0, 1]. Raises InputError for a
    class that is not there.
    """
    clean, reference, held_out = (
        split_target_class(getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}"), target_class).x_target
        for part in SPLITS
    )
    if (changed := changed_images(poison, clean)).any():
        poison, clean = poison[changed], clean[changed]
    return {**distances(poison, clean, sigma), "auc": areas(poison, clean, reference, held_out, seed)}


def distances(poison: np.ndarray, clean: np.ndarray, sigma: float) -> dict[str, float]:
    """Size of the change from clean to poison, each (N, H, W, C): of pixels, and mean l2 norms over the images.

    Pixels are in [0, 1], and sigma has the same unit. Numbers over sigma have no unit.
    common_over_sigma is the l2 norm of the mean change of the images, over sigma. It equals l2_over_sigma where all
    images change alike, and is 0 where the changes cancel out. beyond_jitter_over_sigma is the mean norm over sigma of
    the part of each change that is orthogonal to every change of brightness and contrast: to 1 and to the image.
    """
    change, image = (x.reshape(len(clean), -1).astype(np.float64) for x in (poison - clean, clean))
    l2 = float(np.linalg.norm(change, axis=1).mean())
    common = float(np.linalg.norm(change.mean(axis=0)))
    beyond = float(np.linalg.norm(_beyond_jitter(change, image), axis=1).mean())
    return {
        "linf": float(np.abs(change).max()), "mean_change": float(np.abs(change).mean()), "l2": l2,
        "l2_over_sigma": l2 / sigma, "common_over_sigma": common / sigma, "beyond_jitter_over_sigma": beyond / sigma,
    }  # fmt: skip


def _beyond_jitter(change: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The part P change of each change, float64 (N, D), that is orthogonal to 1 and to its image (N, D)."""
    centred, image = (x - x.mean(axis=1, keepdims=True) for x in (change, image))
    length = np.maximum(np.square(image).sum(axis=1, keepdims=True), 1e-12)  # 0 of an image of one colour
    return centred - (centred * image).sum(axis=1, keepdims=True) / length * image


def largest_beyond_jitter(clean: np.ndarray, epsilon: float) -> float:
    """A bound on the mean l2 norm that the part beyond jitter of any poison of these images can have.

    clean: (N, H, W, C) in [0, 1]. A change d within epsilon that keeps pixels in [0, 1] lies in a box. Let m be its
    middle and h half its width. Then d = m + u with |u| at most h in each pixel. A projection P is symmetric and
    lengthens no vector, so that |Pd|^2 = |Pm|^2 + 2 <Pm, u> + |Pu|^2 is at most |Pm|^2 + 2 <|Pm|, h> + |h|^2.
    """
    image = clean.reshape(len(clean), -1).astype(np.float64)
    low, high = np.maximum(-epsilon, -image), np.minimum(epsilon, 1 - image)
    middle, half = _beyond_jitter((low + high) / 2, image), (high - low) / 2
    return float(np.sqrt(np.square(np.abs(middle) + half).sum(axis=1)).mean())


def areas(
    poison: np.ndarray, clean: np.ndarray, reference: np.ndarray, held_out: np.ndarray, seed: int
) -> dict[str, float]:
    """Area under the ROC curve of each detector: 1 where it tells all poison apart, 0.5 at chance.

    'brightness' and 'nearest' measure the distance from other clean images. 'linear' and 'network' are trained on the
    first half of the shuffled images and measured on the second. They need four images or more.

    poison, clean: (N, H, W, C), the class's training images with and without poison. reference, held_out: other clean
    images of the class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    poison, clean, reference, held_out = (x.reshape(len(x), -1) for x in (poison, clean, reference, held_out))
    brightness = reference.mean(axis=1)
    first, second = np.array_split(np.random.default_rng(seed).permutation(len(poison))[: 2 * TRAINED_ON], 2)
    detectors = {
        "linear": LogisticRegression(C=0.1, max_iter=1_000),
        "network": MLPClassifier((64,), alpha=1e-3, early_stopping=len(first) >= 100, max_iter=200, random_state=seed),
    }

    scores = {  # of clean images, then of poison
        "brightness": [np.abs(x.mean(axis=1) - brightness.mean()) for x in (held_out, poison)],
        "nearest": [distance_to_nearest(x, reference) for x in (held_out, poison)],
    }
    if len(second) > 1:
        for name, detector in detectors.items():
            pipeline = make_pipeline(StandardScaler(), detector)
            pipeline.fit(np.concatenate([clean[first], poison[first]]), np.repeat([0, 1], len(first)))
            scores[name] = [pipeline.predict_proba(x[second])[:, 1] for x in (clean, poison)]
    return {
        name: float(roc_auc_score(np.repeat([0, 1], [len(part) for part in parts]), np.concatenate(parts)))
        for name, parts in scores.items()
    }


@default_style()
def save_image_grids(
    path: Path, grids: Mapping[str, tuple[np.ndarray, np.ndarray]], epsilon: float, title: str = "", columns: int = 10
) -> None:
    """Draw a grid for each entry, as PNG. Its rows show the first images: clean, poisoned, amplified difference.

    grids: clean images and poison by name, (N, H, W, C) float32 in [0, 1]. Only the first channel is drawn unless there
    are 3 channels. Differences are scaled from [-epsilon, epsilon] to [0, 1], so that grey means no change. Below each
    difference stand its l-infinity and l2 norms.
    """
    from matplotlib.figure import Figure

    columns = min(columns, *(len(clean) for clean, _ in grids.values()))
    figure = Figure(figsize=(columns * 0.9 + 1, 3.3 * len(grids) + bool(title) * 0.4), layout="constrained")
    parts = figure.subfigures(len(grids), 1, squeeze=False)[:, 0]
    for part, (name, (clean, poison)) in zip(parts, grids.items(), strict=True):
        change = poison[:columns] - clean[:columns]
        scaled = f"difference\nwhite +{epsilon:g}\ngrey 0"
        rows = {"clean": clean, "poison": poison, scaled: 0.5 + change / (2 * epsilon)}
        axes = part.subplots(3, columns, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
        part.suptitle(plain_text(name), fontsize="medium")
        for line, (label, images) in zip(axes, rows.items(), strict=True):
            line[0].set_ylabel(label)
            for axis, image in zip(line, images, strict=False):
                shown = image if image.shape[-1] == 3 else image[..., 0]
                axis.imshow(np.clip(shown, 0, 1), cmap="gray", vmin=0, vmax=1)
        for axis, delta in zip(axes[-1], change, strict=True):
            axis.set_xlabel(f"l∞ {np.abs(delta).max():.3f}\nl2 {np.linalg.norm(delta):.2f}", fontsize=7)
    figure.suptitle(plain_text(title), fontsize="large")
    save_png(path, figure, colours=256)
