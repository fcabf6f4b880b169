"""Export an entry of a store as files in the columns of Cohen et al.'s code, or import files of another program.

The entries of a store, each with its seeds, test points and average certified radius:

    python evaluation/tables/certificates.py --store results/mnist_published

Export one entry. seed_<k>.tsv has the columns idx label predict radius correct time, and votes where the points have
them. Cohen et al.'s analyze.py reads this file. settings.json records how each run was made:

    python evaluation/tables/certificates.py --store results/mnist_published \\
        --entry gaussianaug_mnist_cnn_sigma_0.5/clean/class_8 --out-dir runs/exported

Certificates of another program join the store and the plan.yaml beside it, one file per run:

    python evaluation/tables/certificates.py --store runs/tables/digits/results \\
        --import-files a.tsv b.tsv --method consistency --sigma 0.25 --target-class 8 --n 10000
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from evaluation.tables.cells import CLEAN, Foreign
from evaluation.tables.plan import read_plan
from evaluation.tables.records import StoredRun, read_runs, runs_of, write_runs
from randomized_smoothing_certification.certificate_file import COLUMNS, RADIUS_DIGITS
from randomized_smoothing_certification.core import round_down
from randomized_smoothing_certification.sampling import ALPHA
from runtime.artifact import Artifact
from runtime.checks import shortened
from runtime.command_line import run_script
from runtime.files import InputError, read_text, write_text
from runtime.lazy import pandas as pd
from runtime.provenance import printed_path, project_path, shown_path
from runtime.text_tables import aligned

NO_TIME = "0:00:00.000000"  # a store has no times
ABOUT_FILES = [name for name in Foreign.__struct_fields__ if name != "files"]  # settings that describe --import-files


@dataclass(frozen=True, kw_only=True)
class Config:
    store: Path
    """Folder of points.csv.xz and settings.json.xz."""
    entry: str = ""
    """Entry to export. Without this flag the entries are listed."""
    out_dir: Path | None = None
    """Folder of the exported files."""
    import_files: tuple[Path, ...] = ()
    """Certificates of another program to import, one file for each run. The columns label, predict and radius are
    separated by tabs. A column idx is optional."""
    method: str = ""
    """Training method of the imported runs' victims."""
    sigma: float | None = None
    """Training noise of the imported runs' victims, pixels in [0, 1]."""
    target_class: int | None = None
    """Class whose points are averaged. The files may hold other classes, too."""
    poison: str = CLEAN
    """Training data of the victims: clean, a control, ready, or the method that the poison was made against."""
    architecture: str = ""
    """Model of the victims, as in the plan."""
    victim: str = ""
    """Kind of victims, a name as in the plan's victims."""
    poison_architecture: str = ""
    """Model that the poison was made with."""
    poison_variant: str = ""
    """Name of the row where the poison is one of the plan's attacks or ready poisons."""
    accuracy: float | None = None
    """Accuracy on the clean test images, if it is known."""
    n: int | None = None
    """Votes n of a point, if they are known. Without n, tables have no share of points at the ceiling."""
    alpha: float = ALPHA
    """Error probability of a point, used where n is given."""


def main(config: Config) -> None:
    """Print the entries, export one, or import one. Raises InputError before anything is written."""
    given = [name.replace("_", "-") for name in ABOUT_FILES if getattr(config, name) != getattr(Config, name)]
    if config.import_files and (config.entry or config.out_dir):
        raise InputError("--import-files adds an entry, --entry and --out-dir export one; give one or the other")
    if given and not config.import_files:
        raise InputError(f"--{given[0]} describes --import-files; name the files, or leave the flag out")
    if config.import_files:
        import_entry(config)
    elif config.entry or config.out_dir:
        export_entry(config)
    else:
        print(list_of_entries(config.store))


def list_of_entries(folder: Path) -> str:
    """A line for each entry of a store. The radius is averaged over the class at the end of the entry's name."""
    lines = []
    for entry, by_seed in read_runs(folder).items():
        points = [run.points for run in by_seed.values()]
        label = re.search(r"/class_(\d+)$", entry)
        class_points = [one[one["label"] == int(label[1])] if label else one for one in points]
        radii = [np.where(one["correct"] == 1, one["radius"], 0).mean() for one in class_points if len(one)]
        counts = sorted({len(one) for one in points})
        acr = f"{np.mean(radii):.4f}" if radii else ""
        lines.append([entry, " ".join(map(str, by_seed)), ", ".join(map(str, counts)), acr])
    return aligned(["entry", "seeds", "points", "ACR"], lines)


