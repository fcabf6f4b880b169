"""What a new optimiser and a new parametrisation cost: a class, and one line that registers it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
from keras import ops

from attack_generation.attack import Attack
from attack_generation.config import Optimiser, PoisonConfig
from attack_generation.gaussian_data_augmentation.DIGITS.poison_radius_gaussianaug import Config
from attack_generation.parametrisation import PARAMETRISATIONS, Parametrisation, ParametrisationName
from bilevel_optimizer.bilevel import BilevelOptimizer, Metrics, Problem
from bilevel_optimizer.optimisers import OPTIMISERS
from bilevel_optimizer.soba import Soba
from bilevel_optimizer.trees import norm
from data.datasets import load_dataset
from robust_training.macer import MacerLoss
from runtime.command_line import parsed
from runtime.files import InputError
from runtime.long_run import identity

TOY = "--target-class 3 --batch-clean 450 --batch-poison 10 --batch-validation 10 --radius-copies 2"


@dataclass(frozen=True, kw_only=True)
class Upwards(BilevelOptimizer):
    """Moves every variable up, whatever f and g are."""

    name: ClassVar[str] = "upwards"

    push: float = 1.0
    """Strength of the push."""

    def init_lower(self, v: Any) -> Any:
        return ()

    def direction(self, problem: Problem, u: Any, v: Any, lower: Any, data: Any) -> tuple[Any, Any, Any, Metrics]:
        direction = -self.push * ops.ones_like(u)
        f, g = problem.f(u, v, data, 1), problem.g(u, v, data, 0)
        return direction, v, lower, {"f": f, "g": g, "push": norm(direction)}

    def gradients(self, cost_of_f: float) -> float:
        return 0.0


def test_a_new_optimiser_has_its_flags_and_its_record(tiny_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMISERS, "upwards", Upwards)
    words = f"--optimiser upwards --push 2.5 --data-dir {tiny_data_dir} {TOY}".split()
    config = parsed(Config, words=words)
    config.check()
    assert config.optimiser == Upwards(push=2.5, lr_u=Config.optimiser.lr_u)
    recorded = identity(config)
    assert recorded["optimiser"] == "upwards" and recorded["push"] == 2.5 and "damping" not in recorded
    attack = Attack(config, load_dataset(tiny_data_dir))
    state, _ = attack.outer_step(attack.initial_state(), 0)
    moved = attack.poison(state, Path()) - attack.x_to_poison
    assert moved.min() >= 0 and moved.max() == pytest.approx(config.epsilon, abs=1e-6)


def test_an_optimiser_of_a_script_of_its_own_has_its_flags(tiny_data_dir: Path) -> None:
    """Without a line in OPTIMISERS, also those flags that it shares with optimisers there."""

    class Script(Config):
        optimiser: Optimiser = Upwards(push=2.0)

    assert parsed(Script, words=["--push", "3", "--lr-u", "0.2"]).optimiser == Upwards(push=3.0, lr_u=0.2)
    with pytest.raises(InputError, match="optimiser upwards has no setting damping"):
        parsed(Script, words=["--damping", "3"])
    assert parsed(Script, words=["--optimiser", "soba", "--damping", "3"]).optimiser == Soba(damping=3.0)


@pytest.mark.parametrize("base", [Soba, MacerLoss])
def test_a_subclass_needs_a_name_and_a_decorator_of_its_own(base: Any) -> None:
    """Else the base class keeps the files of the subclass, and settings that the subclass declares are lost."""

    @dataclass(frozen=True, kw_only=True)
    class Nameless(base):
        pass

    class Undecorated(base):
        name: ClassVar[str] = "undecorated"

    for kind in (Nameless, Undecorated):
        with pytest.raises(InputError, match=f"{kind.__name__}: records would show its base class"):
            kind()
    decorated = dataclass(frozen=True, kw_only=True)(Undecorated)
    assert decorated().name == "undecorated"


class OneNumber(Parametrisation):
    """The brightness of the whole class."""

    def start(self, kind: str, x: np.ndarray, seed: int) -> Any:
        return np.zeros((1,), np.float32)

    def images(self, u: Any, x: Any) -> Any:
        return ops.clip(x + u, 0.0, 1.0)

    def project(self, u: Any, x: Any, delta: Any) -> Any:
        return ops.clip(u, -self.epsilon, self.epsilon)


def test_a_new_parametrisation_is_one_entry(tiny_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_args(ParametrisationName) == tuple(PARAMETRISATIONS)  # the flag's values are the table's names
    monkeypatch.setitem(PARAMETRISATIONS, "one_number", OneNumber)
    config = PoisonConfig(
        loss=Config.loss, target_class=3, sigma=0.25, batch_clean=450, batch_poison=10, batch_validation=10,
        radius_copies=2, parametrisation="one_number", objective="noisy_cross_entropy", optimiser=Soba(),
        architecture="digits_cnn", data_dir=tiny_data_dir,
    )  # fmt: skip
    attack = Attack(config, load_dataset(tiny_data_dir))
    state = attack.initial_state()
    for number in range(2):  # SOBA begins with p = 0
        state, _ = attack.outer_step(state, number)
    assert 0.01 < abs(float(state.u[0])) <= 0.1 + 1e-6
