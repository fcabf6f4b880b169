"""Check a poison, train and certify every kind of victims on it, and rank it by its smallest reduction of the ACR.

    python evaluation/tables/rank.py --plan config/rank_digits.yaml --poison mine.npz

The poison is kept in data/poisons. Victims of clean data are trained once. Poisons that were not measured here have
their rows from results/. The same command continues a stopped run. docs/enter_a_poison.md explains the row.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from attack_generation import check_poison
from data.datasets import EPSILON_TOLERANCE, target_mask
from data.poison_files import published_places
from data.ready_poisons import load_ready_poison, pack_poison, ready_name, ready_names
from evaluation.tables import run_plan
from evaluation.tables.cells import CLEAN, ROWS, Paths
from evaluation.tables.formats import as_markdown, as_text
from evaluation.tables.frame import Entries, frame_of
from evaluation.tables.plan import Plan, plan_of, read_plan
from evaluation.tables.ranking import kinds_without_reduction, ranking_table, scores
from evaluation.tables.records import collect, read_entries
from runtime.command_line import run_script
from runtime.files import InputError, array_sha256, write_text
from runtime.provenance import printed_path, project_path
from runtime.store import has_store

ALIKE = (
    "dataset", "script_folder", "architecture", "methods", "victim", "victims", "target_classes", "epsilon", "seed",
    "runs", "certification",
)  # fmt: skip
"""Entries of a plan that must be equal so that its poisons stand in one ranking."""

RECORDED = (
    "Rows (recorded) are from results/ and have clean victims of their own, from another machine. For an order on one "
    "machine run `make plan TABLE={}` first."
)


@dataclass(frozen=True, kw_only=True)
class Config(run_plan.Config):
    poison: Path
    """File of the poison, .npz, or the name of a poison in data/poisons."""


def main(config: Config) -> None:
    """Rank as the config says. Raises InputError for a poison that cannot be ranked before a victim is trained."""
    plan = run_plan.with_changes(read_plan(config.plan), config)
    paths = plan.paths_in(config.directory.absolute())
    folder = paths.work / "ranking"
    name = _checked_and_packed(config.poison, plan, paths)
    row = next((row for row, ready in plan.ready.items() if ready == name), name)
    in_plan = {*plan.ready, *plan.ready.values(), *ROWS}
    others = {one: one for one in ready_names() if one not in in_plan}
    with_all_poisons = plan_of({**msgspec.to_builtins(plan), "ready": plan.ready | others})
    results = project_path("results") / plan.table
    recorded = read_plan(results / "plan.yaml") if has_store(results) else None
    recorded_entries = read_entries(recorded, results) if recorded else {}  # before the training: it may not fit
    changes = f"rows=[{CLEAN}]", f"ready={json.dumps({row: name})}", f"results_dir={json.dumps(str(folder / row))}"
    run_plan.main(replace(config, set=(*config.set, *changes)))
    collect(with_all_poisons, folder)
    entries = read_entries(with_all_poisons, folder)
    frame = frame_of(with_all_poisons, entries)
    tables, notes = [scores(frame)], list[str]()
    if recorded:
        different = [entry for entry in ALIKE if getattr(recorded, entry) != getattr(plan, entry)]
        if _test_images(recorded_entries).isdisjoint(_test_images(entries)):
            different.append("test images")
        lacking = scores(frame_of(recorded, recorded_entries)).drop(tables[0].index, errors="ignore")
        if different:
            found = f"was measured with other {', '.join(different)}"
            print(f"note: {printed_path(results)} {found}; its rows are left out")
        elif len(lacking):
            tables.append(lacking.rename("{} (recorded)".format))
            notes.append(RECORDED.format(plan.table))
    table, page = ranking_table(tables), folder / "ranking.md"
    write_text(page, as_markdown([table], notes))
    print("", as_text([table]), *notes, f"{printed_path(page)}: written", sep="\n\n")
    if kinds := kinds_without_reduction(frame, row):
        raise InputError(f"{row} has no row: the clean ACR of {'; '.join(kinds)} is 0; give more epochs or votes")


def _test_images(entries: Entries) -> set[str]:
    return {str(run.certificate.get("test_sha256")) for one in entries.values() for run in one.runs}


def _checked_and_packed(path: Path, plan: Plan, paths: Paths) -> str:
    """Check a poison, print what was found, and pack a file into data/poisons. Returns the poison's name there.

    Raises InputError where a check fails, the plan cannot rank it, or its name is another's.
    """
    poison, images, dataset = check_poison.main(check_poison.Config(poison=path, data_dir=paths.data))
    about = poison.record["settings"]
    target_class, epsilon = about["target_class"], about["epsilon"]
    is_file = not ready_name(path)
    name = about["name"] if is_file else ready_name(path)
    if target_class not in plan.target_classes or epsilon > plan.epsilon + EPSILON_TOLERANCE:
        ranked = f"{plan.table} ranks class {plan.target_classes[0]}, epsilon {plan.epsilon:g}, so give another plan"
        raise InputError(f"{name}: is poison of class {target_class}, epsilon {epsilon:g}; {ranked}")
    is_packed = name in ready_names()
    sha256 = array_sha256(poison.pixels) + array_sha256(poison.index)
    is_taken = name in ROWS or plan.ready.get(name, name) != name
    if is_file and is_packed:  # the earlier poison of this name may be another one
        is_taken |= load_ready_poison(name).record.get("entry", {}).get("sha256") != sha256
    if is_taken:
        raise InputError(f"{name}: data/poisons or the plan has another poison or row of this name; choose another")
    if not is_packed:
        folders = f"victims/*/ready_sigma_*_class_{target_class}_{name}"
        for victims in (*paths.work.glob(folders), *paths.work.glob(f"{folders}_share_*")):
            raise InputError(f"{victims}: has victims of an earlier poison {name}; delete them, or choose a name")
        clean, in_class = dataset.x_train, target_mask(dataset.y_train, target_class)
        settings = {"target_class": target_class, "epsilon": epsilon, "x_train": array_sha256(clean)}
        record = {"settings": settings, "entry": {**about, "sha256": sha256}}
        pack_poison(images, clean[in_class], published_places(dataset, paths.data)[0][in_class], record, name)
    return name


if __name__ == "__main__":
    run_script(main, Config, __doc__)
