"""One comparison from poison to table: clean data, the two controls and the optimised poison, one victim method.

Every stage is skipped when its result is already there, so a comparison that was stopped goes on where it was.
Protocol: arXiv 2012.01274, section 4; the controls carry the same epsilon as the optimised poison.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from attack_generation.config import PoisonConfig
from attack_generation.controls import CONTROLS, write_control_poison
from attack_generation.figures import save_image_grid
from attack_generation.poisoning import poison_radius
from data.datasets import Dataset, load_dataset, load_poison, split_target_class
from evaluation.figures import save_curves
from evaluation.tables import SummaryRow, mean_and_std, reduction_percent, text_table, update_summary
from evaluation.training import TrainingConfig, train_victims
from randomized_smoothing_certification.certification_run import CertificationConfig, certify_test_points
from runtime.files import InputError, read_json, write_json
from runtime.provenance import project_path, provenance, shown_path
from runtime.stop import StoppedEarly

Poison = Literal["clean", "random", "constant", "contrast", "optimised"]


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """What is compared. target_class, sigma, seed and data_dir hold for attack, victim and certificate alike."""

    target_class: int = 8
    """Class that is poisoned and certified."""
    sigma: float = 0.5
    """Standard deviation of the smoothing noise of attack, victim and certificate; pixels are in [0, 1]."""
    epsilons: tuple[float, ...] = (0.1,)
    """l-infinity bounds on the poison, one group of rows each."""
    poisons: tuple[Poison, ...] = ("clean", "random", "constant", "contrast", "optimised")
    """Rows: clean data, random signs of epsilon, a brightness shift of epsilon, less contrast (dark pixels epsilon
    brighter, bright ones epsilon darker), the bilevel attack."""
    runs: int = 3
    """Victims per row, with seeds seed, seed + 1, ..."""
    points: int = 500
    """Test points of the target class to certify; all of them where there are fewer."""
    n0: int = 100
    """Noisy votes that select the class."""
    n: int = 100_000
    """Noisy votes that bound its probability."""
    alpha: float = 0.001
    """Probability that a certificate is wrong, per point."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic inside the certified model."""
    seed: int = 0
    """Seed of the attack and of the first victim; the certificate's points are drawn with it too."""
    attack: PoisonConfig
    """Constants of the attack."""
    victim: TrainingConfig
    """Constants of victim training."""
    data_dir: Path
    """Folder of the prepared arrays; the poison goes to data_dir/epsilon_<epsilon>."""
    work_dir: Path | None = None
    """Folder of victims, checkpoints and certificates; runs/<dataset>_comparison when not given."""
    results_dir: Path = project_path("results")
    """Folder of summary.csv, and of a folder of figures and settings for this comparison."""
    max_minutes: float | None = None
    """Stop cleanly after this long; the same command continues."""


def _in_force(config: ComparisonConfig) -> ComparisonConfig:
    """The config with the settings that hold for attack, victim and certificate alike put into attack and victim.

    Raises InputError where one was given otherwise there: it would be saved and not used.
    """
    shared = {name: getattr(config, name) for name in ("target_class", "sigma", "seed", "data_dir")}
    resolved = {}
    for part, own in (("attack", {}), ("victim", {"runs": config.runs})):
        given = getattr(config, part)
        default = type(given)(loss=given.loss, data_dir=config.data_dir)
        values = {**shared, **own}
        for name in (*values, "max_minutes", "out_dir", "run_dir", *_MADE_BY_ROWS[part]):
            value = getattr(given, name)
            allowed = (values.get(name), getattr(default, name), type(default).__dict__.get(name))
            if value not in allowed:
                raise InputError(
                    f"{part}.{name} is {value}, but the comparison decides it; give "
                    f"{_MADE_BY_ROWS[part].get(name, f'--{name}').replace('_', '-')} instead"
                )
        resolved[part] = dataclasses.replace(given, **values)
    return dataclasses.replace(config, **resolved)


# Settings of each part that differ from row to row, and what decides them.
_MADE_BY_ROWS: dict[str, dict[str, str]] = {
    "attack": {"epsilon": "--epsilons"},
    "victim": {"training_data": "--poisons", "poison": "--poisons"},
}


def compare(config: ComparisonConfig) -> list[SummaryRow]:
    """Make the poisons, train and certify the victims, and write table, curves, pictures and settings.

    The poison is made against config.attack.loss, the victims are trained with config.victim.loss.
    Returns the rows of the table, clean first.

    Raises InputError on bad settings or data, StoppedEarly when asked to stop.
    """
    deadline = _Deadline(config.max_minutes)
    config = _in_force(config)
    attacked, trained = config.attack.loss.name, config.victim.loss.name
    dataset = load_dataset(config.data_dir)
    work_dir = config.work_dir or project_path("runs") / f"{dataset.name}_comparison"
    if "clean" not in config.poisons:
        raise InputError("poisons must hold 'clean': reductions are measured against that row")
    combinations: list[tuple[Poison, float | None]] = [("clean", None)]
    combinations += [
        (kind, epsilon) for epsilon in config.epsilons for kind in config.poisons if kind != "clean"
    ]

    rows: list[SummaryRow] = []
    curves: dict[str, list[dict[str, Any]]] = {}
    poisons: dict[tuple[str, float], Path] = {}
    for kind, epsilon in combinations:
        path = None
        if epsilon is not None:
            path = _poison(config, kind, epsilon, attacked, work_dir, dataset, deadline)
            poisons[_shown(kind, attacked), epsilon] = path
        summaries, accuracies = _victims(config, kind, epsilon, path, work_dir, deadline)
        clean = rows[0] if rows else None
        shown = _shown(kind, attacked)
        rows.append(_row(config, dataset, trained, shown, epsilon, summaries, accuracies, clean))
        label = "clean" if epsilon is None else f"{rows[-1].poison}, ε = {epsilon:g}"
        curves[label] = [summary["curve"] for summary in summaries]

    method = trained if attacked == trained else f"{trained}_poison_{attacked}"
    name = f"{dataset.name}_{method}_sigma_{config.sigma:g}_class_{config.target_class}"
    folder = config.results_dir / name
    title = f"{dataset.label}, class {config.target_class}, {trained}, σ = {config.sigma:g}"
    save_curves(folder / "certified_accuracy.png", curves, f"{title}, mean and range of {config.runs} runs")
    x_target = split_target_class(dataset.x_train, dataset.y_train, config.target_class).x_target
    for (shown, bound), path in poisons.items():
        images = load_poison(path, dataset, config.target_class)
        save_image_grid(folder / f"images_{shown}_epsilon_{bound:g}.png", x_target, images, bound)
    write_json(folder / "settings.json", provenance(config))
    update_summary(config.results_dir / "summary.csv", rows)
    table = f"{_heading(config, dataset, trained, rows[0].points)}\n\n{text_table(rows)}"
    print(f"\n{table}\n\n{shown_path(folder)}: curves, pictures and settings")
    return rows


