"""Distances of a poison from the clean images, and detectors that tell the two apart: see evaluation/visibility.py."""

import numpy as np

from robust_training.defences import distance_to_nearest

TRAINED_ON = 2_000  # poisoned images, at most: the detectors need no more


def distances(poison: np.ndarray, clean: np.ndarray, sigma: float) -> dict[str, float]:
    """Largest and mean change of a pixel, mean l2 norm of an image's change, that over sigma, and what of it is left.

    poison, clean: (N, H, W, C). What is left, beyond_jitter_over_sigma, is the mean l2 norm over sigma of the part of
    each image's change that is orthogonal to every change of its brightness and contrast: to 1 and to the image.
    """
    change, image = (x.reshape(len(clean), -1).astype(np.float64) for x in (poison - clean, clean))
    l2 = float(np.linalg.norm(change, axis=1).mean())
    centred, image = (x - x.mean(axis=1, keepdims=True) for x in (change, image))
    length = np.maximum(np.square(image).sum(axis=1, keepdims=True), 1e-12)  # 0 of an image of one colour
    beyond = centred - (centred * image).sum(axis=1, keepdims=True) / length * image
    return {
        "linf": float(np.abs(change).max()), "mean_change": float(np.abs(change).mean()), "l2": l2,
        "l2_over_sigma": l2 / sigma,
        "beyond_jitter_over_sigma": float(np.linalg.norm(beyond, axis=1).mean()) / sigma,
    }  # fmt: skip


def areas(
    poison: np.ndarray, clean: np.ndarray, reference: np.ndarray, held_out: np.ndarray, seed: int
) -> dict[str, float]:
    """Area under the ROC curve of each detector.

    poison, clean: (N, H, W, C), the class's training images with and without poison. reference, held_out: other clean
    images of the class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    poison, clean, reference, held_out = (x.reshape(len(x), -1) for x in (poison, clean, reference, held_out))
    brightness = reference.mean(axis=1)
    order = np.random.default_rng(seed).permutation(len(poison))[: 2 * TRAINED_ON]
    first, second = np.array_split(order, 2)
    detectors = {
        "linear": LogisticRegression(C=0.1, max_iter=1_000),
        "network": MLPClassifier((64,), alpha=1e-3, early_stopping=len(first) >= 100, max_iter=200, random_state=seed),
    }

    def trained(detector: LogisticRegression | MLPClassifier) -> float:
        pipeline = make_pipeline(StandardScaler(), detector)
        pipeline.fit(np.concatenate([clean[first], poison[first]]), np.repeat([0, 1], len(first)))
        return _area(*(pipeline.predict_proba(x[second])[:, 1] for x in (clean, poison)))

    return {
        "brightness": _area(*(np.abs(x.mean(axis=1) - brightness.mean()) for x in (held_out, poison))),
        "nearest": _area(*(distance_to_nearest(x, reference) for x in (held_out, poison))),
        **{name: trained(detector) for name, detector in detectors.items()},
    }


def _area(clean_scores: np.ndarray, poison_scores: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    truth = np.repeat([0, 1], [len(clean_scores), len(poison_scores)])
    return float(roc_auc_score(truth, np.concatenate([clean_scores, poison_scores])))
