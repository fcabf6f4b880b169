"""Output of a running script: a progress bar with the time left, and TensorBoard scalars."""

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from runtime.files import unwritable

_listener: Callable[[float], None] | None = None


def progress(iterable: Iterable | None = None, **options: Any) -> tqdm:
    """A progress bar with the time left, on stderr; silent where stderr is not a terminal."""
    if _listener:
        return _Told(iterable, disable=True, **options)
    options.setdefault("mininterval", 0.5)
    return tqdm(iterable, dynamic_ncols=True, disable=None, **options)


@contextmanager
def listening(listener: Callable[[float], None]) -> Iterator[None]:
    """Draw no bars. Call ``listener`` with the finished share of the last bar whenever it moves."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


class _Told(tqdm):
    """A bar that reports to the listener and draws nothing."""

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable:
            yield item
            self.update()

    def update(self, n: float | None = 1) -> None:
        self.n += n or 0
        if _listener and self.total:
            _listener(self.n / self.total)


class Scalars:
    """TensorBoard scalars without TensorFlow: ``scalars.write(step, loss=0.3)``. Use as a context manager.

    They are written at once, in this thread. TensorBoard's own writer uses another thread, which dies with a traceback
    where it cannot write. Where a file cannot be made or written, one line says so and the run goes on without scalars.
    """

    _count = itertools.count()

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        # Files are read in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.{next(self._count)}"
        self._path = folder / name
        self._file: BinaryIO | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        except OSError as error:
            self._give_up(error)
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def __enter__(self) -> "Scalars":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()  # everything is flushed already

    def write(self, step: int, **values: float) -> None:
        """Add one point to each named curve."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._add(Event(wall_time=time.time(), step=step, summary=summary))

    def _add(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._file:
            try:
                RecordWriter(self._file).write(event.SerializeToString())
                self._file.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        print(f"note: {unwritable(self._path, error)}; this run goes on without TensorBoard's scalars")
        with suppress(OSError, AttributeError):  # closing tries once more to write
            self._file.close()  # type: ignore[union-attr]
        self._file = None
