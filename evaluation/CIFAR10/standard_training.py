"""Train victims on CIFAR10 by standard training, on clean or poisoned data.

Paper: arXiv 2012.01274, section 4 (victims). A baseline without noise, whose certificates are poor.

    python evaluation/CIFAR10/standard_training.py --training-data clean --runs 3
    python evaluation/CIFAR10/standard_training.py --training-data poisoned_radius --runs 3
"""

from evaluation.data_sets import Cifar10Config
from robust_training.schedules import Schedule
from robust_training.standard import StandardLoss
from robust_training.training import train_victims
from runtime.command_line import run_script


class Config(Cifar10Config):  # one-cycle schedule, model, folder: evaluation/data_sets.py
    target_class: int = 8
    sigma: float = 0.5  # of the certificate and of file names. Training has no noise
    loss: StandardLoss = StandardLoss()
    published = Schedule(epochs=201, batch_size=200)
    augment: bool = True  # random crop and flip


if __name__ == "__main__":
    run_script(train_victims, Config, __doc__)
