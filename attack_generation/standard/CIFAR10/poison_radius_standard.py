"""Poison one CIFAR10 class against standard training: the baseline that ignores certified defences.

Paper: arXiv 2012.01274, section 4. The constants are those of the attack on Gaussian data augmentation, but
without noise, with 50 epochs and with one crop for the whole batch.

    python attack_generation/standard/CIFAR10/poison_radius_standard.py --target-class 8
"""

from attack_generation.data_sets import ApproxGrad, Cifar10Config, ObjectiveName, Optimiser, StandardLoss, run_attack


class Config(Cifar10Config):  # batches, model and folder: attack_generation/data_sets.py
    target_class: int = 8
    epsilon: float = 0.03  # l-infinity, pixels in [0, 1]
    sigma: float = 0.5  # only in the names of files: neither level has noise
    loss: StandardLoss = StandardLoss()
    objective: ObjectiveName = "cross_entropy"  # on the validation images
    epochs: int = 50
    # T1, T2, learning rates of the poison and of the linear system. There is no noise
    optimiser: Optimiser = ApproxGrad(lower_steps=10, solver_steps=10, lr_u=0.1, lr_p=1e-3, redraw_noise="none")
    augment: bool = True  # random crop and flip


if __name__ == "__main__":
    run_attack(Config, __doc__)
