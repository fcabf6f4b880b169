"""What a run shows while it goes on: a bar with the time left, TensorBoard scalars."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    """Draw no bars; call ``listener`` with the share that the last one has done, whenever it moves."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


class _Told(tqdm):
    """A bar that is not drawn but told to the listener."""

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable:
            yield item
            self.update()

    def update(self, n: float | None = 1) -> None:
        self.n += n or 0
        if _listener and self.total:
            _listener(self.n / self.total)


class Scalars:
    """TensorBoard scalars without TensorFlow: ``scalars.write(step, loss=0.3)``. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        self._writer = EventFileWriter(str(folder), flush_secs=30)

    def __enter__(self) -> "Scalars":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, step: int, **values: float) -> None:
        """Add one point to each named curve."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
