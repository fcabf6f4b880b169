"""Run a plan's jobs in this process or in several long-lived processes. The jobs of a process share compiled code."""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout

from evaluation.tables.jobs import Job, words_of
from evaluation.tables.plan import LIMITED
from runtime.files import writing
from runtime.progress import listening, progress
from runtime.provenance import ROOT, printed_path
from runtime.stop import STOPPED_EARLY, Stop, StoppedEarly

_SPAWN = multiprocessing.get_context("spawn")  # a backend does not work after a fork
_LOOK_EVERY = 0.5  # seconds between checks for a request to stop


def run_job(job: Job, stop: Stop) -> str | None:
    """Run a job's script as a shell does, with its output in a log. Returns the failure's reason as a line, or None.

    Raises StoppedEarly where the job stopped when it was asked to.
    """
    script, words = ROOT / job.script, words_of(job.settings)
    if job.rule in (*LIMITED, "control", "merge"):
        words += "--on-other-settings", "start_afresh"
    if job.rule in LIMITED and stop.minutes_left is not None:
        words += "--max-minutes", f"{max(stop.minutes_left, 1e-3):.4f}"
    with writing(job.log):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        output = job.log.open("a", encoding="utf-8")
        begin = output.tell()  # after the lines of earlier attempts
    arguments, sys.argv = sys.argv, [str(script), *words]
    try:
        if keras := sys.modules.get("keras"):  # of an earlier job
            # Layer names contain a counter. Reset it, as in a new process. This also collects garbage.
            keras.utils.clear_session()
        with output, redirect_stderr(output), nullcontext() if job.rule == "tables" else redirect_stdout(output):
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as left:
        if left.code == STOPPED_EARLY:
            raise StoppedEarly(f"{stop.reason or 'asked to'} during {job.about}") from None
        if left.code:
            said = job.log.read_bytes()[begin:].decode("utf-8", "replace").rstrip()
            return said.rpartition("\n")[2] or f"ended with status {left.code}"
    finally:
        sys.argv = arguments
    return None


def run_jobs(jobs: Sequence[Job], processes: int, stop: Stop) -> dict[Job, str]:
    """Run each job as soon as its needed files are made, earlier jobs first.

    With several processes, one of them makes the attacks first. They take longest, and no process is idle at the end.
    Returns the reasons of failed jobs and, after them, of the jobs that were left out because they need their files.
    processes: jobs at a time. With 1, the jobs run in this process. Raises StoppedEarly after a requested stop, once
    all running jobs have stopped.
    """
    waiting, not_made = list(jobs), {path for job in jobs for path in job.outputs}
    bar = _Bar(waiting, processes)
    running: dict[Future[str | None], tuple[Job, ProcessPoolExecutor | None]] = {}
    idle: list[ProcessPoolExecutor] = []
    failed: dict[Job, str] = {}
    stopped = ""
    try:
        while True:
            if stop.reason and not stopped:
                stopped = stop.reason
                for child in multiprocessing.active_children():
                    child.terminate()
            ready = [] if stopped else [job for job in waiting if not_made.isdisjoint(job.needs)]
            if processes > 1 and not any(job.rule == "poison" for job, _ in running.values()):
                attack = next((job for job in ready if job.rule == "poison"), None)
                ready.sort(key=lambda job: job is not attack)
            for job in ready[: processes - len(running)]:
                waiting.remove(job)
                bar.begin(job)
                here = processes == 1
                future, worker = _run_here(job, stop, bar) if here else _submitted(job, stop.minutes_left, idle)
                running[future] = job, worker
            if not running:
                break
            for future in wait(running, _LOOK_EVERY, FIRST_COMPLETED).done:
                job, worker = running.pop(future)
                try:
                    line = future.result() or ""
                except StoppedEarly as error:
                    stopped, line = stopped or str(error), ""
                except BrokenProcessPool:
                    line, worker = "its process was ended from outside; is there enough memory?", None
                except Exception as error:
                    traceback.print_exception(error)
                    line = f"{type(error).__name__}: {error}"
                idle += [worker] if worker else []
                bar.end(job)
                if line:
                    failed[job] = f"{line}; its output is in {printed_path(job.log)}"
                else:
                    not_made.difference_update(job.outputs)
    finally:
        for child in multiprocessing.active_children() if running else ():
            child.kill()
        for worker in (*idle, *(worker for _, worker in running.values() if worker)):
            worker.shutdown()
        bar.bar.close()
    if stopped:
        raise StoppedEarly(stopped)
    return failed | {job: f"needs {printed_path(min(not_made.intersection(job.needs)))}" for job in waiting}


