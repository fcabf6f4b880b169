"""Runs of the Snakemake workflow, for its tests."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import data
from tests.waiting import HANG

ROOT = Path(data.__file__).parents[1]


# Every run is a fork of a process that has imported the libraries; what it prints is in a file beside its plan.
FORKS = """
import json, os, sys
import evaluation.tables.jobs, scipy.stats
from snakemake.cli import main
for plan, words in json.load(sys.stdin):
    if not os.fork():
        os.dup2(os.open(plan + ".said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        main(words)
    assert os.wait()[1] == 0, plan
"""


def dry_runs(folder: Path, plans: Sequence[dict[str, Any]]) -> list[str]:
    """What a run in ``folder`` of each of the plans would do, as it says. Raises CalledProcessError where one fails."""
    paths = [folder / f"plan_{number}.yaml" for number in range(len(plans))]
    runs = [
        (str(path), snakemake(folder, "--dry-run", plan=plan, path=path)[3:])
        for plan, path in zip(plans, paths, strict=True)
    ]
    subprocess.run([sys.executable, "-c", FORKS], cwd=ROOT, input=json.dumps(runs), text=True, check=True, timeout=HANG)
    return [Path(f"{path}.said").read_text() for path in paths]


def snakemake(folder: Path, *arguments: str, plan: dict[str, Any] | None = None, path: Path | None = None) -> list[str]:
    """Command line of a run in ``folder``. The plan is written to ``path``, or else into the folder."""
    path = path or folder / "plan.yaml"
    if plan is not None:
        path.write_text(yaml.safe_dump(plan))
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
        "--profile", str(ROOT / "profiles/local"), "--configfile", str(path), *arguments,
    ]  # fmt: skip


def run(folder: Path, *arguments: str, plan: dict[str, Any] | None = None) -> subprocess.CompletedProcess:
    command = snakemake(folder, *arguments, plan=plan)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG)


def without_time(path: Path) -> list[str]:
    """A file of certificates but for the last column, the time of each."""
    return [line.rpartition("\t")[0] for line in path.read_text().splitlines()]
