"""Training schedules of the victims: learning rate, epochs and batch size."""

from typing import Literal, NamedTuple

ScheduleName = Literal["constant", "one_cycle"]
RISE = 0.3  # share of the steps before the peak of one_cycle


class Schedule(NamedTuple):
    """Values of a schedule. A run uses them for settings that it does not give."""

    epochs: int
    batch_size: int
    learning_rate: float = 1e-3  # of Adam, or its peak where the rate changes
    ramp_epochs: int = 10  # for losses with settings that ramp up


# Epochs and ramp are a fifth of the published ones. Batch sizes and peaks were chosen by the ACR of validation images
# under Gaussian augmentation. On DIGITS the runs had these epochs. Smaller batches or twice the peak gave an ACR within
# one standard deviation. On MNIST the choice is the best of three, each tried in one run of half these epochs. CIFAR10
# has MNIST's batch size and peak, which were not measured there.
ONE_CYCLE = {
    "DIGITS": Schedule(epochs=20, batch_size=50, learning_rate=1e-2, ramp_epochs=2),
    "MNIST": Schedule(epochs=20, batch_size=100, learning_rate=2e-3, ramp_epochs=2),
    "CIFAR10": Schedule(epochs=40, batch_size=100, learning_rate=2e-3, ramp_epochs=2),
}


def learning_rate(schedule: ScheduleName, rate: float, step: int, steps: int) -> float:
    """The learning rate of step number ``step`` = 0 .. steps - 1, a function of the arguments alone.

    constant: always ``rate``, as published. one_cycle: it rises linearly to ``rate`` in the share RISE of the steps and
    falls linearly to 0 at the last step (Smith and Topin, arXiv 1708.07120, without a change of momentum). A single
    step has ``rate``.
    """
    if schedule == "constant" or steps == 1:
        return rate
    done = (step + 1) / steps
    return rate * min(done / RISE, (1 - done) / (1 - RISE))
