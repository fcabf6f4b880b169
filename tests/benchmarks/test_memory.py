"""The memory benchmark runs at toy size and measures each stage in a process of its own."""

import json
import os
import signal
from functools import cache
from pathlib import Path

import pytest

from benchmarks import memory
from runtime.files import InputError


def test_every_stage_of_every_method_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(memory.COMPARED, "macer")
    measure, in_processes = memory._in_another_process, dict(zip(memory.STAGES, memory.COMPARED, strict=True))

    @cache
    def one_method_a_stage(stage: str, config: memory.Config) -> float:
        return measure(in_processes[stage], stage, config)

    monkeypatch.setattr(memory, "_in_another_process", lambda _, *given: one_method_a_stage(*given))
    rows = memory.main(memory.Config(quick=True, steps=1, out=tmp_path / "memory.json"))
    assert [(row["stage"], row["method"]) for row in rows] == [
        (stage, method) for stage in memory.STAGES for method in memory.COMPARED
    ]
    for row in rows:
        assert 50 < row["peak_mib"] < 5000 and 0.5 < row["ratio"] < 2
    assert rows[0]["ratio"] == rows[2]["ratio"] == 1
    assert "toy sizes: these numbers mean nothing" in capsys.readouterr().out
    record = json.loads((tmp_path / "memory.json").read_text())
    assert record["rows"] == rows and record["commit"]


def test_bad_settings_are_one_line() -> None:
    with pytest.raises(InputError, match="steps must be at least 1, got 0"):
        memory.main(memory.Config(steps=0))


def test_a_killed_measurement_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak_mib", _killed)
    with pytest.raises(InputError, match="attack of macer: its process was ended from outside"):
        memory._in_another_process("macer", "attack", memory.Config(quick=True))


def _killed(*given: object) -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0
