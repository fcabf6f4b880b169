"""The table of the digits on SLURM: a worker crashes in the middle, and the table is that of one machine."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import data
from evaluation.tables.plan import plan_of, read_plan
from models.saving import load_model
from runtime.files import read_json
from tests.slurm.local_cluster import LocalCluster
from tests.waiting import HANG
from tests.workflow.snakemake_runs import without_time

pytestmark = pytest.mark.slurm
ROOT = Path(data.__file__).parents[1]
# The digits' plan, shorter: fewer methods, rows and epochs, and certificates in shards.
CHANGES: dict[str, Any] = {
    "methods": {"gaussianaug": [0.25]}, "rows": ["clean", "constant", "optimised"], "runs": 1, "shards": 2,
    "method_transfer": None, "architecture_transfer": None,
    "attack": {"all": {"epochs": 2, "lower_steps": 5}}, "victim": {"all": {"epochs": 20}},
    "limits": {"all": {"minutes": 30, "gpu": 1}},
}  # fmt: skip


def snakemake(folder: Path, profile: str, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
        "--profile", str(ROOT / "profiles" / profile), "--configfile", str(folder / "plan.yaml"), *arguments,
    ]  # fmt: skip


def write_plan(folder: Path) -> None:
    values = yaml.safe_load((ROOT / "config/digits.yaml").read_text())
    folder.mkdir()
    (folder / "plan.yaml").write_text(yaml.safe_dump({**values, **CHANGES}))


def test_the_table_survives_a_crashed_worker(
    cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    here, there = tmp_path / "one_machine", tmp_path / "slurm"
    write_plan(here)
    write_plan(there)
    subprocess.run(snakemake(here, "local"), cwd=ROOT, check=True, capture_output=True, timeout=HANG)

    # A test's cluster has no slow file system to wait for.
    quick = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5")
    with (there / "snakemake.out").open("w") as output:
        process = subprocess.Popen(
            snakemake(there, "slurm", *quick), cwd=ROOT, env=cluster.environment, stdout=output, stderr=output
        )
    started = time.monotonic()
    jobs_of: dict[str, str] = {}

    def victim_runs() -> bool:
        """A victim's job is running, which the plan has after the poison."""
        assert process.poll() is None, (there / "snakemake.out").read_text()
        lines = cluster.client("squeue", "--states=running", "--noheader", "--format=%N %i %k").splitlines()
        jobs_of.update(line.split(maxsplit=1) for line in lines if "victim" in line)
        return bool(jobs_of)

    cluster.wait_until(victim_runs, "a victim is trained")
    worker, job = next(iter(jobs_of.items()))
    cluster.kill_worker(worker)
    cluster.wait_until_down(worker)
    cluster.restart_worker(worker)
    assert process.wait(timeout=HANG) == 0, (there / "snakemake.out").read_text()
    with capsys.disabled():
        print(f"\n{worker} crashed with job {job}; on SLURM {time.monotonic() - started:.0f} s in all")
    requeued = cluster.client("scontrol", "show", "job", job.split()[0])
    assert re.search(r"Restarts=[1-9]", requeued)  # more than one where a worker was too slow to answer

    results = Path("runs/tables/digits/results")
    for name in ("tables.md", "tables.csv", "tables.tex", "points.csv.xz"):
        assert (there / results / name).read_bytes() == (here / results / name).read_bytes()
    plan = plan_of(read_json(there / "runs/tables/digits/plan.json"))
    assert plan == read_plan(there / "plan.yaml")
    for cell in plan.cells():
        certificates = plan.paths.certificate(cell, 0)
        assert without_time(there / certificates) == without_time(here / certificates)
        weights = [load_model(folder / plan.paths.model(cell, 0)).get_weights() for folder in (here, there)]
        assert all((one == other).all() for one, other in zip(*weights, strict=True))
