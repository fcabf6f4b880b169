"""What every long run needs: provenance, a clean stop, progress, scalars and checkpoints."""

import dataclasses
import json
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import keras
import numpy as np
import tyro
from tqdm import tqdm

from data.files import InputError, load_archive, save_archive, unwritable

STOPPED_EARLY = 75  # exit status of a run that stopped cleanly and continues when run again (EX_TEMPFAIL)

Config = TypeVar("Config")
OnOtherSettings = Literal["refuse", "start_afresh"]


class StoppedEarly(Exception):
    """A run saved its state and stopped because it was asked to."""


class OtherSettings(InputError):
    """A result or checkpoint that lies in the way was made with other settings."""


def run_script(main: Callable[[Config], Any], config_type: type[Config], description: str | None) -> None:
    """Parse the command line into ``config_type``, whose defaults are the script's constants, and run.

    Bad input ends in one line on stderr and status 2; a stop on request in status 75.
    """
    config = tyro.cli(config_type, description=description)
    try:
        main(config)
    except InputError as error:
        _leave(f"error: {error}", 2)
    except FloatingPointError as error:
        _leave(f"error: {error}", 1)
    except StoppedEarly as stop:
        _leave(f"stopped: {stop}; run the same command again to continue", STOPPED_EARLY)


def _leave(message: str, status: int) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(status)


def project_path(relative: str) -> Path:
    """A path inside the project, so that scripts find their data from any folder."""
    return Path(__file__).resolve().parent.parent / relative


class Stop:
    """Context manager that turns SIGTERM, Ctrl-C and a time limit into a request to stop cleanly.

    max_minutes: wall-clock limit in minutes, None for no limit.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        if max_minutes is not None and max_minutes <= 0:
            raise InputError(f"max_minutes must be positive, got {max_minutes}")
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._limit = max_minutes
        self._signal: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, _frame: object) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C means now
        self._signal = signal.Signals(number).name

    @property
    def reason(self) -> str | None:
        """Why to stop now, None to go on."""
        if self._signal is not None:
            return self._signal
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return f"the limit of {self._limit:g} minutes"
        return None


def progress(iterable: Iterable | None = None, **options: Any) -> tqdm:
    """A progress bar with the time left, on stderr; silent where stderr is not a terminal."""
    options.setdefault("mininterval", 0.5)
    return tqdm(iterable, dynamic_ncols=True, disable=None, **options)


class Scalars:
    """TensorBoard scalars without TensorFlow: ``scalars.write(step, loss=0.3)``. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        self._writer = EventFileWriter(str(folder), flush_secs=30)

    def __enter__(self) -> "Scalars":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, step: int, **values: float) -> None:
        """Add one point to each named curve."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(
            value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        )
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def git_commit() -> str:
    """The project's commit, with '-dirty' where tracked files differ; 'unknown' outside a checkout."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=project_path(""),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(config: Any) -> dict[str, Any]:
    """The record saved beside every artifact: resolved config, command, commit, versions, machine."""
    import importlib.metadata

    backend = keras.backend.backend()
    versions = {"python": platform.python_version(), "keras": keras.__version__, "numpy": np.__version__}
    for name in (backend, f"{backend}-cpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "config": settings(config),
        "command": shlex.join(["python", shown_path(Path(sys.argv[0])), *sys.argv[1:]]),
        "commit": git_commit(),
        "backend": backend,
        "versions": versions,
        "machine": f"{platform.machine()} {platform.system()}",
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def settings(config: Any) -> dict[str, Any]:
    """A config dataclass (or mapping) as plain JSON values, so that two can be compared after a restart."""
    value = config if isinstance(config, Mapping) else dataclasses.asdict(config)
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> str:
    return shown_path(value) if isinstance(value, Path) else str(value)


def shown_path(path: Path) -> str:
    """The path as records show it: relative to the project where it lies inside."""
    try:
        return str(Path(path).resolve().relative_to(project_path("")))
    except ValueError:
        return str(path)


def save_checkpoint(path: Path, tree: Any, record: dict[str, Any]) -> None:
    """Write a nested structure of arrays and a JSON record to one .npz, whole or not at all."""
    leaves = [keras.ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(tree)]
    arrays = {f"leaf_{i}": leaf for i, leaf in enumerate(leaves)}
    save_archive(path, {**arrays, "record": np.array(json.dumps(record, default=str))})


def load_checkpoint(path: Path, like: Any, same: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """Read what save_checkpoint wrote, packed as the structure ``like``; returns (tree, record).

    same: settings that the record must hold under 'settings'.
    Raises InputError where the file does not fit ``like``, OtherSettings where it was made with other settings.
    """
    archive = load_archive(path)
    try:
        record = json.loads(str(archive.pop("record")))
        template = keras.tree.flatten(like)
        leaves = [archive[f"leaf_{i}"] for i in range(len(archive))]
    except (KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a checkpoint of this project; delete it to start again") from error
    if same is not None:
        require_same_settings(path, record.get("settings", {}), same)
    if [leaf.shape for leaf in leaves] != [tuple(leaf.shape) for leaf in template]:
        raise InputError(f"{path}: shapes differ from this run's model or batch; delete it to start again")
    return keras.tree.pack_sequence_as(like, leaves), record


def resume(
    checkpoint: Path, like: Any, same: dict[str, Any], policy: OnOtherSettings
) -> tuple[Any, dict[str, Any]] | None:
    """What load_checkpoint returns; None where there is none, or where one of other settings was discarded."""
    if not checkpoint.is_file():
        return None
    try:
        return load_checkpoint(checkpoint, like, same)
    except OtherSettings as other:
        discard_where_allowed(other, policy, checkpoint)
        return None


def require_same_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise OtherSettings naming the first setting in which a file made earlier differs from this run."""
    for name in sorted(set(found) | set(wanted)):
        if found.get(name) != wanted.get(name):
            raise OtherSettings(
                f"{path}: made with {name} = {found.get(name)!r}, this run has {wanted.get(name)!r}; "
                "use the same settings to continue, choose another output, or delete it to start afresh"
            )


def discard_where_allowed(other: OtherSettings, policy: OnOtherSettings, *files: Path) -> None:
    """Delete files made with other settings where the policy is to start afresh; raise ``other`` where it is not."""
    if policy == "refuse":
        raise other
    print(f"starting afresh: {other}")
    for file in files:
        file.unlink(missing_ok=True)


def require_finite(step: str, **values: float) -> None:
    """Raise FloatingPointError naming the first quantity that is NaN or infinite."""
    for name, value in values.items():
        if not np.all(np.isfinite(value)):
            raise FloatingPointError(
                f"{name} is {value} at {step}; the last good checkpoint is kept. "
                "Lower the learning rates or check the data"
            )
