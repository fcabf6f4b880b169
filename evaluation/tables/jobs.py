"""The jobs of a plan. Each job is a call of a script, which a user may also call by hand."""

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attack_generation.controls import CONTROLS
from data.ready_poisons import ready_names
from evaluation.tables.cells import CLEAN, FIGURES, PAGES, READY, Cell, Poison
from evaluation.tables.plan import DATASETS, Plan
from randomized_smoothing_certification.certificate_file import summary_path
from robust_training.methods import METHODS
from runtime.checks import require_usable
from runtime.command_line import config_of, settings_from
from runtime.files import InputError
from runtime.provenance import ROOT


@dataclass(frozen=True)
class Job:
    """One call of a script."""

    rule: str  # data, control, ready, poison, visibility, victim, certify, merge or tables
    about: str  # its product, in the words of the plan and the tables
    script: str  # path in the project
    settings: Mapping[str, Any] = field(hash=False)  # numbers, texts, paths, or lists of these, by name
    outputs: tuple[Path, ...]  # the first appears when the job is done
    needs: tuple[Path, ...]
    work: Path  # folder of the plan

    @property
    def name(self) -> str:
        """The rule of the jobs 'data' and 'tables'. For all others the path of the first output, without its ending."""
        if self.rule in ("data", "tables"):
            return self.rule
        path = self.outputs[0].relative_to(self.work)
        return str(path).removesuffix(".summary.json").removesuffix(path.suffix)

    @property
    def log(self) -> Path:
        """File of its script's output."""
        return self.work / "logs" / f"{self.name}.log"

    @property
    def command(self) -> str:
        """Script and flags, quoted for a shell."""
        return shlex.join([self.script, *words_of(self.settings)])


def jobs_of(plan: Plan) -> list[Job]:
    """All jobs of a plan, each once and after the jobs that it needs: entry by entry, the tables last."""
    jobs = [data_job(plan)]
    for cell in plan.cells():
        if cell.poison:
            jobs.append(_poison_job(plan, cell.poison))
            if plan.visibility:
                jobs.append(_visibility_job(plan, cell.poison))
        for seed in plan.seeds:
            jobs += [_victim_job(plan, cell, seed), *_certificate_jobs(plan, cell, seed)]
    return list(dict.fromkeys([*jobs, _tables_job(plan)]))


def _job(
    plan: Plan, rule: str, about: str, script: str, values: Mapping[str, Any], outputs: Sequence[Path],
    needs: Iterable[Path] = (),
) -> Job:  # fmt: skip
    data = [] if rule in ("data", "merge", "tables") else [plan.paths.manifest]
    return Job(rule, about, script, values, tuple(outputs), (*data, *needs), plan.paths.work)


def data_job(plan: Plan) -> Job:
    """Call the data set's own script, or else data/prepare.py with plan.data's source."""
    own = plan.dataset in DATASETS
    values = {**({} if own else {"name": plan.dataset}), **plan.data, "out_dir": plan.paths.data}
    script = f"data/prepare_{plan.dataset.lower()}.py" if own else "data/prepare.py"
    return _job(plan, "data", "the data", script, values, [plan.paths.manifest])


