"""Checks of settings before a run begins: numbers, file names, paths, choices by name."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from runtime import changed_keras_settings
from runtime.bounds import require_bounds
from runtime.files import InputError

Value = TypeVar("Value")
LARGEST_COUNT = 2**31 - 1
"""Largest integer setting. Votes, batches and indices are int32 on the device. Seeds have the same limit."""
LONGEST_LABEL = 100  # characters of a line that names data or a poison's source
_FOLDERS = ("dir", "directory", "folder", "store", "studies")
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_LONGEST_NAME = 200  # bytes. File systems allow 255, and temporary files and records have longer names than an artifact


def require_usable(settings: Any, name: str = "") -> None:
    """Raise InputError naming the first setting, at any depth, that is no usable number or path.

    settings: a config dataclass, a mapping, a sequence or a single value. Floats must be finite, also in float32.
    Integers must lie between 0 and LARGEST_COUNT. Fields of a dataclass must keep their declared bounds, see
    runtime.bounds. A path is a folder where the setting's name ends in 'dir', 'directory', 'folder', 'store' or
    'studies'. It is a file or a folder where the name is 'source' or 'published', else a file: see require_place.
    """
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        require_bounds(settings)
        settings = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            require_usable(value, f"{name}.{key}" if name else str(key))
    elif isinstance(settings, list | tuple):
        for value in settings:
            require_usable(value, name)
    elif isinstance(settings, Path):
        either = name.rpartition(".")[2] in ("source", "published")
        require_place(name, settings, folder=None if either else name.endswith(_FOLDERS))
    elif isinstance(settings, float) and not abs(settings) <= _LARGEST_FLOAT:
        kind = "below 3.4e38" if math.isfinite(settings) else "finite"
        raise InputError(f"{name} must be {kind}, got {settings}")
    elif isinstance(settings, int) and not 0 <= settings <= LARGEST_COUNT:
        raise InputError(f"{name} must lie between 0 and {LARGEST_COUNT}, got {shortened(settings)}")


def chosen(what: str, table: Mapping[str, Value], name: str) -> Value:
    """The entry ``name`` of a table. Where it is missing, raises InputError with the setting ``what`` and all names."""
    if name not in table:
        raise InputError(f"{what} must be one of {', '.join(table)}, got {name!r}")
    return table[name]


def require_keras_settings() -> None:
    """Raise InputError where Keras's own settings were changed since this project was imported."""
    for name, (value, wanted) in changed_keras_settings().items():
        mend = f"call keras.config.set_{name}({wanted!r}) before the run"
        raise InputError(f"Keras's {name} is {value!r}, and this project's runs need {wanted!r}; {mend}")


def require_name(what: str, name: Any) -> None:
    """Raise InputError unless ``name`` is the name of a file or folder without a path.

    what: the setting's name in the error. Names that are read from files become parts of paths. A separator or '..' in
    a name would place results anywhere.
    """
    safe = isinstance(name, str) and name.isprintable() and name not in ("", ".", "..")
    if not safe or "/" in name or "\\" in name or len(name.encode()) > _LONGEST_NAME // 2:
        mend = f"give letters, digits, _ and -, at most {_LONGEST_NAME // 2}"
        raise InputError(f"{what} is {shortened(name)}, which cannot be a file's name; {mend}")


def require_label(what: str, label: Any) -> None:
    """Raise InputError unless ``label`` can stand in a table: one printable line. what: its name in the error."""
    if not (isinstance(label, str) and label.isprintable() and 0 < len(label) <= LONGEST_LABEL):
        raise InputError(f"{what} is {shortened(label)}; give a line of at most {LONGEST_LABEL} characters")


def require_name_lengths(what: str, path: Path) -> None:
    """Raise InputError where a part of the path is too long for a file's name. what: its name in the error."""
    long = [part for part in path.parts if len(part.encode(errors="replace")) > _LONGEST_NAME]
    if long or "\0" in str(path):
        mend = f"give names of at most {_LONGEST_NAME} bytes"
        raise InputError(f"{what} is {shortened(str(path))}, which cannot be a path; {mend}")


def require_place(what: str, path: Path, folder: bool | None) -> None:
    """Raise InputError where the path cannot be a folder or a file because something else lies there or above.

    what: the setting's name. folder: True for a folder, False for a file, None for either. Both may be missing.
    """
    require_name_lengths(what, path)
    try:
        places = [path.absolute(), *path.absolute().parents]
        found = next(place for place in places if place.is_symlink() or place.exists())  # or a link to a missing file
        if found == places[0] and not folder:
            if folder is False and not path.is_file():
                raise InputError(f"{what} is {path}, which is a folder or a device; give a file")
            if not (path.is_file() or path.is_dir()):
                raise InputError(f"{what} is {path}, which is a device; give a file or a folder")
        elif not found.is_dir():
            raise InputError(f"{what} is {path}, but {found} is no folder; choose another place")
    except OSError as error:
        raise InputError(f"{what} is {shortened(str(path))}: {error.strerror}; choose another place") from error


def shortened(value: Any) -> str:
    """A value as errors show it: text in quotes, a long value without its middle."""
    if isinstance(value, int) and abs(value) >= 10**20:  # str() fails for a number of 5,000 digits
        return f"a number of about 2^{value.bit_length()}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:50]} ... {text[-20:]}"
