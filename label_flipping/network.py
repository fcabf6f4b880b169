"""The reference: a network without any defence, trained on labels that were changed at random or by an attack."""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from data.datasets import Dataset
from label_flipping.attacks import flip_at_random, flip_greedily, flip_nearest, rivals
from label_flipping.certificates.fixed_weights import FixedWeights
from label_flipping.certificates.smoothed_weights import class_scores
from label_flipping.config import LabelFlippingConfig
from label_flipping.features import Images
from robust_training.standard import StandardLoss
from robust_training.training import Training, TrainingConfig
from runtime.noise import Stream
from runtime.part_by_part import KeptStages
from runtime.progress import progress
from runtime.stop import Stop, StoppedEarly

_SURROGATE_POINTS = 1000  # test points that the attack on the network looks at


def undefended_networks(
    config: LabelFlippingConfig, dataset: Dataset, weights: FixedWeights, train: Images, test: Images,
    test_features: np.ndarray, kept: KeptStages, stop: Stop,
) -> list[dict[str, Any]]:  # fmt: skip
    """Test accuracy of an undefended network trained on labels that were changed at random or by an attack.

    'greedy' attacks all test points with the same changes, 'pointwise' gives each of a few test points changes of its
    own, as the certificates allow. Each is a curve of a record (report.LabelCurve). At 0 changes its value is over all
    test points. At more changes that of 'pointwise' is over ``network_points`` points.
    """
    drawn = np.random.default_rng([config.seed, Stream.LABEL_NETWORK]).permutation(len(test.y))
    surrogate, single = drawn[:_SURROGATE_POINTS], drawn[: config.network_points].tolist()
    alpha = weights(test_features[surrogate])
    rival = rivals(class_scores(alpha, train.y, train.classes), test.y[surrogate])
    flips = sorted({round(share * len(train.y)) for share in config.network_shares})

    def trained(name: str, y: np.ndarray, points: Images) -> float:
        return kept.get(f"network_{name}.json", partial(_train, config, dataset, train, y, points, stop))["accuracy"]

    def accuracy(attack: str, count: int) -> float:
        """Test accuracy after an attack changed ``count`` training labels."""
        if not count:
            return trained("clean", train.y, test)
        if attack == "random":
            return trained(f"random_{count}", flip_at_random(train.y, train.classes, count, config.seed), test)
        if attack == "greedy":
            y = flip_greedily(alpha, train.y, test.y[surrogate], train.classes, count)
            return trained(f"greedy_{count}", y, test)
        found = []
        for place, number in enumerate(single):
            y = flip_nearest(train.x, train.y, test.x[number], test.y[number], rival[place], count)
            found.append(trained(f"pointwise_{count}_{number}", y, test.at(np.array([number]))))
        return float(np.mean(found))

    curves = []
    for attack in ("random", "greedy", "pointwise")[: 3 if single else 2]:
        counts = progress(flips, desc=f"undefended network, {attack}", unit="curve point")
        accuracies = [accuracy(attack, count) for count in counts]
        curves.append({"certificate": f"network_{attack}", "q": None, "flips": flips, "accuracy": accuracies})
    return curves


def _train(
    config: LabelFlippingConfig, dataset: Dataset, train: Images, y: np.ndarray, test: Images, stop: Stop
) -> dict[str, float]:
    one_hot = np.eye(train.classes, dtype=np.float32)
    data = replace(dataset, x_train=train.x, y_train=one_hot[y], x_test=test.x, y_test=one_hot[test.y])
    network = TrainingConfig(
        **asdict(config.network), loss=StandardLoss(), target_class=int(test.y[0]),
        seed=config.seed, data_dir=config.data_dir,
    )  # fmt: skip
    training = Training(network, data)
    state = training.initial_state()
    for number in range(training.total_steps):
        state, _ = training.step(state, number)
        if stop.reason:
            raise StoppedEarly(f"{stop.reason} in a training of the network, which starts again")
    return training.evaluate(state)