def _poison_job(plan: Plan, poison: Poison) -> Job:
    images, about = plan.paths.poison(poison), f"poison {poison}"
    outputs = [images, images.with_suffix(".json")]
    share = {"share": poison.share} if poison.share < 1 else {}
    if poison.against == READY:
        values: dict[str, Any] = {
            "name": plan.ready[poison.variant], "target_class": poison.target_class, "epsilon": plan.epsilon,
            "data_dir": plan.paths.data, "out": images, **share,
        }  # fmt: skip
        needs = [] if values["name"] in ready_names() else [Path(values["name"])]
        return _job(plan, "ready", about, "attack_generation/ready_poison.py", values, outputs, needs)
    values = {
        "target_class": poison.target_class, "epsilon": plan.epsilon, "sigma": poison.sigma, "seed": plan.seed,
        "data_dir": plan.paths.data, "out_dir": images.parent, **share,
    }  # fmt: skip
    if poison.against in CONTROLS:
        values |= {"kind": poison.against}
        return _job(plan, "control", about, "attack_generation/control_poison.py", values, outputs)
    variant = plan.attack_variants()[poison.variant].flags if poison.variant else {}
    values |= {
        "architecture": poison.architecture, "run_dir": plan.paths.work / "runs/poison" / poison.key,
        **_flags_for(poison.against, poison.sigma, plan.attack, variant),
    }  # fmt: skip
    folder = f"attack_generation/{METHODS[poison.against].attack_folder}/{plan.script_folder}"
    return _job(plan, "poison", about, f"{folder}/poison_radius_{poison.against}.py", values, outputs)


def _visibility_job(plan: Plan, poison: Poison) -> Job:
    images, seen = plan.paths.poison(poison), plan.paths.visibility(poison)
    values = {
        "poison": images, "target_class": poison.target_class, "sigma": poison.sigma, "seed": plan.seed,
        "data_dir": plan.paths.data, "out": seen,
    }  # fmt: skip
    about = f"visibility of poison {poison}"
    return _job(plan, "visibility", about, "evaluation/visibility.py", values, [seen], [images])


def _victim_job(plan: Plan, cell: Cell, seed: int) -> Job:
    victim, poison, model = cell.victim, cell.poison, plan.paths.model(cell, seed)
    needs = [plan.paths.poison(poison)] if poison else []
    values = {
        "target_class": poison.target_class if poison else plan.target_classes[0],
        "training_data": "poisoned_radius" if poison else CLEAN,
        "sigma": victim.sigma, "architecture": victim.architecture, "seed": seed, "runs": 1,
        "data_dir": plan.paths.data, "out_dir": model.parent,
        "run_dir": plan.paths.work / "runs" / victim.key / cell.data_folder, **({"poison": needs[0]} if poison else {}),
        **_flags_for(victim.method, victim.sigma, plan.victim, plan.victims.get(victim.variant, {})),
    }  # fmt: skip
    script = f"evaluation/{plan.script_folder}/{METHODS[victim.method].victim_script}.py"
    about = f"victim {seed}, {victim}, training data: {poison or CLEAN}"
    return _job(plan, "victim", about, script, values, [model, model.with_suffix(".json")], needs)


def _certificate_jobs(plan: Plan, cell: Cell, seed: int) -> Iterator[Job]:
    """One job, or a job per shard and a job that joins the shards."""
    model, whole = plan.paths.model(cell, seed), plan.paths.certificate(cell, seed)
    about = f"certificates of victim {seed}, {cell}"
    script = f"randomized_smoothing_certification/certify_{plan.script_folder.lower()}.py"
    settings = dict(plan.certification)
    values = {
        "target_class": "all" if settings.pop("all_classes", False) else cell.target_class, **settings,
        "sigma": cell.victim.sigma, "seed": plan.seed, "model": model, "data_dir": plan.paths.data,
    }  # fmt: skip
    if plan.shards == 1:
        yield _job(plan, "certify", about, script, {**values, "out": whole}, [summary_path(whole)], [model])
        return
    parts = []
    for number in range(1, plan.shards + 1):
        part = plan.paths.certificate(cell, seed, f"_shard_{number}_of_{plan.shards}")
        own = {**values, "out": part, "shard": f"{number}/{plan.shards}"}
        about_part = f"{about}, shard {number} of {plan.shards}"
        yield _job(plan, "certify", about_part, script, own, [summary_path(part)], [model])
        parts.append(part)
    outputs = [summary_path(whole), whole.with_suffix(".settings.json"), whole]
    script, values = "randomized_smoothing_certification/merge_shards.py", {"shards": parts, "out": whole}
    yield _job(plan, "merge", about, script, values, outputs, map(summary_path, parts))


