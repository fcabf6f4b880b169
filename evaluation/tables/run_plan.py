"""Run a plan, one job after the other or several at once: data, poison, victims, certificates, tables and figures.

    python evaluation/tables/run_plan.py --plan config/digits.yaml
    python evaluation/tables/run_plan.py --plan config/mnist_paper.yaml --methods macer --set "target_classes=[3]"
    python evaluation/tables/run_plan.py --plan config/mnist_published.yaml --max-minutes 9.5
    KERAS_BACKEND=jax python evaluation/tables/run_plan.py --plan config/mnist_methods.yaml --processes 14

Finished jobs are kept and a stopped one goes on from its checkpoint when the same command is run again. A job that
fails stops no other that does not need it. Each job is a call of a script that a user may make by hand; its output is
in <work_dir>/logs. For many jobs at a time, and for clusters, see the Snakefile: it makes the same files.
"""

import importlib
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from evaluation.tables.job_runs import run_at_once, run_job
from evaluation.tables.plan import Job, Plan, plan_of, read_plan, yaml_values
from evaluation.tables.records import foreign_runs
from runtime.checks import require_place
from runtime.command_line import parsed, run_script
from runtime.files import InputError, write_json
from runtime.long_run import require_positive
from runtime.progress import listening, progress
from runtime.provenance import project_path, shown_path
from runtime.stop import Stop, StoppedEarly


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the run."""

    plan: Path
    """Plan of the table, one of config/*.yaml."""
    methods: tuple[str, ...] = ()
    """Training methods of the plan to run; all when not given."""
    set: tuple[str, ...] = ()
    """Entries of the plan to replace, as runs=1 "target_classes=[3]"."""
    directory: Path = project_path("")
    """Folder that the plan's own paths start from."""
    processes: int = 1
    """Jobs at a time, each in a process that stays and keeps what it has compiled: several fill one GPU."""
    max_minutes: float | None = None
    """Stop cleanly after this long; the same command continues."""


def main(config: Config) -> None:
    """Run the plan's jobs. Raises InputError where one failed, after the others are done, and StoppedEarly."""
    require_positive(config, "processes")
    plan = _with_changes(read_plan(config.plan), config)
    for name, folder in plan.placed_in(config.directory).folders.items():
        require_place(f"the folder {name!r}", folder, folder=True)
    foreign_runs(plan, config.directory)
    stopped = Stop(config.max_minutes)
    threads = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), str(plan.threads))
    if not threads.items() <= os.environ.items():  # the backend has read them when it was imported: start again
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **threads})
    *jobs, tables = plan.jobs()
    require_known_flags(jobs)
    config.directory.mkdir(parents=True, exist_ok=True)
    os.chdir(config.directory)
    write_json(plan.folders["work"] / "plan.json", msgspec.to_builtins(plan))
    with stopped as stop:
        to_do = [job for job in jobs if not (job.rule == "data" and job.outputs[0].is_file())]
        with _PlanBar(to_do, config.processes) as bar:
            if config.processes == 1:
                runs = _in_turn(to_do, stop, bar)
            else:
                runs = run_at_once(to_do, config.processes, stop, bar.begin, bar.end)
            failed = {job: line for job, line in runs if line}
        for job in jobs:  # those that need what was not made
            if lacks := {path for one in failed for path in one.outputs} & set(job.needs):
                failed[job] = f"needs {shown_path(lacks.pop())}"
        incomplete = plan.folders["work"] / "incomplete"
        if line := run_job(tables, stop, f"--results-dir {shlex.quote(str(incomplete))}" if failed else ""):
            failed[tables] = line
    if failed:
        for job, line in failed.items():
            print(f"{job.name}: {line}", file=sys.stderr)
        made = "no table was made" if tables in failed else f"what is there is in {incomplete}"
        raise InputError(f"{len(failed)} jobs failed, see above; {made}")


def require_known_flags(jobs: Sequence[Job]) -> None:
    """Raise InputError for the first job whose script does not know a flag or cannot read its value.

    Of jobs that differ in seed and files alone, one is looked at.
    """
    seen = set()
    for job in jobs:
        words = shlex.split(job.flags)
        kind = job.script, tuple(word for word in words if word.startswith("--")), job.name.rpartition("_seed")[0]
        if kind not in seen:
            seen.add(kind)
            try:
                module = importlib.import_module(job.script.removesuffix(".py").replace("/", "."))
                parsed(module.Config, words=words)
            except InputError as error:
                raise InputError(f"{job.name}: {error}") from error


def _with_changes(plan: Plan, config: Config) -> Plan:
    """The plan with the entries that the command line replaces."""
    values = msgspec.to_builtins(plan)
    for change in config.set:
        name, equals, value = change.partition("=")
        if not equals or name not in values:
            raise InputError(f"--set {change}: give an entry of the plan as name=value")
        values[name] = yaml_values(value, f"--set {change}")
    for method in config.methods:
        if method not in plan.methods:
            raise InputError(f"--methods {method}: the plan has {', '.join(plan.methods)}")
    if config.methods:
        values["methods"] = {method: values["methods"][method] for method in config.methods}
    return plan_of(values, f"{config.plan} with --set")


def _in_turn(jobs: Sequence[Job], stop: Stop, bar: "_PlanBar") -> Iterator[tuple[Job, str | None]]:
    """Run jobs one after the other in this process; as run_at_once."""
    lost = {path for job in jobs for path in job.outputs}  # what is not made
    for job in jobs:
        if lost.isdisjoint(job.needs):
            with bar.during(job):
                line = run_job(job, stop)
            if not line:
                lost.difference_update(job.outputs)
            yield job, line
        if stop.reason:
            raise StoppedEarly(f"{stop.reason} after {job.name}")


class _PlanBar:
    """One bar for a whole plan; the time left goes by jobs of the same script, or else of the same rule, that are done.

    Use as a context manager.
    """

    def __init__(self, jobs: Sequence[Job], processes: int = 1) -> None:
        self._left, self._processes = list(jobs), processes
        self._begun: dict[Job, tuple[float, bool]] = {}  # jobs under way: since when, and whether they were done before
        self._seconds: dict[str, list[float]] = {}
        self._shown = 0.0
        form = "{desc}{bar}| {n_fmt} of {total_fmt} jobs, {elapsed} spent{postfix}"
        self._bar = progress(total=len(jobs), bar_format=form)

    def __enter__(self) -> "_PlanBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @contextmanager
    def during(self, job: Job) -> Iterator[None]:
        """Show the time left while a job runs in this process."""
        self.begin(job)

        def told(share_done: float) -> None:
            spent = time.monotonic() - self._begun[job][0]
            self._show(job, spent / max(share_done, 1e-6) - spent)

        with listening(told):
            yield
        self.end(job)

    def begin(self, job: Job) -> None:
        """A job begins, wherever it runs."""
        self._left.remove(job)
        self._begun[job] = time.monotonic(), job.outputs[0].exists()
        self._show(job, self._expected(job))

    def end(self, job: Job) -> None:
        """It is over: learn from it how long such jobs take."""
        started, kept = self._begun.pop(job)
        if not kept:
            for name in (job.script, job.rule):
                self._seconds.setdefault(name, []).append(time.monotonic() - started)
        self._bar.update()

    def _expected(self, job: Job) -> float:
        known = self._seconds.get(job.script) or self._seconds.get(job.rule) or [0.0]
        return sum(known) / len(known)

    def _show(self, job: Job, seconds: float) -> None:
        now = time.monotonic()
        if now - self._shown > 0.5:
            self._shown = now
            under_way = [self._expected(one) - now + since for one, (since, _) in self._begun.items() if one != job]
            seconds += sum(max(0.0, one) for one in under_way) + sum(map(self._expected, self._left))
            left = self._bar.format_interval(seconds / self._processes)
            self._bar.set_postfix_str(f"about {left} left: {job.name}")


if __name__ == "__main__":
    run_script(main, Config, __doc__)
