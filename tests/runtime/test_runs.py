"""Files written whole or not at all, checkpoints, clean stops and the one-line ends of scripts."""

import dataclasses
import errno
import gzip
import io
import itertools
import os
import pickle
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import ops
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.saving import save_model
from runtime import progress as progress_module
from runtime.checkpoints import load_checkpoint, require_finite, require_same_settings, save_checkpoint
from runtime.command_line import run_script
from runtime.files import (
    InputError,
    append,
    array_sha256,
    atomic_path,
    load_archive,
    load_array,
    read_json,
    remove,
    require_no_folder,
    save_archive,
    save_array,
    write_json,
    write_text,
    writing,
)
from runtime.plots import save_png
from runtime.progress import Scalars, progress
from runtime.provenance import project_path, provenance, settings, shown_path
from runtime.stop import STOPPED_EARLY, Stop, StoppedEarly


def test_atomic_path_replaces_the_file_when_all_went_well(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        with atomic_path(path) as temporary:
            temporary.write_text(text)
            assert temporary.suffix == ".txt" and temporary.parent == path.parent
        assert path.read_text() == text
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o007, 0o660), (0o000, 0o666)])
def test_files_have_the_mode_that_the_users_umask_leaves(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        for again in range(2):
            save_array(tmp_path / "a.npy", np.zeros(again + 1))
            save_archive(tmp_path / "a.npz", {"a": np.zeros(2)})
            write_json(tmp_path / "a.json", {})
            append(tmp_path / "a.tsv", "line")
            save_png(tmp_path / "a.png", Figure(), colours=2)
            save_model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), tmp_path / "a.keras")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("a.*")} == {
        f"a.{kind}": mode for kind in ("npy", "npz", "json", "tsv", "png", "keras")
    }


