"""Malformed command lines and files for every stage, drawn from a seed; how each case ended is counted.

    python tests/fuzz/run_fuzz.py --n 1000 --seed 0
    python tests/fuzz/run_fuzz.py --seed 0 --case 123

Each case is a command of a stage, in a folder where it has not run, was killed in its middle or has ended, with one to
three changes. Right is one clear line, exit status 2 and nothing written, or a good end where the changes allow one.
"""

import argparse
import hashlib
import os
import random
import resource
import shlex
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script

from tests.faults.processes import Outcome, contents, differences, kill_at, run
from tests.faults.stages import SEVERAL, STAGES, Stage, World
from tests.fuzz.mutations import OPTIONAL, Damage, Right, damages_of, right_of, values_of

SECONDS = 20 * 60  # a case that takes longer hangs: many times what the longest valid one takes on a slow machine
MEMORY = 12 * 2**30  # address space of a case, so that a size without a check ends it and not the machine
GOOD = ("one line", "accepted")
BAD = ("silent acceptance", "traceback", "several lines", "written", "left over", "led out", "hang")
READS = {
    "merge": ("shards",), "mnist": ("MNIST.npz",), "cifar10": ("CIFAR10.npz",), "certificate": ("DIGITS", "models"),
    "plan": ("plan.yaml", "work", "DIGITS"), "tables": ("plan.yaml", "work"), "export": ("results",),
    "results": ("results", "benchmarks"), "collect": ("results/label_flipping",),
    "victim": ("DIGITS", "poison"), "boundary": (), "digits": (),
}  # fmt: skip
OFTEN = ("merge", "certificate", "control", "label study", "attack", "victim")
EVERY = (*STAGES, *OFTEN, *OFTEN, "plan", "tables")
STATES = ("fresh", "fresh", "killed", "ended")


class Case(NamedTuple):
    """A command and what is changed in its folder."""

    stage: Stage
    state: str
    changes: dict[str, str | None]  # of flags' values
    more: list[str]  # words at the end of the command line
    damages: dict[str, Damage]  # of files
    right: Right

    @property
    def words(self) -> list[str]:
        """The command."""
        return self.stage.words(self.changes) + self.more

    def __str__(self) -> str:
        words = [f"--{flag} {value!r}" if value is not None else f"no --{flag}" for flag, value in self.changes.items()]
        files = [f"{name} ({damage.name})" for name, damage in self.damages.items()]
        return f"{self.stage.name}, {self.state}: " + "; ".join(part[:100] for part in (*words, *self.more, *files))


class Result(NamedTuple):
    """How a case ended."""

    number: int
    case: Case
    kind: str  # one of GOOD or BAD
    outcome: Outcome
    details: list[str]


