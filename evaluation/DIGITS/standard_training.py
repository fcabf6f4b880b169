"""Train victims on the handwritten digits by standard training, on clean or poisoned data.

Paper: arXiv 2012.01274, section 4 (victims). A baseline without noise, whose certificates are poor.

    python evaluation/DIGITS/standard_training.py --training-data clean --runs 3  # or poisoned_radius
"""

from evaluation.data_sets import DigitsConfig, Schedule, StandardLoss, run_training


class Config(DigitsConfig):  # one-cycle schedule, model, folder: evaluation/data_sets.py
    target_class: int = 8
    sigma: float = 0.25  # of the certificate and of file names. Training has no noise
    loss: StandardLoss = StandardLoss()
    constant = Schedule(epochs=100, batch_size=200)


if __name__ == "__main__":
    run_training(Config, __doc__)