def _tables_job(plan: Plan) -> Job:
    paths = plan.paths
    certificates = [summary_path(paths.certificate(cell, seed)) for cell in plan.cells() for seed in plan.seeds]
    foreign = [Path(file) for one in plan.foreign for file in one.files]
    seen = [paths.visibility(poison) for poison in plan.poisons() if plan.visibility]
    values, needs = {"plan": paths.plan, "directory": "."}, [paths.plan, *certificates, *seen, *foreign]
    outputs = [paths.results / name for name in (*PAGES, *FIGURES)]
    return _job(plan, "tables", "the tables", "evaluation/tables/make_tables.py", values, outputs, needs)


def _flags_for(method: str, sigma: float, flags: dict[str, dict[str, Any]], own: dict[str, Any]) -> dict[str, Any]:
    """The flags of a method at a noise level. More specific flags win, and ``own`` flags over all others."""
    layers = [*(flags.get(key, {}) for key in ("all", method, f"{method} {sigma:g}")), own]
    return {name.replace("-", "_"): value for layer in layers for name, value in layer.items()}


def words_of(values: Mapping[str, Any]) -> list[str]:
    """Settings as words of a command line: {'lr_u': 0.1, 'redraw_noise': False} is --lr-u 0.1 --no-redraw-noise."""
    words: list[str] = []
    for name, value in values.items():
        dashed = name.replace("_", "-")
        if value is True or value is False:
            group, dot, last = dashed.rpartition(".")  # as in --loss.no-fixed-noise
            words.append(f"--{dashed}" if value else f"--{group}{dot}no-{last}")
        else:
            words += [f"--{dashed}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return words


def jobs_of_run(plan: Plan, cell: Cell, seed: int) -> dict[str, Job]:
    """The jobs that make a run, by the names of its records. A ready poison's record is not made by a job."""
    jobs = {"victim": _victim_job(plan, cell, seed), "certificate": next(_certificate_jobs(plan, cell, seed))}
    if cell.poison and cell.poison.against != READY:
        jobs["poison"] = _poison_job(plan, cell.poison)
    return jobs


def settings_of(job: Job) -> dict[str, Any]:
    """The settings that a job's record holds, without hashes and those in its path: the class, a victim's seed."""
    in_path = ("target_class", "shard", "seed") if job.rule == "victim" else ("target_class", "shard")
    left_out = {name for name in in_path if job.settings.get(name, "all") != "all"}  # all: points of every class
    recorded = settings_from(job.script, _words_without_files(job, left_out))
    return {name: value for name, value in recorded.items() if name not in left_out}


def _words_without_files(job: Job, left_out: Collection[str]) -> tuple[str, ...]:
    """The words of a job's settings but those left out, with x for each path: the same for many jobs."""
    values = {name: "x" if isinstance(value, Path) else value for name, value in job.settings.items()}
    return tuple(words_of({name: value for name, value in values.items() if name not in left_out}))


def check_scripts(jobs: Sequence[Job], where: str = "plan") -> None:
    """Raise InputError for the first job whose script does not know a flag or refuses a setting.

    Among jobs that differ only in seed, class, shard and files, it checks the first. where: the plan's name in errors.
    """
    first: dict[tuple[str, tuple[str, ...]], Job] = {}
    for job in jobs:
        first.setdefault((job.script, _words_without_files(job, ("seed", "target_class", "shard", "shards"))), job)
    for job in first.values():
        if not (ROOT / job.script).is_file():
            raise InputError(f"{where}: {job.about}: there is no script {job.script}; write it, or leave the row out")
        try:
            config = config_of(job.script, words_of(job.settings))
            require_usable(config)
            if hasattr(config, "check"):
                config.check()
        except InputError as error:
            raise InputError(f"{where}: {job.about}: {job.script}: {error}") from error
