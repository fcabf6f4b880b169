"""Fixtures shared by all tests."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runtime  # noqa: F401  (sets the backend's environment before anything imports Keras)

# JAX compiles a toy attack for ten seconds and more; runs that are stopped and continued share the result.
_COMPILED = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin first: where several run at a time none is left for the end."""
    items.sort(key=lambda item: item.path.parent.name != "workflow")


@pytest.fixture(scope="session")
def tiny_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of the 8 x 8 digits: ten classes, 1,097 / 340 / 360 images. Read only."""
    from data.prepare_digits import Config, main

    folder = tmp_path_factory.mktemp("data") / "DIGITS"
    main(Config(out_dir=folder))
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders that whole stages run in, each in a process of its own: a tests.faults.stages.World."""
    from tests.faults.stages import World

    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def float64() -> Iterator[None]:
    """Lets float64 arrays keep their precision: TensorFlow always does, JAX only when told."""
    import keras

    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