def _submitted(
    job: Job, minutes: float | None, idle: list[ProcessPoolExecutor]
) -> tuple[Future[str | None], ProcessPoolExecutor]:
    """Submit the job to an idle or a new worker. Idle workers that the system has killed are dropped.

    A worker has one process, which runs one job after the other. If the system kills it, the other workers continue.
    """
    while True:
        worker = idle.pop() if idle else ProcessPoolExecutor(1, mp_context=_SPAWN, initializer=_in_a_worker)
        try:
            return worker.submit(run_job, job, Stop(minutes)), worker
        except BrokenProcessPool:
            worker.shutdown()


def _run_here(job: Job, stop: Stop, bar: "_Bar") -> tuple[Future[str | None], None]:
    future: Future[str | None] = Future()
    try:
        with bar.listening(job):
            future.set_result(run_job(job, stop))
    except Exception as error:
        future.set_exception(error)
    return future, None


def _in_a_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C, too, and requests the stop
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED_EARLY))  # where no job handles it, also between jobs
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """Wait for the parent's end. Then stop the running job cleanly, and end this process."""
    if parent := multiprocessing.parent_process():
        parent.join()
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_LOOK_EVERY)


class _Bar:
    """One bar for a whole plan. It estimates the time left from finished jobs of the same script, or else rule."""

    def __init__(self, waiting: list[Job], processes: int) -> None:
        """waiting: jobs that have not begun. The caller removes each job that begins."""
        self._waiting, self._processes = waiting, processes
        self._begun: dict[Job, tuple[float, bool]] = {}  # running jobs: start, and whether output existed
        self._seconds: dict[str, list[float]] = {}
        self._shown = 0.0
        form = "{desc}{bar}| {n_fmt} of {total_fmt} jobs, {elapsed} spent{postfix}"
        self.bar = progress(total=len(waiting), unit="job", bar_format=form)

    def begin(self, job: Job) -> None:
        """Note that a job begins, in this or another process."""
        self._begun[job] = time.monotonic(), job.outputs[0].exists()
        self._show(job, self._expected(job))

    def listening(self, job: Job) -> AbstractContextManager[None]:
        """Show the time left while a job runs in this process."""

        def told(share_done: float) -> None:
            spent = time.monotonic() - self._begun[job][0]
            self._show(job, spent / max(share_done, 1e-6) - spent)

        return listening(told)

    def end(self, job: Job) -> None:
        """Note that a job has ended, and its time."""
        started, kept = self._begun.pop(job)
        if not kept:
            for name in (job.script, job.rule):
                self._seconds.setdefault(name, []).append(time.monotonic() - started)
        self.bar.initial += kept  # the time left is estimated from jobs that took time
        self.bar.update()

    def _expected(self, job: Job) -> float:
        known = self._seconds.get(job.script) or self._seconds.get(job.rule) or [0.0]
        return sum(known) / len(known)

    def _show(self, job: Job, seconds: float) -> None:
        now = time.monotonic()
        if now - self._shown > 0.5:
            self._shown = now
            under_way = [self._expected(one) - now + since for one, (since, _) in self._begun.items() if one != job]
            seconds += sum(max(0.0, one) for one in under_way) + sum(map(self._expected, self._waiting))
            left = self.bar.format_interval(seconds / self._processes)
            self.bar.set_postfix_str(f"about {left} left: {job.about}")
