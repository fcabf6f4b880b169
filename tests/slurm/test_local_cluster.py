"""The test cluster itself: its workers run jobs, die as machines do, and leave nothing behind."""

import contextlib
from pathlib import Path

import pytest

from tests.slurm.local_cluster import LocalCluster

pytestmark = pytest.mark.slurm


def processes_of(folder: Path) -> list[str]:
    """The command lines of the running processes that have a path in the folder in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def test_a_job_of_a_crashed_worker_starts_again_on_the_other(cluster: LocalCluster, tmp_path: Path) -> None:
    go, starts = tmp_path / "go", tmp_path / "starts"
    job = f"echo $SLURM_JOB_ID $SLURMD_NODENAME >> {starts}; until test -e {go}; do sleep 0.1; done"
    for _ in cluster.workers:
        cluster.client("sbatch", f"--output={tmp_path}/%j.log", "--wrap", job)
    cluster.wait_until(lambda: starts.exists() and len(starts.read_text().splitlines()) == 2, "both jobs run")
    job_on = {worker: job for job, worker in (line.split() for line in starts.read_text().splitlines())}
    assert set(job_on) == {"worker1", "worker2"}

    cluster.kill_worker("worker1")
    cluster.wait_until_down("worker1")
    go.touch()
    done = ["squeue", "--states=all", "--noheader", "--format=%T"]
    cluster.wait_until(lambda: set(cluster.client(*done).split()) == {"COMPLETED"}, "both jobs are done")
    assert starts.read_text().splitlines()[2:] == [f"{job_on['worker1']} worker2"]

    cluster.restart_worker("worker1")
    cluster.wait_until_idle()


def test_no_process_outlives_its_worker_or_the_cluster(cluster: LocalCluster, tmp_path: Path) -> None:
    started = tmp_path / "started"
    job = f"setsid sleep 1000 & touch {started}; wait"
    cluster.client("sbatch", "--nodelist=worker1", f"--output={tmp_path}/%j.log", "--wrap", job)
    cluster.wait_until(started.exists, "the job runs")
    assert any("sleep 1000" in command for command in processes_of(cluster.folder))

    cluster.kill_worker("worker1")
    assert not any("sleep 1000" in command for command in processes_of(cluster.folder))
    cluster.__exit__()
    assert processes_of(cluster.folder) == []
