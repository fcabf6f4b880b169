"""Poison one MNIST class against MACER.

Paper: arXiv 2012.01274, section 4 and its supplement. The constants are those of the published code.

    python attack_generation/macer/MNIST/poison_radius_macer.py --target-class 8
"""

from attack_generation.data_sets import ApproxGrad, MacerLoss, MnistConfig, Optimiser, run_attack


class Config(MnistConfig):  # batches, model and folder: attack_generation/data_sets.py
    target_class: int = 8
    epsilon: float = 0.1  # l-infinity, pixels in [0, 1]
    sigma: float = 0.75  # smoothing noise, pixels in [0, 1]
    loss: MacerLoss = MacerLoss(copies=1, lam=1.0, beta=16.0, gamma=8.0, fixed_noise=True)
    epochs: int = 50
    # T1, T2, learning rates of the poison and of the linear system. The noise is fixed per image
    optimiser: Optimiser = ApproxGrad(lower_steps=10, solver_steps=10, lr_u=0.1, lr_p=1e-4, redraw_noise="none")
    fixed_validation_noise: bool = True


if __name__ == "__main__":
    run_attack(Config, __doc__)
