"""The stages of the project, each as a command of a second or two on the handwritten digits, and what they need."""

import lzma
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robust_training.methods import METHODS
from runtime.files import save_archive, write_json, write_text
from tests.faults.processes import contents, run, start, tell

MODEL = "models/gaussianaug_0.25_clean_seed0.keras"
POISON = "poison/X_poisoned_radius_constant_0.25_8.npy"
PLAN = """table: tiny
title: A table of one entry
dataset: DIGITS
data_dir: DIGITS
work_dir: work
methods: {gaussianaug: [0.25]}
rows: [clean]
runs: 1
architecture: digits_cnn
victim: {all: {epochs: 1, batch_size: 500}}
certification: {points: 3, n0: 10, n: 100}
threads: 1
"""


@dataclass(frozen=True)
class Stage:
    """A script and its flags, which name files by their paths in the folder that it runs in."""

    name: str
    script: str
    flags: dict[str, str]
    writes: tuple[str, ...] = ("out",)
    """The only parts of the folder that it may write in."""
    is_exclusive: bool = True
    """Whether it refuses to run where another process makes the same."""

    def words(self, changes: dict[str, str | None] | None = None) -> list[str]:
        """Script and flags; changes: values of flags in place of the stage's own, None to leave one out."""
        flags = {**self.flags, **(changes or {})}
        return [
            self.script,
            *(word for name, value in flags.items() if value is not None for word in _words(name, value)),
        ]


def _words(flag: str, value: str) -> list[str]:
    return [f"--{flag}", *(value.split(" ") if flag in SEVERAL else [value])]


SEVERAL = ("shards", "studies", "q", "ridge", "network-shares", "classes", "methods", "set")
_DATA = {"data-dir": "DIGITS"}
_RUN = {**_DATA, "out-dir": "out", "run-dir": "out/run"}
_ATTACK = {
    **_RUN, "epochs": "2", "reinitialise-every": "1", "batch-clean": "900", "batch-poison": "4",
    "batch-validation": "4", "radius-copies": "2",
    "lower-steps": "2", "solver-steps": "1", "checkpoint-minutes": "1e-9", "seed": "0",
    "epsilon": "0.1", "sigma": "0.25", "lr-u": "0.1", "target-class": "8",
}  # fmt: skip
_VICTIM = {
    **_RUN, "epochs": "2", "batch-size": "500", "checkpoint-minutes": "1e-9", "sigma": "0.25", "learning-rate": "0.001",
    "seed": "0", "target-class": "8", "runs": "1",
}  # fmt: skip
_CERTIFY = {
    **_DATA, "model": MODEL, "sigma": "0.25", "n0": "10", "n": "100", "alpha": "0.01", "seed": "0", "batch-size": "100",
    "target-class": "8",
}  # fmt: skip


def _attack(method: str) -> Stage:
    folder = METHODS[method].attack_folder
    left_out = ("radius-copies",) if method == "standard" else ()
    flags = {name: value for name, value in _ATTACK.items() if name not in left_out}
    name = "attack" if method == "gaussianaug" else f"attack {method}"
    return Stage(name, f"attack_generation/{folder}/DIGITS/poison_radius_{method}.py", flags)


def _victim(method: str) -> Stage:
    poison = {"training-data": "poisoned_radius", "poison": POISON} if method == "gaussianaug" else {}
    name = "victim" if method == "gaussianaug" else f"victim {method}"
    return Stage(name, f"evaluation/DIGITS/{METHODS[method].victim_script}.py", {**_VICTIM, **poison})


STAGES = {
    stage.name: stage
    for stage in (
        _attack("gaussianaug"),
        _victim("gaussianaug"),
        Stage(
            "certificate", "randomized_smoothing_certification/certify_digits.py",
            {**_CERTIFY, "points": "4", "out": "out/whole.tsv"},
        ),
        Stage(
            "label study", "label_flipping/digits.py",
            {
                **_DATA, "work-dir": "out/work", "results-dir": "out/results", "q": "0.1 0.3", "ridge": "1 100",
                "points": "20", "held-out": "50", "network-shares": "0.0 0.01", "network-points": "1",
                "network.epochs": "1", "network.batch-size": "200", "network.architecture": "digits_cnn", "at": "0.01",
                "seed": "0", "classes": "3 8",
            },
        ),
        Stage(
            "merge", "randomized_smoothing_certification/merge_shards.py",
            {"shards": "shards/1.tsv shards/2.tsv", "out": "out/whole.tsv"},
        ),
        Stage(
            "control", "attack_generation/control_poison.py",
            {
                **_DATA, "out-dir": "out", "kind": "random", "epsilon": "0.1", "sigma": "0.25", "seed": "0",
                "target-class": "8",
            },
        ),
        # The others write the same bytes however many run, each file whole.
        Stage("digits", "data/prepare_digits.py", {"out-dir": "out/DIGITS", "seed": "0"}, is_exclusive=False),
        Stage(
            "mnist", "data/prepare_mnist.py",
            {"source": "MNIST.npz", "out-dir": "out/MNIST", "validation": "150", "seed": "0"}, is_exclusive=False,
        ),
        Stage(
            "cifar10", "data/prepare_cifar10.py",
            {"source": "CIFAR10.npz", "out-dir": "out/CIFAR10", "validation": "150", "seed": "0"}, is_exclusive=False,
        ),
        Stage(
            "boundary", "evaluation/boundary/two_dimensional.py",
            {
                "out-dir": "out", "runs": "1", "train-points": "8", "validation-points": "4", "test-points": "4",
                "hidden": "4", "copies": "2", "victim-steps": "4", "outer-steps": "1", "radius-copies": "2",
                "optimiser": "error_minimising",  # TensorFlow traces it in half the time. The files are the same
                "n0": "10", "n": "100", "epsilon": "0.08", "sigma": "0.08", "seed": "0",
            }, is_exclusive=False,
        ),
        Stage("plan", "evaluation/tables/run_plan.py", {"plan": "plan.yaml", "directory": "."}, ("work",), False),
        Stage(
            "tables", "evaluation/tables/make_tables.py", {"plan": "plan.yaml", "directory": ".", "results-dir": "out"},
            is_exclusive=False,
        ),
        Stage(
            "export", "evaluation/tables/certificates.py",
            {"store": "results/tiny", "entry": "gaussianaug_digits_cnn_sigma_0.25/clean/class_8", "out-dir": "out"},
            is_exclusive=False,
        ),
        Stage(
            "collect", "label_flipping/collect.py",
            {"studies": "results/label_flipping", "results-dir": "out"}, is_exclusive=False,
        ),
        Stage(
            "results", "evaluation/write_results.py", {"results-dir": "results", "benchmarks-dir": "benchmarks"},
            ("results", "benchmarks"), False,
        ),
        *(make(method) for method in METHODS if method != "gaussianaug" for make in (_attack, _victim)),
    )
}  # fmt: skip


