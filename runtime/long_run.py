"""The owner of a long run: its artifact, its identity, its checkpoint and its stop.

Attack, victim, certificate and label study differ in what a step is and in what they write at the end. The rest is
here: a finished artifact is kept, one of other settings is refused, a run that was stopped or killed goes on where
its checkpoint is and ends with the same bits.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np

from runtime import backend_name, changed_environment
from runtime.bounds import POSITIVE, require_bounds
from runtime.checkpoints import (
    OnOtherSettings,
    OtherSettings,
    allow_discard,
    require_finite,
    require_same_settings,
    resume,
    save_checkpoint,
)
from runtime.checks import require_keras_settings
from runtime.files import (
    InputError,
    append,
    file_sha256,
    read_json,
    remove,
    remove_leftovers,
    require_no_folder,
    unwritable,
    write_json,
)
from runtime.lazy import ops, tree
from runtime.lock import Lock
from runtime.progress import Scalars, progress
from runtime.provenance import provenance, settings, shown_path
from runtime.stop import Stop, StoppedEarly

State = TypeVar("State")
Item = TypeVar("Item")
Step = Callable[[State, int], tuple[State, Mapping[str, Any]]]
_LOOK_EVERY = 50  # steps; a device is not made to wait for its numbers at every step


@dataclass(frozen=True, kw_only=True)
class RunControls:
    """How a run is carried out. Every other setting of a config is part of what it computes: see ``identity``."""

    more_controls: ClassVar[frozenset[str]] = frozenset()
    """Names of a config's own fields that change nothing in an artifact."""

    data_dir: Path
    """Folder of the prepared arrays."""
    on_other_settings: OnOtherSettings = "refuse"
    """What to do where a result or checkpoint made with other settings is in the way: name the difference and
    stop, or delete it and start afresh."""
    max_minutes: Annotated[float, POSITIVE] | None = None
    """Stop cleanly after this long; the same command continues."""


@dataclass(frozen=True, kw_only=True)
class CheckpointControls(RunControls):
    """Those of a run with checkpoints."""

    out_dir: Path | None = None
    """Folder of what is made."""
    run_dir: Path | None = None
    """Folder of checkpoint and TensorBoard scalars."""
    overwrite: bool = False
    """Start afresh, replacing a result or a checkpoint that is already there; leave it out to continue."""
    checkpoint_minutes: Annotated[float, POSITIVE] = 5.0
    """Longest time between checkpoints."""


def require_positive(config: Any, *names: str) -> None:
    """Raise InputError naming the first of these settings that is not above 0 and finite."""
    for name in names:
        value = getattr(config, name)
        if not 0 < value < np.inf:
            raise InputError(f"{name} must be positive, got {value}")


