"""A real SLURM on the loopback of one machine, to see what a workflow does when a worker crashes.

Its own munged (MUNGE signs every message between the parts of SLURM), one slurmctld (the controller) and one slurmd
per worker, all in one folder: nothing under /etc is needed, and a SLURM that the machine already has is not touched.
Each worker lives in its own PID namespace, so that it dies as a machine does: slurmd, the job steps and everything
that they started are gone at once. That takes root, and `apt-get install slurm-wlm munge` (tried with SLURM 22.05).

    with LocalCluster(folder) as cluster:
        subprocess.run(["sbatch", "--wrap", "hostname"], env=cluster.environment, check=True)
        cluster.kill_worker("worker1")
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.waiting import wait_until

SBIN = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
# Variables of a SLURM job, or of another cluster, that this process may run in.
OTHER_CLUSTER = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SINFO_", "SALLOC_", "SCANCEL_")

# Times are in seconds, and far shorter than a real cluster's.
SLURM_CONF = """\
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
# Every daemon listens on 127.0.0.1 alone.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that lost its worker starts again no sooner than cred_expire after that (120 if not given).
AuthInfo=socket={folder}/munge.socket,cred_expire=5

StateSaveLocation={folder}/slurmctld.state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={logs}/slurmctld.log
SlurmdSpoolDir={folder}/%n.spool
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={logs}/%n.log

# No cgroups: a container, or a machine without systemd, may have none to give.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2

# A worker that has been silent for SlurmdTimeout is down; its jobs are queued again under the same job id.
SlurmdTimeout={dead_after_s}
MessageTimeout=3
JobRequeue=1
ReturnToService=2
KillWait=5
# squeue shows a finished job for this long. There is no accounting, so that sacct knows nothing.
MinJobAge=600

SlurmdParameters=config_overrides
GresTypes=gpu
{nodes}
PartitionName=local Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=65536 Gres=gpu:1"
# A device that every machine has stands for the GPU: SLURM only counts it.
GRES_CONF = "Name=gpu File=/dev/null\n"

# A machine of its own for one daemon: when the shell, its first process, is killed, all others die with it. SLURM
# listens on the address that the host's name stands for.
MACHINE = ["unshare", "--pid", "--mount-proc", "--uts", "--fork", "--kill-child"]
IN_MACHINE = "hostname localhost; {command}; exit $?"


class ClusterUnavailable(Exception):
    """This machine cannot run a LocalCluster; the message says what is missing."""


