"""Peak memory of each training method compared with Gaussian augmentation, in victim training and in the attack.

    python benchmarks/memory.py

MACER's attack and SmoothAdv keep the noise of each image fixed. Stored noise of a data set would take ``copies`` times
the memory of the data. The noise is recomputed from the image's number (runtime.noise.normal_of_images), so that only
the batch is larger. Each measurement is a process of its own. It takes the constants of the MNIST scripts, random
images of MNIST's shape and number, and a few steps. The result is the largest resident set of the process. On a GPU
this is the memory of the host, not of the device.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Annotated, Any

from attack_generation.attack import Attack
from benchmarks.record import BenchmarkConfig, finish, machine, peak_resident_mib
from benchmarks.works import MNIST, TOY, TOY_ATTACK, outer_step_work, random_dataset, training_work
from robust_training.methods import METHODS, SmoothAdvLoss
from robust_training.training import Training
from runtime.bounds import at_least
from runtime.checks import require_usable
from runtime.command_line import config_of, run_script
from runtime.files import InputError

BAR = 1.5  # times the memory of Gaussian data augmentation
COMPARED = {name: METHODS[name] for name in ("gaussianaug", "macer", "smoothadv")}
STAGES = ("victim training", "attack")


@dataclass(frozen=True, kw_only=True)
class Config(BenchmarkConfig):
    steps: Annotated[int, at_least(1)] = 3
    """Steps of each stage. The first step reaches the peak, because the inner attack starts with it here."""


def main(config: Config) -> list[dict[str, Any]]:
    """Measure every stage of every method, print and return the rows. Raises InputError for impossible settings."""
    require_usable(config)
    about, rows = machine(), list[dict[str, Any]]()
    for stage in STAGES:
        peaks = {method: _in_another_process(method, stage, config) for method in COMPARED}
        for method, peak in peaks.items():
            ratio = peak / peaks["gaussianaug"]
            met = ratio <= BAR
            rows.append({"stage": stage, "method": method, "peak_mib": peak, "ratio": ratio, "bar": BAR, "met": met})
    finish(config, about, rows)
    return rows


def _in_another_process(method: str, stage: str, config: Config) -> float:
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(peak_mib, method, stage, config).result()
    except BrokenProcessPool as error:
        raise InputError(f"{stage} of {method}: its process was ended from outside; is there enough memory?") from error


def peak_mib(method: str, stage: str, config: Config) -> float:
    """Peak resident memory of this process after a few steps, MiB."""
    dataset = random_dataset(TOY if config.quick else MNIST)
    # The inner attack of SmoothAdv runs from the start, not after its first epochs.
    changes: dict[str, Any] = {"loss": SmoothAdvLoss(ramp_epochs=0)} if method == "smoothadv" else {}
    if stage == "victim training":
        script = f"evaluation/MNIST/{COMPARED[method].victim_script}.py"
        changes |= {"architecture": TOY.victim.architecture} if config.quick else {}
        training = Training(replace(config_of(script, ()), **changes), dataset)
        training_work(training, config.steps)()
    else:
        changes |= TOY_ATTACK if config.quick else {}
        script = f"attack_generation/{COMPARED[method].attack_folder}/MNIST/poison_radius_{method}.py"
        work = outer_step_work(Attack(replace(config_of(script, ()), **changes), dataset))
        for _ in range(config.steps):
            float(work())
    return peak_resident_mib()


if __name__ == "__main__":
    run_script(main, Config, __doc__)