def require_not_negative(config: Any, *names: str) -> None:
    """Raise InputError naming the first of these settings that is below 0 or no number."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise InputError(f"{name} must not be negative, got {getattr(config, name)}")


def identity(config: RunControls, **contents: Any) -> dict[str, Any]:
    """What makes a run what it is: every setting that is no run control, and the backend.

    contents: what stands in place of a setting of the same name (the hash of what a path names), or beside the
    settings. Two runs of one identity end with the same artifact; a setting added to a config belongs to it at once.
    So do the variables of the environment that change the arithmetic, where they are not this project's own.

    Raises InputError where Keras's own settings were changed since this project was imported.
    """
    require_keras_settings()
    controls = {field.name for field in fields(CheckpointControls)} | config.more_controls
    own = {name: value for name, value in settings(config).items() if name not in controls}
    changed = {"environment": variables} if (variables := changed_environment()) else {}
    return {**own, "backend": backend_name(), **changed, **contents}


class LongRun:
    """One artifact that takes long to make. Use as a context manager: it is no other run's meanwhile.

    artifact: the file to make; its record, the .json beside it, says that it is whole and what it was made with.
    identity: see ``identity``. controls: paths, limits and policies. run_dir: folder of checkpoint and scalars.
    more: other files that are written.

    The record is the last to be written and the last to be removed, and it holds the artifact's hash: wherever a run
    is killed, no record stands beside a file that it does not describe, or the next run finds out. An artifact
    without a record belongs to the run whose note lies in the lock's file, see ``finish``.

    Entering raises InputError where another run makes the artifact or something cannot be written.
    """

    def __init__(
        self,
        artifact: Path,
        identity: dict[str, Any],
        controls: CheckpointControls,
        run_dir: Path,
        stop: Stop,
        more: Sequence[Path] = (),
    ) -> None:
        require_bounds(controls)
        self.artifact, self.identity, self.run_dir = Path(artifact), identity, run_dir
        self.record = self.artifact.with_suffix(".json")
        self.checkpoint = run_dir / "checkpoint.npz"
        self._controls, self._stop, self._more = controls, stop, more
        self._lock, self._lock_of_folder, self._locks = Lock(self.artifact), Lock(self.checkpoint), ExitStack()
        self._note = _sha256_of(identity)
        self._in_the_way: tuple[Path, ...] = ()

    def __enter__(self) -> "LongRun":
        require_no_folder(self.artifact, self.record, self.checkpoint, *self._more)
        self._locks.enter_context(self._lock)
        return self

    def __exit__(self, *_: object) -> None:
        self._locks.close()

    def is_finished(self) -> bool:
        """Whether the artifact is there, whole and made with the same settings; if so a line says it.

        What may be replaced is removed when the run first writes, so that a run that is refused changes nothing.
        Raises OtherSettings where something else is in the way.
        """
        remove_leftovers(self.artifact, self.record, *self._more)
        if self._controls.overwrite:
            self._in_the_way = self.checkpoint, self.artifact, self.record
            return False
        try:
            if not self.record.is_file():
                if self.artifact.is_file() and self._lock.note != self._note:
                    raise OtherSettings(
                        f"{self.artifact}: exists without {self.record.name}, which would say how it was made; "
                        "choose another folder or add --overwrite"
                    )
                return False
            record = _read_record(self.record)
            require_same_settings(self.artifact, record["settings"], self.identity)
        except OtherSettings as other:
            allow_discard(other, self._controls.on_other_settings)
            self._in_the_way = self.artifact, self.record
            return False
        if not self.artifact.is_file() or file_sha256(self.artifact) != record.get("sha256"):
            print(f"{shown_path(self.artifact)}: not the file that was made; it is made again")
            self._in_the_way = self.artifact, self.record
            return False
        if self._lock.note == self._note or self._lock_of_folder.is_left:  # killed when all was written
            with self._lock_of_folder:
                self._forget()
        print(f"{shown_path(self.artifact)}: already made with these settings")
        return True

    def advance(
        self,
        state: State,
        step: Step,
        total: int,
        *,
        unit: str = "step",
        epoch: int | None = None,
        at_epoch_end: Callable[[State, int], Mapping[str, float]] | None = None,
        look_every: int = _LOOK_EVERY,
    ) -> State:
        """Take steps 0 .. total - 1 from ``state``, or those that are left after the checkpoint; the last state.

        step(state, number) -> (state, scalars) is pure, so that a run that goes on ends with the same bits. Scalars
        are looked at every ``look_every`` steps and at the end of an epoch (of ``epoch`` steps), where
        at_epoch_end(state, epochs done) may add some.
        Raises StoppedEarly when asked to stop, its checkpoint written; FloatingPointError on NaN or infinity;
        InputError where another run uses the folder.
        """
        self._locks.enter_context(self._lock_of_folder)
        remove_leftovers(self.checkpoint)
        self._clear()
        done = 0
        if kept := resume(self.checkpoint, state, self.identity, self._controls.on_other_settings):
            state, said = kept[0], kept[1].get("done")
            if not (isinstance(said, int) and 0 < said <= total):
                raise InputError(f"{self.checkpoint}: after {said} of {total} {unit}s; delete it to start again")
            done = said
            print(f"continuing {self.artifact.stem} after {done} of {total} {unit}s")
        saved = time.monotonic()
        with (
            Scalars(self.run_dir / "tensorboard") as scalars,
            progress(total=total, initial=done, desc=self.artifact.stem, unit=unit) as bar,
        ):
            for number in range(done, total):
                state, values = step(state, number)
                done = number + 1
                bar.update()
                reason = self._stop.reason  # asked once: it may come up between saving and stopping
                due = reason or time.monotonic() - saved > 60 * self._controls.checkpoint_minutes
                ended = epoch is not None and done % epoch == 0
                if due or ended or done % look_every == 0 or done == total:
                    numbers = {name: float(value) for name, value in values.items()}
                    require_finite(f"{unit} {number}", **numbers)
                    if ended and at_epoch_end and epoch:
                        numbers |= at_epoch_end(state, done // epoch)
                    scalars.write(number, **numbers)
                    bar.set_postfix({name: f"{numbers[name]:.3g}" for name in values})
                if due or done == total:  # the scalars are those of the state before the step
                    _require_finite_state(f"{unit} {number}", state)
                if due and done < total:
                    save_checkpoint(self.checkpoint, state, {"settings": self.identity, "done": done})
                    saved = time.monotonic()
                if reason and done < total:
                    raise StoppedEarly(f"{reason} after {done} of {total} {unit}s of {self.artifact.stem}")
        return state

    def finish(self, write: Callable[[Path], None], config: Any, **record: Any) -> Path:
        """Write the artifact, then the record that says so, and drop the checkpoint; returns the artifact's path.

        write(path) makes the file whole or not at all. record: what was measured, beside settings and provenance.
        Where this ends in the middle, a note in the lock's file says whose the artifact without a record is, and the
        run makes it again.
        """
        self._clear()
        remove(self.record)
        self._lock.write(self._note)
        write(self.artifact)
        write_json(
            self.record,
            {"settings": self.identity, "sha256": file_sha256(self.artifact), **record, **provenance(config)},
        )
        self._forget()
        return self.artifact

    def _forget(self) -> None:
        """Drop what a finished run needs no more."""
        remove(self.checkpoint)
        self._lock.write("")

    def _clear(self) -> None:
        """Remove what ``is_finished`` found that may be replaced."""
        remove(*self._in_the_way)
        self._in_the_way = ()


class LineByLine:
    """An artifact of a header and a line per item, each written when it is done, so that it is its own checkpoint.

    Use as a context manager: the artifact is no other run's meanwhile.

    record: what it is made with, under 'settings', and what else is to be known; written as .settings.json beside the
    artifact when the first line is there to be written. summary: a file that is made from a whole artifact; it is
    removed before the artifact changes. older: settings that older records lack, and what they mean.

    Entering raises InputError where another run makes the artifact or something cannot be written.
    """

    def __init__(
        self,
        artifact: Path,
        header: str,
        record: dict[str, Any],
        controls: RunControls,
        stop: Stop,
        summary: Path,
        older: Mapping[str, Any] | None = None,
    ) -> None:
        self.artifact, self._header, self._record, self._summary = Path(artifact), header, record, summary
        self._controls, self._stop, self._older = controls, stop, older or {}
        self._lock, self._starts = Lock(self.artifact), True

    def __enter__(self) -> "LineByLine":
        require_no_folder(self.artifact, settings_path(self.artifact), self._summary)
        self._lock.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__()

    def resume(self) -> int:
        """How many items the file of an earlier run holds; its unfinished last line is cut off.

        Raises OtherSettings where it belongs to a run with other settings and may not be replaced.
        """
        remove_leftovers(settings_path(self.artifact), self._summary)
        try:
            done = self._items_done()
        except OtherSettings as other:
            allow_discard(other, self._controls.on_other_settings)
            done = None
        self._starts = done is None
        return done or 0

    def _items_done(self) -> int | None:
        """None where there is no file yet that could be continued."""
        if not self.artifact.exists():
            return None
        record = settings_path(self.artifact)
        if not record.exists():
            raise OtherSettings(
                f"{self.artifact}: exists without {record.name}, which would say how; choose another output"
            )
        found = {**self._older, **_read_record(record)["settings"]}
        require_same_settings(self.artifact, found, self._record["settings"])
        content = self.artifact.read_bytes()
        whole = content.rfind(b"\n") + 1
        if not whole:
            return None
        if not content.startswith(f"{self._header}\n".encode()):
            raise OtherSettings(f"{self.artifact}: its columns are not those of this run; choose another output")
        if whole < len(content):
            try:
                os.truncate(self.artifact, whole)
            except OSError as error:
                raise unwritable(self.artifact, error) from error
        return content[:whole].count(b"\n") - 1

    def advance(self, items: Sequence[Item], line: Callable[[Item], str], *, unit: str) -> None:
        """Append the lines of the items that are left. Raises StoppedEarly when asked to stop, the lines kept.

        Nothing is written, and nothing of an earlier run removed, before the first line is there: a setting with
        which none can be made leaves no file.
        """
        for done, item in enumerate(progress(items, desc=self.artifact.stem, unit=unit)):
            if reason := self._stop.reason:
                left = len(items) - done
                raise StoppedEarly(f"{reason}; {left} {unit}s are left of {shown_path(self.artifact)}")
            text = line(item) + "\n"
            if not done:
                remove(self._summary)
            if self._starts:
                remove(self.artifact)
                write_json(settings_path(self.artifact), self._record)
                text = f"{self._header}\n{text}"
                self._starts = False
            append(self.artifact, text)


def settings_path(artifact: Path) -> Path:
    """Where a LineByLine's settings lie."""
    return Path(artifact).with_suffix(".settings.json")


