"""Run a plan, one job after the other or several at once: data, poison, victims, certificates, tables and figures.

    python evaluation/tables/run_plan.py --plan config/digits.yaml
    python evaluation/tables/run_plan.py --plan config/mnist_paper.yaml --methods macer --set "target_classes=[3]"
    python evaluation/tables/run_plan.py --plan config/mnist_published.yaml --max-minutes 9.5

The same command again keeps finished jobs and continues a stopped job from its checkpoint. Where a job fails, only the
jobs that need its files are left out. Each job is a call of a script that a user may make by hand. Its output is in
<work_dir>/logs. For many jobs at a time, and for clusters, see the Snakefile: it makes the same files.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
from tyro._docstrings import get_field_docstring

from data.datasets import EPSILON_TOLERANCE
from data.poison_files import read_poison_file
from data.ready_poisons import poison_file
from data.sources import require_prepared_with
from evaluation.tables.job_runs import run_job, run_jobs
from evaluation.tables.jobs import Job, check_scripts, data_job, jobs_of, words_of
from evaluation.tables.plan import Plan, plan_of, read_plan, yaml_values
from evaluation.tables.records import foreign_runs, require_no_other_table
from runtime.artifact import Artifact
from runtime.bounds import POSITIVE
from runtime.checks import require_place, require_usable
from runtime.command_line import config_of, run_script
from runtime.files import InputError, read_record, write_json, writing
from runtime.provenance import git_commit, is_clean_commit, printed_path, project_path, settings
from runtime.stop import Stop


@dataclass(frozen=True, kw_only=True)
class Config:
    plan: Path
    """Plan of the table, a YAML file, such as those of config/."""
    methods: tuple[str, ...] = ()
    """Entries of 'methods' to run, by default all. Tables and the transfer over methods then hold these alone."""
    set: tuple[str, ...] = ()
    """Entries of the plan to replace, for example runs=1 "target_classes=[3]"."""
    directory: Path = project_path("")
    """Folder to which the plan's own paths are relative."""
    processes: Annotated[int, POSITIVE] = 1
    """Jobs at a time. Each process runs many jobs and keeps compiled code. Several processes can share a GPU."""
    max_minutes: Annotated[float, POSITIVE] | None = None
    """Stop cleanly after this many minutes. The same command continues the run."""

    @classmethod
    def help_note(cls) -> str:
        """The entries of a plan."""
        lines = ["Entries of a plan (* required):\n"]
        for entry in msgspec.structs.fields(Plan):
            text = " ".join(str(get_field_docstring(Plan, entry.name, ())).split())
            known = entry.default not in (msgspec.NODEFAULT, None, "", ())
            default = f" Default: {json.dumps(entry.default)}." if known else ""
            lines.append(f"    {entry.name}{'*' * entry.required}: {text}{default}")
        return "\n".join(lines)


def main(config: Config) -> None:
    """Run the plan's jobs. Raises StoppedEarly, or InputError after all other jobs where a job failed."""
    require_usable(config)
    written = read_plan(config.plan)
    plan = with_changes(written, config)
    stopped = Stop(config.max_minutes)
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(plan.threads)  # the backend reads it when the first job imports it
    *jobs, tables = jobs_to_run(plan, [written], config.directory, str(config.plan))
    with writing(config.directory):
        config.directory.mkdir(parents=True, exist_ok=True)
    os.chdir(config.directory)
    with Artifact(plan.paths.results / "plan.yaml"):  # refused here where it cannot be written, not after all jobs
        pass
    with Artifact(plan.paths.plan), stopped as stop:
        write_json(plan.paths.plan, msgspec.to_builtins(plan))
        print(f"{len(jobs)} jobs, with their output in {printed_path(plan.paths.work / 'logs')}")
        if not is_clean_commit(commit := git_commit()):
            print(f"note: the commit is {commit}; commit all changes first for runs that results/ may hold")
        failed = run_jobs(jobs, config.processes, stop)
        if failed:
            tables = replace(tables, settings={**tables.settings, "results_dir": plan.paths.incomplete})
        if no_table := run_job(tables, stop):
            failed[tables] = no_table
    if failed:
        print("\n".join(f"{job.about}: {line}" for job, line in failed.items()), file=sys.stderr)
        made = "no table was made" if no_table else f"an incomplete table is in {plan.paths.incomplete}"
        raise InputError(f"{len(failed)} jobs failed, see above; {made}")
    shutil.rmtree(plan.paths.incomplete, ignore_errors=True)