@dataclass
class World:
    """Folders that stages run in: copies of one that holds what they read, made when it is first asked for."""

    root: Path
    _wholes: dict[str, "Whole"] = field(default_factory=dict)

    @cached_property
    def start(self) -> Path:
        """What a stage finds that has not run: data, a victim, a poison, two shards."""
        folder = self.root / "start"
        folder.mkdir(parents=True)
        random = np.random.default_rng(0)
        for name, shape in (("MNIST", (28, 28)), ("CIFAR10", (32, 32, 3))):
            splits = {"train": 300, "test": 10}
            x = {
                f"x_{part}": random.integers(256, size=(count, *shape), dtype=np.uint8)
                for part, count in splits.items()
            }
            y = {f"y_{part}": np.arange(count) % 10 for part, count in splits.items()}
            save_archive(folder / f"{name}.npz", {**x, **y})
        made = [["data/prepare_digits.py", "--out-dir", "DIGITS"]]
        made.append(STAGES["control"].words({"out-dir": "poison", "kind": "constant"}))
        clean = {"training-data": None, "poison": None, "out-dir": "models", "run-dir": "runs", "epochs": "10"}
        made.append(STAGES["victim"].words(clean))
        for part in "12":
            made.append(STAGES["certificate"].words({"out": f"shards/{part}.tsv", "points": "6", "shard": f"{part}/2"}))
        write_text(folder / "plan.yaml", PLAN)
        _make(folder, *made)
        return folder

    @cached_property
    def measured(self) -> Path:
        """The same, and a plan that was run, whose jobs are kept, and a folder of results."""
        folder = self.root / "measured"
        shutil.copytree(self.start, folder)
        _make(
            folder,
            STAGES["plan"].words(),
            STAGES["tables"].words({"results-dir": "results/tiny"}),
            STAGES["label study"].words({"results-dir": "runs", "work-dir": "runs/work"}),
            STAGES["collect"].words({"studies": "runs/DIGITS_3_8_raw_tight", "results-dir": "results/label_flipping"}),
        )
        # Records of a changed working tree do not go into a page.
        clean = partial(re.sub, '"commit": "[^"]*"', '"commit": "0123456789ab"')
        for record in (folder / "results").rglob("*.json"):
            write_text(record, clean(record.read_text()))
        for record in (folder / "results").rglob("*.json.xz"):
            record.write_bytes(lzma.compress(clean(lzma.decompress(record.read_bytes()).decode()).encode()))
        for table in (folder / "results/label_flipping").glob("*.md"):
            write_text(table, re.sub("^Commit .*$", "Commit 0123456789ab.", table.read_text(), flags=re.MULTILINE))
        record = {
            "command": "python benchmarks/speed.py",
            "commit": "0123456789ab",
            "about": {},
            "rows": [{"seconds": 1.0}],
        }
        write_json(folder / "benchmarks/records/speed.json", record)
        return folder

    def fresh(self, stage: Stage) -> Path:
        """A new folder to run a stage in."""
        return self.copy(self.start_of(stage))

    def start_of(self, stage: Stage) -> Path:
        """The folder that these are copies of."""
        is_of_results = stage.name in ("plan", "tables", "export", "collect", "results")
        return self.measured if is_of_results else self.start

    def whole(self, stage: Stage) -> "Whole":
        """A run of a stage to its end, to compare with."""
        if stage.name not in self._wholes:
            running = start(stage.words(), folder := self.fresh(stage), act=tell)
            operations = [running.pipe.recv()]
            began = time.monotonic()
            if (outcome := running.wait()).status:
                raise RuntimeError(f"{' '.join(stage.words())}: {outcome}")
            seconds = time.monotonic() - began
            while running.pipe.poll():
                try:
                    operations.append(running.pipe.recv())
                except EOFError:
                    break
            self._wholes[stage.name] = Whole(folder, contents(folder, stage.writes), operations, seconds)
        return self._wholes[stage.name]

    def copy(self, folder: Path) -> Path:
        """A new copy of a folder."""
        return Path(shutil.copytree(folder, tempfile.mkdtemp(dir=self.root), symlinks=True, dirs_exist_ok=True))


class Whole(NamedTuple):
    """A run that was not disturbed."""

    folder: Path
    contents: dict[str, Any]
    operations: list[str]
    seconds: float  # from its first file operation on


def _make(folder: Path, *commands: list[str]) -> None:
    for words in commands:
        outcome = run(words, folder)
        if outcome.status:
            raise RuntimeError(f"{' '.join(words)}: {outcome}")
