"""The owner of the files that a run makes: a lock while it makes them, and records that say how they were made."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from runtime.checkpoints import OtherSettings, require_same_settings
from runtime.files import read_json, remove_leftovers, require_no_folder
from runtime.lock import Lock

Owner = TypeVar("Owner", bound="Artifact")


class Artifact:
    """Files that one run at a time makes. Use as a context manager: no other run makes them meanwhile.

    path: the file that locks and errors name. more: the files that are made with it.

    Entering removes what killed runs left half-written. It raises InputError where another run makes the files, where a
    folder lies in the place of one, or where their folder cannot be written.
    """

    def __init__(self, path: Path, *more: Path) -> None:
        self.path = Path(path)
        self.files = (self.path, *more)
        self.lock = Lock(self.path)

    def __enter__(self: Owner) -> Owner:
        require_no_folder(*self.files)
        with ExitStack() as held:
            held.enter_context(self.lock)
            remove_leftovers(*self.files)
            self.require_own()
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def require_own(self) -> None:
        """Raise InputError where something in the way makes the run impossible. Called while the lock is held."""


def read_same_record(path: Path, wanted: dict[str, Any], *more: str, about: Path | None = None) -> dict[str, Any]:
    """The record in a JSON file: an object with an object 'settings', which must be those wanted.

    more: what else the record must have. about: the file that errors name, in place of the record.

    Raises OtherSettings where the record is none or has other settings, InputError where the file cannot be read.
    """
    record = read_json(path)
    if not (isinstance(record, dict) and isinstance(record.get("settings"), dict) and record.keys() >= {*more}):
        raise OtherSettings(f"{path}: not a record of this project; delete it or choose another folder")
    require_same_settings(about or path, record["settings"], wanted)
    return record
