"""Train victims on the handwritten digits with MACER, on clean or poisoned data.

Paper: arXiv 2012.01274, section 4 (victims), and arXiv 2001.02378, section 4 (the loss).

    python evaluation/DIGITS/macer_training.py --training-data clean --runs 3  # or poisoned_radius
"""

from evaluation.data_sets import DigitsConfig, MacerLoss, Schedule, run_training


class Config(DigitsConfig):  # one-cycle schedule, model, folder: evaluation/data_sets.py
    target_class: int = 8
    sigma: float = 0.25  # training noise, pixels in [0, 1]
    loss: MacerLoss = MacerLoss(copies=8, lam=4.0, beta=16.0, gamma=8.0)
    constant = Schedule(epochs=100, batch_size=200)


if __name__ == "__main__":
    run_training(Config, __doc__)
