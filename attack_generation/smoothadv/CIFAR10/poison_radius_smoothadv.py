"""Poison one CIFAR10 class against SmoothAdv.

Paper: arXiv 2012.01274, section 4 and its supplement. The constants are those of the published code.

    python attack_generation/smoothadv/CIFAR10/poison_radius_smoothadv.py --target-class 8
"""

from attack_generation.data_sets import ApproxGrad, Cifar10Config, Optimiser, SmoothAdvLoss, run_attack


class Config(Cifar10Config):  # batches, model and folder: attack_generation/data_sets.py
    target_class: int = 8
    epsilon: float = 0.03  # l-infinity, pixels in [0, 1]
    sigma: float = 0.25  # smoothing noise, pixels in [0, 1]
    loss: SmoothAdvLoss = SmoothAdvLoss(eps_adv=1.0, attack_steps=2, ramp_epochs=5, plain_epochs=2)
    radius_copies: int = 5
    epochs: int = 100
    # T1, T2, learning rates of the poison and of the linear system. Training noise is fixed per image
    optimiser: Optimiser = ApproxGrad(lower_steps=1, solver_steps=10, lr_u=0.1, lr_p=1e-3, redraw_noise="validation")
    reinitialise_every: int = 20  # epochs


if __name__ == "__main__":
    run_attack(Config, __doc__)
