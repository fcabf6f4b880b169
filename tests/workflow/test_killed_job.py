"""A job of the Snakemake workflow that is killed in the middle: what there is then, and how it goes on."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.saving import load_model
from tests.faults.processes import run as run_script
from tests.waiting import HANG, wait_until
from tests.workflow.snakemake_runs import ROOT, run, snakemake, without_time

pytest.importorskip("snakemake", reason="Snakemake needs Python 3.11")

# A victim waits to be killed when its second checkpoint is due: on no machine is it so fast that it ends before.
HOLD = """
import os, sys, time

def hold(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("checkpoint.npz") and os.path.exists(arguments[1]):
        while "--training-data" in sys.argv:
            time.sleep(1)

sys.addaudithook(hold)
"""


def test_a_killed_job_continues_to_the_same_result(tmp_path: Path) -> None:
    plan = {
        "table": "killed", "title": "Killed", "dataset": "DIGITS", "architecture": "digits_cnn", "runs": 1,
        "methods": {"gaussianaug": [0.25]}, "rows": ["clean"],
        "victim": {"all": {"epochs": 10, "checkpoint_minutes": 1e-9}}, "certification": {"points": 6, "n": 200},
        "shards": 2,
    }  # fmt: skip
    work = tmp_path / "runs/tables/killed"
    (tmp_path / "sitecustomize.py").write_text(HOLD)  # every Python process runs it when it starts
    process = subprocess.Popen(
        snakemake(tmp_path, plan=plan), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    wait_until(lambda: list(work.glob("runs/**/checkpoint.npz")), "there is a checkpoint", process)
    kill_victim(work)
    output, _ = process.communicate(timeout=HANG)
    assert process.returncode != 0
    assert "0 of 1 runs" in output
    assert not list(work.rglob("*.keras"))

    output = run(tmp_path, plan=plan)
    assert output.returncode == 0, output.stderr
    (log,) = work.glob("logs/victims/**/*.log")
    assert re.search(r"continuing .* after \d+ of \d+ steps", log.read_text())
    (certificates,) = work.glob("certificates/**/seed_0.tsv")

    # The same plan in one process, without a crash.
    words = ["evaluation/tables/run_plan.py", "--plan", str(tmp_path / "plan.yaml")]
    outcome = run_script([*words, "--directory", str(tmp_path / "here")], tmp_path)
    assert outcome.status == 0, outcome
    here = tmp_path / "here/runs/tables/killed"
    assert without_time(next(here.glob("certificates/**/seed_0.tsv"))) == without_time(certificates)
    weights = (load_model(next(place.rglob("*.keras"))).get_weights() for place in (work, here))
    for one, other in zip(*weights, strict=True):
        assert (one == other).all()
    for name in ("tables.md", "tables.tex", "tables.csv", "points.csv.xz"):
        assert (here / "results" / name).read_bytes() == (work / "results" / name).read_bytes()


def kill_victim(work: Path) -> None:
    """SIGKILL to the training script that writes into ``work``."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if words[0] == sys.executable and "--training-data" in words and str(work.name) in " ".join(words):
            os.kill(int(folder.name), signal.SIGKILL)
