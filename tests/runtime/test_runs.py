"""Files written whole or not at all, checkpoints, clean stops and the one-line ends of scripts."""

import dataclasses
import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

from runtime.checkpoints import load_checkpoint, require_finite, require_same_settings, save_checkpoint
from runtime.command_line import run_script
from runtime.files import InputError, array_sha256, atomic_path, load_archive, load_array, read_json, save_array
from runtime.progress import Scalars
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
    assert path.stat().st_mode & 0o777 == 0o644


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
    with pytest.raises(InputError, match=r"cannot be written .*; choose another folder"):
        Scalars(tmp_path / "file" / "tensorboard")


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
        with pytest.raises(InputError, match="shapes differ from this run's model or batch"):
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
    assert shown_path(Path("/elsewhere/x.npy")) == "/elsewhere/x.npy"


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
        assert stop.reason == "the limit of 1e-09 minutes"
    with Stop(60) as stop:
        assert stop.reason is None
        signal.raise_signal(signal.SIGINT)
        assert stop.reason == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with pytest.raises(InputError, match="max_minutes must be positive, got 0"):
        Stop(0)


def toy_main(config: Config) -> None:
    if config.mode == "input":
        raise InputError("file.npy: no such file; make it")
    if config.mode == "stop":
        raise StoppedEarly("SIGTERM after 3 of 9 steps")
    if config.mode == "nan":
        require_finite("step 3", f=float("nan"))


@pytest.mark.parametrize(
    ("mode", "status", "line"),
    [
        ("input", 2, "error: file.npy: no such file; make it"),
        ("stop", 75, "stopped: SIGTERM after 3 of 9 steps; run the same command again to continue"),
        ("nan", 1, "error: f is nan at step 3; the last good checkpoint is kept."),
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


def test_hashes_see_values_not_layout() -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert array_sha256(array) == array_sha256(np.asfortranarray(array))
    assert array_sha256(array) != array_sha256(array + 1e-12)
