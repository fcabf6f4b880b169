"""A plan's jobs, run in this process or in others that stay: what a job imports and compiles, the next one has."""

import gc
import multiprocessing
import runpy
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection, wait

from evaluation.tables.plan import LIMITED, Job
from runtime.files import unwritable
from runtime.provenance import source_path
from runtime.stop import STOPPED_EARLY, Stop, StoppedEarly

_SPAWN = multiprocessing.get_context("spawn")  # a forked backend is a broken one
_LOOK_EVERY = 0.5  # seconds, for a request to stop


def run_job(job: Job, stop: Stop, more_flags: str = "") -> str | None:
    """Run a job's script as a shell does, its output in a log; what is wrong in a line where it fails.

    Raises StoppedEarly where the job stopped when it was asked to.
    """
    limit = "--on-other-settings start_afresh" if job.rule in LIMITED else ""
    if job.rule in LIMITED and stop.minutes_left is not None:
        limit += f" --max-minutes {max(stop.minutes_left, 1e-3):.4f}"
    script = source_path(job.script)
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


def run_at_once(
    jobs: Sequence[Job], processes: int, stop: Stop, begun: Callable[[Job], None], ended: Callable[[Job], None]
) -> Iterator[tuple[Job, str | None]]:
    """Run jobs in so many processes, each as soon as what it needs is made; yields each that ended, as run_job does.

    A job that needs what a failed one should have made is left out. begun, ended: told of every job that is run.
    Raises StoppedEarly where asked to stop, once the jobs under way have stopped.
    """
    left, lost = list(jobs), {path for job in jobs for path in job.outputs}  # what is not made
    helpers: list[_Helper] = []
    stopped = ""
    try:
        while True:
            if stop.reason and not stopped:
                stopped = stop.reason
                for helper in helpers:
                    helper.ask_to_stop()
            ready = [] if stopped else [job for job in left if lost.isdisjoint(job.needs)]
            for job in ready[: processes - sum(helper.job is not None for helper in helpers)]:
                left.remove(job)
                begun(job)
                free = next((helper for helper in helpers if helper.is_free), None)
                if free is None:
                    helpers.append(free := _Helper())
                free.start(job, stop)
            busy = {helper.pipe: helper for helper in helpers if helper.job is not None}
            if not busy:
                break
            for pipe in wait(list(busy), timeout=_LOOK_EVERY):
                helper = busy[pipe]  # type: ignore[index]
                job, outcome, line = helper.finish()
                if outcome == "died":
                    helpers.remove(helper)
                if outcome == "stopped" or (outcome == "died" and stopped):
                    stopped = stopped or line
                    continue
                ended(job)
                if outcome == "done":
                    lost.difference_update(job.outputs)
                yield job, None if outcome == "done" else line
    finally:
        for helper in helpers:
            helper.close()
    if stopped:
        raise StoppedEarly(stopped)


class _Helper:
    """A process that runs one job after the other."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends where the process does

    @property
    def is_free(self) -> bool:
        return self.job is None and self._process.is_alive()

    def start(self, job: Job, stop: Stop) -> None:
        self.job = job
        self.pipe.send((job, stop.minutes_left))

    def finish(self) -> tuple[Job, str, str]:
        """The job, how it went (done, failed, stopped, died), and a line about it."""
        job, self.job = self.job, None
        assert job is not None
        try:
            return job, *self.pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            return job, "died", f"its process ended with exit status {self._process.exitcode}"

    def ask_to_stop(self) -> None:
        if self.job is not None:
            self._process.terminate()

    def close(self) -> None:
        self.pipe.close()
        if self.job is not None:
            self._process.kill()
        self._process.join()


def _serve(pipe: Connection) -> None:
    """Run the jobs that come through the pipe until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C too, and asks to stop
    while True:
        try:
            job, minutes = pipe.recv()
        except EOFError:
            return
        stop = Stop(None if minutes is None else max(minutes, 1e-3))
        try:
            line = run_job(job, stop)
            pipe.send(("failed", line) if line else ("done", ""))
        except StoppedEarly as error:
            pipe.send(("stopped", str(error)))
        except Exception as error:
            traceback.print_exc()
            pipe.send(("failed", f"{type(error).__name__}: {error}"))
