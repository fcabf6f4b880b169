"""Runs that save their results part by part: the lines of a file, or the stages of a study."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from runtime.artifact import Artifact
from runtime.checkpoints import OnOtherSettings, OtherSettings, read_same_record, replaceable, require_same_settings
from runtime.files import InputError, append, json_sha256, read_record, remove, require_no_folder, write_json, writing
from runtime.long_run import RunOptions
from runtime.progress import progress
from runtime.provenance import continued, printed_path, provenance, session
from runtime.stop import Stop, StoppedEarly

Item = TypeVar("Item")


class LineByLine(Artifact):
    """A file with a header and a line for each finished item. The file is its own checkpoint.

    record: the settings under 'settings', and any other entries. It is written, with the provenance, as .settings.json
    beside the file together with the first line. A run that continues at another commit writes its own provenance
    there, with the earlier one as 'begun'. summary: a file made from the whole file, removed before the file changes.
    """

    def __init__(
        self, path: Path, header: str, record: dict[str, Any], options: RunOptions, stop: Stop, summary: Path
    ) -> None:
        super().__init__(path, settings_path(path), summary)
        self._header, self._summary = header, summary
        self._now = provenance(options)
        self.record = {**record, "provenance": self._now}
        self._options, self._stop, self._starts = options, stop, True

    def resume(self) -> int:
        """The number of items in the file of an earlier run. An unfinished last line is cut off.

        Raises OtherSettings where the file belongs to a run with other settings and may not be replaced.
        """
        if not self.path.exists():
            return 0
        with replaceable(self._options.on_other_settings):
            record, wanted = settings_path(self.path), self.record["settings"]
            found = read_same_record(record, wanted, "provenance", about=self.path)
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if not whole:
                return 0
            if not content.startswith(f"{self._header}\n".encode()):
                raise OtherSettings(f"{self.path}: its columns are not those of this run; choose another output")
            if whole < len(content):
                with writing(self.path):
                    os.truncate(self.path, whole)
            self.record, self._starts = found, False
            return content[:whole].count(b"\n") - 1
        return 0

    def advance(self, items: Sequence[Item], line: Callable[[Item], str], *, unit: str) -> None:
        """Append the lines of the remaining items. Raises StoppedEarly after a requested stop.

        The first line is made before anything is written or removed. Settings that fail there leave no file.
        """
        for done, item in enumerate(progress(items, desc=self.path.stem, unit=unit)):
            if reason := self._stop.reason:
                left = len(items) - done
                raise StoppedEarly(f"{reason}; {left} {unit}s are left of {printed_path(self.path)}")
            text = line(item) + "\n"
            if not done:
                remove(self._summary)
                if self._starts:
                    remove(self.path)
                    text = f"{self._header}\n{text}"
                self._starts = False
                self.record["provenance"] = continued(self._now, self.record["provenance"])
                write_json(settings_path(self.path), self.record)
            append(self.path, text)


def settings_path(path: Path) -> Path:
    """The file of a LineByLine's settings."""
    return Path(path).with_suffix(".settings.json")


class KeptStages(Artifact):
    """Results of a study's stages, each in a JSON file. A stopped study continues after its last stage."""

    def __init__(self, folder: Path, identity: dict[str, Any], policy: OnOtherSettings, stop: Stop) -> None:
        super().__init__(folder / "stages")
        self.folder, self.identity, self._policy, self._stop = folder, identity, policy, stop
        self._session = session()
        self.begun: dict[str, Any] = {}
        """Other sessions than this one in which kept stages were made, by the stage's name."""

    def __enter__(self) -> "KeptStages":
        """Delete the stages of another study. Raise OtherSettings where they may not be replaced."""
        others = list[Path]()
        for path in sorted(self.folder.glob("[!.]*.json")):
            try:
                record = read_record(path, settings=dict)
            except InputError:  # not a stage, or a damaged one, which ``get`` reports
                continue
            if "result" in record:
                with replaceable(self._policy):
                    require_same_settings(path, record["settings"], self.identity)
                    continue
                others.append(path)
        super().__enter__()
        remove(*others)
        return self

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """The kept result of an earlier run with the same settings, or a new result, which is then kept.

        Raises StoppedEarly after a new result and a requested stop, OtherSettings for a result with other settings.
        """
        path = self.folder / name
        require_no_folder(path)
        if path.is_file():
            with replaceable(self._policy):
                record = read_same_record(path, self.identity, "result")
                if record.get("sha256") != json_sha256(record["result"]):
                    raise OtherSettings(f"{path}: the result changed since it was kept; delete it to make it again")
                if (made_in := record.get("session", {"commit": "unknown"})) != self._session:
                    self.begun[name] = made_in
                return record["result"]
        result = make()
        made = {"settings": self.identity, "session": self._session, "result": result, "sha256": json_sha256(result)}
        write_json(path, made)
        if self._stop.reason:
            raise StoppedEarly(f"{self._stop.reason} after {path.stem}")
        return result

    def require_same(self, name: str, digest: str) -> None:
        """Raise InputError where kept stages were made from arrays of another hash: machines round differently."""
        if self.get(name, lambda: digest) != digest:
            found = "other features or clusters (another machine or number of threads made them)"
            mend = "continue there, or delete the folder"
            raise InputError(f"{self.folder / name}: the stages beside it are of {found}; {mend}")
