"""The plan of a table: a YAML file, see config/. README has a plan of ten lines.

evaluation/tables/run_plan.py runs its jobs (jobs.py), one or several at once. The Snakefile runs them on clusters, too.
Protocol: arXiv 2012.01274, section 4 (tables per method and noise level, transfer over methods and architectures).
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain, product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import yaml

from attack_generation.controls import CONTROLS
from data.datasets import Share, Sigma
from data.ready_poisons import ready_names
from evaluation.tables.cells import CLEAN, OPTIMISED, READY, ROWS, Cell, Foreign, Paths, Poison, Victim
from models.registry import require_architecture
from robust_training.methods import METHODS
from runtime.bounds import at_least, between, require_bounds, require_within
from runtime.checks import require_name, require_name_lengths, require_usable, shortened
from runtime.files import InputError, read_json, read_text

DATASETS = ("MNIST", "CIFAR10", "DIGITS")  # data sets with their own scripts
# Flags of the scripts that follow from a plan's other entries.
DECIDED = (
    "target_class", "epsilon", "share", "sigma", "seed", "runs", "architecture", "training_data", "poison", "data_dir",
    "out_dir", "run_dir", "overwrite", "on_other_settings", "max_minutes",
)  # fmt: skip
DECIDED_OF_CERTIFICATES = (
    "target_class", "sigma", "seed", "model", "data_dir", "out", "shard", "radii", "on_other_settings", "max_minutes",
)  # fmt: skip
LISTED = {"epochs": 1, "seed": 0}  # settings of a named attack that may be lists, and their smallest values
MOST = 1000  # victims per entry, shards, threads
LIMITED = ("poison", "victim", "certify")  # rules whose jobs are long


class AttackVariant(NamedTuple):
    """One budget of a named attack."""

    series: str  # the name in Plan.attacks
    flags: dict[str, Any]  # added to the flags of Plan.attack
    over_seeds: str = ""  # the name of the mean over its listed seeds, '' where it lists none


class MethodTransfer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Poisons made against the methods ``against`` (or controls), and victims of every method, at equal sigma."""

    sigmas: tuple[float, ...]
    against: tuple[str, ...]


