"""Runs of scripts as processes that can be watched, killed and held at each of their file operations.

Processes are forked from a server that has imported the libraries, which takes seconds, but nothing that starts the
backend's threads. Operations are seen by Python's audit events, so that no code under test is replaced.
"""

import fcntl
import io
import json
import lzma
import multiprocessing
import os
import re
import resource
import runpy
import signal
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, NamedTuple

import h5py
from tqdm import tqdm

from runtime.files import array_sha256, file_sha256, load_archive
from runtime.provenance import project_path
from tests.waiting import HANG

_WARM = ("runtime", "keras", "statsmodels.stats.proportion", "sklearn.datasets", "matplotlib.figure", "pandas", "tyro")
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([*_WARM, "tensorboard.summary.writer.event_file_writer", "msgspec", "yaml"])
# Process.start also reads the status of every process that has ended: of two threads that read one at a time, one gets
# none, which counts as 255.
_STATUS = threading.Lock()
# TensorBoard writes in a thread of its own. Two threads cannot read from one pipe.
_HELD = threading.Lock()
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Entries of records that two runs may differ in.
_OF_CLOCKS = {"written", "votes_per_second", "tsv_sha256", "command", "commit"}
_ENVIRONMENT = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "GIT_OPTIONAL_LOCKS": "0",  # else git status, killed at a limit, leaves its lock in this checkout
}

Act = Callable[[int, str, Connection], None]
"""What happens before file operation number (from 0) of a run; its name, and the pipe to the harness."""


class Outcome(NamedTuple):
    """How a run ended: exit status (minus the signal's number where one ended it) and what is on its stderr."""

    status: int | None  # None where it did not end in time
    errors: str

    @property
    def is_one_line(self) -> bool:
        """Whether the run refused with a line that a person can read, and nothing else."""
        return self.status in (1, 2) and self.errors.startswith("error: ") and self.errors.count("\n") == 1

    def __str__(self) -> str:
        return f"exit {self.status}: {self.errors.strip()[-300:] or '(silent)'}"


@dataclass
class Running:
    """A run that goes on: ``pipe`` leads to what acts in it."""

    process: Any
    pipe: Connection
    errors: Connection

    def wait(self, seconds: float = HANG) -> Outcome:
        """The outcome, after ``seconds`` without a status and the run killed."""
        status = self._status(seconds)
        if status is None:
            self.process.kill()
            self._status()
        with os.fdopen(os.dup(self.errors.fileno()), "rb") as errors:
            return Outcome(status, errors.read().decode(errors="replace"))

    def _status(self, seconds: float | None = None) -> int | None:
        wait_for([self.process.sentinel], seconds)
        with _STATUS:
            return self.process.exitcode


def start(
    words: list[str], folder: Path, act: Act | None = None, limits: dict[int, int] | None = None, dies: bool = False
) -> Running:
    """Start a script of the project in ``folder``: words are its path in the project and its flags.

    act: called before each file operation below the folder. limits: of resources, by resource.RLIMIT_*; dies: whether
    the process is killed in the middle of a write past RLIMIT_FSIZE, in place of an error.
    """
    here, there = _FORKS.Pipe()
    errors, stderr = _FORKS.Pipe(duplex=False)  # no file, for those are limited
    fcntl.fcntl(errors.fileno(), fcntl.F_SETPIPE_SZ, 2**20)  # more than a run says
    arguments = ([str(project_path(words[0])), *words[1:]], folder, act, there, stderr, limits or {}, dies)
    process = _FORKS.Process(target=_child, args=arguments, daemon=True)
    with _STATUS:
        process.start()
    for end in (there, stderr):
        end.close()
    return Running(process, here, errors)


def run(words: list[str], folder: Path, seconds: float = HANG, **options: Any) -> Outcome:
    """Run a script to its end: see start."""
    return start(words, folder, **options).wait(seconds)


