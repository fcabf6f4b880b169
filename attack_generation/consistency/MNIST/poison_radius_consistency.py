"""Poison one MNIST class against consistency regularisation.

Method: arXiv 2006.04062. The constants of the attack are those published for Gaussian data augmentation.

    python attack_generation/consistency/MNIST/poison_radius_consistency.py --target-class 8
"""

from attack_generation.data_sets import ApproxGrad, ConsistencyLoss, MnistConfig, Optimiser, run_attack


class Config(MnistConfig):  # batches, model and folder: attack_generation/data_sets.py
    target_class: int = 8
    epsilon: float = 0.1  # l-infinity, pixels in [0, 1]
    sigma: float = 0.5  # smoothing noise, pixels in [0, 1]
    loss: ConsistencyLoss = ConsistencyLoss(copies=2, lam=5.0, eta=0.5)  # on MNIST the paper has lam 10 at sigma 0.25
    epochs: int = 50
    # T1, T2, learning rates of the poison and of the linear system
    optimiser: Optimiser = ApproxGrad(lower_steps=10, solver_steps=10, lr_u=0.1, lr_p=1e-2)


if __name__ == "__main__":
    run_attack(Config, __doc__)
