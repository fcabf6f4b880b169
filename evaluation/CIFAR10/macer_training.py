"""Train victims on CIFAR10 with MACER, on clean or poisoned data.

Paper: arXiv 2012.01274, section 4 (victims), and arXiv 2001.02378, section 4 (the loss).

    python evaluation/CIFAR10/macer_training.py --training-data clean --runs 3  # or poisoned_radius
"""

from evaluation.data_sets import ONE_CYCLE, Cifar10Config, MacerLoss, Schedule, run_training


class Config(Cifar10Config):  # one-cycle schedule, model, folder: evaluation/data_sets.py
    target_class: int = 8
    sigma: float = 0.25  # training noise, pixels in [0, 1]
    loss: MacerLoss = MacerLoss(copies=16, lam=12.0, beta=16.0, gamma=8.0)  # lam=4.0 at larger sigma
    constant = Schedule(epochs=101, batch_size=100)
    one_cycle = ONE_CYCLE["CIFAR10"]._replace(epochs=20)  # a fifth of the published epochs
    augment: bool = True  # random crop and flip


if __name__ == "__main__":
    run_training(Config, __doc__)
