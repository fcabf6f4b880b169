"""How visible a poison is: its distance from the clean images, and simple detectors that tell poisoned from clean.

    python evaluation/visibility.py --poison data/DIGITS/X_poisoned_radius_gaussianaug_0.25_8.npy \\
        --data-dir data/DIGITS --out runs/DIGITS/visibility.json

Two detectors know only the clean validation images of the class. One measures how far an image's mean brightness is
from theirs, the other how far the nearest of them is. Both score the poisoned images and clean test images. Two more
detectors, a linear classifier and a small network, are trained to tell the poisoned images of one half of the class
from their clean versions, and score the other half. The result of a detector is the area under its ROC curve: 0.5
sees nothing, 1 everything. The distances also say which part of the change cannot be made by brightness and contrast:
that part is left for victims that vary brightness and contrast in training.
"""

from dataclasses import dataclass
from pathlib import Path

from data.datasets import SPLITS, Sigma, load_dataset, load_poison
from robust_training.defences import visibility
from runtime.bounds import Seed
from runtime.checks import require_usable
from runtime.command_line import run_script
from runtime.files import array_sha256, read_record, write_json
from runtime.provenance import printed_path, project_path, provenance


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the measurement."""

    poison: Path
    """Poison file, or the name of one in data/poisons."""
    target_class: int = 8
    """Class that it poisons."""
    sigma: Sigma = 0.25
    """Noise level of the victims: a change is seen under it as its l2 norm over sigma."""
    seed: Seed = 0
    """Seed of the halves and of the detectors."""
    data_dir: Path = project_path("data/DIGITS")
    """Folder of the prepared arrays."""
    out: Path
    """File of the result, .json."""


def main(config: Config) -> None:
    """Measure, write the record and print it. Raises InputError on bad settings or data."""
    require_usable(config)
    dataset = load_dataset(config.data_dir)
    poison = load_poison(config.poison, dataset, config.target_class)
    settings = {name: getattr(config, name) for name in ("target_class", "sigma", "seed")}
    settings |= {f"x_{part}": array_sha256(getattr(dataset, f"x_{part}")) for part in SPLITS}
    settings["poison_sha256"] = array_sha256(poison)
    if config.out.is_file() and read_record(config.out).get("settings") == settings:
        print(f"{printed_path(config.out)}: already made with these settings, kept")
        return
    measured = visibility(dataset, poison, config.target_class, config.sigma, config.seed)
    write_json(config.out, {"settings": settings, "measured": measured, **provenance(config)})
    found = ", ".join(f"{name} {value:.3f}" for name, value in measured["auc"].items())
    print(f"{printed_path(config.out)}: l2 {measured['l2']:.3f}, area under the curve of {found}")


if __name__ == "__main__":
    run_script(main, Config, __doc__)
