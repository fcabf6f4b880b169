"""How visible a poison is: its distance from the clean images, and detectors that separate poisoned from clean images.

    python evaluation/visibility.py --poison data/DIGITS/X_poisoned_radius_gaussianaug_0.25_8.npy \\
        --data-dir data/DIGITS --out runs/DIGITS/visibility.json

Two detectors know only the clean validation images of the class. The first measures how far an image's mean brightness
is from theirs. The second measures the distance to the nearest. Both score the poisoned images and clean test images.
Two more detectors, a linear classifier and a small network, learn to separate the poisoned images of one half of the
class from their clean images. They score the other half. The result of a detector is the area under its ROC curve: 0.5
is chance, 1 is perfect. The distances also name the part of the change that brightness and contrast cannot make. That
part remains against victims that vary brightness and contrast in training.
"""

from dataclasses import dataclass
from pathlib import Path

from attack_generation.visibility import visibility
from data.datasets import SPLITS, Sigma, load_dataset
from data.poison_files import training_poison
from runtime.artifact import Artifact
from runtime.bounds import Seed
from runtime.command_line import run_script
from runtime.files import InputError, array_sha256, read_record, write_json
from runtime.provenance import printed_path, project_path, provenance


@dataclass(frozen=True, kw_only=True)
class Config:
    poison: Path
    """Poison file, or the name of a poison in data/poisons."""
    target_class: int = 8
    """Class that the poison changes."""
    sigma: Sigma = 0.25
    """Noise level of the victims. A change is measured as its l2 norm divided by sigma."""
    seed: Seed = 0
    """Seed of the split into halves and of the detectors."""
    data_dir: Path = project_path("data/DIGITS")
    """Folder of the prepared arrays. Other scripts for poison have MNIST's by default."""
    out: Path
    """File of the result, .json."""


def main(config: Config) -> None:
    """Measure, write the record and print it. Raises InputError on bad settings or data."""
    dataset = load_dataset(config.data_dir)
    poison = training_poison(config.poison, dataset, config.data_dir, config.target_class)
    settings = {name: getattr(config, name) for name in ("target_class", "sigma", "seed")}
    settings |= {**dataset.hashes(*(f"x_{part}" for part in SPLITS)), "poison_sha256": array_sha256(poison)}
    if config.out.is_file():
        found = read_record(config.out)
        if found.get("settings") == settings:
            print(f"{printed_path(config.out)}: already made with these settings, kept")
            return
        if "measured" not in found:
            raise InputError(f"{config.out}: is another record; choose another --out")
        print(f"note: {printed_path(config.out)} held a measurement with other settings, which is replaced")
    measured = visibility(dataset, poison, config.target_class, config.sigma, config.seed)
    with Artifact(config.out):
        write_json(config.out, {"settings": settings, "measured": measured, **provenance(config)})
    areas = ", ".join(f"{name} {value:.3f}" for name, value in measured["auc"].items())
    print(f"{printed_path(config.out)}: l2 {measured['l2']:.3f}, area under the curve of {areas}")


if __name__ == "__main__":
    run_script(main, Config, __doc__)
