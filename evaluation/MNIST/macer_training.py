"""Train victims on MNIST with MACER, on clean or poisoned data.

Paper: arXiv 2012.01274, section 4 (victims), and arXiv 2001.02378, section 4 (the loss).

    python evaluation/MNIST/macer_training.py --training-data clean --runs 3  # or poisoned_radius
"""

from evaluation.data_sets import MacerLoss, MnistConfig, Schedule, run_training


class Config(MnistConfig):  # one-cycle schedule, model, folder: evaluation/data_sets.py
    target_class: int = 8
    sigma: float = 0.75  # training noise, pixels in [0, 1]
    loss: MacerLoss = MacerLoss(copies=16, lam=16.0, beta=16.0, gamma=8.0)
    constant = Schedule(epochs=101, batch_size=200)


if __name__ == "__main__":
    run_training(Config, __doc__)
