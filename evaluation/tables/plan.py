"""The plan of an experiment, from one row to a paper's table: its combinations of poison and victim, and its jobs.

A plan is a YAML file, see config/. evaluation/tables/run_plan.py runs its jobs in one process, the Snakefile runs them
in parallel and on clusters.
Protocol: arXiv 2012.01274, section 4 (tables per method and noise level, transfer over methods and architectures).
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import yaml

from attack_generation.controls import CONTROLS
from data.datasets import MANIFEST, poison_paths, require_epsilon, require_sigma
from data.ready_poisons import ready_names
from models.registry import require_architecture
from models.saving import victim_name
from randomized_smoothing_certification.certificate_file import summary_path
from randomized_smoothing_certification.certification_run import require_certificate_settings
from randomized_smoothing_certification.core import ALPHA, N0, N
from robust_training.methods import METHODS
from runtime.checks import require_name, require_name_lengths, require_usable, shortened
from runtime.files import InputError, read_text

CLEAN, OPTIMISED, READY = "clean", "optimised", "ready"
ROWS = (CLEAN, *CONTROLS, OPTIMISED)
PUBLISHED_ROWS = (CLEAN, "random", "constant", "contrast", OPTIMISED)
DATASETS = ("MNIST", "CIFAR10", "DIGITS")  # those with scripts of their own
# Flags of the attack and victim scripts that follow from a plan's other entries.
DECIDED = (
    "target_class", "epsilon", "sigma", "seed", "runs", "architecture", "training_data", "poison", "data_dir",
    "out_dir", "run_dir", "overwrite", "on_other_settings", "max_minutes",
)  # fmt: skip
LISTED = {"epochs": 1, "seed": 0}  # settings of a named attack that may be lists, and the smallest number of each
PAGES = ("tables.md", "tables.tex", "tables.csv", "tables.html")
FIGURES = {
    "acr.png": "average certified radius", "p_a.png": "lower bound of p_A",
    "certified_accuracy.png": "certified accuracy against radius",
}  # fmt: skip
MOST = 1000  # victims per entry, shards, threads
LIMITED = ("all", "poison", "victim", "certify")  # rules whose jobs are long


class Poison(NamedTuple):
    """One poisoned training set: what was done to the target class's images."""

    against: str  # method that it was optimised against, a control, or READY
    architecture: str  # model of the attack; '' for a control
    sigma: float
    target_class: int
    variant: str = ""  # one of Plan.attack_variants() or Plan.ready; '' for a control and the attack as in Plan.attack

    @property
    def key(self) -> str:
        """Name of its folder."""
        parts = (self.against, self.architecture, f"sigma_{self.sigma}", f"class_{self.target_class}", self.variant)
        return "_".join(filter(None, parts))

    @property
    def title(self) -> str:
        """What it is, for people."""
        name = self.variant or (OPTIMISED if self.architecture else self.against)
        made = f" against {self.against} with {self.architecture}" if self.architecture else ""
        return f"{name}{made}, σ = {self.sigma:g}"

    @property
    def file_name(self) -> str:
        """Name of its images' file, without the ending."""
        return poison_paths(Path(), self.against, self.sigma, self.target_class)[0].stem


class Victim(NamedTuple):
    """What is trained, on whatever data."""

    method: str
    sigma: float
    architecture: str
    variant: str = ""  # one of Plan.victims; '' where the plan names none

    @property
    def key(self) -> str:
        """Name of its folder."""
        return "_".join(filter(None, (self.method, self.architecture, f"sigma_{self.sigma}", self.variant)))


