"""Fixtures shared by all tests."""

import gc
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

# A process of tests has one core: several run side by side. NumPy reads the last when it is imported.
for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import runtime.provenance  # noqa: E402 (sets the backend's environment before anything imports Keras)

# Nothing is committed while tests run. To ask each time takes four processes of git.
runtime.provenance.git_commit = cache(runtime.provenance.git_commit)

# Traced functions stay for long. To look through them again and again for garbage takes a tenth of the time.
gc.set_threshold(100_000, 50, 50)

# JAX compiles a toy attack for ten seconds and more; runs that are stopped and continued share the result.
_COMPILED = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)


# Modules that compute with tensors. What a test file does not import itself, it may still call in a script.
TENSORS = re.compile(
    r"^(from|import) (keras|bilevel_optimizer|models|robust_training(?!\.defences)|runtime\.(noise|checkpoints)"
    r"|attack_generation\.(attack|parametrisation|poisoning)|evaluation\.boundary\.study"
    r"|randomized_smoothing_certification\.(certification_run|soft_radius|votes))\b",
    re.MULTILINE,
)


@cache
def uses_tensors(path: Path) -> bool:
    return TENSORS.search(path.read_text(encoding="utf-8")) is not None


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what depends on the backend. The files that take longest begin first, so that none is left for the end."""
    for item in items:
        if uses_tensors(item.path):
            item.add_marker("backend")
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


@pytest.fixture(scope="session")
def compiled_once() -> Iterator[None]:
    """Attacks and trainings with equal settings and images, and votes of equal models, are compiled once for all tests.

    Pictures of poison show two images in place of ten, which is as much as any of these tests looks at.

    A step is a pure function of the state, its number and the seed, so that what makes it can be used again. That a run
    continues in a fresh process to the same bits has a test of its own.
    """
    from attack_generation import poisoning
    from randomized_smoothing_certification import certification_run
    from robust_training import training
    from runtime.files import array_sha256
    from runtime.long_run import identity

    def shared(make: Any) -> Callable[..., Any]:
        made: dict[str, Any] = {}

        def once(config: Any, dataset: Any, *split: Any) -> Any:
            arrays = [getattr(dataset, f"{letter}_{split}") for letter in "xy" for split in ("train", "val", "test")]
            key = json.dumps([identity(config), repr(config.loss), *map(array_sha256, arrays)])
            if key not in made:
                made[key] = make(config, dataset, *split)
            return made[key]

        return once

    def afresh(config: Any, dataset: Any) -> Any:
        """A training, whose model holds its first weights, and not the last of the run before."""
        one = shared_training(config, dataset)
        one.model.assign(*first.setdefault(id(one), one.model.initial()))
        return one

    def counter(model: Any, *settings: Any) -> Any:
        """A VoteCounter that keeps no noise yet."""
        key = json.dumps([model.get_config(), *map(array_sha256, model.get_weights()), settings])
        if key not in counters:
            counters[key] = make_counter(model, *settings)
        counters[key]._kept = {}
        return counters[key]

    make_counter, counters = certification_run.VoteCounter, {}
    shared_training, first = shared(training.Training), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(poisoning, "Attack", shared(poisoning.Attack))
        patch.setattr(training, "Training", afresh)
        patch.setattr(certification_run, "VoteCounter", counter)
        patch.setattr(poisoning, "save_image_grids", partial(poisoning.save_image_grids, columns=2))
        yield


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
