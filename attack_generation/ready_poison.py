"""Write the images and the record of a packed poison as separate files.

    python attack_generation/ready_poison.py --name mnist_published --out runs/X_mnist_published.npy

The victim scripts take the name itself: --training-data poisoned_radius --poison mnist_published.
"""

from dataclasses import dataclass
from pathlib import Path

from data.datasets import X_FILES, Epsilon, Share, load_dataset, partly_poisoned, require_within_epsilon, target_mask
from data.poison_files import read_poison_file, training_poison
from data.ready_poisons import poison_file, read_ready_poison, ready_name
from runtime.artifact import Artifact
from runtime.bounds import require_bounds
from runtime.command_line import run_script
from runtime.files import InputError, file_sha256, read_record, save_array, write_json
from runtime.provenance import printed_path, project_path


@dataclass(frozen=True, kw_only=True)
class Config:
    name: str
    """Name of a poison in data/poisons/, or file of a poison (.npz, see docs/enter_a_poison.md)."""
    out: Path
    """File for its images, .npy. The record is written beside it as .json."""
    target_class: int = 8
    """Class of the poison."""
    epsilon: Epsilon = 0.1
    """l-infinity bound that the poison must keep. Pixels are in [0, 1]."""
    share: Share = 1.0
    """Share of the poisoned images that are used. They are the same in every run. The rest of the class stays clean."""
    data_dir: Path = project_path("data/MNIST")
    """Folder of the prepared arrays that the poison was made from."""


def main(config: Config) -> None:
    """Copy as the config says. Raises InputError if the poison was made from other images or exceeds epsilon."""
    require_bounds(config)
    if config.out.suffix != ".npy":
        raise InputError(f"{config.out}: the name of the images' file must end in .npy; rename it")
    record = config.out.with_suffix(".json")
    artifact = Artifact(config.out, record)
    held = read_record(record) if record.is_file() else {}
    own = held.keys() >= {"arrays_sha256", "sha256"} or (artifact.is_left and not record.exists())  # of a killed run
    if config.out.name in X_FILES or (not own and (config.out.exists() or record.exists())):
        raise InputError(f"{config.out}: is the place of data, or of a file of another script; choose another --out")
    dataset = load_dataset(config.data_dir)
    if name := ready_name(file := poison_file(config.name)):
        ready = read_ready_poison(name, dataset.x_train, config.target_class)
        images = ready.images
    else:
        ready = read_poison_file(file)
        images = training_poison(file, dataset, config.data_dir, config.target_class)
    clean = dataset.x_train[target_mask(dataset.y_train, config.target_class)]
    require_within_epsilon(images, clean, config.epsilon, Path(config.name))
    of_data = {**ready.record["settings"], **dataset.hashes("x_train")}
    made = {**ready.record, "settings": of_data, "share": config.share}
    if config.out.is_file() and held == {**made, "sha256": file_sha256(config.out)}:
        print(f"{printed_path(config.out)}: already made with these settings")
        return
    if held and held.get("arrays_sha256") != ready.record["arrays_sha256"]:
        print(f"note: {printed_path(config.out)} held another poison, which is replaced")
    with artifact:
        save_array(config.out, partly_poisoned(images, clean, config.share))
        write_json(record, {**made, "sha256": file_sha256(config.out)})
    print(f"{printed_path(config.out)}: {len(images)} images, written")


if __name__ == "__main__":
    run_script(main, Config, __doc__)
