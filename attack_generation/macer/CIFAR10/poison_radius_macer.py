"""Poison one CIFAR10 class against MACER.

Paper: arXiv 2012.01274, section 4 and its supplement. The constants are those of the published code.

    python attack_generation/macer/CIFAR10/poison_radius_macer.py --target-class 8
"""

from attack_generation.data_sets import ApproxGrad, Cifar10Config, MacerLoss, Optimiser, run_attack


class Config(Cifar10Config):  # batches, model and folder: attack_generation/data_sets.py
    target_class: int = 8
    epsilon: float = 0.03  # l-infinity, pixels in [0, 1]
    sigma: float = 0.25  # smoothing noise, pixels in [0, 1]
    loss: MacerLoss = MacerLoss(copies=2, lam=2.0, beta=16.0, gamma=8.0, fixed_noise=True)
    radius_copies: int = 5
    epochs: int = 50
    # T1, T2, learning rates of the poison and of the linear system. Noise is fixed per image, crops and flips are not
    optimiser: Optimiser = ApproxGrad(lower_steps=10, solver_steps=10, lr_u=0.1, lr_p=1e-4)
    fixed_validation_noise: bool = True
    augment: bool = True  # random crop and flip
    separate_crops: bool = True  # one crop for clean images, one for poisoned images


if __name__ == "__main__":
    run_attack(Config, __doc__)
