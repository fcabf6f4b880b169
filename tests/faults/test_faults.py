"""Runs that are killed, disturbed or out of space end, when started again, as the run that nothing happened to.

All of it takes about twenty minutes (make test-faults); a few kills are part of every test run. KILLS and SEED in the
environment say how many moments are drawn and which.
"""

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.faults.processes import contents, differences, half_files, hold, hold_at, run, start, tell
from tests.faults.stages import STAGES, Stage, World

KILLS, SEED = int(os.environ.get("KILLS", "100")), int(os.environ.get("SEED", "0"))
LONG = ("attack", "victim", "certificate", "label study", "merge")
# Those of other methods and data are the same code; a plan's operations are its jobs'.
EVERY = (*LONG, "control", "digits", "boundary", "tables", "export", "collect", "results")

Trial = Callable[[World, Stage, Path], list[str]]
"""Disturbs a stage that runs in a folder: what is wrong then, before it is started again."""


def every(trials: Iterable[tuple[str, Stage, Trial]], kind: str, world: World, tally: Counter) -> None:
    """Carry out trials, each described by a line, on all processors; fail naming those that did not end well."""

    def carried_out(trial: tuple[str, Stage, Trial]) -> str | None:
        line, stage, disturb = trial
        folder = world.fresh(stage)
        wrong = disturb(world, stage, folder)
        if (again := run(stage.words(), folder)).status:
            wrong.append(f"started again: {again}")
        wrong += differences(world.whole(stage).contents, contents(folder, stage.writes))
        shutil.rmtree(folder)
        return f"{stage.name}, {line}: {'; '.join(wrong)}" if wrong else None

    trials = list(trials)
    for _, stage, _ in trials:
        world.whole(stage)  # once, and with the processors to itself
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(carried_out, trials))
    failed = [line for line in found if line]
    tally[kind, "tried"] += len(trials)
    tally[kind, "well"] += len(trials) - len(failed)
    if failed:
        pytest.fail(f"{len(failed)} of {len(trials)} {kind}:\n" + "\n".join(failed), pytrace=False)


# Kills -------------------------------------------------------------------------------------------------------------


def at_random_moments(stages: Iterable[str], count: int, world: World, tally: Counter) -> None:
    """Kill runs at moments drawn between their first file operation and their end."""
    moments = random.Random(SEED)

    def kill(moment: float, world: World, stage: Stage, folder: Path) -> list[str]:
        running = start(stage.words(), folder, act=tell)
        running.pipe.recv()
        time.sleep(moment * world.whole(stage).seconds)
        running.process.kill()
        running.wait()
        return []

    trials = [
        (f"killed at {m:.3f}", STAGES[name], partial(kill, m))
        for name in stages
        for m in [moments.random() for _ in range(count)]
    ]
    every(trials, "kills at random moments", world, tally)


def at_every_operation(stage: Stage, world: World, tally: Counter) -> None:
    """Start runs again from what a kill before each of their file operations leaves.

    A run waits before every operation while its folder is copied. A kill at that moment leaves the same files.
    """
    moments = list(copied_moments(stage, world))

    def leave(copy: Path, _world: World, _stage: Stage, folder: Path) -> list[str]:
        shutil.rmtree(folder)
        copy.rename(folder)
        return []

    trials = [
        (f"killed before operation {number} ({name})", stage, partial(leave, copy))
        for number, (name, copy) in enumerate(moments)
    ]
    every(trials, "kills at file operations", world, tally)


def copied_moments(stage: Stage, world: World) -> Iterator[tuple[str, Path]]:
    """The name of each file operation of a run, and a copy of its folder before that operation."""
    running = start(stage.words(), folder := world.fresh(stage), act=hold)
    with suppress(EOFError):
        while name := running.pipe.recv():
            yield name, world.copy(folder)
            running.pipe.send(None)
    assert running.wait().status == 0


def test_a_few_kills_at_random_moments(world: World, tally: Counter) -> None:
    at_random_moments(("victim", "certificate", "label study"), 1, world, tally)


def test_kills_at_every_operation_of_the_merge(world: World, tally: Counter) -> None:
    at_every_operation(STAGES["merge"], world, tally)