class Cases:
    """Cases by their numbers, drawn from a seed; a case does not depend on the others."""

    def __init__(self, seed: int, world: World, stages: tuple[str, ...]) -> None:
        self.seed, self.world, self.stages = seed, world, stages
        self._killed: dict[str, Path] = {}
        self._drawing = threading.Lock()  # one thread makes the folders that cases start from

    def _start(self, stage: Stage, state: str) -> Path:
        if state == "fresh":
            return self.world.start_of(stage)
        whole = self.world.whole(stage)
        if state == "killed" and stage.name not in self._killed:
            folder = self._killed[stage.name] = self.world.fresh(stage)
            run(stage.words(), folder, act=partial(kill_at, len(whole.operations) // 2))
        return whole.folder if state == "ended" else self._killed[stage.name]

    def case(self, number: int) -> tuple[Case, Path, random.Random]:
        """A case, the folder to copy, and what draws the rest of it."""
        draw = random.Random(f"{self.seed} {number}")
        stage = STAGES[draw.choice(self.stages)]
        state = draw.choice(STATES) if stage.is_exclusive and stage.name in OFTEN else "fresh"
        start = self._start(stage, state)
        reads = (*READS.get(stage.name, ("DIGITS",)), *(() if state == "fresh" else ("out",)))
        files = [path for part in reads for path in (start / part, *sorted((start / part).rglob("*")))]
        files = [path for path in files if path.is_file() and not _is_passive(path)]
        changes: dict[str, str | None] = {}
        more: list[str] = []
        damages: dict[str, Damage] = {}
        rights = [Right.SAME]
        for _ in range(draw.choice((1, 1, 1, 2, 2, 3))):
            if files and draw.random() < 0.5:
                path = draw.choice(files)
                damage, name = draw.choice(damages_of(path)), str(path.relative_to(start))
                if name not in damages:
                    damages[name] = damage
                    rights.append(right_of(damage, name, stage.writes))
                continue
            flags = [*stage.flags, *OPTIONAL.get(stage.name.split()[0], "").split()]
            flags = [flag for flag in flags if flag not in changes and values_of(flag)]
            if not flags or draw.random() < 0.1:
                rights.append(_reshape(stage, changes, more, draw))
            else:
                flag = draw.choice(flags)
                changes[flag], right = draw.choice(values_of(flag))
                rights.append(right)
        return Case(stage, state, changes, more, damages, max(rights)), start, draw

    def carry_out(self, number: int) -> Result:
        """Run a case in a folder of its own."""
        with self._drawing:
            case, start, draw = self.case(number)
        folder = self.world.copy(start)
        (folder / "loop").symlink_to("loop")
        for name, damage in case.damages.items():
            damage.change(folder / name, draw)
        before = _hashes(folder)
        outcome = run(case.words, folder, SECONDS, limits={resource.RLIMIT_AS: MEMORY})
        after = _hashes(folder)
        written = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        # What is hidden and gone, a run that was killed had left.
        written = [name for name in written if name in after or not Path(name).name.startswith(".")]
        kind, details = self._judge(case, folder, outcome, written)
        shutil.rmtree(folder)
        return Result(number, case, kind, outcome, details)

    def _judge(self, case: Case, folder: Path, outcome: Outcome, written: list[str]) -> tuple[str, list[str]]:
        stage, status = case.stage, outcome.status
        if status is None:
            return "hang", []
        if status not in (0, 1, 2, 75) or "Traceback" in outcome.errors:
            return "traceback", []
        if led := [name for name in written if name.split("/")[0] not in stage.writes]:
            return "led out", led
        if status == 2 and stage.name == "plan" and "jobs failed" in outcome.errors:
            return "one line", []  # of each job, after the others are done
        if status in (1, 2):
            if not outcome.is_one_line:
                return "several lines", []
            # A label study keeps its stages as it goes: whole ones may be there before a damaged one is found.
            written = [name for name in written if not (stage.name == "label study" and name.startswith("out/work/"))]
            return ("written", written) if written and status == 2 else ("one line", [])
        if case.right == Right.REFUSE:
            return "silent acceptance", []
        if left := [name for name in written if Path(name).name.startswith(".") and (folder / name).exists()]:
            return "left over", left
        if case.right == Right.SAME and status == 0:
            with self._drawing:
                whole = self.world.whole(stage)
            different = differences(whole.contents, contents(folder, stage.writes))
            return ("silent acceptance", different) if different else ("accepted", [])
        return "accepted", []


def _reshape(stage: Stage, changes: dict[str, str | None], more: list[str], draw: random.Random) -> Right:
    """Change the command line itself."""
    flag, value = draw.choice(list(stage.flags.items()))
    how = draw.choice(("unknown", "stray", "no value", "twice", "left out", "spelled"))
    if how == "left out":
        needed = [name for name in ("model", "out", "shards", "plan") if name in stage.flags]
        if needed:
            changes[draw.choice(needed)] = None
        return Right.REFUSE if needed else Right.SAME
    if how in ("twice", "spelled"):
        if flag in changes or flag in SEVERAL:
            return Right.SAME
        is_real = how == "spelled" and flag in ("epsilon", "sigma", "alpha", "learning-rate", "lr-u")
        changes[flag] = f"{float(value):.6e}" if is_real else value
        more += [f"--{flag}", value] if how == "twice" else []
        return Right.SAME
    more += {"unknown": ["--no-such-flag", "1"], "no value": ["--seed"]}.get(how, ["stray"])
    return Right.REFUSE


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not (path.suffix == ".log" or "tfevents" in path.name)
    }


def _is_passive(path: Path) -> bool:
    """Whether no run reads it: a log, scalars, a temporary file that a killed run has left."""
    return path.suffix == ".log" or "tfevents" in path.name or path.name.startswith(".")


def fuzz(numbers: Iterable[int], seed: int, world: World, stages: tuple[str, ...] = EVERY) -> Iterator[Result]:
    """Carry out cases of some stages on all processors; the results as they come."""
    cases = Cases(seed, world, stages)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(cases.carry_out, numbers)


def described(result: Result, seed: int) -> str:
    """Three lines on a case that ended badly: what was changed, what came of it, and how to see it again."""
    said = [line.strip("│╭╮╰╯─ ") for line in result.outcome.errors.splitlines()]
    last = next((line for line in reversed(said) if line and "help" not in line), "(silent)")
    return (
        f"{result.kind}: {result.case}\n"
        f"    exit {result.outcome.status}: {'; '.join([last[:160], *result.details])[:400]}\n"
        f"    python tests/fuzz/run_fuzz.py --seed {seed} --case {result.number}"
    )


def table(results: list[Result]) -> str:
    """How often each stage ended how, and the count of all in one line."""
    count = Counter((result.case.stage.name, result.kind) for result in results)
    kinds = Counter(result.kind for result in results)
    lines = [
        f"{stage:20s} " + ", ".join(f"{count[stage, kind]} {kind}" for kind in (*GOOD, *BAD) if count[stage, kind])
        for stage in dict.fromkeys(stage for stage, _ in sorted(count))
    ]
    lines.append(f"{len(results)} cases: " + ", ".join(f"{kinds[kind]} {kind}" for kind in (*GOOD, *BAD)))
    return "\n".join(lines)


def main() -> None:
    """Exit status 1 where a case ended badly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="carry out this case alone and show all that it says")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        numbers = range(options.n) if options.case is None else [options.case]
        results = []
        for result in fuzz(numbers, options.seed, World(Path(root))):
            results.append(result)
            if options.case is not None:
                print(f"{shlex.join(word[:300] for word in result.case.words)}\n{result.outcome.errors}")
            if result.kind in BAD:
                print(described(result, options.seed), flush=True)
    print(table(results))
    raise SystemExit(any(result.kind in BAD for result in results))


if __name__ == "__main__":
    main()
