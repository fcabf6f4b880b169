"""A job of the Snakemake workflow that is killed in the middle: what there is then, and how it goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.saving import load_model
from tests.workflow.snakemake_runs import ROOT, run, snakemake, without_time

pytest.importorskip("snakemake", reason="Snakemake needs Python 3.11")


def test_a_killed_job_continues_to_the_same_result(tmp_path: Path) -> None:
    plan = {
        "table": "killed", "title": "Killed", "dataset": "DIGITS", "architecture": "digits_cnn", "runs": 1,
        "methods": {"gaussianaug": [0.25]}, "rows": ["clean"],
        "victim": {"all": {"epochs": 150, "checkpoint_minutes": 0.01}}, "certification": {"points": 6, "n": 200},
    }  # fmt: skip
    work = tmp_path / "runs/tables/killed"
    process = subprocess.Popen(
        snakemake(tmp_path, plan=plan), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not list(work.glob("runs/**/checkpoint.npz")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    kill_victim(work)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "0 of 1 runs" in output
    assert not list(work.rglob("*.keras"))

    output = run(tmp_path, plan=plan)
    assert output.returncode == 0, output.stderr
    (log,) = work.glob("logs/victims/**/*.log")
    assert re.search(r"continuing .* after \d+ of \d+ steps", log.read_text())
    (certificates,) = work.glob("certificates/**/*.tsv")

    # The same plan in one process, without a crash.
    command = [sys.executable, str(ROOT / "evaluation/tables/run_plan.py"), "--plan", str(tmp_path / "plan.yaml")]
    subprocess.run([*command, "--directory", str(tmp_path / "here")], check=True, capture_output=True, timeout=600)
    here = tmp_path / "here/runs/tables/killed"
    assert without_time(next(here.glob("certificates/**/*.tsv"))) == without_time(certificates)
    weights = (load_model(next(place.rglob("*.keras"))).get_weights() for place in (work, here))
    for one, other in zip(*weights, strict=True):
        assert (one == other).all()
    for name in ("tables.md", "tables.tex", "tables.csv"):
        assert (here / "results" / name).read_text() == (work / "results" / name).read_text()


def kill_victim(work: Path) -> None:
    """SIGKILL to the training script that writes into ``work``."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if words[0] == sys.executable and "--training-data" in words and str(work.name) in " ".join(words):
            os.kill(int(folder.name), signal.SIGKILL)
