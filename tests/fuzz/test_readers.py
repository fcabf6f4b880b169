"""Whatever bytes a file holds, a reader gives what it promises or an InputError, and nothing else."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.tables.plan import read_plan
from models.saving import load_model, save_model
from randomized_smoothing_certification.certificate_file import read_points
from runtime.checkpoints import load_checkpoint, save_checkpoint
from runtime.files import InputError, load_archive, load_array, read_json, save_array, write_json, write_text
from runtime.store import POINTS, SETTINGS, Store, read_store, write_store
from tests.faults.stages import PLAN

STATE = {"weights": [np.ones((2, 3), np.float32)], "done": np.zeros(1, np.int32)}


def _model(path: Path) -> None:
    save_model(keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]), path)


def _store(path: Path) -> None:
    points = pd.DataFrame([{"entry": "a/class_8", "seed": 0, "idx": idx, "radius": 0.5} for idx in range(3)])
    write_store(path.parent, Store(points, {"a/class_8": {"0": {"victim": {"accuracy": 0.9}}}}))


READERS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "a.npy": (load_array, lambda path: save_array(path, np.ones((3, 2), np.float32))),
    "a.npz": (load_archive, lambda path: save_checkpoint(path, STATE, {"settings": {}})),
    "checkpoint.npz": (
        lambda path: load_checkpoint(path, STATE, {}), lambda path: save_checkpoint(path, STATE, {"settings": {}}),
    ),
    "a.json": (read_json, lambda path: write_json(path, {"settings": {"sigma": 0.5}, "points": [1, 2]})),
    "a.tsv": (
        read_points,
        lambda path: write_text(path, "idx\tlabel\tpredict\tradius\tcorrect\ttime\n1\t2\t2\t0.5\t1\t0:00:01.5\n"),
    ),
    "a.yaml": (read_plan, lambda path: write_text(path, PLAN)),
    "a.keras": (load_model, _model),
    POINTS: (lambda path: read_store(path.parent), _store),
    SETTINGS: (lambda path: read_store(path.parent), _store),
}  # fmt: skip
EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module", params=READERS)
def reader(request: pytest.FixtureRequest) -> tuple[Callable[[Path], Any], Path, bytes]:
    """A reader, a path for it, and the bytes of a file that it can read."""
    read, write = READERS[request.param]
    folder = tempfile.TemporaryDirectory(prefix="readers-", ignore_cleanup_errors=True)
    request.addfinalizer(folder.cleanup)
    path = Path(folder.name) / request.param
    write(path)
    return read, path, path.read_bytes()


def gives_a_value_or_one_line(read: Callable[[Path], Any], path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        read(path)
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error), error


def test_any_bytes(reader: tuple[Callable[[Path], Any], Path, bytes]) -> None:
    read, path, _ = reader

    @EXAMPLES
    @given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
    def holds(content: bytes) -> None:
        gives_a_value_or_one_line(read, path, content)

    holds()


def test_a_file_with_other_bytes_somewhere(reader: tuple[Callable[[Path], Any], Path, bytes]) -> None:
    read, path, whole = reader

    @EXAMPLES
    @given(st.integers(0, len(whole)), st.integers(0, 40), st.binary(max_size=40))
    def holds(start: int, length: int, between: bytes) -> None:
        gives_a_value_or_one_line(read, path, whole[:start] + between + whole[start + length :])

    holds()
