"""The owner of the files that a run makes: a lock while it makes them, and records that say how they were made."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from runtime.checkpoints import OtherSettings, require_same_settings
from runtime.files import read_json, remove_leftovers, require_no_folder
from runtime.lock import Lock

Owner = TypeVar("Owner", bound="Artifact")


class Artifact:
    """Files that one run at a time makes. Use as a context manager: it keeps other runs out.

    path: the file that locks and errors name. more: the files that are made with it.

    Entering removes half-written files of killed runs. It raises InputError where another run makes the files, where a
    folder lies at the path of a file, or where the files' folder cannot be written.
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
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()


def read_same_record(path: Path, wanted: dict[str, Any], *more: str, about: Path | None = None) -> dict[str, Any]:
    """Read the record in a JSON file: an object whose entry 'settings' must equal ``wanted``.

    more: other entries that the record must have. about: the file that errors name. None: the record.

    Raises OtherSettings where the file holds no record or other settings, InputError where it cannot be read.
    """
    record = read_json(path)
    if not (isinstance(record, dict) and isinstance(record.get("settings"), dict) and record.keys() >= {*more}):
        raise OtherSettings(f"{path}: not a record of this project; delete it or choose another folder")
    require_same_settings(about or path, record["settings"], wanted)
    return record