def export_entry(config: Config) -> None:
    """Write seed_<k>.tsv for each seed of an entry, and settings.json.

    Raises InputError where the store lacks the entry, or another file with one of these names exists.
    """
    stored = read_runs(config.store)
    if config.entry not in stored:
        mend = f"without --entry and --out-dir its {len(stored)} entries are listed"
        raise InputError(f"--entry {shortened(config.entry)}: {config.store} has no such entry; {mend}")
    if config.out_dir is None:
        raise InputError(f"--entry {config.entry}: give the folder of its files as --out-dir")
    runs = stored[config.entry]
    texts = {f"seed_{seed}.tsv": as_certificates(run.points) for seed, run in runs.items()}
    texts["settings.json"] = json.dumps({seed: run.records for seed, run in runs.items()}, indent=1) + "\n"
    for name, text in texts.items():
        path = config.out_dir / name
        if path.exists() and read_text(path) != text:
            raise InputError(f"{path}: another file of this name is there; choose another --out-dir")
    for name, text in texts.items():
        write_text(config.out_dir / name, text)
    print(f"{printed_path(config.out_dir)}: {', '.join(texts)}")


def as_certificates(points: pd.DataFrame) -> str:
    """The points of a run as text in the columns of Cohen et al.'s code, with votes where each point has them."""
    texts = points.assign(radius=points["radius"].map(_radius_text), time=NO_TIME)
    rows = texts.reindex(columns=[*COLUMNS, "votes"]).dropna(axis="columns")  # without votes that a point lacks
    return rows.convert_dtypes().to_csv(sep="\t", index=False, lineterminator="\n")


def _radius_text(radius: float) -> str:
    """A radius with six digits is written unchanged. A radius with more digits is rounded down."""
    nearest = f"{radius:.{RADIUS_DIGITS}f}"
    return nearest if float(nearest) <= radius else round_down(radius)


def import_entry(config: Config) -> None:
    """Add certificates of another program to the store, and to the plan beside it.

    Raises InputError where the plan or the store has the entry already, a file or a setting cannot be used, or the
    record beside a file names another setting.
    """
    plan_file = config.store / "plan.yaml"
    with Artifact(plan_file):  # not the store's files: read_runs needs what a killed run left of them
        plan, stored, foreign = read_plan(plan_file), read_runs(config.store), _foreign(config)
        key = foreign.cell.key
        if key in {cell.key for cell in plan.cells()} | {one.cell.key for one in plan.foreign}:
            mend = "name another kind of --victim or --poison-variant"
            raise InputError(f"{plan_file}: the plan has the entry {key} already; {mend}")
        joined = msgspec.structs.replace(plan, foreign=(*plan.foreign, foreign))
        joined.check()
        runs = runs_of(foreign, project_path(""))
        if key not in stored:
            write_runs(config.store, {**stored, key: runs})
        elif not _are_same(runs, stored[key]):
            raise InputError(f"{config.store}: the store has other runs of the entry {key} already; import elsewhere")
        # If the program is killed here, the same command writes the plan later.
        write_text(plan_file, msgspec.yaml.encode(joined).decode())
        print(f"{printed_path(config.store)}: {key}, {len(runs)} runs. To make the tables:")
        print(f"python evaluation/tables/make_tables.py --plan {printed_path(plan_file)} --from-results")


def _foreign(config: Config) -> Foreign:
    values = {name: getattr(config, name) for name in ABOUT_FILES}
    for name in ("method", "sigma", "target_class"):
        if values[name] in ("", None):
            raise InputError(f"--import-files {config.import_files[0]}: --{name.replace('_', '-')} is missing; give it")
    foreign = Foreign(files=tuple(shown_path(path.absolute()) for path in config.import_files), **values)
    foreign.check()
    return foreign


def _are_same(new: Mapping[int, StoredRun], stored: Mapping[int, StoredRun]) -> bool:
    """Whether records and points are the same. The store may have more columns of points, for other entries."""
    if new.keys() != stored.keys():
        return False
    for seed, run in new.items():
        points = run.points.drop(columns="entry")
        same_points = np.array_equal(points, stored[seed].points.reindex(columns=points.columns))
        if not same_points or run.records != stored[seed].records:
            return False
    return True


if __name__ == "__main__":
    run_script(main, Config, __doc__)
