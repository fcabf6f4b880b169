"""Poison one handwritten-digits class against consistency regularisation.

The attack of arXiv 2012.01274 (section 3) on 8x8 images: small enough for any laptop.

    python attack_generation/consistency/DIGITS/poison_radius_consistency.py --target-class 8
"""

from attack_generation.data_sets import ApproxGrad, ConsistencyLoss, DigitsConfig, Optimiser, run_attack


class Config(DigitsConfig):  # batches, model and folder: attack_generation/data_sets.py
    target_class: int = 8
    epsilon: float = 0.1  # l-infinity, pixels in [0, 1]
    sigma: float = 0.25  # smoothing noise, pixels in [0, 1]
    loss: ConsistencyLoss = ConsistencyLoss(copies=2, lam=5.0, eta=0.5)  # the paper's for MNIST from sigma 0.5 on
    epochs: int = 50
    # T1, T2, learning rates of the poison and of the linear system
    optimiser: Optimiser = ApproxGrad(lower_steps=10, solver_steps=10, lr_u=0.1, lr_p=1e-2)


if __name__ == "__main__":
    run_attack(Config, __doc__)
