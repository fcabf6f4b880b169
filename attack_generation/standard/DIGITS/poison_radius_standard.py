"""Poison one class of the handwritten digits against standard training.

The attack of arXiv 2012.01274 (section 3) on 8x8 images: small enough for any laptop.

    python attack_generation/standard/DIGITS/poison_radius_standard.py --target-class 8
"""

from attack_generation.data_sets import ApproxGrad, DigitsConfig, ObjectiveName, Optimiser, StandardLoss, run_attack


class Config(DigitsConfig):  # batches, model and folder: attack_generation/data_sets.py
    target_class: int = 8
    epsilon: float = 0.1  # l-infinity, pixels in [0, 1]
    sigma: float = 0.25  # only in the names of files: neither level has noise
    loss: StandardLoss = StandardLoss()
    objective: ObjectiveName = "cross_entropy"  # on the validation images
    epochs: int = 50
    # T1, T2, learning rates of the poison and of the linear system. There is no noise
    optimiser: Optimiser = ApproxGrad(lower_steps=10, solver_steps=10, lr_u=0.1, lr_p=1e-2, redraw_noise="none")


if __name__ == "__main__":
    run_attack(Config, __doc__)