def check_available() -> None:
    """Raises ClusterUnavailable, with what is missing in one line, where a LocalCluster cannot start."""
    programs = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "unshare", "setpriv")
    missing = [name for name in programs if not shutil.which(name, path=SBIN)]
    if missing:
        raise ClusterUnavailable(f"{', '.join(missing)} not installed: apt-get install slurm-wlm munge util-linux")
    if os.geteuid() != 0:
        raise ClusterUnavailable("a local SLURM must be started by root, for slurmd and its PID namespace")
    namespace = subprocess.run([*MACHINE, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if namespace.returncode != 0:
        raise ClusterUnavailable(f"no PID namespace for the workers: {namespace.stderr.strip()}")


class LocalCluster:
    """A context manager: entering starts the cluster and waits until every worker is idle, leaving stops all of it.

    It also stops when the thread that entered it ends, however that happens.

    Arguments:
        folder: a new folder for the cluster's files. Its path must be short, for sockets live in it. The logs are
            in folder/logs and are still there afterwards.
        workers: how many workers, named worker1, worker2, ...; each has one CPU and one GPU, which is only counted.
        dead_after_s: the seconds of silence after which the controller takes a worker for dead.
    """

    def __init__(self, folder: Path, workers: int = 2, dead_after_s: int = 5) -> None:
        self.folder = folder.resolve()
        self.logs = self.folder / "logs"
        self.workers = [f"worker{i + 1}" for i in range(workers)]
        self.dead_after_s = dead_after_s
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        if len(str(self.folder)) > 60:
            raise ValueError(f"{self.folder}: longer than 60 characters, which leaves no room for the sockets in it")

    @property
    def environment(self) -> dict[str, str]:
        """What sbatch, squeue, Snakemake and so on need to find this cluster: SLURM_CONF, and its srun in PATH."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OTHER_CLUSTER)}
        return kept | {"SLURM_CONF": f"{self.folder}/slurm.conf", "PATH": f"{self.folder}/bin:{kept['PATH']}"}

    def __enter__(self) -> "LocalCluster":
        check_available()
        self._write_files()
        try:
            self._start_munged()
            self._start_in_machine("slurmctld", "slurmctld -D")
            for name in self.workers:
                self.restart_worker(name)
            self.wait_until_idle()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def client(self, *command: str) -> str:
        """Runs one of SLURM's commands, such as squeue, and returns what it prints; raises if it fails."""
        done = subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def states(self) -> dict[str, str]:
        """The state of each worker as sinfo has it: idle, mixed, allocated, down; a * marks one that is silent."""
        lines = self.client("sinfo", "--Node", "--noheader", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def kill_worker(self, name: str) -> None:
        """SIGKILL to slurmd, its job steps and all their processes at once, as when the machine crashes."""
        self._kill(name)

    def restart_worker(self, name: str) -> None:
        """Starts a worker that is not running, as when the machine is back."""
        self._start_in_machine(name, f"slurmd -D -N {name}")

    def wait_until_idle(self) -> None:
        """Waits until every worker is idle; raises as wait_until does."""
        self.wait_until(lambda: set(self.states().values()) == {"idle"}, "every worker is idle")

    def wait_until_down(self, name: str) -> None:
        """Waits until the controller has noticed that a worker is dead; raises as wait_until does."""
        self.wait_until(lambda: self.states()[name].startswith("down"), f"{name} is down")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for a condition; raises TimeoutError after HANG seconds, RuntimeError as soon as a daemon has ended."""

        def holds() -> bool:
            for name, daemon in self._daemons.items():
                if daemon.poll() is not None:
                    raise RuntimeError(f"{name} ended with status {daemon.returncode}: see {self.logs}")
            return self._holds(condition)

        wait_until(holds, f"{what}: see {self.logs}")

    @staticmethod
    def _holds(condition: Callable[[], bool]) -> bool:
        try:
            return condition()
        except subprocess.CalledProcessError:  # the controller does not answer yet
            return False

    def _write_files(self) -> None:
        for name in ("logs", "slurmctld.state", "bin"):
            (self.folder / name).mkdir(parents=True)
        port, *worker_ports = free_ports(1 + len(self.workers))
        nodes = [NODE.format(name=name, port=port) for name, port in zip(self.workers, worker_ports, strict=True)]
        text = SLURM_CONF.format(
            folder=self.folder, logs=self.logs, port=port, dead_after_s=self.dead_after_s, nodes="\n".join(nodes)
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(GRES_CONF)
        # Snakemake's jobs take SLURM_CONF out of srun's environment, expecting a configuration at its usual place.
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun", path=SBIN)} "$@"\n')
        srun.chmod(0o755)

    def _start_munged(self) -> None:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "seed")]
        log, listens = self.logs / "munged.log", self.folder / "munge.socket"
        # By force: munged wants a socket that every user can reach, and here only root needs to.
        munged = ["munged", "--foreground", "--force"]
        self._start("munged", [*munged, *files, f"--log-file={log}", f"--socket={listens}"])
        self.wait_until(listens.exists, "munged listens")

    def _start_in_machine(self, name: str, command: str) -> None:
        self._start(name, [*MACHINE, "sh", "-c", IN_MACHINE.format(command=command)])

    def _start(self, name: str, command: list[str]) -> None:
        with (self.logs / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                env=self.environment | {"PATH": SBIN}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def _kill(self, name: str) -> None:
        """Kills a daemon and, in a machine, everything there: unshare outlives its child, and so waits for all."""
        daemon = self._daemons.pop(name)
        if daemon.poll() is None:
            children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text()
            for pid in [int(child) for child in children.split()] or [daemon.pid]:
                os.kill(pid, signal.SIGKILL)
            daemon.wait()

    def _stop(self) -> None:
        for name in reversed(list(self._daemons)):
            self._kill(name)


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nothing uses."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