class ArchitectureTransfer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Poisons made against one method with models ``attacked`` (or controls), and victims of the models ``victims``."""

    method: str
    sigmas: tuple[float, ...]
    attacked: tuple[str, ...]
    victims: tuple[str, ...]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a job: minutes, MiB, GPUs. It stops cleanly before its minutes end. On SLURM it is submitted again."""

    minutes: Annotated[int, at_least(5)] = 1_440
    mem_mb: int = 4_000
    gpu: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table. Missing flags of scripts have the defaults of the scripts, all other entries those below.

    Paths are relative to the project, or to the folder of the script's flag --directory.
    """

    table: str
    """Name of the table, as in file names."""
    title: str
    """Heading of the tables. It should name everything that is smaller than in the paper."""
    dataset: str
    """Folder in data/ of the prepared arrays: MNIST, CIFAR10, DIGITS or any other. Tables and figures show the label
    with which the data were prepared."""
    scripts: str = ""
    """Data set whose scripts make poison, victims and certificates: MNIST, CIFAR10 or DIGITS. By default the dataset
    itself, or MNIST for a dataset without scripts."""
    data_dir: str = ""
    """Folder of the prepared arrays, by default data/<dataset>."""
    data: dict[str, Any] = {}
    """Flags, such as source, of the script that prepares the data: data/prepare_<dataset>.py, or data/prepare.py for
    other datasets."""
    work_dir: str = ""
    """Folder of poison, victims, certificates and checkpoints, by default runs/tables/<table>."""
    results_dir: str = ""
    """Folder of tables and figures, by default <work_dir>/results."""
    methods: dict[str, tuple[float, ...]] = {}
    """The training methods, and the noise levels sigma of each: {gaussianaug: [0.25, 0.5], macer: [0.25]}."""
    target_classes: tuple[int, ...] = (8,)
    """Classes that are poisoned and certified."""
    epsilon: float = 0.1
    """l-infinity bound on the change of a pixel. Pixels are in [0, 1]."""
    shares: tuple[Share, ...] = (1.0,)
    """Shares of the class's training images that are poisoned. Every kind of poisoned data is a row at each share."""
    rows: tuple[str, ...] = (CLEAN, "random", "constant", "contrast", OPTIMISED)
    """Training data of each method: clean, controls (attack_generation/controls.py), optimised (poison made against the
    method itself)."""
    runs: Annotated[int, between(1, MOST)] = 3
    """Victims per entry. Their seeds are seed, seed + 1, ..."""
    seed: int = 0
    """Seed of the attacks, of the first victim, and of the certified points."""
    architecture: str
    """Model of the attack and of the victims, see models/registry.py."""
    attack: dict[str, dict[str, Any]] = {}
    """Flags of the attack scripts, with - or _: of 'all', of a method ('macer'), or of a method at a sigma ('macer
    0.5'). More specific flags win. {all: {epochs: 20}, macer: {lr_u: 0.05}}"""
    victim: dict[str, dict[str, Any]] = {}
    """Flags of the victim scripts, written in the same way."""
    attacks: dict[str, dict[str, Any]] = {}
    """Named attacks, each a row beside 'rows'. Their flags are added to those of 'attack' and win over them. A list of
    'epochs' is a series of budgets: each number gives a poison and a row. A list of 'seed' repeats the attack, each
    time with other random numbers. {soba: {optimiser: soba, epochs: [5, 10]}}"""
    ready: dict[str, str] = {}
    """Poisons that are there already, each a row beside 'rows': {name of the row: poison}. The poison is a name in
    data/poisons/ or a file (.npz, see docs/enter_a_poison.md). All kinds of victims are trained on it."""
    victims: dict[str, dict[str, Any]] = {}
    """Named kinds of victims. Their flags are added to those of 'victim'. Every row is trained with each kind,
    transfer tables with the first. A reduction is against clean victims of the same kind. By default there is one kind
    without a name. {plain: {}, jittered: {jitter-brightness: 0.15}}"""
    certification: dict[str, Any] = {}
    """Flags of the certification script, such as points and n. With all_classes: true, points of every class are
    certified, and the tables also have the ACR of the classes that are not poisoned."""
    visibility: bool = False
    """Measure the size of each poison and the success of simple detectors (evaluation/visibility.py)."""
    shards: Annotated[int, between(1, MOST)] = 1
    """Jobs that one victim's certificate is divided into."""
    method_transfer: MethodTransfer | None = None
    """Transfer over training methods, a table of its own: {sigmas: [0.25], against: [gaussianaug, constant]}."""
    architecture_transfer: ArchitectureTransfer | None = None
    """Transfer over architectures, a table of its own, also of controls: {method: macer, sigmas: [0.25], attacked:
    [mnist_cnn, constant], victims: [mnist_cnn, mlp]}."""
    foreign: tuple[Foreign, ...] = ()
    """Certificates that other programs wrote. They join the table, a file for each run of an entry: [{method:
    consistency, sigma: 0.5, target_class: 8, poison: macer, n: 10000, files: [run_0.tsv, run_1.tsv]}]."""
    threads: Annotated[int, between(1, MOST)] = 1
    """CPU threads of every job on TensorFlow. Another count gives other numbers: training amplifies rounding."""
    limits: dict[str, Limits] = {}
    """Limits of 'all' jobs, or of the rules 'poison', 'victim' and 'certify', for Snakemake: {all: {minutes: 60,
    mem_mb: 4000, gpu: 1}}."""

    def check(self) -> None:
        """Raise InputError on an invalid entry. jobs.check_scripts checks the flags of scripts."""
        require_usable(msgspec.to_builtins(self))
        of_table = [sigma for levels in self.methods.values() for sigma in levels]
        methods, sigmas, models = [*self.methods], [*of_table], [self.architecture]
        if transfer := self.method_transfer:
            _require_known("method or control", transfer.against, (*METHODS, *CONTROLS))
            sigmas += transfer.sigmas
            if missing := [sigma for sigma in transfer.sigmas if sigma not in of_table]:
                raise InputError(f"method_transfer: no method of the table has sigma {missing[0]:g}; add it to methods")
        if over_models := self.architecture_transfer:
            methods.append(over_models.method)
            sigmas += over_models.sigmas
            models += [*set(over_models.attacked) - CONTROLS.keys(), *over_models.victims]
        _require_known("scripts", [self.script_folder], DATASETS)
        _require_known("method", methods, METHODS)
        _require_known("row", self.rows, ROWS)
        _require_known("rule of limits", self.limits, ("all", *LIMITED))
        known = (CLEAN, *CONTROLS, READY, *METHODS, *(one.method for one in self.foreign))
        _require_known("poison of foreign", [one.poison for one in self.foreign], known)
        self._check_script_flags()
        self._check_names()
        for model in models:
            require_architecture(model)
        if CLEAN not in self.rows:
            raise InputError("rows holds no 'clean', which reductions are measured against; add it")
        require_bounds(self)
        require_usable(self.seed + self.runs - 1, "seed + runs - 1")
        if self.paths.results.resolve().is_relative_to(self.paths.incomplete.resolve()):
            raise InputError(f"results_dir: {self.results_dir} is the place of incomplete tables; choose another")
        shares = tuple(f"{share:g}" for share in self.shares)  # as in the names of folders
        for name, given in {"target_classes": self.target_classes, "shares": shares}.items():
            if not given or len(set(given)) < len(given):
                raise InputError(f"{name} must be at least one, and different, got {list(given)}")
        if self.shares != (1.0,) and (transfer or over_models):
            raise InputError("shares: transfers have poison of the whole class; leave out the transfers, or shares")
        for rule, limits in self.limits.items():
            require_bounds(limits, f" of a job of {rule!r}")
        for sigma in sigmas:
            require_within("sigma", sigma, Sigma)
        for foreign in self.foreign:
            foreign.check()

    def _check_script_flags(self) -> None:
        """Raise InputError for an invalid flag of a script, or an invalid name of the methods that it is for."""
        for key, flags in (*self.attack.items(), *self.victim.items()):
            method, space, sigma = key.partition(" ")
            _require_known("method of attack or victim settings", [method], ("all", *METHODS))
            if space and not re.fullmatch(r"\d*\.?\d+", sigma):
                raise InputError(f"attack, victim: {key!r} is no method; name one, alone or with a sigma ('macer 0.5')")
            if space and method == "all":
                raise InputError(f"attack, victim: {key!r} has a sigma; name a method before it, or 'all' alone")
            if space and (short := f"{float(sigma):g}") != sigma:
                raise InputError(f"attack, victim: {key!r} must be written with the sigma {short}")
            _check_flags("attack, victim", flags, DECIDED)
        _check_flags("data", self.data, ("out_dir", "name"))
        _check_flags("certification", self.certification, DECIDED_OF_CERTIFICATES)
        if not isinstance(every := self.certification.get("all_classes", False), bool):
            raise InputError(f"certification: all_classes is {shortened(every)}; give true or false")
        for flags in self.victims.values():
            _check_flags("victims", flags, DECIDED)
        for name, flags in self.attacks.items():
            _check_flags("attacks", flags, [flag for flag in DECIDED if flag not in LISTED])
            for flag, least in LISTED.items():
                if not isinstance(values := flags.get(flag), list | tuple):
                    continue
                right = {value for value in values if type(value) is int and value >= least}
                if not values or len(right) < len(values):
                    mend = f"give at least one number, all different, from {least} on"
                    raise InputError(f"attacks: {name} has {flag} {shortened(values)}; {mend}")

    def _check_names(self) -> None:
        """Raise InputError for an invalid name of the table, of a row, of a kind of victims, of a file or a folder."""
        if not re.fullmatch(r"[\w-]+", self.table):
            raise InputError(f"table is made of letters, digits, _ and -, got {self.table!r}")
        for name in ("table", "dataset"):
            require_name(name, getattr(self, name))
        for where, named in (("attacks", self.attacks), ("victims", self.victims), ("ready", self.ready)):
            for name in named:
                if not re.fullmatch(r"\w+", name, re.ASCII):
                    raise InputError(f"{where}: a name is made of letters, digits and _, got {shortened(name)}")
                require_name(where, name)
                if name in ROWS:
                    raise InputError(f"{where}: {name!r} is the name of a row; choose another")
        attacks = self.attack_variants()
        taken = {*attacks, *(one.over_seeds for one in attacks.values())}
        for name, poison in self.ready.items():
            if not poison.endswith(".npz") and poison not in ready_names():
                known = f"choose from {', '.join(ready_names())}, or give a file (.npz, see docs/enter_a_poison.md)"
                raise InputError(f"ready: no poison {poison!r} in data/poisons; {known}")
            if name in taken:
                raise InputError(f"ready: {name!r} is the name of an attack; choose another")
        for folder in self.paths:
            require_name_lengths("a folder of the plan", folder)
        for file in (*self.ready.values(), *(file for foreign in self.foreign for file in foreign.files)):
            require_name_lengths("a file of the plan", Path(file))

    @property
    def script_folder(self) -> str:
        """The data set whose scripts are used."""
        return self.scripts or (self.dataset if self.dataset in DATASETS else DATASETS[0])

    @property
    def paths(self) -> Paths:
        """Paths of its files."""
        return self.paths_in(Path())

    def paths_in(self, directory: Path) -> Paths:
        """Paths of its files when the plan's own paths are relative to ``directory``."""
        work = directory / (self.work_dir or f"runs/tables/{self.table}")
        results = directory / self.results_dir if self.results_dir else work / "results"
        return Paths(directory / (self.data_dir or f"data/{self.dataset}"), work, results)

    @property
    def seeds(self) -> range:
        """Seeds of the victims."""
        return range(self.seed, self.seed + self.runs)

    def attack_variants(self) -> dict[str, AttackVariant]:
        """Every variant of the attack by its name: one for each named attack, or for each of its epochs and seeds.

        Raises InputError where two variants have the same name.
        """
        variants: dict[str, AttackVariant] = {}
        for series, settings in self.attacks.items():
            lists = {name: one for name in LISTED if isinstance(one := settings.get(name), list | tuple)}
            for combination in product(*lists.values()):
                chosen = dict(zip(lists, combination, strict=True))
                name = "_".join([series, *(f"{listed}_{one}" for listed, one in chosen.items())])
                if name in variants:
                    raise InputError(f"attacks: two attacks are named {name!r}; choose other names")
                over_seeds = name.removesuffix(f"_seed_{chosen['seed']}") if "seed" in chosen else ""
                variants[name] = AttackVariant(series, {**settings, **chosen}, over_seeds)
        if taken := {one.over_seeds for one in variants.values()} & variants.keys():
            raise InputError(f"attacks: {min(taken)!r} also names the mean over seeds of another; choose other names")
        return variants

    def limits_for(self, rule: str) -> Limits:
        """Limits of a job of this rule."""
        return self.limits.get(rule) or self.limits.get("all") or Limits()

    def cells(self) -> list[Cell]:
        """Every entry that the plan itself makes, once."""
        return list(dict.fromkeys(chain(self._main_cells(), *self.transfer_cells().values())))

    def _main_cells(self) -> Iterator[Cell]:
        """Every kind of victims on each row, named attack and ready poison, at each share of the class."""
        for method, sigmas in self.methods.items():
            for sigma, variant, target_class in product(sigmas, self.victims or ("",), self.target_classes):
                optimised = Poison(method, self.architecture, sigma, target_class)
                of_row: dict[str, Poison | None] = {CLEAN: None, OPTIMISED: optimised}
                of_row |= {control: Poison(control, "", sigma, target_class) for control in CONTROLS}
                poisons = [of_row[row] for row in self.rows]
                poisons += [optimised._replace(variant=name) for name in self.attack_variants()]
                poisons += [Poison(READY, "", sigma, target_class, name) for name in self.ready]
                victim = Victim(method, sigma, self.architecture, variant)
                for poison, share in product(poisons, self.shares):
                    yield Cell(victim, target_class, poison and poison._replace(share=share))

    def transfer_cells(self) -> dict[str, list[Cell]]:
        """The entries of the two transfer tables: over methods, and over architectures, for the first variant.

        Every kind of victims is trained on clean data and on every poison. Victims and poison have the same sigma.
        """
        variant = next(iter(self.victims), "")
        cells: dict[str, list[Cell]] = {"method": [], "architecture": []}
        if methods := self.method_transfer:
            for sigma, target_class in product(methods.sigmas, self.target_classes):
                with_sigma = [method for method, sigmas in self.methods.items() if sigma in sigmas]
                victims = [Victim(method, sigma, self.architecture, variant) for method in with_sigma]
                made = [(name, "" if name in CONTROLS else self.architecture) for name in methods.against]
                poisons = [None, *(Poison(against, model, sigma, target_class) for against, model in made)]
                cells["method"] += [Cell(victim, target_class, poison) for victim, poison in product(victims, poisons)]
        if models := self.architecture_transfer:
            for sigma, target_class in product(models.sigmas, self.target_classes):
                victims = [Victim(models.method, sigma, model, variant) for model in models.victims]
                made = [(name, "") if name in CONTROLS else (models.method, name) for name in models.attacked]
                poisons = [None, *(Poison(against, model, sigma, target_class) for against, model in made)]
                pairs = product(victims, poisons)
                cells["architecture"] += [Cell(victim, target_class, poison) for victim, poison in pairs]
        return cells

    def poisons(self) -> list[Poison]:
        """Every poison that the plan itself makes, once."""
        return list(dict.fromkeys(cell.poison for cell in self.cells() if cell.poison))


