"""Train victims on the handwritten digits with Gaussian data augmentation, on clean or poisoned data.

Paper: arXiv 2012.01274, section 4 (victims), and arXiv 1902.02918, section 3.3 (the loss).

    python evaluation/DIGITS/gaussian_augmented_training.py --training-data clean --runs 3  # or poisoned_radius
"""

from evaluation.data_sets import DigitsConfig, GaussianAugmentationLoss, Schedule, run_training


class Config(DigitsConfig):  # one-cycle schedule, model, folder: evaluation/data_sets.py
    target_class: int = 8
    sigma: float = 0.25  # training noise, pixels in [0, 1]
    loss: GaussianAugmentationLoss = GaussianAugmentationLoss()
    constant = Schedule(epochs=100, batch_size=200)


if __name__ == "__main__":
    run_training(Config, __doc__)