class _Deadline:
    """The minutes left of a limit that several stages share."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._minutes = minutes

    def left(self) -> float | None:
        """Minutes for the next stage, None without a limit. Raises StoppedEarly when none are left."""
        if self._end is None:
            return None
        left = (self._end - time.monotonic()) / 60
        if left <= 0:
            raise StoppedEarly(f"the limit of {self._minutes:g} minutes")
        return left


def _poison(
    config: ComparisonConfig, kind: Poison, epsilon: float, attacked: str, work_dir: Path,
    dataset: Dataset, deadline: _Deadline,
) -> Path:  # fmt: skip
    out_dir = config.data_dir / f"epsilon_{epsilon:g}"
    if kind in CONTROLS:
        return write_control_poison(
            dataset, kind, config.sigma, config.target_class, epsilon, config.seed, out_dir
        )
    attack = dataclasses.replace(
        config.attack,
        epsilon=epsilon,
        out_dir=out_dir,
        run_dir=work_dir / f"attack_{attacked}_epsilon_{epsilon:g}",
        max_minutes=deadline.left(),
    )
    return poison_radius(attack)


def _victims(
    config: ComparisonConfig, kind: Poison, epsilon: float | None, poison: Path | None,
    work_dir: Path, deadline: _Deadline,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:  # fmt: skip
    """Certification summaries and training records of one row's victims."""
    folder = work_dir / ("clean" if epsilon is None else f"{kind}_epsilon_{epsilon:g}")
    training = dataclasses.replace(
        config.victim,
        training_data="clean" if poison is None else "poisoned_radius",
        poison=poison,
        out_dir=folder,
        run_dir=folder / "training",
        max_minutes=deadline.left(),
    )
    models = train_victims(training)
    summaries = []
    for model in models:
        out = folder / f"{model.stem}_{config.points}_points_n_{config.n}.tsv"
        certification = CertificationConfig(
            target_class=config.target_class, model=model, out=out, data_dir=config.data_dir, sigma=config.sigma,
            points=config.points, n0=config.n0, n=config.n, alpha=config.alpha, seed=config.seed,
            precision=config.precision, max_minutes=deadline.left(),
        )  # fmt: skip
        summaries.append(certify_test_points(certification))
    return summaries, [read_json(model.with_suffix(".json")) for model in models]


def _row(
    config: ComparisonConfig, dataset: Dataset, victim: str, poison: str, epsilon: float | None,
    summaries: list[dict[str, Any]], accuracies: list[dict[str, Any]], clean: SummaryRow | None,
) -> SummaryRow:  # fmt: skip
    acr_mean, acr_std = mean_and_std([summary["acr"] for summary in summaries])
    certified = mean_and_std([summary["approximate_certified_accuracy"] for summary in summaries])
    record = provenance(config)
    return SummaryRow(
        dataset=dataset.label,
        victim=victim,
        poison=poison,
        sigma=config.sigma,
        epsilon=epsilon,
        target_class=config.target_class,
        architecture=config.victim.architecture,
        runs=config.runs,
        attack_epochs=None if poison in ("clean", *CONTROLS) else config.attack.epochs,
        victim_epochs=config.victim.epochs,
        points=summaries[0]["point_set"]["count"],
        n=config.n,
        alpha=config.alpha,
        acr_mean=acr_mean,
        acr_std=acr_std,
        certified_accuracy_mean=certified[0],
        certified_accuracy_std=certified[1],
        accuracy_mean=float(np.mean([record["accuracy"] for record in accuracies])),
        target_accuracy_mean=float(np.mean([record["target_accuracy"] for record in accuracies])),
        reduction_percent=None if clean is None else reduction_percent(acr_mean, clean.acr_mean),
        backend=record["backend"],
        commit=record["commit"],
        command=record["command"],
    )


def _shown(kind: Poison, attacked: str) -> str:
    """The name in tables and files: the optimised poison goes by the method it was made against."""
    return attacked if kind == "optimised" else kind


def _heading(config: ComparisonConfig, dataset: Dataset, method: str, points: int) -> str:
    return (
        f"{dataset.label}, target class {config.target_class}, victim {method} ({config.victim.epochs} epochs), "
        f"sigma {config.sigma:g}, {config.runs} runs\n"
        f"certified: {points} test points of the class (seed {config.seed}), n0 = {config.n0}, n = {config.n}, "
        f"alpha = {config.alpha:g}, {config.precision}"
    )
