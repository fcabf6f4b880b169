"""A long run: its settings, its identity, its checkpoint and its stop.

A finished artifact is kept. An artifact with other settings is refused. A run that was stopped or killed continues from
its checkpoint and ends with the same bits.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints

from runtime import backend_name, changed_environment, checkpoints
from runtime.artifact import Artifact
from runtime.bounds import POSITIVE
from runtime.checks import require_keras_settings
from runtime.files import InputError, file_sha256, remove, require_no_folder, write_json
from runtime.lazy import ops, tree
from runtime.progress import Scalars, progress
from runtime.provenance import continued, printed_path, provenance, session, settings
from runtime.stop import Stop, StoppedEarly

State = TypeVar("State")
Step = Callable[[State, int], tuple[State, Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out. Every other setting of a config decides the artifact: see ``identity``."""

    not_in_identity: ClassVar[frozenset[str]] = frozenset()
    """Names of a config's own fields that are not part of its identity: they change nothing in the artifact, or the
    identity has a hash in their place."""

    data_dir: Path
    """Folder of the prepared arrays."""
    on_other_settings: checkpoints.OnOtherSettings = "refuse"
    """What to do with an existing result or checkpoint that was made with other settings: refuse stops the run and
    names the difference, start_afresh deletes it."""
    max_minutes: Annotated[float, POSITIVE] | None = None
    """Stop cleanly after this many minutes. The same command continues the run."""

    def __init_subclass__(cls) -> None:
        """Make every subclass a frozen, keyword-only dataclass: a script lists its constants, without the decorator.

        A constant without a type has the type of its setting. A subclass may also have the decorator, which then passes
        over the class a second time. The last statements make this possible.
        """
        untyped = [one.name for one in fields(cls) if one.name in vars(cls).keys() - cls.__annotations__.keys()]
        types = get_type_hints(cls, include_extras=True) if untyped else {}
        cls.__annotations__ = {name: types[name] for name in untyped} | cls.__annotations__  # the order in --help
        dataclass(frozen=True, kw_only=True)(cls)
        del cls.__setattr__, cls.__delattr__  # a second pass refuses to replace them. They are inherited as well
        for made in fields(cls):
            if made.name in cls.__annotations__ and made.default_factory is not MISSING:  # the first pass took it away
                setattr(cls, made.name, field(default_factory=made.default_factory))


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(RunOptions):
    """Options of a run with checkpoints."""

    out_dir: Path | None = None
    """Folder of the results. By default models go to saved_models/<data set>, poison to the folder of its data."""
    run_dir: Path | None = None
    """Folder of checkpoint and TensorBoard scalars. An attack writes them into this folder, by default
    runs/<data set>/<poison>. A victim writes them into the subfolder <data set>/<victim> of it, by default of runs."""
    overwrite: bool = False
    """Replace an existing result or checkpoint. Without this flag a run continues from its checkpoint."""
    checkpoint_minutes: Annotated[float, POSITIVE] = 5.0
    """Longest time between checkpoints."""


def identity(config: Any, **contents: Any) -> dict[str, Any]:
    """All values that decide the artifact of a run: the settings that are no run options, the backend, and the
    environment variables by which a user has changed the arithmetic. config: RunOptions, or another dataclass.

    contents: more values, or values in place of settings of the same name, such as a file's hash in place of its path.
    Two runs of one identity end with the same artifact. A new setting of a config becomes part of it by itself.

    Raises InputError where Keras's own settings were changed since this project was imported.
    """
    require_keras_settings()
    options = {option.name for option in fields(CheckpointOptions)} | getattr(config, "not_in_identity", set())
    own = {name: value for name, value in settings(config).items() if name not in options}
    changed = {"environment": variables} if (variables := changed_environment()) else {}
    return {**own, "backend": backend_name(), **changed, **contents}


