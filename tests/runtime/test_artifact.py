"""The lock of an output: one process at a time, gone with its process, no file left behind."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import runtime
from runtime import artifact
from runtime.artifact import Artifact
from runtime.files import InputError

HOLD = """
import sys
from pathlib import Path
from runtime.artifact import Artifact
with Artifact(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """A process that imports the lock alone, and no backend."""
    environment = {**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parents[1]), "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


@contextmanager
def held_by_another(output: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process holds the output's lock."""
    process = start(HOLD, output)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.communicate("")


def test_a_second_process_is_refused_in_one_line_and_the_file_goes_with_the_first(tmp_path: Path) -> None:
    output = tmp_path / "a.tsv"
    line = rf"{output}: another run is writing it; wait for it or choose another output"
    with held_by_another(output):
        for _ in range(2):  # being refused takes nothing from the one that holds it
            with pytest.raises(InputError) as refused, Artifact(output):
                pass
            assert str(refused.value) == line
        with Artifact(tmp_path / "b.tsv"):
            pass
    assert list(tmp_path.iterdir()) == []
    with Artifact(output), pytest.raises(InputError, match="another run"), Artifact(output):  # in this process too
        pass
    with Artifact(output):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    output = tmp_path / "a.tsv"
    with held_by_another(output) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert Artifact(output).is_left
    with Artifact(output):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_its_run_removes_while_another_opens_it_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, lockf = tmp_path / "a.tsv", fcntl.lockf

    def too_late(file: int, flags: int) -> None:
        monkeypatch.undo()
        (tmp_path / ".a.tsv.lock").unlink()
        lockf(file, flags)

    monkeypatch.setattr(fcntl, "lockf", too_late)
    with Artifact(output):
        _, errors = start(HOLD, output).communicate("")
        assert "another run is writing it" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_made_and_removed_where_it_stays_empty(tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder" / "a.tsv"
    with Artifact(output):
        pass
    assert list(tmp_path.iterdir()) == []
    with Artifact(output):
        output.write_text("rows")
    assert [path.name for path in output.parent.iterdir()] == ["a.tsv"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/a\.tsv: cannot be written .*; choose another folder"):
        Artifact(tmp_path / "file" / "a.tsv").__enter__()


@pytest.mark.parametrize("system", ["a mount without locks", "a system without locks"])
def test_without_locks_a_line_says_so(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if system == "a mount without locks":
        monkeypatch.setattr(fcntl, "lockf", refuses)
    else:
        monkeypatch.setattr(artifact, "fcntl", None)
    with Artifact(tmp_path / "a.tsv"):
        assert capsys.readouterr().out.startswith("note: no file locks here")
    assert list(tmp_path.iterdir()) == []
