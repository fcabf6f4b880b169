"""What a run shows while it goes on: a bar with the time left, TensorBoard scalars."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from runtime.files import unwritable


def progress(iterable: Iterable | None = None, **options: Any) -> tqdm:
    """A progress bar with the time left, on stderr; silent where stderr is not a terminal."""
    options.setdefault("mininterval", 0.5)
    return tqdm(iterable, dynamic_ncols=True, disable=None, **options)


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

        summary = Summary(
            value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        )
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