class KeptStages:
    """Results of the stages of one study, a JSON file each, so that a study that was stopped goes on.

    Use as a context manager: the folder is no other study's meanwhile. Entering raises InputError where it is, and
    OtherSettings where a stage of another study is kept there, before any of this one is.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], policy: OnOtherSettings, stop: Stop) -> None:
        self.folder, self.identity, self._policy, self._stop = folder, identity, policy, stop
        self._lock = Lock(folder / "stages")

    def __enter__(self) -> "KeptStages":
        with ExitStack() as stack:
            stack.enter_context(self._lock)
            for path in sorted(self.folder.glob("[!.]*.json")) if self._policy == "refuse" else ():
                try:
                    kept = _read_record(path, "result")["settings"]
                except InputError:  # no stage; where one of this study is damaged, ``get`` says so
                    continue
                require_same_settings(path, kept, self.identity)
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__()

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of an earlier run with the same settings, or else a new one, which is kept.

        Raises StoppedEarly after a new one when asked to stop, OtherSettings where the kept one is another's.
        """
        path = self.folder / name
        require_no_folder(path)
        remove_leftovers(path)
        if path.is_file():
            try:
                record = _read_record(path, "result")
                require_same_settings(path, record["settings"], self.identity)
                if record.get("sha256") != _sha256_of(record["result"]):
                    raise OtherSettings(f"{path}: not the result that was kept; delete it to have it made again")
                return record["result"]
            except OtherSettings as other:
                allow_discard(other, self._policy)
        result = make()
        write_json(path, {"settings": self.identity, "result": result, "sha256": _sha256_of(result)})
        if self._stop.reason:
            raise StoppedEarly(f"{self._stop.reason} after {path.stem}")
        return result


def _sha256_of(value: Any) -> str:
    """Of plain JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read_record(path: Path, *more: str) -> dict[str, Any]:
    """A JSON object with an object 'settings', and what else it must have. Raises OtherSettings where it is none."""
    record = read_json(path)
    if isinstance(record, dict) and isinstance(record.get("settings"), dict) and record.keys() >= {*more}:
        return record
    raise OtherSettings(f"{path}: not a record of this project; delete it or choose another folder")


def _require_finite_state(step: str, state: Any) -> None:
    for leaf in tree.flatten(state):
        array = ops.convert_to_numpy(leaf)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            require_finite(step, state=float(array[~np.isfinite(array)][0]))
