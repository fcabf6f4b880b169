"""Train victims on MNIST with consistency regularisation, on clean or poisoned data.

Paper: arXiv 2006.04062 (the loss). The schedule was published for Gaussian data augmentation.

    python evaluation/MNIST/consistency_training.py --training-data clean --runs 3  # or poisoned_radius
"""

from evaluation.data_sets import ConsistencyLoss, MnistConfig, Schedule, run_training


class Config(MnistConfig):  # one-cycle schedule, model, folder: evaluation/data_sets.py
    target_class: int = 8
    sigma: float = 0.5  # training noise, pixels in [0, 1]
    loss: ConsistencyLoss = ConsistencyLoss(copies=2, lam=5.0, eta=0.5)  # on MNIST the paper has lam 10 at sigma 0.25
    constant = Schedule(epochs=101, batch_size=200)


if __name__ == "__main__":
    run_training(Config, __doc__)
