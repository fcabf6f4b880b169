"""The store of measurements: every certified point of every entry and run, and the records of the runs.

    points.csv.xz       one line per certified point: entry, seed, idx, label, predict, and its certificate
    settings.json.xz    records[entry][seed]: settings, commands, commits and accuracies of the run

pandas.read_csv and Python's lzma and json read the two files. All tables are computed from them.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from runtime.files import InputError, atomic_path, form, reading, writing
from runtime.lazy import pandas as pd

POINTS, SETTINGS = "points.csv.xz", "settings.json.xz"
LARGEST = 2**30  # bytes of an unpacked file
MADE_FIRST = "make the tables of a plan there first (evaluation/tables/make_tables.py)"
MADE_AGAIN = f"delete {POINTS} and {SETTINGS}, and make both again"


class Store(NamedTuple):
    """The measurements of a folder of results."""

    points: pd.DataFrame  # columns entry (str), seed (int), idx (int), label, predict, ... One line per point
    records: dict[str, dict[str, Any]]  # by entry and seed (as text)


def has_store(folder: Path) -> bool:
    """Whether the folder holds a store or a part of a store."""
    return (folder / POINTS).is_file() or (folder / SETTINGS).is_file()


def write_store(folder: Path, store: Store) -> None:
    """Write both files, or neither where there is no room. The records come last and name the points' SHA-256."""
    text = store.points.to_csv(index=False, lineterminator="\n")
    records = {"points_sha256": hashlib.sha256(text.encode()).hexdigest(), "records": store.records}
    with atomic_path(folder / SETTINGS) as settings_file, atomic_path(folder / POINTS) as points_file:
        settings_file.write_bytes(_packed(json.dumps(records, indent=1, default=str) + "\n"))
        points_file.write_bytes(_packed(text))


def read_store(folder: Path) -> Store:
    """Read both files. Raises InputError where a file is missing or damaged, or the two do not belong together."""
    text = _read(folder / POINTS)
    records = _records_of(folder, hashlib.sha256(text.encode()).hexdigest())
    try:
        points = pd.read_csv(
            io.StringIO(text), dtype={"entry": str}, keep_default_na=False, na_values=[""],
            float_precision="round_trip",
        )  # fmt: skip
    except ValueError as error:  # pandas's own kinds are ValueErrors
        raise InputError(f"{folder / POINTS}: not a table ({error}); make it again") from error
    return Store(points, records)


_RECORDS = form("points_sha256", "records", points_sha256=str, records=dict[str, dict[str, Any]])


def _records(path: Path) -> Any:
    text = _read(path)
    try:
        return msgspec.convert(json.loads(text), _RECORDS)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise InputError(f"{path}: not the records of a store; {MADE_AGAIN}") from error


def _records_of(folder: Path, digest: str) -> dict[str, dict[str, Any]]:
    """The records of the points with this SHA-256.

    Where a run was killed after it renamed its points and before it renamed its records, they are in atomic_path's
    temporary file beside the store. This function renames that file.
    """
    settings = folder / SETTINGS
    for path in (settings, *folder.glob(f".{settings.stem}-*{settings.suffix}")):
        try:
            found = _records(path)
        except InputError:
            continue
        if found.points_sha256 == digest:
            if path != settings:
                with writing(settings):
                    path.replace(settings)
            return found.records
    _records(settings)  # names the mistake where the file is missing or damaged
    raise InputError(f"{folder / POINTS}: not the points that {SETTINGS} was written with; {MADE_AGAIN}")


def _packed(text: str) -> bytes:
    # The "extreme" preset takes seven times as long on half a million similar lines, for a file smaller by 0.2 %.
    quick = {"id": lzma.FILTER_LZMA2, "preset": 9, "nice_len": 200, "depth": 32}
    return lzma.compress(text.encode(), filters=[quick])


def _read(path: Path) -> str:
    with reading(path, MADE_FIRST) as file:
        packed = file.read()
    try:
        unpacking = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
        text = unpacking.decompress(packed, max_length=LARGEST)
        if not unpacking.eof:
            raise ValueError(f"it holds more than {LARGEST:,} bytes" if len(text) == LARGEST else "it is cut off")
        return text.decode()
    except (lzma.LZMAError, ValueError) as error:
        raise InputError(f"{path}: not a whole .xz file of text ({error}); fetch it again, or {MADE_AGAIN}") from error
