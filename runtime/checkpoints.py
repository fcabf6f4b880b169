"""Checkpoints: nested arrays with the settings that they belong to."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from runtime.files import InputError, load_archive, read_json, save_archive
from runtime.lazy import keras

OnOtherSettings = Literal["refuse", "start_afresh"]


class OtherSettings(InputError):
    """An existing result or checkpoint was made with other settings."""


def save_checkpoint(path: Path, tree: Any, record: dict[str, Any]) -> None:
    """Write a nested structure of arrays and a JSON record to one .npz, whole or not at all."""
    leaves = [keras.ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(tree)]
    arrays = {f"leaf_{i}": leaf for i, leaf in enumerate(leaves)}
    save_archive(path, {**arrays, "record": np.array(json.dumps(record, default=str))})


def load_checkpoint(path: Path, like: Any, same: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """Read a file that save_checkpoint wrote. Returns (tree, record), the tree with the structure of ``like``.

    same: settings that the record must hold under 'settings'.
    Raises InputError where the file does not fit ``like``, OtherSettings where it was made with other settings.
    """
    archive = load_archive(path)
    try:
        record = json.loads(str(archive.pop("record")))
        leaves = [archive[f"leaf_{i}"] for i in range(len(archive))]
        found = record.get("settings")
    except (AttributeError, KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a checkpoint of this project; delete it to start again") from error
    if same is not None:
        require_same_settings(path, found, same)
    template = [keras.ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(like)]
    if [(leaf.shape, leaf.dtype) for leaf in leaves] != [(leaf.shape, leaf.dtype) for leaf in template]:
        raise InputError(f"{path}: shapes or types differ from this run's model or batch; delete it to start again")
    return keras.tree.pack_sequence_as(like, leaves), record


def checkpoint_settings(path: Path) -> Any:
    """The settings of the run that wrote the checkpoint. None: the file is missing or damaged."""
    with contextlib.suppress(InputError, AttributeError, ValueError, RecursionError):
        return json.loads(str(load_archive(path, ("record",))["record"])).get("settings")
    return None


def require_same_settings(path: Path, found: Any, wanted: dict[str, Any]) -> None:
    """Raise OtherSettings naming the first setting in which a file made earlier differs from this run.

    found: the entry 'settings' of the file's record. Any type but a dict raises OtherSettings, too.
    """
    if not isinstance(found, dict):
        raise OtherSettings(f"{path}: not a record of this project; delete it or choose another output")
    for name in sorted(set(found) | set(wanted)):
        if found.get(name) != wanted.get(name):
            made = f"made with {name} = {found.get(name)!r}, this run has {wanted.get(name)!r}"
            if name.endswith("_sha256"):
                made = f"made with another file or other weights ({name} differs)"
            raise OtherSettings(f"{path}: {made}; use the same settings to continue, or choose another output")


def different(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name and values of settings that both hold and that differ. Older records lack some, or hold another type."""
    for name in sorted(found.keys() & wanted.keys()):
        here, there = found[name], wanted[name]
        here = here["mode"] if name == "noise" and isinstance(here, dict) else here
        kinds = {type(here), type(there)}
        if kinds == {dict}:
            yield from ((f"{name}.{inner}", *values) for inner, *values in different(here, there))
        elif here != there and (len(kinds) == 1 or kinds.isdisjoint({bool, dict})):
            yield name, here, there


def read_same_record(
    path: Path, wanted: dict[str, Any], *more: str, about: Path | None = None, mend: str = "choose another output"
) -> dict[str, Any]:
    """Read the record in a JSON file: an object whose entry 'settings' must equal ``wanted``.

    more: other entries that the record must have. about: the file that the record describes. Errors name it, and
    ``mend`` as the remedy where it has no record.

    Raises OtherSettings where there is no record or one of other settings, InputError where it cannot be read.
    """
    if about and not path.exists():
        raise OtherSettings(f"{about}: exists without {path.name}, which would say how it was made; {mend}")
    record = read_json(path)
    if not (isinstance(record, dict) and isinstance(record.get("settings"), dict) and record.keys() >= {*more}):
        raise OtherSettings(f"{path}: not a record of this project; delete it or choose another folder")
    require_same_settings(about or path, record["settings"], wanted)
    return record


@contextlib.contextmanager
def replaceable(policy: OnOtherSettings) -> Iterator[None]:
    """Handle an OtherSettings that the with block raises.

    policy: "start_afresh" prints that the file is replaced and leaves the block. "refuse" raises the error again, with
    the flag that replaces the file.
    """
    try:
        yield
    except OtherSettings as other:
        if policy == "refuse":
            raise OtherSettings(f"{other}; --on-other-settings start_afresh replaces it") from other
        print(f"starting afresh: {str(other).rpartition('; ')[0]}")  # without the remedy


def require_finite(step: str, **values: Any) -> None:
    """Raise FloatingPointError naming the first quantity, a number or an array, that is NaN or infinite."""
    for name, value in values.items():
        for bad in np.asarray(value)[~np.isfinite(value)]:
            kept = "an earlier checkpoint, if there is one, is kept"
            raise FloatingPointError(f"{name} is {bad} at {step}; {kept}. Lower the learning rates or check the data")