def _require_known(what: str, given: Iterable[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"no {what} {name!r}; choose from {', '.join(known)}")


def _check_flags(where: str, settings: Mapping[str, Any], decided: Sequence[str]) -> None:
    """Raise InputError for an impossible name or value of a flag, and for a flag that the plan itself sets."""
    names = [name.replace("-", "_") for name in settings]
    for plain, (name, value) in zip(names, settings.items(), strict=True):
        if names.count(plain) > 1:
            raise InputError(f"{where}: {name} stands there twice, with - and with _; leave one out")
        if not re.fullmatch(r"(?!help$)[A-Za-z][\w.-]*", name):
            raise InputError(f"{where}: {name!r} is no setting of a script; name one without dashes before it")
        if plain in decided:
            runs = "; several attack runs: attacks: {NAME: {seed: [0, 1]}}" if name == "seed" else ""
            raise InputError(f"{where}: {name} is decided by the plan's own entries, such as epsilon; use these{runs}")
        for one in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(one, str | int | float) or (isinstance(one, str) and one.startswith("--")):
                raise InputError(f"{where}: {name} is {shortened(one)}; give a number, text, true or false, or a list")


def read_plan(path: Path) -> Plan:
    """The plan in a YAML file, or in a run's plan.json. Raises InputError naming the mistake in it."""
    return plan_of(read_json(path) if path.suffix == ".json" else yaml_values(read_text(path), str(path)), str(path))


class _NamesOnce(yaml.SafeLoader):
    """Plain values in YAML. Refuses a name that stands twice in a mapping, where SafeLoader keeps the last value."""

    def compose_mapping_node(self, anchor: Any) -> Any:  # before merges (<<) add the names of other mappings
        node = super().compose_mapping_node(anchor)
        for number, (name, _) in enumerate(node.value, 1):
            if name.value in [later.value for later, _ in node.value[number:]]:
                raise yaml.composer.ComposerError(None, None, f"{name.value} stands there twice", name.start_mark)
        return node


def yaml_values(text: str, where: str) -> Any:
    """Plain values in YAML. where: the text's name in errors. Raises InputError for text that is not YAML."""
    try:
        return yaml.load(text, _NamesOnce)
    except Exception as error:  # also errors other than YAMLError, from impossible dates, numbers or nesting
        raise InputError(f"{where}: not YAML ({' '.join(str(error).split())}); mend that place") from error


def plan_of(values: Any, where: str = "plan") -> Plan:
    """A plan from plain values, checked. Raises InputError naming the entry that is wrong."""
    try:
        plan = msgspec.convert(values, Plan, strict=False)  # Snakemake's --config gives numbers as text
        plan.check()
    except (msgspec.ValidationError, OverflowError, InputError) as error:
        unknown = "".join(re.findall(r"contains unknown field `([^`]+)`$", str(error)))  # of the plan itself
        close = get_close_matches(unknown.replace("-", "_").lower(), Plan.__struct_fields__, 1)
        raise InputError(f"{where}: {error}{f'; did you mean {close[0]}?' if close else ''}") from error
    except RecursionError as error:
        raise InputError(f"{where}: nested too deep; mend it") from error
    return plan