def jobs_to_run(plan: Plan, written: Sequence[Plan], directory: Path, where: str) -> list[Job]:
    """The plan's jobs, without that of data that are prepared already. Raises InputError where one cannot run.

    written: the plan before the command line's changes, which may drop methods. directory: where the plan's own paths
    start. where: the plan's name in errors.
    """
    _require_used_settings([*written, plan], where)
    require_inputs(plan, directory, where)
    paths = plan.paths_in(directory)
    first = 1 if paths.manifest.is_file() else 0  # the first job prepares the data
    from_here = msgspec.structs.replace(plan, data_dir=str(paths.data), work_dir=str(paths.work))
    check_scripts(jobs_of(from_here)[first:], where)
    return jobs_of(plan)[first:]


def _require_used_settings(plans: Sequence[Plan], where: str) -> None:
    """Raise InputError where attack or victim names a sigma that no entry of these plans has."""
    used = {f"{cell.victim.method} {cell.victim.sigma:g}" for plan in plans for cell in plan.cells()}
    used |= {f"{poison.against} {poison.sigma:g}" for plan in plans for poison in plan.poisons()}
    named = (key for plan in plans for key in (*plan.attack, *plan.victim))
    if unused := [key for key in named if " " in key and key not in used]:
        raise InputError(f"{where}: attack, victim: the plan has no {unused[0]}; mend the sigma, or leave it out")


def require_inputs(plan: Plan, directory: Path, where: str) -> None:
    """Raise InputError where prepared data, a folder, another program's file or a ready poison does not fit the plan.

    directory: where the plan's own paths start. where: the plan's name in errors.
    """
    paths = plan.paths_in(directory)
    for name, folder in paths._asdict().items():
        require_place(f"the folder {name!r}", folder, folder=True)
    require_no_other_table(plan, paths.results)
    if any(paths.incomplete.glob("[!.]*")) and not (paths.incomplete / "plan.yaml").is_file():
        raise InputError(f"{paths.incomplete}: a plan deletes this folder; move your files, or choose another work_dir")
    foreign_runs(plan, directory)
    manifest = paths.manifest
    if not (manifest.is_file() or Artifact(manifest).is_left) and (arrays := sorted(paths.data.glob("[XY]_t*.npy"))):
        mend = "move the arrays, or give the plan another data_dir"
        raise InputError(f"{arrays[0]}: has no {manifest.name} beside it, so that the plan would replace it; {mend}")
    if manifest.is_file():
        count = read_record(manifest).get("classes")
        if isinstance(count, int) and (wrong := [label for label in plan.target_classes if label >= count]):
            raise InputError(f"target_classes: no class {wrong[0]} in {manifest}; choose from 0 to {count - 1}")
        if plan.data:
            check_scripts([job := data_job(msgspec.structs.replace(plan, data_dir=str(paths.data)))], where)
            preparation = config_of(job.script, words_of(job.settings))
            wanted, source = settings(preparation), getattr(preparation, "source", None)
            given = {name: wanted[name] for name in (one.replace("-", "_") for one in plan.data) if name in wanted}
            require_prepared_with(paths.data, given, source and directory / source)
    for name in plan.ready.values():
        made = read_poison_file(poison_file(name, directory)).record["settings"]
        if made.get("epsilon", 0) > plan.epsilon + EPSILON_TOLERANCE:
            raise InputError(f"ready: {name} has epsilon {made['epsilon']:g}, above the plan's {plan.epsilon:g}")
        if {label := made.get("target_class")} != {*plan.target_classes}:
            raise InputError(f"ready: {name} is poison of class {label}; plan it with target_classes: [{label}]")


def with_changes(plan: Plan, config: Config) -> Plan:
    """The plan with the entries that the command line replaces."""
    values = msgspec.to_builtins(plan)
    for change in config.set:
        name, equals, value = change.partition("=")
        if not equals or not name:
            raise InputError(f"--set {change}: give an entry of the plan as name=value")
        values[name] = yaml_values(value, f"--set {change}")
    changed = plan_of(values, f"{config.plan} with --set")
    for method in config.methods:
        if method not in changed.methods:
            raise InputError(f"--methods {method}: the plan has {', '.join(changed.methods)}; choose from these")
    values["methods"] = {method: changed.methods[method] for method in config.methods or changed.methods}
    return plan_of(values, f"{config.plan} with --set")


if __name__ == "__main__":
    run_script(main, Config, __doc__)