def _child(
    words: list[str], folder: Path, act: Act | None, pipe: Connection, stderr: Connection, limits: dict[int, int],
    dies: bool,
) -> None:  # fmt: skip
    os.environ.update(_ENVIRONMENT)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(stderr.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    if dies:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    sys.argv = words
    tqdm.set_lock(threading.RLock())  # in place of one of the system's, which a killed process leaves behind
    if act:
        sys.addaudithook(partial(_audit, folder, act, pipe, iter(range(10**9))))
    runpy.run_path(words[0], run_name="__main__")


def _audit(folder: Path, act: Act, pipe: Connection, numbers: Any, event: str, arguments: tuple[Any, ...]) -> None:
    if name := _operation(folder, event, arguments):
        act(next(numbers), name, pipe)


def _operation(folder: Path, event: str, arguments: tuple[Any, ...]) -> str | None:
    """What an audit event does to a file below ``folder``, as 'rename .a-*.npy a.npy'; None where nothing."""
    if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate"):
        return None
    path = arguments[0]
    if event == "open" and (isinstance(path, int) or not arguments[2] & _WRITES):
        return None
    if isinstance(path, int):
        path = str(Path(f"/proc/self/fd/{path}").readlink())
    path = os.path.normpath(Path(os.fsdecode(path)).absolute())
    changes_nothing = os.path.lexists(path) == (event == "os.mkdir") and event in ("os.mkdir", "os.remove")
    if changes_nothing or not path.startswith(f"{folder}/"):
        return None
    to = f" {Path(os.fsdecode(arguments[1])).name}" if event == "os.rename" else ""
    return _without_random(f"{event.removeprefix('os.')} {os.path.relpath(path, folder)}{to}")


def _without_random(name: str) -> str:
    """The name of a temporary file without what is drawn at random in it."""
    return re.sub(r"-[a-z0-9_]{8}(?=\.)", "-*", name)


# What a run does at its file operations ----------------------------------------------------------------------------


def tell(_number: int, name: str, pipe: Connection) -> None:
    """Name every operation to the harness."""
    pipe.send(name)


def kill_at(wanted: int, number: int, _name: str, _pipe: Connection) -> None:
    """The process ends before an operation as by kill -9: no except and no finally is run."""
    if number == wanted:
        os.kill(os.getpid(), signal.SIGKILL)


def hold(_number: int, name: str, pipe: Connection) -> None:
    """Wait before every operation until the harness answers."""
    with _HELD:
        pipe.send(name)
        pipe.recv()


def hold_at(wanted: int, number: int, name: str, pipe: Connection) -> None:
    """Wait before an operation until the harness answers."""
    if number == wanted:
        hold(number, name, pipe)


# What a run leaves -------------------------------------------------------------------------------------------------


def contents(folder: Path, parts: tuple[str, ...]) -> dict[str, Any]:
    """Every file below some parts of a folder by its path, for comparison of two runs: equal where they are.

    Times, commits, logs and TensorBoard's scalars are left out; models are compared by their weights and architecture.
    """
    files = (path for part in parts for path in sorted((folder / part).rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): _content(path) for path in files if not _is_log(path)}


def _is_log(path: Path) -> bool:
    return path.suffix == ".log" or "tfevents" in path.name


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".json":
            return _without_clocks(json.loads(path.read_text(encoding="utf-8")), of_model=path.with_suffix(".keras"))
        if path.name.endswith(".json.xz"):
            return _without_clocks(json.loads(lzma.decompress(path.read_bytes())), of_model=path)
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                layers = re.sub(rb'"shared_object_id": [0-9]+', b"", archive.read("config.json"))  # an address
                return layers, _weights(archive.read("model.weights.h5"))
        if path.suffix == ".npz":
            return {name: array_sha256(array) for name, array in load_archive(path).items()}
        if path.suffix == ".tsv" and (lines := path.read_text(encoding="utf-8").split("\n"))[0].endswith("\ttime"):
            return [line.rpartition("\t")[0] for line in lines]
        if path.suffix == ".md":  # a file of this checkout may be changed during the tests
            return [line for line in path.read_text(encoding="utf-8").split("\n") if not line.startswith("Commit ")]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, lzma.LZMAError):
        return "damaged"
    return file_sha256(path)


def _weights(content: bytes) -> dict[str, str]:
    """Hash of every array in a weights file, whose bytes hold times."""
    found: dict[str, str] = {}
    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(lambda name, one: found.update({name: array_sha256(one[()])} if hasattr(one, "shape") else {}))
    return found


def _without_clocks(value: Any, of_model: Path) -> Any:
    if isinstance(value, list):
        return [_without_clocks(one, of_model) for one in value]
    if not isinstance(value, dict):
        return value
    of_files = {"sha256", "model_sha256"} if of_model.is_file() else set()  # the file of a model holds a time
    left_out = _OF_CLOCKS | of_files
    return {name: _without_clocks(one, of_model) for name, one in value.items() if name not in left_out}


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """A line for each file that is missing, left over or different."""
    lines = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    lines += [f"{name} is left over" for name in found.keys() - wanted.keys()]
    lines += [f"{name} differs" for name in wanted.keys() & found.keys() if wanted[name] != found[name]]
    return sorted(map(_without_random, lines))


def half_files(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """A line for each file of a run that ended early which is temporary, damaged, or not what the whole run leaves.

    Files that grow line by line are left to the run that continues them.
    """
    lines = [f"{name} is left over" for name in found if Path(name).name.startswith(".")]
    lines += [f"{name} is damaged" for name, content in found.items() if content == "damaged"]
    same = (name for name in wanted.keys() & found.keys() if not name.endswith(".tsv"))
    lines += [f"{name} differs" for name in same if found[name] not in (wanted[name], "damaged")]
    return sorted(map(_without_random, lines))
