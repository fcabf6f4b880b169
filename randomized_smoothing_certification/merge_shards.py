"""Join the result files of all shards of one certification into the file of the whole run.

    python randomized_smoothing_certification/merge_shards.py --shards a.tsv b.tsv --out whole.tsv

The rows and their order are the same as in an unsharded run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randomized_smoothing_certification.certificate_file import (
    Point,
    as_text,
    read_certificate_record,
    read_own_points,
    read_whole_points,
    require_result_name,
    summary_path,
)
from randomized_smoothing_certification.certificate_summary import write_summary
from randomized_smoothing_certification.certification_config import shard_of
from runtime.artifact import Artifact
from runtime.checkpoints import OnOtherSettings, OtherSettings, read_same_record, replaceable
from runtime.command_line import run_script
from runtime.files import InputError, remove, write_json, write_text
from runtime.part_by_part import settings_path


@dataclass(frozen=True, kw_only=True)
class Config:
    shards: tuple[Path, ...]
    """Result files of all shards, in any order."""
    out: Path
    """Result file of the whole run, .tsv."""
    on_other_settings: OnOtherSettings = "refuse"
    """What to do with a result file of other settings or rows: refuse stops the merge, start_afresh replaces it."""


def merge(shards: Sequence[Path], out: Path, on_other_settings: OnOtherSettings = "refuse") -> dict[str, Any]:
    """Join the result files of all shards of one run into the file of the whole run. Returns the summary.

    Everything is checked before anything is written. After a merge that was killed, the same command merges again.

    Raises InputError if the shards differ in a setting other than ``shard``, overlap or are incomplete, if a shard is
    missing or holds rows that its run cannot have written, if another run writes ``out``, or if ``out`` has other
    settings or rows and ``on_other_settings`` is "refuse".
    """
    require_result_name(out)
    if not shards:
        raise InputError("no shards given; name their files after --shards")
    if out.resolve() in [path.resolve() for path in shards]:
        raise InputError(f"{out}: is one of the shards; choose another output")
    points, record = _joined(shards)
    with Artifact(out, settings_path(out), summary_path(out)):
        if out.exists():
            with replaceable(on_other_settings):
                read_same_record(settings_path(out), record["settings"], about=out)
                there = read_own_points(out, record)
                if [point._replace(time="") for point in there] != [point._replace(time="") for point in points]:
                    raise OtherSettings(f"{out}: exists with other rows; choose another output")
        remove(summary_path(out), out)  # a killed merge must not leave the old rows beside the new settings
        write_json(settings_path(out), record)
        write_text(out, as_text(points))
        return write_summary(out, points, record)


def _joined(shards: Sequence[Path]) -> tuple[list[Point], dict[str, Any]]:
    records = [read_certificate_record(path) for path in shards]
    parts = [shard_of(record["settings"]["shard"]) for record in records]
    total, settings = parts[0][1], {**records[0]["settings"], "shard": None}
    points: list[Point] = []
    for path, record, (part, of) in zip(shards, records, parts, strict=True):
        if record["settings"]["shard"] is None:
            raise InputError(f"{path}: is a whole run, not a shard; leave it out")
        if of != total:
            raise InputError(f"{path}: is shard {part}/{of}, {shards[0]} is one of {total}; merge one run's shards")
        if parts.count((part, of)) > 1:
            raise InputError(f"{path}: is shard {part}/{of}, as is another file; name every shard once")
        for name in sorted({*record["settings"], *settings} - {"shard"}):
            if (found := record["settings"].get(name)) != (wanted := settings.get(name)):
                raise InputError(f"{path}: {name} is {found}, but {wanted} in {shards[0]}; certify the shards alike")
        points += read_whole_points(path, record)
    if missing := [f"{i}/{total}" for i in range(1, total + 1) if (i, total) not in parts]:
        raise InputError(f"shard {', '.join(missing)} is missing; name the files of all {total} shards")
    points.sort(key=lambda point: point.idx)
    indices = sorted({point.idx for point in points})
    for path, record, (part, _) in zip(shards, records, parts, strict=True):
        if record["points"] != indices[part - 1 :: total]:
            raise InputError(f"{path}: its points are not those of shard {part}/{total}; run its certification again")
    merged = {str(path): record["provenance"] for path, record in zip(shards, records, strict=True)}
    made = {**records[0]["provenance"], "merged_from": merged}
    return points, {"settings": settings, "points": indices, "provenance": made}


if __name__ == "__main__":
    run_script(lambda config: merge(config.shards, config.out, config.on_other_settings), Config, __doc__)
