"""Poison one CIFAR10 class against consistency regularisation.

Method: arXiv 2006.04062. The constants of the attack are those published for Gaussian data augmentation, with one crop
for the whole batch.

    python attack_generation/consistency/CIFAR10/poison_radius_consistency.py --target-class 8
"""

from attack_generation.data_sets import ApproxGrad, Cifar10Config, ConsistencyLoss, Optimiser, run_attack


class Config(Cifar10Config):  # batches, model and folder: attack_generation/data_sets.py
    target_class: int = 8
    epsilon: float = 0.03  # l-infinity, pixels in [0, 1]
    sigma: float = 0.5  # smoothing noise, pixels in [0, 1]
    loss: ConsistencyLoss = ConsistencyLoss(copies=2, lam=5.0, eta=0.5)  # the paper's for MNIST from sigma 0.5 on
    radius_copies: int = 5
    epochs: int = 51
    # T1, T2, learning rates of the poison and of the linear system
    optimiser: Optimiser = ApproxGrad(lower_steps=10, solver_steps=10, lr_u=0.1, lr_p=1e-3)
    augment: bool = True  # random crop and flip


if __name__ == "__main__":
    run_attack(Config, __doc__)
