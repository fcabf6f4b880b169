"""The victims' schedules: how the learning rate goes, and the epochs, batch size and rate that go with it."""

from typing import Literal, NamedTuple

ScheduleName = Literal["constant", "one_cycle"]
RISE = 0.3  # share of the steps before the peak of one_cycle


class Schedule(NamedTuple):
    """What a schedule sets where a run's own settings leave it open."""

    epochs: int
    batch_size: int
    learning_rate: float = 1e-3  # of Adam; the peak where it changes
    ramp_epochs: int = 10  # for losses with settings that ramp up


# A fifth of the published epochs, with the ramp scaled alike. Batch sizes and peaks were chosen by the ACR of
# validation images under Gaussian augmentation: on DIGITS at these epochs, where smaller batches and twice the peak
# came within a spread of each other; on MNIST the best of three, each one run of half these epochs. Those of CIFAR10
# are MNIST's, not measured.
ONE_CYCLE = {
    "DIGITS": Schedule(epochs=20, batch_size=50, learning_rate=1e-2, ramp_epochs=2),
    "MNIST": Schedule(epochs=20, batch_size=100, learning_rate=2e-3, ramp_epochs=2),
    "CIFAR10": Schedule(epochs=40, batch_size=100, learning_rate=2e-3, ramp_epochs=2),
}


def learning_rate(schedule: ScheduleName, rate: float, step: int, steps: int) -> float:
    """The rate of step number ``step`` = 0 .. steps - 1, of nothing but these numbers.

    constant: ``rate``, as published. one_cycle: linearly up to ``rate``, which is reached after the share RISE of the
    steps, and linearly down to 0 at the last (the shape of Smith and Topin, arXiv 1708.07120, without momentum's).
    """
    if schedule == "constant":
        return rate
    done = (step + 1) / steps
    return rate * min(done / RISE, (1 - done) / (1 - RISE))
