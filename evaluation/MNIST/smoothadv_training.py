"""Train victims on MNIST with SmoothAdv, on clean or poisoned data.

Paper: arXiv 2012.01274, section 4 (victims), and arXiv 1906.04584, section 2 (the loss).

    python evaluation/MNIST/smoothadv_training.py --training-data clean --runs 3  # or poisoned_radius
"""

from evaluation.data_sets import MnistConfig, Schedule, SmoothAdvLoss, run_training


class Config(MnistConfig):  # one-cycle schedule, model, folder: evaluation/data_sets.py
    target_class: int = 8
    sigma: float = 0.75  # training noise, pixels in [0, 1]
    loss: SmoothAdvLoss = SmoothAdvLoss(eps_adv=1.0, attack_steps=2, ramp_epochs=None)
    constant = Schedule(epochs=101, batch_size=100, ramp_epochs=10)


if __name__ == "__main__":
    run_training(Config, __doc__)
