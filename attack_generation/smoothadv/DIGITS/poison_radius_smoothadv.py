"""Poison one class of the handwritten digits against SmoothAdv.

The attack of arXiv 2012.01274 (section 3) on 8x8 images: small enough for any laptop.

    python attack_generation/smoothadv/DIGITS/poison_radius_smoothadv.py --target-class 8
"""

from attack_generation.data_sets import ApproxGrad, DigitsConfig, Optimiser, SmoothAdvLoss, run_attack


class Config(DigitsConfig):  # batches, model and folder: attack_generation/data_sets.py
    target_class: int = 8
    epsilon: float = 0.1  # l-infinity, pixels in [0, 1]
    sigma: float = 0.25  # smoothing noise, pixels in [0, 1]
    loss: SmoothAdvLoss = SmoothAdvLoss(eps_adv=0.25, attack_steps=2, ramp_epochs=5, plain_epochs=2)
    epochs: int = 50
    # T1, T2, learning rates of the poison and of the linear system. Training noise is fixed per image
    optimiser: Optimiser = ApproxGrad(lower_steps=1, solver_steps=10, lr_u=0.1, lr_p=1e-3, redraw_noise="validation")


if __name__ == "__main__":
    run_attack(Config, __doc__)
