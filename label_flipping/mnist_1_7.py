"""Certified accuracy against changed training labels, on MNIST's ones and sevens (arXiv 2002.03018, section 5)."""

from pathlib import Path

from label_flipping.config import LabelFlippingConfig, Network
from label_flipping.study import certify_labels
from runtime.command_line import run_script
from runtime.provenance import project_path


class Config(LabelFlippingConfig):
    classes: tuple[int, ...] | None = (1, 7)
    q = (0.1, 0.2, 0.3, 0.4)  # probabilities of flipping a label, one curve each
    at: float = 0.04  # share of changed labels at which the table is made and --select held_out chooses
    network: Network = Network(epochs=5, architecture="mnist_cnn")
    data_dir: Path = project_path("data/MNIST")


if __name__ == "__main__":
    run_script(certify_labels, Config, __doc__, LabelFlippingConfig)
