"""Runs of the Snakemake workflow, for its tests."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import data
from tests.waiting import HANG

ROOT = Path(data.__file__).parents[1]


def snakemake(folder: Path, *arguments: str, plan: dict[str, Any] | None = None) -> list[str]:
    """Command line of a run in ``folder``."""
    if plan is not None:
        (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
        "--profile", str(ROOT / "profiles/local"), "--configfile", str(folder / "plan.yaml"), *arguments,
    ]  # fmt: skip


def run(folder: Path, *arguments: str, plan: dict[str, Any] | None = None) -> subprocess.CompletedProcess:
    command = snakemake(folder, *arguments, plan=plan)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG)


def without_time(path: Path) -> list[str]:
    """A file of certificates but for the last column, the time of each."""
    return [line.rpartition("\t")[0] for line in path.read_text().splitlines()]
