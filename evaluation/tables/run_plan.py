"""Run a plan in this process, one job after the other: data, poison, victims, certificates, then tables and figures.

    python evaluation/tables/run_plan.py --plan config/digits.yaml
    python evaluation/tables/run_plan.py --plan config/mnist_paper.yaml --methods macer --set "target_classes=[3]"
    python evaluation/tables/run_plan.py --plan config/mnist_published.yaml --max-minutes 9.5

Finished jobs are kept and a stopped one goes on from its checkpoint when the same command is run again. A job that
fails stops no other that does not need it. Each job is a call of a script that a user may make by hand; its output is
in <work_dir>/logs. For many jobs at a time, and for clusters, see the Snakefile: it makes the same files.
"""

import gc
import importlib
import os
import runpy
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import msgspec

from evaluation.tables.plan import LIMITED, Job, Plan, plan_of, read_plan, yaml_values
from evaluation.tables.records import foreign_runs
from runtime.checks import require_place
from runtime.command_line import parsed, run_script
from runtime.files import InputError, unwritable, write_json
from runtime.progress import listening, progress
from runtime.provenance import project_path, shown_path
from runtime.stop import STOPPED_EARLY, Stop, StoppedEarly


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
    max_minutes: float | None = None
    """Stop cleanly after this long; the same command continues."""


def main(config: Config) -> None:
    """Run the plan's jobs. Raises InputError where one failed, after the others are done, and StoppedEarly."""
    plan = _with_changes(read_plan(config.plan), config)
    for name, folder in plan.folders.items():
        require_place(f"the folder {name!r}", config.directory / folder, folder=True)
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
    failed: dict[Job, str] = {}
    with stopped as stop:
        with _PlanBar(jobs) as bar:
            for job in jobs:
                with bar.during(job):
                    lacks = {path for one in failed for path in one.outputs} & set(job.needs)
                    if lacks:
                        failed[job] = f"needs {shown_path(lacks.pop())}"
                    elif not (job.rule == "data" and job.outputs[0].is_file()) and (line := _run(job, stop)):
                        failed[job] = line
                if stop.reason:
                    raise StoppedEarly(f"{stop.reason} after {job.name}")
        incomplete = plan.folders["work"] / "incomplete"
        if line := _run(tables, stop, f"--results-dir {shlex.quote(str(incomplete))}" if failed else ""):
            failed[tables] = line
    if failed:
        for job, line in failed.items():
            print(f"{job.name}: {line}", file=sys.stderr)
        raise InputError(f"{len(failed)} jobs failed, see above; what is there is in {incomplete}")


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


def _run(job: Job, stop: Stop, more_flags: str = "") -> str | None:
    """Run a job's script as a shell does, its output in a log; what is wrong in a line where it fails.

    Raises StoppedEarly where the job stopped when it was asked to.
    """
    limit = "--on-other-settings start_afresh" if job.rule in LIMITED else ""
    if job.rule in LIMITED and stop.minutes_left is not None:
        limit += f" --max-minutes {max(stop.minutes_left, 1e-3):.4f}"
    script = project_path(job.script)
    words = shlex.split(f"{job.flags} {limit} {more_flags}")
    log = job.work / "logs" / f"{job.name}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("a", encoding="utf-8")
    except OSError as error:
        raise unwritable(log, error) from error
    arguments, sys.argv = sys.argv, [str(script), *words]
    import keras  # once runtime has set what the backend reads

    try:
        # A model's layers are named by a count that starts afresh in each process.
        keras.utils.clear_session()
        gc.collect()
        with output, redirect_stderr(output), nullcontext() if job.rule == "tables" else redirect_stdout(output):
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as left:
        if left.code == STOPPED_EARLY:
            raise StoppedEarly(f"{stop.reason or 'asked to'} during {job.name}") from None
        if left.code:
            return log.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
    finally:
        sys.argv = arguments
    return None


class _PlanBar:
    """One bar for a whole plan; the time left goes by jobs of the same script, or else of the same rule, that are done.

    Use as a context manager.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._left = list(jobs)
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
        """Show the time left while a job runs, and learn from it how long such jobs take."""
        kept, started = job.outputs[0].exists(), time.monotonic()
        self._left.remove(job)

        def told(share_done: float) -> None:
            spent = time.monotonic() - started
            self._show(job, spent / max(share_done, 1e-6) - spent)

        self._show(job, self._expected(job))
        with listening(told):
            yield
        if not kept:
            for name in (job.script, job.rule):
                self._seconds.setdefault(name, []).append(time.monotonic() - started)
        self._bar.update()

    def _expected(self, job: Job) -> float:
        known = self._seconds.get(job.script) or self._seconds.get(job.rule) or [0.0]
        return sum(known) / len(known)

    def _show(self, job: Job, seconds: float) -> None:
        if time.monotonic() - self._shown > 0.5:
            self._shown = time.monotonic()
            left = self._bar.format_interval(seconds + sum(map(self._expected, self._left)))
            self._bar.set_postfix_str(f"about {left} left: {job.name}")


if __name__ == "__main__":
    run_script(main, Config, __doc__)