def test_what_a_killed_run_left_beside_a_file_goes_when_it_is_written(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from runtime.files import atomic_path\n"
    code += "with atomic_path(Path(sys.argv[1])) as temporary: temporary.write_text('half'); os._exit(9)"
    for name in ("a.npy", "odd [name]*.json", "no_suffix"):
        path = tmp_path / name
        subprocess.run([sys.executable, "-c", code, str(path)], cwd=project_path(""))
        assert len(list(tmp_path.iterdir())) == 1
        write_text(path, "whole")
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()], ids=repr)
def test_atomic_path_leaves_the_old_file_when_something_failed(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file.npy"
    full = pytest.raises(InputError, match=r"file.npy: no space left on the disk; free some")
    with full as caught, atomic_path(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot be written .*; choose another folder"):
        save_array(tmp_path / "file" / "array.npy", np.zeros(2))


@pytest.fixture
def size_limit() -> Iterator[int]:
    """Files that this process writes end here."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield 20_000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS = {
    "array": lambda folder: save_array(folder / "file.npy", np.ones(100_000)),
    "archive": lambda folder: save_archive(folder / "file.npz", {"a": np.ones(100_000)}),
    "text": lambda folder: write_text(folder / "file.txt", 100_000 * "line\n"),
    "line": lambda folder: append(folder / "file.tsv", 100_000 * "line\n"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_limit_on_file_sizes_is_one_line(kind: str, tmp_path: Path, size_limit: int) -> None:
    with pytest.raises(InputError, match=r"file\.[a-z]+: larger than the limit for files; raise the limit \(ulimit"):
        WRITERS[kind](tmp_path)
    assert list(tmp_path.iterdir()) == [] or kind == "line"


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_says_so_whatever_is_written(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no mount here")
    try:
        for kind, write in WRITERS.items():
            with pytest.raises(
                InputError, match=r"no space left on the disk; free some and run the same command again"
            ):
                write(tmp_path)
            assert list(tmp_path.iterdir()) == [] or kind == "line"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_every_reason_has_its_words() -> None:
    for number, words in (
        (errno.ENOSPC, "no space left on the disk; free some and run the same command again"),
        (errno.EDQUOT, "no space left in the disk quota; free some and run the same command again"),
        (errno.EACCES, r"cannot be written \(Permission denied\); choose another folder"),
    ):
        with pytest.raises(InputError, match=rf"^a: {words}\Z"), writing(Path("a")):
            raise OSError(number, os.strerror(number))


def curve(folder: Path) -> list[float]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.value for event in events.Scalars("loss")]


def test_scalars_are_there_at_once_and_in_order_over_restarts(tmp_path: Path) -> None:
    for first in (0, 2):
        scalars = Scalars(tmp_path)
        for number in (first, first + 1):
            scalars.write(number, loss=number)
        assert len(curve(tmp_path)) == first + 2
    assert curve(tmp_path) == [0, 1, 2, 3]


def test_scalars_that_cannot_be_written_cost_one_line(
    tmp_path: Path, size_limit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "full"):
        scalars = Scalars(folder)
        for number in range(1_000):
            scalars.write(number, loss=number)
        printed = capsys.readouterr()
        assert printed.out.startswith(f"note: {folder}") and printed.out.count("\n") == 1 and printed.err == ""
    assert len(curve(tmp_path / "full")) > 100


def test_what_cannot_be_deleted_or_lies_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: cannot be deleted"):
        remove(tmp_path / "missing", tmp_path / "folder")
    with pytest.raises(InputError, match="folder: is a folder in the place of an output file"):
        require_no_folder(tmp_path / "missing", tmp_path / "folder")


def test_damaged_and_missing_files_are_one_line(tmp_path: Path) -> None:
    save_array(tmp_path / "a.npy", np.arange(100.0))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "half.npy").write_bytes(whole[:300])
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "bad.json").write_text("{")
    for reader, name in (
        (load_array, "half.npy"),
        (load_array, "objects.npy"),
        (load_array, "missing.npy"),
        (load_archive, "half.npy"),
        (load_archive, "missing.npz"),
        (read_json, "bad.json"),
        (read_json, "missing.json"),
    ):
        with pytest.raises(InputError, match=name):
            reader(tmp_path / name)


class State(NamedTuple):
    weights: list[Any]
    extra: dict[str, Any]


STATE = State([np.float32([[1, 2]]), np.float32(3)], {"steps": np.int32(7), "nothing": ()})


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    tensors = keras.tree.map_structure(ops.convert_to_tensor, STATE)
    save_checkpoint(path, tensors, {"settings": {"lr": 0.1}, "steps": 5})
    state, record = load_checkpoint(path, like=tensors, same={"lr": 0.1})
    assert record == {"settings": {"lr": 0.1}, "steps": 5}
    assert isinstance(state, State) and state.extra["nothing"] == ()
    for found, wanted in zip(keras.tree.flatten(state), keras.tree.flatten(STATE), strict=True):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        np.testing.assert_array_equal(found, wanted)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, STATE, {"settings": {"lr": 0.1, "seed": 1}})
    with pytest.raises(InputError, match=r"made with lr = 0\.1, this run has 0\.2"):
        load_checkpoint(path, like=STATE, same={"lr": 0.2, "seed": 1})
    larger = State([np.zeros((1, 3)), np.float32(3)], STATE.extra)
    longer = State([*STATE.weights, np.float32(1)], STATE.extra)
    for other in (larger, longer):
        with pytest.raises(InputError, match="shapes or types differ from this run's model or batch"):
            load_checkpoint(path, like=other)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"not a whole .npz file"):
        load_checkpoint(path, like=STATE)
    for arrays in ({"other": np.zeros(2)}, {"record": np.array("{"), "leaf_0": np.zeros(2)}):
        np.savez(path, **arrays)
        with pytest.raises(InputError, match="not a checkpoint of this project"):
            load_checkpoint(path, like=STATE)


def test_differing_settings_are_named() -> None:
    path = Path("file")
    require_same_settings(path, {"a": 1, "b": [2]}, {"b": [2], "a": 1})
    with pytest.raises(InputError, match=r"made with b = \[2\], this run has None"):
        require_same_settings(path, {"a": 1, "b": [2]}, {"a": 1})
    with pytest.raises(InputError, match=r"made with c = None, this run has 0"):
        require_same_settings(path, {"a": 1}, {"a": 1, "c": 0})
    with pytest.raises(InputError, match=r"file: made with another file or other weights \(model_sha256 differs\);"):
        require_same_settings(path, {"model_sha256": "7e4e"}, {"model_sha256": "a5c0"})


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a toy script."""

    rate: float = 0.1
    """Some rate."""
    folder: Path = project_path("data")
    """Some folder."""
    mode: str = "good"
    """What happens."""


def test_settings_survive_json() -> None:
    assert settings(Config()) == {"rate": 0.1, "folder": "data", "mode": "good"}
    assert settings({"folder": Path("/elsewhere/x.npy")}) == {"folder": "/elsewhere/x.npy"}


def test_a_record_has_a_relative_path_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(Path("DIGITS")) == "DIGITS" and shown_path(tmp_path) == str(tmp_path)
    assert shown_path(project_path("data/DIGITS")) == "data/DIGITS"


def test_provenance_names_config_versions_and_commit() -> None:
    record = provenance(Config(rate=0.25))
    assert record["config"]["rate"] == 0.25
    assert {"python", "keras", "numpy"} <= set(record["versions"])
    assert record["backend"] == keras.backend.backend()
    assert record["commit"] and record["command"].startswith("python ")


def test_finite_values_pass_and_others_are_named() -> None:
    require_finite("step 3", f=1.0, g=-2.0)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(FloatingPointError, match=r"g is (nan|inf) at step 3"):
            require_finite("step 3", f=1.0, g=bad)


def test_stop_knows_its_reason() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Stop() as stop:
        assert stop.reason is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.reason == "SIGTERM"
    with Stop(1e-9) as stop:
        assert stop.reason == "the limit of --max-minutes"
    with Stop(60) as stop:
        assert stop.reason is None
        signal.raise_signal(signal.SIGINT)
        assert stop.reason == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_stop_within_a_stop_is_passed_on() -> None:
    """A plan's job in the same process may end normally after the signal. Then the plan has to stop."""
    with Stop() as plan:
        with Stop(1e-9):
            pass
        assert plan.reason is None
        with Stop() as job:
            signal.raise_signal(signal.SIGTERM)
        assert (job.reason, plan.reason) == ("SIGTERM", "SIGTERM")


def toy_main(config: Config) -> None:
    if config.mode == "input":
        raise InputError("file.npy: no such file; make it")
    if config.mode == "stop":
        raise StoppedEarly("SIGTERM after 3 of 9 steps")
    if config.mode == "interrupt":
        raise KeyboardInterrupt
    if config.mode == "closed":
        raise PermissionError(13, "Permission denied", "data/MNIST/X.npy")
    if config.mode == "nan":
        require_finite("step 3", f=float("nan"))


@pytest.mark.parametrize(
    ("mode", "status", "line"),
    [
        ("input", 2, "error: file.npy: no such file; make it"),
        ("stop", 75, "stopped: SIGTERM after 3 of 9 steps; run the same command again to continue"),
        ("interrupt", 130, "stopped: interrupted at once; run the same command again to continue"),
        ("closed", 2, "error: data/MNIST/X.npy: Permission denied; change its permissions, or choose another path"),
        ("nan", 1, "error: f is nan at step 3; an earlier checkpoint, if there is one, is kept."),
    ],
)
def test_scripts_end_in_one_line(
    mode: str, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert STOPPED_EARLY == 75
    monkeypatch.setattr(sys, "argv", ["script.py", "--mode", mode])
    with pytest.raises(SystemExit) as end:
        run_script(toy_main, Config, "A toy.")
    assert end.value.code == status
    printed = capsys.readouterr()
    assert printed.err.startswith(line) and printed.err.count("\n") == 1 and printed.out == ""


def test_a_stopped_run_that_overwrote_goes_on_without_the_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Overwriting(Config):
        overwrite: bool = False

    monkeypatch.setattr(sys, "argv", ["script.py", "--mode", "stop", "--overwrite"])
    with pytest.raises(SystemExit):
        run_script(toy_main, Overwriting, "A toy.")
    assert "run the same command again without --overwrite to continue" in capsys.readouterr().err


def test_scripts_take_flags_and_explain_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", "--rate", "0.5"])
    run_script(lambda config: print(config.rate), Config, "A toy.")
    assert capsys.readouterr().out == "0.5\n"
    for flags, status, text in ((["--rate", "high"], 2, "rate"), (["--help"], 0, "Some rate.")):
        monkeypatch.setattr(sys, "argv", ["script.py", *flags])
        with pytest.raises(SystemExit) as end:
            run_script(toy_main, Config, "A toy.")
        printed = capsys.readouterr()
        assert end.value.code == status and text in printed.out + printed.err


PRINTING = """
import sys, time
from dataclasses import dataclass
from runtime.command_line import run_script
from runtime.files import InputError

@dataclass
class Config:
    lines: int = 1
    bad: bool = False

def main(config):
    print("first", flush=True)
    sys.stdin.read()  # until the reader has gone
    print(config.lines * "line\\n", end="")
    if config.bad:
        raise InputError("x: bad; mend it")

run_script(main, Config, 3000 * "A long text. ")
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("flags", "status", "line"),
    [
        ("--help", 0, ""),
        ("--lines 1", 141, ""),
        ("--lines 100000", 141, ""),
        ("--lines 0", 0, ""),
        ("--lines 1 --bad", 2, "error: x: bad; mend it\n"),
    ],
)
def test_a_reader_that_goes_away_gets_no_traceback(flags: str, status: int, line: str, unbuffered: str) -> None:
    command = [sys.executable, "-c", PRINTING, *flags.split()]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=project_path(""), env=environment, text=True, bufsize=1, **pipes) as running:
        running.stdout.readline()  # type: ignore[union-attr]
        running.stdout.close()  # type: ignore[union-attr]
        told = running.communicate("")[1]
    if flags == "--lines 1 --bad" and unbuffered:  # the line before the error is where it ends
        status, line = 141, ""
    assert (running.returncode, told) == (status, line)


@pytest.mark.parametrize("closed", ["1", "2"])
def test_an_output_that_is_closed_hinders_no_run(closed: str) -> None:
    for flags in ("--help", "--lines 3"):
        command = f'exec "$0" -c "$1" {flags} {closed}>&- < /dev/null'
        done = subprocess.run(
            ["sh", "-c", command, sys.executable, PRINTING], cwd=project_path(""), capture_output=True
        )
        assert done.returncode == 0 and done.stderr == b"" and (closed == "1" or done.stdout), (flags, done)


@pytest.mark.parametrize("text", ["\u03c3 = 0.5", "a file named caf\udce9.tsv"])
def test_letters_that_the_output_lacks_do_not_end_a_run(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables hold a sigma. A file's name may hold a byte that is no text."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["script.py"])
    run_script(lambda _: print(text), Config, "A toy.")
    assert written.getvalue() == f"{text}\n".encode("ascii", "backslashreplace")


def test_another_pipe_that_breaks_is_no_reader_gone() -> None:
    def main(config: Config) -> None:
        raise BrokenPipeError("another")

    with pytest.raises(BrokenPipeError, match="another"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script.py"])
        run_script(main, Config, "A toy.")


def test_hashes_see_values_not_layout() -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert array_sha256(array) == array_sha256(np.asfortranarray(array))
    assert array_sha256(array) != array_sha256(array + 1e-12)


def test_an_array_that_lacks_its_last_bytes_is_refused(tmp_path: Path) -> None:
    """NumPy's own writing would leave a file that is cut short, without an error."""
    path = tmp_path / "a.npy"
    save_array(path, np.arange(3375.0))
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for missing in (1, 264, size // 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, hard))
        try:
            with pytest.raises(InputError, match="larger than the limit for files"):
                save_array(tmp_path / "b.npy", np.arange(3375.0))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [one.name for one in tmp_path.iterdir()] == ["a.npy"]
    np.testing.assert_array_equal(load_array(path), np.arange(3375.0))


class RunsCode:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


KINDS = {
    gzip.compress(b"x"): "packed with gzip", b"\x89HDF\r\n\x1a\n" + bytes(9): "HDF5", pickle.dumps([1]): "a pickle",
    pickle.dumps([1], 2): "a pickle", b"\x89PNG\r\n\x1a\n": "a PNG image", b"\xff\xd8\xff\xe0": "a JPEG image",
    b" <!DOCTYPE html>": r"a web page", b"\xef\xbb\xbf<HTML>": r"a web page",
    b"\0\0\x08\x03" + bytes(12): "an IDX file", b"words": "", bytes(9): "",
}  # fmt: skip


@pytest.mark.parametrize("content", KINDS, ids=KINDS.get)
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_a_file_of_another_kind_is_named_and_nothing_is_said_of_its_innards(
    content: bytes, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    seems = f", it seems to be {KINDS[content]}" if KINDS[content] else ";"
    with pytest.raises(InputError, match=rf"a\{ending}: no \{ending} file{seems}") as error:
        (load_array if ending == ".npy" else load_archive)(path)
    assert "object" not in str(error.value) and "allow_pickle" not in str(error.value) and "\n" not in str(error.value)


def test_arrays_under_the_ending_of_an_archive_and_the_other_way_round(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(2))
    (tmp_path / "a.npy").rename(tmp_path / "b.npz")
    with pytest.raises(InputError, match=r"b\.npz: no \.npz file, it seems to be a single array \(\.npy\)"):
        load_archive(tmp_path / "b.npz")
    np.savez(tmp_path / "a.npz", a=np.zeros(2))
    (tmp_path / "a.npz").rename(tmp_path / "b.npy")
    with pytest.raises(InputError, match="holds several arrays"):
        load_array(tmp_path / "b.npy")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("a", "text")
    with pytest.raises(InputError, match=r"c\.npz: 'a' in it is no array"):
        load_archive(tmp_path / "c.npz", ("a",))
    for read, name in ((load_array, "d.npy"), (load_archive, "d.npz")):
        (tmp_path / name).touch()
        with pytest.raises(InputError, match=rf"{name}: not a whole .* \(it is empty\)"):
            read(tmp_path / name)
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path)


def test_arrays_of_objects_are_refused_and_run_nothing(tmp_path: Path) -> None:
    array = np.array([RunsCode(tmp_path / "ran")], dtype=object)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", a=array)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(array))
    for name in ("a.npy", "a.npz", "b.npy"):
        with pytest.raises(InputError, match=r"holds Python objects, which are not read|it seems to be a pickle"):
            (load_array if name.endswith("npy") else load_archive)(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_without_a_terminal_a_line_a_minute_tells_the_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = itertools.count(step=25)
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: float(next(now)))
    assert list(progress(range(6), desc="x", unit="step")) == list(range(6))
    assert capsys.readouterr().err == "x: 3 of 6 steps, 0:01:15 left\nx: 6 of 6 steps, 0:00:00 left\n"
    with progress(total=10, initial=8, unit="step") as bar:
        for _ in range(2):
            bar.update()
    assert not capsys.readouterr().err


def test_a_mark_before_utf_8_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": "\u00e9"}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": "\u00e9"}
