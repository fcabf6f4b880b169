"""Join the result files of all shards of one certification into the file of the whole run.

    python randomized_smoothing_certification/merge_shards.py --shards a.tsv b.tsv --out whole.tsv

The rows are those of an unsharded run, in its order.
"""

from dataclasses import dataclass
from pathlib import Path

from randomized_smoothing_certification.certification_run import merge
from runtime.command_line import run_script
from runtime.files import InputError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the merge."""

    shards: tuple[Path, ...]
    """Result files of all shards, in any order."""
    out: Path
    """Result file of the whole run, .tsv."""


def main(config: Config) -> None:
    """Merge as the config says."""
    if not config.shards:
        raise InputError("no shards given; name their files after --shards")
    merge(config.shards, config.out)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
