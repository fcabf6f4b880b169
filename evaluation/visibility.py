"""How visible a poison is: its distance from the clean images, and simple detectors that tell poisoned from clean.

    python evaluation/visibility.py --poison data/DIGITS/X_poisoned_radius_gaussianaug_0.25_8.npy \\
        --data-dir data/DIGITS --out runs/DIGITS/visibility.json

Two detectors know only the clean validation images of the class. One measures how far an image's mean brightness is
from theirs, the other how far the nearest of them is. Both score the poisoned images and clean test images. Two more
detectors, a linear classifier and a small network, are trained to tell the poisoned images of one half of the class
from their clean versions, and score the other half. The result of a detector is the area under its ROC curve: 0.5
sees nothing, 1 everything. The distances also say which part of the change cannot be made by brightness and contrast:
that part is left for victims that vary brightness and contrast in training.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.datasets import SPLITS, Sigma, load_dataset, load_poison, split_target_class
from robust_training.defences import distance_to_nearest
from runtime.bounds import Seed
from runtime.checks import require_usable
from runtime.command_line import run_script
from runtime.files import array_sha256, read_record, write_json
from runtime.provenance import printed_path, project_path, provenance

TRAINED_ON = 2_000  # poisoned images, at most: the detectors need no more


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the measurement."""

    poison: Path
    """Poison file, or the name of one in data/poisons."""
    target_class: int = 8
    """Class that it poisons."""
    sigma: Sigma = 0.25
    """Noise level of the victims: a change is seen under it as its l2 norm over sigma."""
    seed: Seed = 0
    """Seed of the halves and of the detectors."""
    data_dir: Path = project_path("data/DIGITS")
    """Folder of the prepared arrays."""
    out: Path
    """File of the result, .json."""


def main(config: Config) -> None:
    """Measure, write the record and print it. Raises InputError on bad settings or data."""
    require_usable(config)
    dataset = load_dataset(config.data_dir)
    poison = load_poison(config.poison, dataset, config.target_class)
    clean, reference, held_out = (
        split_target_class(getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}"), config.target_class).x_target
        for part in SPLITS
    )
    settings = {name: getattr(config, name) for name in ("target_class", "sigma", "seed")}
    settings |= {f"x_{part}": array_sha256(getattr(dataset, f"x_{part}")) for part in SPLITS}
    settings["poison_sha256"] = array_sha256(poison)
    if config.out.is_file() and read_record(config.out).get("settings") == settings:
        print(f"{printed_path(config.out)}: already made with these settings, kept")
        return
    far = distances(poison, clean, config.sigma)
    seen = areas(poison, clean, reference, held_out, config.seed)
    write_json(config.out, {"settings": settings, "measured": {**far, "auc": seen}, **provenance(config)})
    found = ", ".join(f"{name} {value:.3f}" for name, value in seen.items())
    print(f"{printed_path(config.out)}: l2 {far['l2']:.3f}, area under the curve of {found}")


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


if __name__ == "__main__":
    run_script(main, Config, __doc__)
