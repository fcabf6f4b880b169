"""Pack a poison into one .npz file of 8-bit images (data/poison_files.py): one that this project made, or PNG images.

    python attack_generation/pack_poison.py --name mine --data-dir data/DIGITS --out-dir . \\
        --poison data/DIGITS/X_poisoned_radius_gaussianaug_0.25_8.npy
    python attack_generation/pack_poison.py --name theirs --png-dir images --target-class 8 --epsilon 0.1 \\
        --source https://example.org/paper --out-dir .

The first command rounds the images to 8 bits within epsilon. It also writes their record. Files in data/poisons/ ship
with the project.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.datasets import Epsilon, load_dataset, load_poison, require_within_epsilon, target_mask
from data.poison_files import ABOUT, published_places, read_pngs
from data.ready_poisons import FOLDER, pack_poison, require_poison_name
from runtime.bounds import require_within
from runtime.checks import require_label, shortened
from runtime.command_line import run_script
from runtime.files import InputError, array_sha256, file_sha256, read_record, save_archive
from runtime.provenance import is_clean_commit, printed_path, project_path


@dataclass(frozen=True, kw_only=True)
class Config:
    poison: Path | None = None
    """File of the images, .npy, with its record, .json, beside it."""
    png_dir: Path | None = None
    """Folder of PNG images in place of a file: 8-bit, named by their places in the data set as published."""
    name: str
    """Name of the packed poison."""
    target_class: int | None = None
    """Class of PNG images. A record names its own."""
    epsilon: Epsilon | None = None
    """l-infinity bound that PNG images keep; pixels are in [0, 1]. A record names its own."""
    source: str = "not named"
    """Where PNG images come from, in one line, such as a paper or an address."""
    data_dir: Path = project_path("data/MNIST")
    """Folder of the prepared arrays that the file was made from."""
    published: Path | None = None
    """The published data set that these arrays were prepared from. With it, the place of each image is checked. The
    digits are checked without it."""
    out_dir: Path = FOLDER
    """Folder of the archive and the record."""


def main(config: Config) -> None:
    """Pack as the config says. Raises InputError where the record is of another file, of no commit or of other data."""
    path = config.out_dir / f"{config.name}.npz"
    if (there := path.with_suffix(".json")).exists() or (there := path).exists():
        raise InputError(f"{there}: a poison of this name is there; choose another name, or delete it first")
    if config.poison and not config.png_dir:
        if config.target_class is not None or config.epsilon is not None or config.source != "not named":
            raise InputError("--target-class, --epsilon and --source describe PNG images; leave them out with --poison")
        made = _packed(config, config.poison)
    elif config.png_dir and not config.poison and config.target_class is not None and config.epsilon is not None:
        if config.published or config.out_dir.resolve() == FOLDER:
            raise InputError("--png-dir takes no --published, and no poison without a record goes into data/poisons")
        require_poison_name("name", config.name)
        require_label("source", config.source)
        about = {name: np.array(getattr(config, name)) for name in ABOUT}
        save_archive(path, {**read_pngs(config.png_dir), **about}, compressed=True)
        made = [path]
    else:
        raise InputError("give --poison FILE.npy, or --png-dir FOLDER with --target-class and --epsilon")
    for file in made:
        print(f"{printed_path(file)}: {file.stat().st_size:,} bytes")


def _packed(config: Config, poison: Path) -> list[Path]:
    """Check a poison of this project and its record, and pack them. Returns the files."""
    path = poison.with_suffix(".json")
    record = read_record(path, settings=dict, sha256=str, commit=str)
    settings = record["settings"]
    if not is_clean_commit(record["commit"]):
        raise InputError(
            f"{path}: made at {record['commit']}, which is no commit that others can check out; commit, and make it "
            "again"
        )
    for name, kind in {"target_class": int, "epsilon": float, "x_train": str}.items():
        if not isinstance(value := settings.get(name), kind):
            raise InputError(f"{path}: its settings have {name} {shortened(value)}; make the poison again")
    if not poison.is_file() or record.pop("sha256") != file_sha256(poison):
        raise InputError(f"{poison}: is not the file that {path.name} describes; make it again")
    dataset = load_dataset(config.data_dir)
    if settings["x_train"] != array_sha256(dataset.x_train):
        raise InputError(
            f"{poison}: was made from other training images than {config.data_dir} has; give its --data-dir"
        )
    require_within("epsilon", settings["epsilon"], Epsilon)
    images = load_poison(poison, dataset, settings["target_class"])
    in_class = target_mask(dataset.y_train, settings["target_class"])
    clean = dataset.x_train[in_class]
    require_within_epsilon(images, clean, settings["epsilon"], poison)
    places, _ = published_places(dataset, config.data_dir, config.published)
    return pack_poison(images, clean, places[in_class], record, config.name, config.out_dir)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
