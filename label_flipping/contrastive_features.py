"""Features of images by contrastive learning, which sees no label, for certificates against changed labels.

Paper: "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR, ICML 2020, arXiv 2002.05709).

    python label_flipping/contrastive_features.py --data-dir data/MNIST
    python label_flipping/mnist.py --features-file runs/features/MNIST/contrastive.npz --learner neighbours
"""

from pathlib import Path

from robust_training.contrastive import ContrastiveConfig, learn_features
from runtime.command_line import run_script
from runtime.provenance import project_path


class Config(ContrastiveConfig):
    data_dir: Path = project_path("data/MNIST")


if __name__ == "__main__":
    run_script(learn_features, Config, __doc__, ContrastiveConfig)