@pytest.mark.faults
@pytest.mark.parametrize("name", LONG)
def test_kills_at_random_moments(name: str, world: World, tally: Counter) -> None:
    share = [KILLS // len(LONG) + (place < KILLS % len(LONG)) for place in range(len(LONG))]
    at_random_moments([name], share[LONG.index(name)], world, tally)


@pytest.mark.faults
@pytest.mark.parametrize("name", EVERY)
def test_kills_at_every_operation(name: str, world: World, tally: Counter) -> None:
    at_every_operation(STAGES[name], world, tally)


def sizes_to_stop_at(world: World, stage: Stage) -> list[int]:
    """Half of the size of every file that a run leaves, and a byte less than all of it: C's buffers hide its loss."""
    files = (world.whole(stage).folder / name for name in world.whole(stage).contents)
    return sorted({size for file in files for whole in [file.stat().st_size] for size in (whole // 2, whole - 1)})


@pytest.mark.faults
@pytest.mark.parametrize("name", EVERY)
def test_kills_in_the_middle_of_a_write(name: str, world: World, tally: Counter) -> None:
    """The system writes as far as the limit and kills the process there."""

    def kill(size: int, _world: World, stage: Stage, folder: Path) -> list[str]:
        outcome = run(stage.words(), folder, limits={resource.RLIMIT_FSIZE: size}, dies=True)
        is_well = outcome.status in (-signal.SIGXFSZ, 0)  # the latter where a time is a digit shorter
        return [] if is_well else [f"not killed, {outcome}"]

    stage = STAGES[name]
    trials = [(f"killed at byte {size}", stage, partial(kill, size)) for size in sizes_to_stop_at(world, stage)]
    every(trials, "kills in writes", world, tally)


# Two at once -------------------------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("name", [name for name in EVERY if STAGES[name].is_exclusive])
def test_of_two_at_once_one_does_the_work(name: str, world: World, tally: Counter) -> None:
    def meet(number: int, world: World, stage: Stage, folder: Path) -> list[str]:
        first = start(stage.words(), folder, act=partial(hold_at, number))
        first.pipe.recv()
        before = contents(folder, stage.writes)
        second = run(stage.words(), folder)
        wrong = [f"by the second, {line}" for line in differences(before, contents(folder, stage.writes))]
        found_it_done = second.status == 0 and not wrong  # where the first only tidies up
        if not (found_it_done or (second.status == 2 and second.is_one_line)):
            wrong.append(f"the second: {second}")
        first.pipe.send(None)
        if (outcome := first.wait()).status:
            wrong.append(f"the first: {outcome}")
        return wrong + differences(world.whole(stage).contents, contents(folder, stage.writes))

    stage = STAGES[name]
    operations = world.whole(stage).operations
    held = sorted({len(operations) // 2, len(operations) - 1})
    trials = [(f"held before operation {at} ({operations[at]})", stage, partial(meet, at)) for at in held]
    every(trials, "runs met by another", world, tally)


# No space ----------------------------------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory over a folder."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def refused(world: World, stage: Stage, folder: Path, words: str = "", **options: dict[int, int]) -> list[str]:
    """What is wrong with how a stage refuses to go on: one line that holds some words, no half file."""
    outcome, whole = run(stage.words(), folder, **options), world.whole(stage).contents
    is_well = outcome.status == 0 or (outcome.status == 2 and outcome.is_one_line and words in outcome.errors)
    return ([] if is_well else [str(outcome)]) + half_files(whole, contents(folder, stage.writes))


WRITING = [name for name in EVERY if STAGES[name].writes == ("out",)]


@pytest.mark.faults
@pytest.mark.parametrize("name", WRITING)
def test_a_full_disk(name: str, world: World, tally: Counter) -> None:
    def fill(size: int, world: World, stage: Stage, folder: Path) -> list[str]:
        with mounted(folder / "out", f"size={size}"):
            wrong = refused(world, stage, folder, "no space left")
            shutil.copytree(folder / "out", folder / "kept")
        (folder / "out").rmdir()
        (folder / "kept").rename(folder / "out")
        return wrong

    stage = STAGES[name]
    blocks = sum(
        -(-file.stat().st_size // 4096) for file in world.whole(stage).folder.glob("out/**/*") if file.is_file()
    )
    trials = [
        (f"{size} bytes", stage, partial(fill, size)) for size in (4096 * (1 + blocks * i // 5) for i in range(5))
    ]
    every(trials, "full disks", world, tally)


@pytest.mark.faults
@pytest.mark.parametrize("name", WRITING)
def test_a_read_only_folder(name: str, world: World, tally: Counter) -> None:
    def lock(world: World, stage: Stage, folder: Path) -> list[str]:
        with mounted(folder / "out", "ro"):
            return refused(world, stage, folder)

    every([("read-only", STAGES[name], lock)], "read-only folders", world, tally)


@pytest.mark.faults
@pytest.mark.parametrize("name", WRITING)
def test_a_limit_of_file_size(name: str, world: World, tally: Counter) -> None:
    def limit(size: int, world: World, stage: Stage, folder: Path) -> list[str]:
        return refused(world, stage, folder, limits={resource.RLIMIT_FSIZE: size})

    stage = STAGES[name]
    trials = [(f"{size} bytes", stage, partial(limit, size)) for size in sizes_to_stop_at(world, stage)]
    every(trials, "file size limits", world, tally)
