"""The optimisers of the attack by name, with the settings that each of them has and their values."""

from collections.abc import Callable, Mapping
from typing import Any

from bilevel_optimizer.alternating import Alternating
from bilevel_optimizer.approxgrad import ApproxGrad
from bilevel_optimizer.bilevel import BilevelOptimizer, Objective
from bilevel_optimizer.ensemble import Ensemble
from bilevel_optimizer.f2sa import F2sa
from bilevel_optimizer.linear_solvers import solver_named
from bilevel_optimizer.soba import Soba
from runtime.files import InputError

APPROXGRAD = "approxgrad"
# What an optimiser's name stands for; a setting that is not there it does not have.
SETTINGS: dict[str, dict[str, Any]] = {
    APPROXGRAD: {
        "lower_steps": 10, "solver": "adam", "solver_steps": 10, "lr_p": 1e-2, "damping": 1e-3,
    },
    # Warm-started with few steps (Arbel and Mairal, ICLR 2022, arXiv 2111.14580).
    "few_steps": {
        "lower_steps": 1, "solver": "cg", "solver_steps": 2, "lr_p": 1e-2, "damping": 0.1,
    },
    "soba": {"lr_p": 1e-2, "damping": 0.1},
    # A larger multiplier also multiplies what y still lacks: on the digits 1 makes the stronger poison than 10 and 100.
    "f2sa": {"multiplier": 1.0, "growth": 0.0},
    # Ten steps of the weights to one of the noise (arXiv 2101.04898, section 4).
    "error_minimising": {"lower_steps": 10},
}  # fmt: skip
NAMES = tuple(dict.fromkeys(name for settings in SETTINGS.values() for name in settings))


def in_force(optimiser: str, published: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every setting in NAMES: given by the user, or of the optimiser; None where it has no such setting.

    published: of ApproxGrad, what the published attack on a training method has in place of the values here.
    Raises InputError where one is given that the optimiser does not have.
    """
    own = {**SETTINGS[optimiser], **(published if optimiser == APPROXGRAD else {})}
    for name in given:
        if name not in own:
            have = ", ".join(other for other, settings in SETTINGS.items() if name in settings)
            raise InputError(
                f"{name} is {given[name]}, but optimiser {optimiser} has no {name}, only {have}; leave it out"
            )
    return {name: given.get(name, own.get(name)) for name in NAMES}


def bilevel_optimiser(config: Any, f: Objective, g: Objective, project: Callable[[Any, Any], Any]) -> BilevelOptimizer:
    """The optimiser of a config whose settings are in force: an attack_generation.config.PoisonConfig."""
    one = _of_one_network(config, f, g, project)
    return one if config.networks == 1 else Ensemble.of(one, config.networks)


def _of_one_network(config: Any, f: Objective, g: Objective, project: Callable[[Any, Any], Any]) -> BilevelOptimizer:
    both: dict[str, Any] = {"f": f, "g": g, "lr_v": config.lr_v, "lr_u": config.lr_u, "project": project}
    if config.optimiser == "soba":
        return Soba(**both, lr_p=config.lr_p, damping=config.damping)
    if config.optimiser == "f2sa":
        return F2sa(**both, multiplier=config.multiplier, growth=config.growth)
    if config.optimiser == "error_minimising":
        return Alternating(**both, lower_steps=config.lower_steps)
    return ApproxGrad(
        **both,
        lower_steps=config.lower_steps,
        damping=config.damping,
        solver=solver_named(config.solver, config.solver_steps, config.lr_p, config.damping),
        fixed_system=config.redraw_noise != "training_and_validation",
        fixed_right_side=config.redraw_noise == "none",
    )
