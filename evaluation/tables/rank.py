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
    name, folder = _checked_and_packed(config.poison, plan, paths), paths.work / "ranking"
    row = next((row for row, ready in plan.ready.items() if ready == name), name)
    changes = f"rows=[{CLEAN}]", f"ready={json.dumps({row: name})}", f"results_dir={json.dumps(str(folder / row))}"
    others = {one: one for one in ready_names() if one not in (*plan.ready.values(), *plan.ready, *ROWS)}
    whole = plan_of({**msgspec.to_builtins(plan), "ready": {**plan.ready, **others}})
    there = project_path("results") / plan.table  # it is read before the training, because it may not fit
    recorded = read_plan(there / "plan.yaml") if has_store(there) else None
    recorded_entries = read_entries(recorded, there) if recorded else {}
    run_plan.main(replace(config, set=(*config.set, *changes)))
    collect(whole, folder)
    entries = read_entries(whole, folder)
    frame = frame_of(whole, entries)
    found, notes = [scores(frame)], []
    if recorded:
        different = [name for name in ALIKE if getattr(recorded, name) != getattr(plan, name)]
        different += ["test images"] * _test_images(recorded_entries).isdisjoint(_test_images(entries))
        if different:
            print(f"note: {printed_path(there)} was measured with other {', '.join(different)}; its rows are left out")
        elif len(rows := scores(frame_of(recorded, recorded_entries)).drop(found[0].index, errors="ignore")):
            found.append(rows.rename("{} (recorded)".format))
            notes.append(RECORDED.format(plan.table))
    write_text(page := folder / "ranking.md", as_markdown(table := [ranking_table(found)], notes))
    print("", as_text(table), *notes, f"{printed_path(page)}: written", sep="\n\n")
    if kinds := kinds_without_reduction(frame, row):
        raise InputError(f"{row} has no row: the clean ACR of {'; '.join(kinds)} is 0; give more epochs or votes")


def _test_images(entries: Entries) -> set[str]:
    return {str(run.certificate.get("test_sha256")) for one in entries.values() for run in one.runs}


def _checked_and_packed(path: Path, plan: Plan, paths: Paths) -> str:
    """Check a poison, print what was found, and pack a file into data/poisons. Returns the poison's name there.

    Raises InputError where a check fails, the plan cannot rank it, or its name is another's.
    """
    poison, images, dataset = check_poison.main(check_poison.Config(poison=path, data_dir=paths.data))
    about, sha256 = poison.record["settings"], array_sha256(poison.pixels) + array_sha256(poison.index)
    name, target_class = ready_name(path) or about["name"], about["target_class"]
    is_there, is_file = name in ready_names(), not ready_name(path)
    if target_class not in plan.target_classes or about["epsilon"] > plan.epsilon + EPSILON_TOLERANCE:
        ranked = f"{plan.table} ranks class {plan.target_classes[0]}, epsilon {plan.epsilon:g}, so give another plan"
        raise InputError(f"{name}: is poison of class {target_class}, epsilon {about['epsilon']:g}; {ranked}")
    same = not is_there or load_ready_poison(name).record.get("entry", {}).get("sha256") == sha256
    if name in ROWS or (is_file and (name in plan.ready or not same)):
        raise InputError(f"{name}: data/poisons or the plan has another poison or row of this name; choose another")
    if is_file and not is_there:
        for victims in paths.work.glob("victims/*/ready_*"):
            if f"{victims.name.partition('_class_')[2].partition('_')[2]}_share_".startswith(f"{name}_share_"):
                raise InputError(f"{victims}: has victims of an earlier poison {name}; delete them, or choose a name")
        clean, in_class = dataset.x_train, target_mask(dataset.y_train, target_class)
        settings = {"target_class": target_class, "epsilon": about["epsilon"], "x_train": array_sha256(clean)}
        record = {"settings": settings, "entry": {**about, "sha256": sha256}}
        pack_poison(images, clean[in_class], published_places(dataset, paths.data)[0][in_class], record, name)
    return name


if __name__ == "__main__":
    run_script(main, Config, __doc__)