class Cell(NamedTuple):
    """One entry of a table: victims of several seeds, trained on one kind of data, certified on one class."""

    victim: Victim
    target_class: int
    poison: Poison | None  # None: clean data

    @property
    def data(self) -> str:
        """Name of the training data's folder."""
        return self.poison.key if self.poison else CLEAN

    @property
    def key(self) -> str:
        """Name of the cell's folder."""
        return f"{self.victim.key}/{self.data}/class_{self.target_class}"

    @property
    def row(self) -> str:
        """Kind of training data: one of ROWS, a variant of the attack, or a ready poison."""
        if self.poison is None:
            return CLEAN
        return self.poison.variant or (self.poison.against if self.poison.against in CONTROLS else OPTIMISED)

    def __str__(self) -> str:
        victim, poison = self.victim, self.poison
        data = f"{poison.against} poison" if poison else "clean data"
        variant = f" of {poison.variant}" if poison and poison.variant else ""
        made_with = f" made with {poison.architecture}" if poison and poison.architecture else ""
        trained = ", ".join(filter(None, (victim.architecture, victim.variant)))
        return (
            f"{victim.method} ({trained}), sigma {victim.sigma:g}, class {self.target_class}, "
            f"{data}{variant}{made_with}"
        )


class AttackVariant(NamedTuple):
    """One budget of a named attack."""

    series: str  # the name in Plan.attacks
    flags: dict[str, Any]  # beside those of Plan.attack


class MethodTransfer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Poison made against each of ``against``, victims trained with every method of the table, at equal sigma."""

    sigmas: tuple[float, ...]
    against: tuple[str, ...]


class ArchitectureTransfer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Poison against one method made with each of ``attacked``, victims of each of ``victims``."""

    method: str
    sigmas: tuple[float, ...]
    attacked: tuple[str, ...]
    victims: tuple[str, ...]


