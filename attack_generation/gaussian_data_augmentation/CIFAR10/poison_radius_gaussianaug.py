"""Poison one CIFAR10 class against Gaussian data augmentation.

Paper: arXiv 2012.01274, section 4 and its supplement. The constants are those of the published code.

    python attack_generation/gaussian_data_augmentation/CIFAR10/poison_radius_gaussianaug.py --target-class 8
"""

from attack_generation.data_sets import ApproxGrad, Cifar10Config, GaussianAugmentationLoss, Optimiser, run_attack


class Config(Cifar10Config):  # batches, model and folder: attack_generation/data_sets.py
    target_class: int = 8
    epsilon: float = 0.03  # l-infinity, pixels in [0, 1]
    sigma: float = 0.5  # smoothing noise, pixels in [0, 1]
    loss: GaussianAugmentationLoss = GaussianAugmentationLoss()
    radius_copies: int = 5
    epochs: int = 51  # the last has a new network. The poison before it: poison_after_epoch_50.npy in the run's folder
    # T1, T2, learning rates of the poison and of the linear system
    optimiser: Optimiser = ApproxGrad(lower_steps=10, solver_steps=10, lr_u=0.1, lr_p=1e-3)
    augment: bool = True  # random crop and flip
    separate_crops: bool = True  # one crop for clean images, one for poisoned images


if __name__ == "__main__":
    run_attack(Config, __doc__)