class LongRun(Artifact):
    """An artifact that takes long to make.

    path: the file to make. Its record, the .json beside it, says how it was made. The record's hash of the file shows
    that the file is whole. identity: see ``identity``. options: paths, limits and policies. run_dir: folder of
    checkpoint and scalars. more: other files that are written.
    """

    def __init__(
        self, path: Path, identity: dict[str, Any], options: CheckpointOptions, run_dir: Path, stop: Stop, *more: Path
    ) -> None:
        super().__init__(path, Path(path).with_suffix(".json"), *more)
        self.identity, self.run_dir = identity, run_dir
        self.record_path, self.checkpoint = self.files[1], run_dir / "checkpoint.npz"
        require_no_folder(self.checkpoint)
        self._options, self._stop = options, stop
        self._checkpoints = Artifact(self.checkpoint)
        self._session: dict[str, Any] = {}  # of provenance.session. The entry 'begun' has earlier sessions
        self._in_the_way = [self.path, self.record_path]
        """Files of earlier runs. They are removed when the run first writes: a run that is refused changes nothing."""

    def is_finished(self) -> bool:
        """Whether the artifact is there, whole and made with the same settings.

        If so, prints a line and removes a checkpoint that a killed run left. Raises OtherSettings where another
        artifact is in its place and may not be replaced.
        """
        if self._options.overwrite:
            return False
        with checkpoints.replaceable(self._options.on_other_settings):
            if not (self.path.exists() or self.record_path.exists()):
                return False
            mend = "choose another folder or add --overwrite"
            record = checkpoints.read_same_record(self.record_path, self.identity, about=self.path, mend=mend)
            if self.path.is_file() and file_sha256(self.path) == record.get("sha256"):
                if self._checkpoints.is_left:  # killed when all was written, or another run has this folder
                    with contextlib.suppress(InputError), self._checkpoints:
                        if checkpoints.checkpoint_settings(self.checkpoint) == self.identity:
                            remove(self.checkpoint)
                print(f"{printed_path(self.path)}: already made with these settings")
                return True
            if "sha256" in record:
                print(f"{printed_path(self.path)}: missing or changed since it was made; it is made again")
        return False

    def advance(
        self,
        state: State,
        step: Step,
        total: int,
        *,
        unit: str = "step",
        epoch: int | None = None,
        at_epoch_end: Callable[[State, int], Mapping[str, float]] | None = None,
        look_every: int = 50,
    ) -> State:
        """Take steps 0 to total - 1 from ``state``, or the steps left after the checkpoint. Returns the last state.

        step(state, number) -> (state, scalars) is a pure function, so that a continued run ends with the same bits.
        Scalars are read every ``look_every`` steps, because reading them makes the device wait, and at the end of each
        epoch of ``epoch`` steps (None: ``total``). There at_epoch_end(state, epochs done) may add scalars.
        Raises StoppedEarly after a requested stop, with the checkpoint written. Raises FloatingPointError on NaN or
        infinity, and InputError where another run uses the folder.
        """
        self._held.enter_context(self._checkpoints)
        self._session = session()
        epoch = epoch or total
        done: Any = 0
        record: dict[str, Any] = {}
        if self.checkpoint.exists() and not self._options.overwrite:
            with checkpoints.replaceable(self._options.on_other_settings):
                state, record = checkpoints.load_checkpoint(self.checkpoint, state, self.identity)
        if record:
            done = record.get("done")
            if not (isinstance(done, int) and 0 < done <= total):
                raise InputError(f"{self.checkpoint}: after {done} of {total} {unit}s; delete it to start again")
            self._session = continued(self._session, record.get("provenance", self._session))
            print(f"continuing {self.path.stem} after {done} of {total} {unit}s")
        else:
            self._in_the_way.insert(0, self.checkpoint)
        saved = time.monotonic()
        scalars = Scalars(self.run_dir / "tensorboard")
        with progress(total=total, initial=done, desc=self.path.stem, unit=unit) as bar:
            for number in range(done, total):
                state, values = step(state, number)
                self._clear()  # not before: the first step may refuse a setting
                done = number + 1
                bar.update()
                reason = self._stop.reason  # read once: a request may come between saving and stopping
                due = reason or time.monotonic() - saved > 60 * self._options.checkpoint_minutes
                ended = done % epoch == 0
                if due or ended or done % look_every == 0 or done == total:
                    numbers = {name: float(value) for name, value in values.items()}
                    checkpoints.require_finite(f"{unit} {number}", **numbers)
                    if ended and at_epoch_end:
                        numbers |= at_epoch_end(state, done // epoch)
                    scalars.write(number, **numbers)
                    bar.set_postfix({name: f"{numbers[name]:.3g}" for name in values})
                if due or done == total:  # the scalars describe the state before the step
                    for leaf in tree.flatten(state):
                        checkpoints.require_finite(f"{unit} {number}", state=ops.convert_to_numpy(leaf))
                if due and done < total:
                    about = {"settings": self.identity, "done": done, "provenance": self._session}
                    checkpoints.save_checkpoint(self.checkpoint, state, about)
                    saved = time.monotonic()
                if reason and done < total:
                    raise StoppedEarly(f"{reason} after {done} of {total} {unit}s of {self.path.stem}")
        return state

    def finish(self, write: Callable[[Path], None], **measured: Any) -> Path:
        """Write the artifact and its record, and delete the checkpoint. Returns the artifact's path.

        write(path) makes the file whole or not at all. measured: values that are stored beside settings and provenance.
        A record of the settings alone is written first. If the run is killed before the whole record is there, a run
        with the same settings makes the artifact again, and any other is refused. An error leaves neither file.
        """
        self._clear()
        made: dict[str, Any] = {"settings": self.identity}
        write_json(self.record_path, made)
        try:
            write(self.path)
            made |= {"sha256": file_sha256(self.path), **measured}
            write_json(self.record_path, {**made, **provenance(self._options), **self._session})
        except BaseException:
            remove(self.path, self.record_path)
            raise
        remove(self.checkpoint)
        return self.path

    def _clear(self) -> None:
        remove(*self._in_the_way)
        self._in_the_way.clear()