class Foreign(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certificates that another program wrote: one file per run in the columns of Cohen et al.'s code.

    {method: consistency, sigma: 0.5, target_class: 8, poison: macer, files: [run_0.tsv, run_1.tsv], accuracy: 0.99}
    """

    method: str
    sigma: float
    target_class: int
    files: tuple[str, ...]
    architecture: str = ""
    victim: str = ""  # kind of victims, a name as in Plan.victims
    poison: str = CLEAN  # clean, a control, 'ready', or the method that the poison was made against
    poison_architecture: str = ""
    poison_variant: str = ""  # name of its row where it is one of Plan.attacks or Plan.ready
    accuracy: float | None = None  # of the clean test images, where known
    n: int | None = None  # votes, where known: entries of another n get no reduction against these
    alpha: float = ALPHA  # of the votes

    def check(self) -> None:
        """Raise InputError on a value that cannot work: names become folders of the results."""
        for name in ("method", "poison", "architecture", "victim", "poison_architecture", "poison_variant"):
            if getattr(self, name) or name in ("method", "poison"):  # the others need not be known
                require_name(f"foreign: {name}", getattr(self, name))
        require_sigma(self.sigma)
        if not self.files:
            raise InputError("foreign: files must name at least one file of certificates")
        if self.accuracy is not None and not 0 <= self.accuracy <= 1:
            raise InputError(f"foreign: accuracy must lie between 0 and 1, got {self.accuracy}")
        if (self.n is not None and self.n < 1) or not 0 < self.alpha < 1:
            raise InputError(f"foreign: n must be positive and alpha between 0 and 1, got {self.n} and {self.alpha}")

    @property
    def records(self) -> dict[str, Any]:
        """What is known of its runs."""
        certificate = {"n": self.n, "alpha": self.alpha, "sigma": self.sigma} if self.n else {}
        return {"victim": {"accuracy": self.accuracy}, "foreign": certificate}

    @property
    def cell(self) -> Cell:
        """Where it stands in a table."""
        poison = Poison(self.poison, self.poison_architecture, self.sigma, self.target_class, self.poison_variant)
        poisoned = None if self.poison == CLEAN else poison
        return Cell(Victim(self.method, self.sigma, self.architecture, self.victim), self.target_class, poisoned)


class Certification(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certificate of every victim: see randomized_smoothing_certification.certification_run."""

    split: Literal["test", "val"] = "test"
    points: int = 500
    n0: int = N0
    n: int = N
    alpha: float = ALPHA
    precision: Literal["float32", "bfloat16"] = "float32"
    noise: Literal["float32", "grid"] = "float32"
    shared_noise: bool = True
    """False also for a work folder whose certificates are of before there was this setting."""
    acr_only: bool = False
    radius_loss: float = 0.0
    """Above 0, n0 should be about 1,000."""
    batch_size: int = 1_000
    all_classes: bool = False
    """Certify so many points of every class; what the classes keep that are not poisoned stands beside."""

    def flags_for(self, target_class: int) -> dict[str, Any]:
        """Those of the certification script."""
        values = msgspec.structs.asdict(self)
        return {"target_class": "all" if values.pop("all_classes") else target_class, **values}


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one job may use: minutes (it stops cleanly before and is submitted again), MiB and GPUs."""

    minutes: int = 1_440
    mem_mb: int = 4_000
    gpu: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table. Everything that is not given here has the default of the script that uses it.

    Paths start from the project, or from another folder where the script that reads the plan is given --directory.
    """

    table: str
    """Name of the table, as in file names."""
    title: str
    """Heading; says what is reduced against the paper."""
    dataset: str
    """Folder in data/ of the prepared arrays: MNIST, CIFAR10, DIGITS, or any other that data/prepare.py prepares."""
    scripts: str = ""
    """Whose scripts make poison, victims and certificates: MNIST, CIFAR10 or DIGITS. When not given, the dataset's own,
    or MNIST's where it has none."""
    data_dir: str = ""
    """Folder of the prepared arrays; data/<dataset> when not given."""
    data: dict[str, Any] = {}
    """Flags of the script that prepares the data, such as source."""
    work_dir: str = ""
    """Folder of poison, victims, certificates and checkpoints; runs/tables/<table> when not given."""
    results_dir: str = ""
    """Folder of tables and figures; <work_dir>/results when not given."""
    methods: dict[str, tuple[float, ...]] = {}
    """Noise levels sigma of each certified training method."""
    target_classes: tuple[int, ...] = (8,)
    """Classes that are poisoned and certified."""
    epsilon: float = 0.1
    """l-infinity bound on the poison."""
    rows: tuple[str, ...] = PUBLISHED_ROWS
    """Training data of each method: clean, controls (attack_generation/controls.py), optimised."""
    runs: int = 3
    """Victims per entry, with seeds seed, seed + 1, ..."""
    seed: int = 0
    """Seed of the attacks, of the first victim, and of the certified points."""
    architecture: str
    """Model of attack and victim, see models/registry.py."""
    attack: dict[str, dict[str, Any]] = {}
    """Flags of the attack scripts: of 'all', of a method ('macer'), of a method at one sigma ('macer 0.5')."""
    victim: dict[str, dict[str, Any]] = {}
    """Flags of the victim scripts, likewise."""
    attacks: dict[str, dict[str, Any]] = {}
    """Named variants of the attack, each a row beside 'rows': flags that are added to those of 'attack' and win over
    them. 'epochs' may be a list: a poison and a row for each, which are the budgets of one series of that name. So may
    'seed': the same attack several times, each run with its own random numbers."""
    ready: dict[str, str] = {}
    """Poison that ships with the project (data/poisons/), each a row beside 'rows': the row's name, the poison's name.
    Victims of every method and noise level are trained on it."""
    victims: dict[str, dict[str, Any]] = {}
    """Named variants of the victims, likewise added to 'victim'; every row is trained with each, transfers with the
    first. Reductions are against clean victims of the same variant. None: one, which has no name."""
    certification: Certification = Certification()
    """Certificate of every victim."""
    visibility: bool = False
    """Measure how large each poison is and how well simple detectors see it (attack_generation/visibility.py)."""
    shards: int = 1
    """Jobs that one victim's certificate is divided into."""
    method_transfer: MethodTransfer | None = None
    """Transfer over training methods, None for no such table."""
    architecture_transfer: ArchitectureTransfer | None = None
    """Transfer over architectures, None for no such table."""
    foreign: tuple[Foreign, ...] = ()
    """Certificates made by other programs, which join the table."""
    threads: int = 1
    """CPU threads of every job. One count gives one result: sums of floats depend on how they are divided."""
    limits: dict[str, Limits] = {}
    """Limits of 'all' jobs, or of the rules 'poison', 'victim' and 'certify'."""

    def check(self) -> None:
        """Raise InputError on a value that cannot work."""
        require_usable(msgspec.to_builtins(self))
        against = self.method_transfer.against if self.method_transfer else ()
        transfer = self.architecture_transfer
        other = (transfer.method,) if transfer else ()
        settings = [key.partition(" ")[0] for key in (*self.attack, *self.victim)]
        for what, given, known in (
            ("scripts", (self.script_folder,), DATASETS),
            ("method", (*self.methods, *against, *other), METHODS),
            ("method of attack or victim settings", settings, ("all", *METHODS)),
            ("row", self.rows, ROWS),
            ("rule of limits", self.limits, LIMITED),
        ):
            for value in given:
                if value not in known:
                    raise InputError(f"no {what} {value!r}; choose from {', '.join(known)}")
        for key in (*self.attack, *self.victim):
            if not re.fullmatch(r"\w+( \d\S*)?", key):
                raise InputError(
                    f"attack, victim: {key!r} is neither a method nor a method and its sigma ('macer 0.5')"
                )
        for part in (*self.attack.values(), *self.victim.values()):
            _check_flags("attack, victim", part, DECIDED)
        for where, variants in (("attacks", self.attacks), ("victims", self.victims)):
            for name, part in variants.items():
                _check_variant(where, name, part)
        for name, poison in self.ready.items():
            _check_variant("ready", name, {})
            if poison not in (names := ready_names()):
                raise InputError(f"ready: no poison {poison!r} ships with the project; choose from {', '.join(names)}")
            if name in self.attack_variants():
                raise InputError(f"ready: {name!r} is the name of an attack; choose another")
        self.attack_variants()
        _check_flags("data", self.data, ("out_dir", "name"))
        require_name("dataset", self.dataset)
        if not re.fullmatch(r"[\w-]+", self.table):
            raise InputError(f"table is made of letters, digits, _ and -, got {self.table!r}")
        require_name("table", self.table)
        for folder in self.folders.values():
            require_name_lengths("a folder of the plan", folder)
        for value in (self.architecture, *((*transfer.attacked, *transfer.victims) if transfer else ())):
            require_architecture(value)
        if CLEAN not in self.rows:
            raise InputError("rows must hold 'clean': reductions are measured against it")
        require_epsilon(self.epsilon)
        for name in ("runs", "shards", "threads"):  # the scripts check the settings that they use
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
            if getattr(self, name) > MOST:
                raise InputError(f"{name} must be at most {MOST}, got {getattr(self, name)}")
        if not self.target_classes:
            raise InputError("target_classes must hold at least one class")
        if len(set(self.target_classes)) < len(self.target_classes):
            raise InputError(f"target_classes must be different, got {list(self.target_classes)}")
        for rule, limits in self.limits.items():
            if limits.minutes < 5:
                raise InputError(f"limits.{rule}: a job needs at least 5 minutes, got {limits.minutes}")
        sigmas = [sigma for of_method in self.methods.values() for sigma in of_method]
        for sigma in (*sigmas, *(transfer.sigmas if transfer else ())):
            require_sigma(sigma)
        require_certificate_settings(self.certification, *sigmas)
        for foreign in self.foreign:
            foreign.check()
        if self.method_transfer:
            for sigma in self.method_transfer.sigmas:
                if not any(sigma in sigmas for sigmas in self.methods.values()):
                    raise InputError(f"method_transfer: no method of the table has sigma {sigma:g}")

    @property
    def script_folder(self) -> str:
        """Name of the data set whose scripts are used."""
        return self.scripts or (self.dataset if self.dataset in DATASETS else DATASETS[0])

    @property
    def folders(self) -> dict[str, Path]:
        """The folders 'data', 'work' and 'results'."""
        work = Path(self.work_dir or f"runs/tables/{self.table}")
        return {
            "data": Path(self.data_dir or f"data/{self.dataset}"),
            "work": work,
            "results": Path(self.results_dir) if self.results_dir else work / "results",
        }

    def placed_in(self, directory: Path) -> "Plan":
        """The same plan, its folders given by where they lie when they start from ``directory``."""
        folders = {f"{name}_dir": str(directory / folder) for name, folder in self.folders.items()}
        return msgspec.structs.replace(self, **folders)

    @property
    def seeds(self) -> range:
        """Seeds of the victims."""
        return range(self.seed, self.seed + self.runs)

    # Combinations ----------------------------------------------------------------------------------------

    def attack_variants(self) -> dict[str, AttackVariant]:
        """Every variant of the attack by its name: one for each named attack, or for each of its epochs and seeds.

        Raises InputError where two have one name.
        """
        variants: dict[str, AttackVariant] = {}
        for series, settings in self.attacks.items():
            lists = {name: values for name in LISTED if (values := _several(settings.get(name)))}
            for combination in product(*lists.values()):
                chosen = dict(zip(lists, combination, strict=True))
                name = "_".join([series, *(f"{listed}_{one}" for listed, one in chosen.items())])
                if name in variants:
                    raise InputError(f"attacks: two are named {name!r}; name them otherwise")
                variants[name] = AttackVariant(series, {**settings, **chosen})
        return variants

    def victim_variants(self) -> tuple[str, ...]:
        """Names of the kinds of victims, '' for the only one of a plan that names none."""
        return tuple(self.victims) or ("",)

    def main_victims(self) -> list[Victim]:
        """Victims of every method, noise level and variant."""
        return [
            Victim(method, sigma, self.architecture, variant)
            for method, sigmas in self.methods.items()
            for sigma in sigmas
            for variant in self.victim_variants()
        ]

    def main_cells(self) -> list[Cell]:
        """The entries of rows, named attacks and ready poisons, of every victim and class."""
        return [
            self.main_cell(victim, target_class, row)
            for victim in self.main_victims()
            for target_class in self.target_classes
            for row in (*self.rows, *self.attack_variants(), *self.ready)
        ]

    def main_cell(self, victim: Victim, target_class: int, row: str) -> Cell:
        """The entry of one victim for one kind of training data: a row, a variant of the attack, or a ready poison."""
        poison = None
        if row in CONTROLS:
            poison = Poison(row, "", victim.sigma, target_class)
        elif row in self.ready:
            poison = Poison(READY, "", victim.sigma, target_class, row)
        elif row != CLEAN:
            variant = "" if row == OPTIMISED else row
            poison = Poison(victim.method, self.architecture, victim.sigma, target_class, variant)
        return Cell(victim, target_class, poison)

    def method_transfer_cells(self) -> list[Cell]:
        """Clean entries and those of poison made against each method, for victims of every method of one sigma."""
        transfer = self.method_transfer
        if transfer is None:
            return []
        return [
            Cell(Victim(method, sigma, self.architecture, self.victim_variants()[0]), target_class, poison)
            for sigma in transfer.sigmas
            for target_class in self.target_classes
            for method, sigmas in self.methods.items()
            if sigma in sigmas
            for poison in (
                None,
                *(Poison(against, self.architecture, sigma, target_class) for against in transfer.against),
            )
        ]

    def architecture_transfer_cells(self) -> list[Cell]:
        """Clean entries and those of poison made with each architecture, for victims of each."""
        transfer = self.architecture_transfer
        if transfer is None:
            return []
        return [
            Cell(Victim(transfer.method, sigma, architecture, self.victim_variants()[0]), target_class, poison)
            for sigma in transfer.sigmas
            for target_class in self.target_classes
            for architecture in transfer.victims
            for poison in (
                None,
                *(Poison(transfer.method, made_with, sigma, target_class) for made_with in transfer.attacked),
            )
        ]

    def cells(self) -> list[Cell]:
        """Every entry that is made here, once."""
        cells = [*self.main_cells(), *self.method_transfer_cells(), *self.architecture_transfer_cells()]
        return list(dict.fromkeys(cells))

    def poisons(self) -> dict[str, Poison]:
        """Every poison that is made here, by its key."""
        return {cell.poison.key: cell.poison for cell in self.cells() if cell.poison}

    # Files -----------------------------------------------------------------------------------------------

    def poison_file(self, poison: Poison) -> Path:
        """Images of a poison."""
        return self.folders["work"] / "poison" / poison.key / f"{poison.file_name}.npy"

    def visibility_file(self, poison: Poison) -> Path:
        """How visible a poison is."""
        return self.folders["work"] / "visibility" / f"{poison.key}.json"

    def model_file(self, cell: Cell, seed: int) -> Path:
        """A trained victim; its record is the .json beside it. One on clean data serves every class."""
        victim = cell.victim
        data = cell.poison.file_name.removeprefix("X_") if cell.poison else CLEAN
        folder = self.folders["work"] / "victims" / victim.key / cell.data
        return folder / victim_name(victim.method, victim.sigma, data, seed)

    def certificate_file(self, cell: Cell, seed: int, shard: str = "") -> Path:
        """Certificates (.tsv) of one victim; the .summary.json beside it is there when they are whole."""
        name = f"seed_{seed}{shard}.tsv"
        return self.folders["work"] / "certificates" / cell.key / name

    # Jobs ------------------------------------------------------------------------------------------------

    def jobs(self) -> list["Job"]:
        """Everything that has to run, once, each after what it needs: entry by entry, the tables last."""
        return list(dict.fromkeys(self._jobs()))

    def _jobs(self) -> Iterator["Job"]:
        data_dir = self.folders["data"]
        values = {**self.data, "out_dir": data_dir}
        if self.dataset in DATASETS:
            script = f"data/prepare_{self.dataset.lower()}.py"
        else:
            script, values = "data/prepare.py", {"name": self.dataset, **values}
        yield self._job("data", script, values, [data_dir / MANIFEST])
        for cell in self.cells():
            if cell.poison:
                yield self._poison_job(cell.poison)
                if self.visibility:
                    yield self._visibility_job(cell.poison)
            for seed in self.seeds:
                yield self._victim_job(cell, seed)
                yield from self._certificate_jobs(cell, seed)
        yield self._tables_job()

    def _job(
        self, rule: str, script: str, values: Mapping[str, Any], outputs: Sequence[Path], needs: Sequence[Path] = ()
    ) -> "Job":
        data = () if rule in ("data", "merge", "tables") else (self.folders["data"] / MANIFEST,)
        return Job(rule, script, flags(values), tuple(outputs), (*data, *needs), self.folders["work"])

    def _poison_job(self, poison: Poison) -> "Job":
        images = self.poison_file(poison)
        outputs = [images, images.with_suffix(".json")]
        if poison.against == READY:
            values = {
                "name": self.ready[poison.variant], "target_class": poison.target_class, "epsilon": self.epsilon,
                "data_dir": self.folders["data"], "out": images,
            }  # fmt: skip
            return self._job("control", "attack_generation/ready_poison.py", values, outputs)
        values = {
            "target_class": poison.target_class, "epsilon": self.epsilon, "sigma": poison.sigma, "seed": self.seed,
            "data_dir": self.folders["data"], "out_dir": images.parent,
        }  # fmt: skip
        if poison.against in CONTROLS:
            script = "attack_generation/control_poison.py"
            return self._job("control", script, {**values, "kind": poison.against}, outputs)
        values |= {
            "architecture": poison.architecture,
            "run_dir": self.folders["work"] / "runs/poison" / poison.key,
            **_settings_for(self.attack, poison.against, poison.sigma),
            **(self.attack_variants()[poison.variant].flags if poison.variant else {}),
        }
        folder = f"attack_generation/{METHODS[poison.against].attack_folder}/{self.script_folder}"
        return self._job("poison", f"{folder}/poison_radius_{poison.against}.py", values, outputs)

    def _visibility_job(self, poison: Poison) -> "Job":
        images = self.poison_file(poison)
        values = {
            "poison": images, "target_class": poison.target_class, "sigma": poison.sigma, "seed": self.seed,
            "data_dir": self.folders["data"], "out": self.visibility_file(poison),
        }  # fmt: skip
        return self._job(
            "visibility", "attack_generation/visibility.py", values, [self.visibility_file(poison)], [images]
        )

    def _victim_job(self, cell: Cell, seed: int) -> "Job":
        victim, poison, model = cell.victim, cell.poison, self.model_file(cell, seed)
        values: dict[str, Any] = {
            "target_class": poison.target_class if poison else self.target_classes[0],
            "training_data": "poisoned_radius" if poison else CLEAN,
            "sigma": victim.sigma, "architecture": victim.architecture, "seed": seed, "runs": 1,
            "data_dir": self.folders["data"], "out_dir": model.parent,
            "run_dir": self.folders["work"] / "runs" / victim.key / cell.data,
        }  # fmt: skip
        if poison:
            values["poison"] = self.poison_file(poison)
        values |= {**_settings_for(self.victim, victim.method, victim.sigma), **self.victims.get(victim.variant, {})}
        script = f"evaluation/{self.script_folder}/{METHODS[victim.method].victim_script}.py"
        needs = [self.poison_file(poison)] if poison else []
        return self._job("victim", script, values, [model, model.with_suffix(".json")], needs)

    def _certificate_jobs(self, cell: Cell, seed: int) -> Iterator["Job"]:
        """One job, or one per shard and the job that joins them."""
        model, whole = self.model_file(cell, seed), self.certificate_file(cell, seed)
        script = f"randomized_smoothing_certification/certify_{self.script_folder.lower()}.py"
        values = {
            **self.certification.flags_for(cell.target_class), "sigma": cell.victim.sigma, "seed": self.seed,
            "model": model, "data_dir": self.folders["data"],
        }  # fmt: skip
        if self.shards == 1:
            yield self._job("certify", script, {**values, "out": whole}, [summary_path(whole)], [model])
            return
        parts = []
        for shard in range(1, self.shards + 1):
            part = self.certificate_file(cell, seed, f"_shard_{shard}_of_{self.shards}")
            of_shard = {**values, "out": part, "shard": f"{shard}/{self.shards}"}
            yield self._job("certify", script, of_shard, [summary_path(part)], [model])
            parts.append(part)
        outputs = [summary_path(whole), whole.with_suffix(".settings.json"), whole]
        script = "randomized_smoothing_certification/merge_shards.py"
        yield self._job("merge", script, {"shards": parts, "out": whole}, outputs, [*map(summary_path, parts)])

    def _tables_job(self) -> "Job":
        plan, results = self.folders["work"] / "plan.json", self.folders["results"]
        certificates = [summary_path(self.certificate_file(cell, seed)) for cell in self.cells() for seed in self.seeds]
        foreign = [Path(file) for foreign in self.foreign for file in foreign.files]
        seen = [self.visibility_file(poison) for poison in self.poisons().values() if self.visibility]
        outputs = [results / name for name in (*PAGES, *FIGURES)]
        script = "evaluation/tables/make_tables.py"
        return self._job(
            "tables", script, {"plan": plan, "directory": "."}, outputs, [plan, *certificates, *seen, *foreign]
        )

    def limits_of(self, rule: str) -> Limits:
        """What one job of a rule may use."""
        return self.limits.get(rule) or self.limits.get("all") or Limits()


class Job(NamedTuple):
    """One call of a script that a user may call by hand."""

    rule: str  # data, control (or ready poison), poison, visibility, victim, certify, merge or tables
    script: str  # path in the project
    flags: str  # as on the command line, quoted for a shell
    outputs: tuple[Path, ...]  # the first appears when the job is done
    needs: tuple[Path, ...]
    work: Path  # folder of the plan

    @property
    def name(self) -> str:
        """Path of its first output in the work folder without the ending; 'data' and 'tables' by themselves."""
        if self.rule in ("data", "tables"):
            return self.rule
        path = self.outputs[0].relative_to(self.work)
        ending = ".summary.json" if path.name.endswith(".summary.json") else path.suffix
        return str(path).removesuffix(ending)

    @property
    def command(self) -> str:
        """Script and flags."""
        return f"{self.script} {self.flags}"


def _settings_for(settings: dict[str, dict[str, Any]], method: str, sigma: float) -> dict[str, Any]:
    """The more special wins."""
    keys = ("all", method, f"{method} {sigma:g}")
    return {name: value for key in keys for name, value in settings.get(key, {}).items()}


def _several(value: Any) -> list[Any]:
    """The items of a list; none of anything else."""
    return list(value) if isinstance(value, list | tuple) else []


def _check_variant(where: str, name: str, settings: Mapping[str, Any]) -> None:
    """Raise InputError for a variant of attack or victims whose name or settings cannot be."""
    if not re.fullmatch(r"\w+", name, re.ASCII):
        raise InputError(f"{where}: a name is made of letters, digits and _, got {shortened(name)}")
    require_name(where, name)
    if name in ROWS:
        raise InputError(f"{where}: {name!r} is the name of a row; choose another")
    for listed, least in LISTED.items() if where == "attacks" else ():
        values = settings.get(listed)
        if isinstance(values, list | tuple):
            if not values:
                raise InputError(f"attacks: {name} has no {listed}; give at least one number, or leave {listed!r} out")
            if not all(type(one) is int and one >= least for one in values) or len(set(values)) < len(values):
                raise InputError(
                    f"attacks: {name} has {listed} {shortened(values)}; give different numbers from {least} on"
                )
    decided = [one for one in DECIDED if not (where == "attacks" and one in LISTED)]
    _check_flags(where, settings, decided)


def _check_flags(where: str, settings: Mapping[str, Any], decided: Sequence[str]) -> None:
    """Raise InputError for what is no flag and value of a script, or a flag that the plan sets itself."""
    for name, value in settings.items():
        if not re.fullmatch(r"[A-Za-z][\w.-]*", name):
            raise InputError(f"{where}: {name!r} is no setting of a script; name one without dashes before it")
        if name.replace("-", "_") in decided:
            raise InputError(f"{where}: {name} is decided by the plan's own entries; change those")
        for one in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(one, str | int | float) or (isinstance(one, str) and one.startswith("--")):
                raise InputError(
                    f"{where}: {name} is {shortened(one)}; give a number, a text, true or false, or a list"
                )


def flags(values: Mapping[str, Any]) -> str:
    """Settings as command-line flags: {'lr_u': 0.1, 'redraw_noise': False} is '--lr-u 0.1 --no-redraw-noise'."""
    words: list[str] = []
    for name, value in values.items():
        dashed = name.replace("_", "-")
        if value is True or value is False:
            words.append(f"--{dashed}" if value else f"--no-{dashed}")
        else:
            words += [f"--{dashed}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return shlex.join(words)


def read_plan(path: Path) -> Plan:
    """The plan in a YAML file. Raises InputError naming what is wrong in it."""
    return plan_of(yaml_values(read_text(path), str(path)), str(path))


def yaml_values(text: str, where: str) -> Any:
    """Plain values in YAML. Raises InputError, where: what it calls the text."""
    try:
        return yaml.safe_load(text)
    except Exception as error:  # beside YAMLError, of a date, a number or a nesting that cannot be
        raise InputError(f"{where}: not YAML ({' '.join(str(error).split())})") from error


def plan_of(values: Any, where: str = "plan") -> Plan:
    """A plan from plain values, checked. Raises InputError naming the entry that is wrong."""
    try:
        plan = msgspec.convert(values, Plan, strict=False)  # --config gives numbers as text
        plan.check()
    except (msgspec.ValidationError, OverflowError, InputError) as error:
        raise InputError(f"{where}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{where}: nested too deep; mend it") from error
    return plan
