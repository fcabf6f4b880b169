"""Output of a running script: a progress bar with the time left, and TensorBoard scalars."""

import itertools
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from runtime.files import InputError, writing

_listener: Callable[[float], None] | None = None
_LINE_EVERY = 60  # seconds, where there is no terminal


def progress(iterable: Iterable | None = None, **options: Any) -> tqdm:
    """A progress bar with the time left, on stderr. Where stderr is no terminal: a line at most every minute."""
    if _listener or not (sys.stderr and sys.stderr.isatty()):
        return _WithoutBar(iterable, **options)
    return tqdm(iterable, dynamic_ncols=True, mininterval=0.5, **options)


@contextmanager
def listening(listener: Callable[[float], None]) -> Iterator[None]:
    """Draw no bars. Call ``listener`` with the finished share of the last bar whenever it moves."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


class _WithoutBar(tqdm):
    """Progress that draws no bar: it reports to the listener or prints a line at most every minute."""

    def __init__(self, iterable: Iterable | None, *, desc: str = "", unit: str = "", **options: Any) -> None:
        super().__init__(iterable, disable=True, **options)
        self._what, self.initial, self._began = f"{desc}: " if desc else "", self.n, time.monotonic()
        self._unit, self._said = unit and f" {unit}s", self._began

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable:
            yield item
            self.update()

    def update(self, n: float | None = 1) -> None:
        self.n += n or 0
        now = time.monotonic()
        if _listener:
            if self.total:
                _listener(self.n / self.total)
        elif sys.stderr and now - self._said >= _LINE_EVERY:
            self._said = now
            print(f"{self._what}{self._state(now - self._began)}", file=sys.stderr, flush=True)

    def _state(self, seconds: float) -> str:
        """For example '40 of 100 steps, 0:02:00 left'."""
        if not self.total:
            return f"{self.n}{self._unit}"
        made, left = self.n - self.initial, self.total - self.n
        time_left = f", {timedelta(seconds=round(seconds * left / made))} left" if made else ""
        return f"{self.n} of {self.total}{self._unit}{time_left}"


class Scalars:
    """TensorBoard scalars without TensorFlow: ``scalars.write(step, loss=0.3)``.

    They are written at once, in this thread. TensorBoard's own writer uses another thread, which dies with a traceback
    where it cannot write. Where a file cannot be made or written, one line says so and the run goes on without scalars.
    """

    _count = itertools.count()

    def __init__(self, folder: Path) -> None:
        # Files are read in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.{next(self._count)}"
        self._path = folder / name
        self._is_written = True
        self._add(file_version="brain.Event:2")

    def write(self, step: int, **values: float) -> None:
        """Add one point to each named curve."""
        points = [{"tag": name, "simple_value": value} for name, value in values.items()]
        self._add(step=step, summary={"value": points})

    def _add(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        if not self._is_written:
            return
        try:
            with writing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("ab") as file:
                    RecordWriter(file).write(Event(wall_time=time.time(), **event).SerializeToString())
        except InputError as error:
            self._is_written = False
            print(f"note: {error}; this run goes on without TensorBoard's scalars")
