"""Let a poison ship with the project: its images in compressed parts, to the bit, and its record, in data/poisons/.

python attack_generation/pack_poison.py --poison data/DIGITS/X_poisoned_radius_gaussianaug_0.25_8.npy --name digits
"""

from dataclasses import dataclass
from pathlib import Path

from data.ready_poisons import FOLDER, pack_poison
from runtime.command_line import run_script
from runtime.files import InputError, file_sha256, load_array, read_record
from runtime.provenance import is_clean_commit, shown_path


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the packing."""

    poison: Path
    """File of the images, .npy, with its record, .json, beside it."""
    name: str
    """Name that it is to have."""
    out_dir: Path = FOLDER
    """Folder of the parts and the record."""


def main(config: Config) -> None:
    """Pack as the config says. Raises InputError where the record is not of this file or of no commit."""
    record_path = config.poison.with_suffix(".json")
    record = read_record(record_path, settings=dict, sha256=str, commit=str)
    images = load_array(config.poison)
    if record.pop("sha256") != file_sha256(config.poison):
        raise InputError(f"{config.poison}: is not the file that {record_path.name} describes; make it again")
    if not is_clean_commit(record["commit"]):
        raise InputError(
            f"{record_path}: made at {record['commit']}, which is no commit that others can check out; commit, and "
            "make it again"
        )
    written = pack_poison(images, record, config.name, config.out_dir)
    for path in written:
        print(f"{shown_path(path)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    run_script(main, Config, __doc__)
