"""Settings that are chosen by name: an entry of a table of functions or classes."""

from collections.abc import Mapping
from typing import TypeVar

from runtime.files import InputError

Value = TypeVar("Value")


def chosen(what: str, table: Mapping[str, Value], name: str) -> Value:
    """The entry ``name`` of a table. Where it is missing, raises InputError with the setting ``what`` and all names."""
    if name not in table:
        raise InputError(f"{what} must be one of {', '.join(table)}, got {name!r}")
    return table[name]
