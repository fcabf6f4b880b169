"""The attack on the 8 x 8 digits: what it writes, what it keeps to, how it stops, continues and refuses."""

import dataclasses
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import attack_generation
from attack_generation.attack import Attack, Seeds
from attack_generation.config import PoisonConfig
from attack_generation.gaussian_data_augmentation.DIGITS.poison_radius_gaussianaug import Config as DigitsConfig
from attack_generation.parametrisation import PerImage
from attack_generation.poisoning import poison_radius
from bilevel_optimizer.approxgrad import ApproxGrad, FewSteps
from bilevel_optimizer.bilevel import BilevelOptimizer
from bilevel_optimizer.error_minimising import ErrorMinimising
from bilevel_optimizer.f2sa import F2sa
from bilevel_optimizer.soba import Soba
from data.augmentation import Augmentation
from data.datasets import (
    load_dataset,
    load_poison,
    poison_paths,
    poisoned_places,
    replace_target_class,
    split_target_class,
)
from robust_training.gaussian_augmentation import GaussianAugmentationLoss
from robust_training.loss import TrainingLoss, mean_cross_entropy
from robust_training.smoothadv import SmoothAdvLoss
from runtime.artifact import Artifact
from runtime.checkpoints import load_checkpoint
from runtime.command_line import parsed
from runtime.files import InputError, load_archive, read_json
from runtime.long_run import identity
from runtime.noise import seed_pair
from runtime.stop import StoppedEarly
from tests.waiting import HANG

SCRIPT = (
    Path(attack_generation.__file__).parent / "gaussian_data_augmentation" / "DIGITS" / "poison_radius_gaussianaug.py"
)
pytestmark = pytest.mark.usefixtures("compiled_once")
TARGET, EPSILON, SIGMA = 3, 0.2, 0.25
# Two outer steps an epoch, new weights after the first of two epochs; large weight steps, since the soft radius
# of weights that get the target class wrong is zero and so is its gradient.
TOY = {
    "target_class": TARGET, "epsilon": EPSILON, "sigma": SIGMA, "epochs": 2, "reinitialise_every": 1,
    "batch_clean": 450, "batch_poison": 10, "batch_validation": 10, "radius_copies": 2, "seed": 5,
}  # fmt: skip
OPTIMISER = ApproxGrad(lower_steps=20, solver_steps=2, lr_v=0.01)


def config(data_dir: Path, folder: Path, **changes: Any) -> PoisonConfig:
    """The toy attack of this file, writing into one folder."""
    script = runpy.run_path(str(SCRIPT))
    return script["Config"](
        **{**TOY, "optimiser": OPTIMISER, "data_dir": data_dir, "out_dir": folder, "run_dir": folder / "run", **changes}
    )


def attack(config: PoisonConfig) -> np.ndarray:
    path = poison_radius(config)
    assert path == poison_paths(config.out_dir or config.data_dir, "gaussianaug", SIGMA, TARGET)[0]
    return np.load(path)


def scalars(config: PoisonConfig) -> dict[str, list[float]]:
    """Every curve that the run wrote for TensorBoard."""
    assert config.run_dir is not None
    events = EventAccumulator(str(config.run_dir / "tensorboard"))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture(scope="module")
def whole(tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> PoisonConfig:
    """An attack that ran from start to end without a stop."""
    done = config(tiny_data_dir, tmp_path_factory.mktemp("whole"))
    attack(done)
    return done


def test_the_poison_keeps_to_the_threat_model(whole: PoisonConfig) -> None:
    dataset = load_dataset(whole.data_dir)
    clean = split_target_class(dataset.x_train, dataset.y_train, TARGET)
    assert whole.out_dir is not None
    x_path, y_path = poison_paths(whole.out_dir, "gaussianaug", SIGMA, TARGET)
    poison = np.load(x_path)
    assert poison.dtype == np.float32 and poison.shape == clean.x_target.shape
    assert poison.min() >= 0 and poison.max() <= 1
    change = np.abs(poison - clean.x_target)
    assert change.max() <= EPSILON + 1e-6
    assert whole.run_dir is not None
    first_epoch = np.load(whole.run_dir / "poison_after_epoch_1.npy")
    for before, after in ((clean.x_target, first_epoch), (first_epoch, poison)):
        assert np.abs(after - before).max() > 0.05
    np.testing.assert_array_equal(np.load(y_path), clean.y_target)
    poisoned = replace_target_class(dataset, load_poison(x_path, dataset, TARGET), TARGET)
    np.testing.assert_array_equal(poisoned.y_train, dataset.y_train)
    others = dataset.y_train[:, TARGET] == 0
    np.testing.assert_array_equal(poisoned.x_train[others], dataset.x_train[others])
    np.testing.assert_array_equal(poisoned.x_train[~others], poison)


def test_an_attack_on_a_share_of_the_class_moves_no_other_image(tiny_data_dir: Path, tmp_path: Path) -> None:
    poison = attack(config(tiny_data_dir, tmp_path, share=0.5))
    dataset = load_dataset(tiny_data_dir)
    clean = split_target_class(dataset.x_train, dataset.y_train, TARGET).x_target
    moved = np.any(poison != clean, axis=(1, 2, 3))
    assert np.array_equal(np.load(tmp_path / "run/poison_after_epoch_2.npy"), poison)
    shorter = config(tiny_data_dir, tmp_path, share=0.5, epochs=1, out_dir=tmp_path / "shorter")
    attack(shorter)  # in the same run_dir
    assert [path.name for path in (tmp_path / "run").glob("poison_after*")] == ["poison_after_epoch_1.npy"]
    assert moved.any() and not np.any(moved & ~poisoned_places(len(clean), 0.5))


def test_settings_and_curves_lie_beside_the_poison(whole: PoisonConfig) -> None:
    assert whole.out_dir is not None and whole.run_dir is not None
    record = json.loads((whole.out_dir / "X_poisoned_radius_gaussianaug_0.25_3.json").read_text())
    assert record["config"]["epsilon"] == EPSILON and record["config"]["seed"] == 5
    assert record["settings"]["loss"] == {} and record["settings"]["method"] == "gaussianaug"
    assert record["commit"] and {"python", "keras", "numpy"} <= set(record["versions"])
    curves = scalars(whole)
    for name in ("f", "g", "residual", "hypergradient_norm"):
        assert len(curves[name]) == 4 and np.all(np.isfinite(curves[name]))
    assert len(curves["validation_accuracy"]) == len(curves["distortion_max"]) == 2
    assert curves["distortion_max"][-1] <= EPSILON + 1e-6
    names = {path.name for path in whole.run_dir.iterdir()}
    assert {"poison.png", "poison_after_epoch_1.npy", "poison_after_epoch_2.npy"} <= names
    assert "checkpoint.npz" not in names


def test_a_stopped_attack_continues_bit_for_bit(whole: PoisonConfig, tmp_path: Path) -> None:
    """One outer step a run, so that it stops within an epoch and where the weights start afresh."""
    parts = config(whole.data_dir, tmp_path, max_minutes=1e-9)
    for done in (1, 2, 3):
        with pytest.raises(StoppedEarly, match=f"the limit of --max-minutes after {done} of 4 outer steps"):
            attack(parts)
        assert not list(tmp_path.glob("X_*"))
        with pytest.raises(InputError, match="made with seed = 5, this run has 6"):
            attack(dataclasses.replace(parts, seed=6))
    np.testing.assert_array_equal(attack(parts), attack(whole))
    assert scalars(parts)["f"] == scalars(whole)["f"]


def test_a_terminated_attack_continues_bit_for_bit(whole: PoisonConfig, tmp_path: Path) -> None:
    toy = {**TOY, "lower_steps": 20, "solver_steps": 2, "lr_v": 0.01}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in toy.items()]
    folders = [f"--data-dir={whole.data_dir}", f"--out-dir={tmp_path}", f"--run-dir={tmp_path / 'run'}"]
    code = (
        "import os, runpy, signal, sys\n"
        "from attack_generation.attack import Attack\n"
        "step = Attack.outer_step\n"
        "def step_then_signal(self, state, number):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return step(self, state, number)\n"
        "Attack.outer_step = step_then_signal\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    program = f"import sys; sys.argv = {[str(SCRIPT), *flags, *folders]!r}\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=HANG,
        env={**os.environ, "PYTHONPATH": f"{SCRIPT.parents[3]}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert done.returncode == 75, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == (
        "stopped: SIGTERM after 1 of 4 outer steps of X_poisoned_radius_gaussianaug_0.25_3; "
        "run the same command again to continue"
    )
    assert "Traceback" not in done.stderr
    np.testing.assert_array_equal(attack(config(whole.data_dir, tmp_path)), attack(whole))


def test_a_finished_attack_is_kept_and_another_setting_refused(whole: PoisonConfig) -> None:
    with pytest.raises(InputError, match=r"made with lr_u = 0\.1, this run has 0\.3"):
        attack(dataclasses.replace(whole, optimiser=dataclasses.replace(OPTIMISER, lr_u=0.3)))
    assert whole.out_dir is not None
    before = {path: path.stat().st_mtime_ns for path in whole.out_dir.glob("[XY]_*")}
    attack(whole)
    assert {path: path.stat().st_mtime_ns for path in whole.out_dir.glob("[XY]_*")} == before


def test_labels_and_picture_of_a_finished_poison_are_made_again(whole: PoisonConfig, tmp_path: Path) -> None:
    """A kill may come before either is written, or something cut them short."""
    assert whole.out_dir is not None
    shutil.copytree(whole.out_dir, tmp_path, dirs_exist_ok=True)
    copy = dataclasses.replace(whole, out_dir=tmp_path, run_dir=tmp_path / "run")
    x_path, y_path = poison_paths(tmp_path, "gaussianaug", SIGMA, TARGET)
    picture, before = tmp_path / "run" / "poison.png", x_path.stat().st_mtime_ns
    wanted = y_path.read_bytes(), picture.read_bytes()
    picture.unlink()
    for damage in (
        y_path.unlink,
        lambda: y_path.write_bytes(wanted[0][:100]),
        lambda: np.save(y_path, np.ones((5, 10))),
    ):
        damage()
        attack(copy)
        assert (y_path.read_bytes(), picture.read_bytes()) == wanted
    drawn = picture.stat().st_mtime_ns
    attack(copy)
    assert picture.stat().st_mtime_ns == drawn
    picture.write_bytes(b"of a poison that another run has replaced")
    os.utime(picture, ns=(before - 1, before - 1))
    attack(copy)
    assert picture.read_bytes() == wanted[1]
    assert x_path.stat().st_mtime_ns == before


def test_a_poison_that_was_cut_short_is_made_again(whole: PoisonConfig, tmp_path: Path) -> None:
    assert whole.out_dir is not None
    shutil.copytree(whole.out_dir, tmp_path, dirs_exist_ok=True)
    x_path = poison_paths(tmp_path, "gaussianaug", SIGMA, TARGET)[0]
    wanted = x_path.read_bytes()
    x_path.write_bytes(wanted[:100])
    attack(dataclasses.replace(whole, out_dir=tmp_path, run_dir=tmp_path / "run"))
    assert x_path.read_bytes() == wanted


@pytest.mark.parametrize("split", ["x_val", "y_val"])
def test_other_validation_images_or_labels_are_another_poison(whole: PoisonConfig, tmp_path: Path, split: str) -> None:
    dataset = load_dataset(whole.data_dir)
    for part in ("train", "val", "test"):
        for letter in "xy":
            name, array = f"{letter}_{part}", getattr(dataset, f"{letter}_{part}")
            array = np.roll(array, 1, axis=0) if name == split else array
            np.save(tmp_path / f"{name.replace(letter, letter.upper(), 1)}.npy", array)
    with pytest.raises(InputError, match=f"made with {split} = "):
        attack(dataclasses.replace(whole, data_dir=tmp_path))


@pytest.mark.parametrize("name", ["X.npy", "X.json", "Y.npy", "run/poison.png", "run/checkpoint.npz"])
def test_a_folder_in_the_way_is_one_line_before_the_work(tiny_data_dir: Path, tmp_path: Path, name: str) -> None:
    stem = "_poisoned_radius_gaussianaug_0.25_3"
    path = tmp_path / name.replace("X", f"X{stem}").replace("Y", f"Y{stem}")
    path.mkdir(parents=True)
    with pytest.raises(InputError, match=f"{path}: is a folder"):
        attack(config(tiny_data_dir, tmp_path, epochs=10_000))


def test_a_second_attack_on_one_poison_is_refused(tiny_data_dir: Path, tmp_path: Path) -> None:
    refused = pytest.raises(InputError, match=r"X_.*npy: another run is writing it")
    with Artifact(poison_paths(tmp_path, "gaussianaug", SIGMA, TARGET)[0]), refused:
        attack(config(tiny_data_dir, tmp_path, epochs=10_000))


@pytest.mark.parametrize(
    ("bad", "message"), [({"batch_poison": 500}, "batch_poison is 500"), ({"blur": 5.0}, "blur reaches 15 pixels")]
)
def test_overwrite_with_a_bad_setting_keeps_the_finished_poison(
    bad: dict[str, Any], message: str, whole: PoisonConfig
) -> None:
    assert whole.out_dir is not None and whole.run_dir is not None
    x_path = poison_paths(whole.out_dir, "gaussianaug", SIGMA, TARGET)[0]
    with pytest.raises(InputError, match=message):
        attack(dataclasses.replace(whole, overwrite=True, **bad))
    assert x_path.is_file() and x_path.with_suffix(".json").is_file()
    assert (whole.run_dir / "poison_after_epoch_1.npy").is_file()


def test_overwrite_starts_afresh_and_can_be_continued(tiny_data_dir: Path, tmp_path: Path) -> None:
    again = config(tiny_data_dir, tmp_path, overwrite=True, max_minutes=1e-9)
    x_path = poison_paths(tmp_path, "gaussianaug", SIGMA, TARGET)[0]
    x_path.write_text("of another run, without its settings")
    with pytest.raises(InputError, match=r"exists without X_.*json, .* add --overwrite"):
        attack(dataclasses.replace(again, overwrite=False))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.npz").write_text("of another run")
    with pytest.raises(StoppedEarly):
        attack(again)
    # The old poison does not stand in the way of the same command without --overwrite.
    assert not x_path.exists()
    assert "leaf_0" in load_archive(tmp_path / "run" / "checkpoint.npz")


def test_other_settings_start_afresh_where_that_is_allowed(tiny_data_dir: Path, tmp_path: Path) -> None:
    x_path = poison_paths(tmp_path, "gaussianaug", SIGMA, TARGET)[0]
    x_path.write_text("of another run, without its settings")
    other = config(tiny_data_dir, tmp_path, on_other_settings="start_afresh", max_minutes=1e-9)
    with pytest.raises(StoppedEarly, match="after 1 of"):
        attack(other)
    assert not x_path.exists()
    with pytest.raises(StoppedEarly, match="after 2 of"):
        attack(other)
    with pytest.raises(StoppedEarly, match="after 1 of"):
        attack(dataclasses.replace(other, optimiser=dataclasses.replace(OPTIMISER, lr_u=0.05)))
    with pytest.raises(InputError, match=r"made with lr_u = 0\.05"):
        attack(dataclasses.replace(other, on_other_settings="refuse"))


@dataclasses.dataclass(frozen=True)
class BreaksInTheSecondEpoch(TrainingLoss):
    """Cross entropy that is NaN from the second epoch on."""

    name: ClassVar[str] = "breaking"

    def __call__(self, logits: Any, x: Any, y: Any, randomness: Any, epoch: Any) -> Any:
        return mean_cross_entropy(logits(x), y) * ops.where(epoch >= 1, np.float32("nan"), np.float32(1))


def test_nan_stops_the_attack_and_keeps_the_checkpoint(tiny_data_dir: Path, tmp_path: Path) -> None:
    breaking = config(
        tiny_data_dir, tmp_path, reinitialise_every=5, loss=BreaksInTheSecondEpoch(), checkpoint_minutes=1e-9
    )
    with pytest.raises(FloatingPointError, match=r"\b(f|g|residual) is nan at outer step 2; an earlier"):
        poison_radius(breaking)
    assert not list(tmp_path.glob("X_*"))
    fresh = Attack(breaking, load_dataset(tiny_data_dir)).initial_state(0)
    state, record = load_checkpoint(tmp_path / "run" / "checkpoint.npz", like=fresh)
    assert record["done"] == 2
    arrays = load_archive(tmp_path / "run" / "checkpoint.npz")
    assert all(np.all(np.isfinite(a)) for name, a in arrays.items() if name != "record")
    assert not np.array_equal(state.u, fresh.u)


def test_poison_lowers_the_soft_radius(tiny_data_dir: Path, tmp_path: Path) -> None:
    """Against the same run with a poison that hardly moves."""
    ends = {}
    for name, lr_u in (("attack", 0.1), ("still", 1e-9)):
        run = config(
            tiny_data_dir, tmp_path / name, epsilon=0.5, batch_clean=190, batch_poison=100, batch_validation=34,
            radius_copies=4, epochs=2, reinitialise_every=9,
            optimiser=dataclasses.replace(
                OPTIMISER, lr_u=lr_u, solver="cg", redraw_noise="none", solver_steps=2, damping=1.0
            ),
        )  # fmt: skip
        attack(run)
        ends[name] = np.mean(scalars(run)["f"][-3:])
    assert ends["still"] > 0.1
    assert ends["attack"] < 0.7 * ends["still"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_poison": 500}, "batch_poison is 500, but .* has only"),
        ({"batch_clean": 5000}, "batch_clean is 5000, but .* has only"),
        ({"epsilon": 0.0}, r"epsilon must be positive, got 0\.0"),
        ({"epsilon": float("nan")}, "epsilon must be positive, got nan"),
        ({"epsilon": 1.5}, r"epsilon must be at most 1 .* got 1\.5"),
        ({"sigma": -0.25}, r"sigma must be positive, got -0\.25"),
        ({"radius_clip": 0.5}, "radius_clip must lie strictly between 0 and 0.5"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"target_class": 10}, "target_class 10 is out of range; choose one of 0 to 9"),
        ({"max_minutes": 0.0}, "max_minutes must be positive"),
        ({"architecture": "vgg"}, "no architecture 'vgg'"),
    ],
)
def test_bad_settings_are_one_line(tiny_data_dir: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        poison_radius(config(tiny_data_dir, tmp_path, **changes))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.npy"))


def run_script(monkeypatch: pytest.MonkeyPatch, *flags: str) -> Any:
    """Run the script as the command line does; returns its exit status."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *flags])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return end.value.code


def test_the_script_explains_its_constants(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run_script(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    flags = re.findall(r"^\W*--([a-z][a-z-]+)", text, re.MULTILINE)
    own = [name.replace("_", "-") for name in DigitsConfig.__annotations__ if name != "loss"]
    assert flags[: len(own)] == own and len(set(flags)) == len(flags)
    assert "--target-class" in text and "Class whose training images are poisoned." in text
    assert "Poison one handwritten-digits class" in text and "default: 0.25" in text


def test_constants_are_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(monkeypatch, "--target-class", "eight") == 2
    capsys.readouterr()
    assert run_script(monkeypatch, "--epsilon", "1.25") == 2
    assert capsys.readouterr().err == "error: epsilon must be at most 1 (pixels are in [0, 1]), got 1.25\n"
    assert run_script(monkeypatch, "--data-dir", str(tmp_path / "none")) == 2
    assert "X_train.npy: no such file; prepare the data first" in capsys.readouterr().err
    edited = tmp_path / "edited.py"
    edited.write_text(SCRIPT.read_text().replace("target_class: int = 8", "target_class: int = 4"))
    script = runpy.run_path(str(edited))
    assert script["Config"]().target_class == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--optimiser soba --redraw-noise validation",
            r"optimiser soba has no setting redraw_noise \(of approxgrad, few",
        ),
        ("--optimiser=soba --lower-steps 20", r"optimiser soba has no setting lower_steps \(of approxgrad, few_steps"),
        ("--multiplier=2.0", r"optimiser approxgrad has no setting multiplier \(of f2sa only\); leave it out"),
        ("--solver cg", "solver cg needs one fixed linear system; add --redraw-noise none"),
        ("--damping -1", "damping must not be negative"),
        ("--optimiser adam", "invalid choice 'adam'"),
        ("--solver lu", "invalid choice 'lu'"),
    ],
)
def test_settings_of_another_optimiser_are_one_line(flags: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parsed(DigitsConfig, words=flags.split())


def test_a_flag_chooses_the_optimiser_and_help_shows_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed(DigitsConfig, words=["--optimiser=f2sa", "--optimiser", "soba"]).optimiser.name == "soba"  # the last
    chosen = parsed(DigitsConfig, words=["--optimiser", "few_steps", "--lr-u=0.2"])
    assert chosen.optimiser == FewSteps(lr_u=0.2)
    assert parsed(DigitsConfig, words=["--optimiser", "approxgrad", "--lr-p=1"]).optimiser == dataclasses.replace(
        DigitsConfig.optimiser, lr_p=1.0
    )
    for words, wanted in (([], "--lower-steps INT Adam"), (["--optimiser", "f2sa"], "--multiplier FLOAT Multiplier")):
        with pytest.raises(SystemExit):
            parsed(DigitsConfig, words=[*words, "--help"])
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert wanted in text and "default: None" not in text.partition(wanted)[2].partition("--")[0]


def test_records_hold_the_optimisers_settings_beside_the_others() -> None:
    """As they have always been, so that what was recorded before there were nested settings still matches."""
    recorded = identity(DigitsConfig())
    assert {name: recorded[name] for name in ("optimiser", "lower_steps", "lr_u", "damping", "redraw_noise")} == {
        "optimiser": "approxgrad", "lower_steps": 10, "lr_u": 0.1, "damping": 1e-3,
        "redraw_noise": "training_and_validation",
    }  # fmt: skip
    other = identity(DigitsConfig(optimiser=F2sa()))
    assert (other["optimiser"], other["multiplier"], other["redraw_noise"]) == ("f2sa", 1.0, "none")
    assert "lower_steps" not in other  # None in older records, which is the same


OTHERS: dict[str, BilevelOptimizer] = {  # more steps than by default, which move the weights once
    "few_steps": FewSteps(lower_steps=2, lr_v=0.01),
    "soba": Soba(lr_v=0.01),
    "f2sa": F2sa(lr_v=0.01),
    "error_minimising": ErrorMinimising(lower_steps=3, lr_v=0.01),
}


@pytest.mark.parametrize("optimiser", OTHERS)
def test_every_optimiser_moves_the_poison_and_continues_bit_for_bit(
    optimiser: str, tiny_data_dir: Path, tmp_path: Path
) -> None:
    changes = {
        "optimiser": OTHERS[optimiser], "epochs": 8, "reinitialise_every": 8,
        "objective": "noisy_cross_entropy",  # whose gradient is not 0 where an image is misclassified
    }  # fmt: skip
    whole = config(tiny_data_dir, tmp_path / "whole", **changes)
    poison = attack(whole)
    dataset = load_dataset(tiny_data_dir)
    change = poison - split_target_class(dataset.x_train, dataset.y_train, TARGET).x_target
    assert 0.005 < np.abs(change).mean() <= EPSILON and np.abs(change).max() <= EPSILON + 1e-6
    parts = config(tiny_data_dir, tmp_path / "parts", **changes, max_minutes=1e-9)
    with pytest.raises(StoppedEarly):
        attack(parts)
    np.testing.assert_array_equal(attack(dataclasses.replace(parts, max_minutes=None)), poison)
    record = json.loads((tmp_path / "whole" / "X_poisoned_radius_gaussianaug_0.25_3.json").read_text())
    f = 10 * 2 / 460  # images of the upper objective, those of the lower one
    of_step = {"few_steps": 2 + f + 1 + 2 + 2 * 3, "soba": 1 + 2 + f, "f2sa": 2 + f, "error_minimising": 3 + 1}[
        optimiser
    ]
    assert record["gradients"] == pytest.approx(16 * of_step)
    settings = record["settings"]
    assert settings["optimiser"] == record["config"]["optimiser"] == optimiser
    assert settings.get("lower_steps") == {"few_steps": 2, "error_minimising": 3}.get(optimiser)


def test_error_minimising_poison_against_smoothadv_lowers_the_loss_at_adversarial_images(
    tiny_data_dir: Path, tmp_path: Path
) -> None:
    """Robust error-minimising noise, arXiv 2203.14533. The adversary's part in the loss is seen, too."""
    losses = {}
    for name, radius, rate in (("robust", 0.5, 0.1), ("unpoisoned", 0.5, 1e-9), ("no_adversary", 1e-6, 1e-9)):
        settings = config(
            tiny_data_dir, tmp_path / name, epochs=6, reinitialise_every=6, batch_clean=90,
            batch_poison=90, optimiser=ErrorMinimising(lower_steps=1, lr_v=0.01, lr_u=rate),
            loss=SmoothAdvLoss(eps_adv=radius, ramp_epochs=0, fixed_noise=False),
        )  # fmt: skip
        poison_radius(settings)
        losses[name] = np.mean(scalars(settings)["g"][-20:])
    assert losses["robust"] < 0.9 * losses["unpoisoned"]
    assert losses["no_adversary"] < 0.9 * losses["unpoisoned"]


def test_an_attack_says_so_where_it_has_no_inner_attack_or_a_setting_has_no_effect(
    tiny_data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A restart in each epoch: the networks are never older than the epochs without an inner attack.

    The record counts no gradient of an inner attack that is not made.
    """
    loss = SmoothAdvLoss(eps_adv=0.1, ramp_epochs=0, plain_epochs=1)
    changes = {"loss": loss, "objective": "noisy_cross_entropy", "radius_beta": 2.0}
    path = poison_radius(config(tiny_data_dir, tmp_path, **changes))
    said = capsys.readouterr().out
    assert "note: smoothadv has no inner attack here. It begins after 1 epochs" in said
    assert re.findall("note: (.*) has no effect with --objective noisy_cross_entropy", said) == ["radius_beta"]
    steps = TOY["epochs"] * 2  # two batches of clean images in an epoch
    assert read_json(path.with_suffix(".json"))["gradients"] == pytest.approx(steps * OPTIMISER.gradients(10 * 2 / 460))


def test_an_optimiser_that_evaluates_no_objective_says_so(
    tiny_data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"optimiser": ErrorMinimising(lower_steps=1), "objective": "noisy_cross_entropy", "radius_beta": 2.0}
    poison_radius(config(tiny_data_dir, tmp_path, **changes))
    notes = re.findall("note: (.*) has no effect with (--.*)", capsys.readouterr().out)
    of_optimiser = {name for name, cause in notes if cause == "--optimiser error_minimising"}
    assert {"objective", "radius_beta"} <= of_optimiser and ("radius_beta", "--objective noisy_cross_entropy") in notes


def test_the_inner_attack_counts_from_the_epoch_on_in_which_it_begins(tiny_data_dir: Path, tmp_path: Path) -> None:
    loss = SmoothAdvLoss(attack_steps=3, ramp_epochs=5, plain_epochs=2)
    settings = config(tiny_data_dir, tmp_path, loss=loss, networks=2, epochs=12, reinitialise_every=6)
    made = attack_generation.poisoning.Attack(settings, load_dataset(tiny_data_dir))
    found = [made.gradients_per_step(epoch) - made.gradients_per_step(0) for epoch in range(12)]
    assert found == pytest.approx(2 * [0, 0, 3, 3, 3, 3])
    assert [SmoothAdvLoss(ramp_epochs=4).gradients_before(epoch) for epoch in range(3)] == [0, 2, 2]


def test_several_networks_are_re_initialised_in_turn_and_continue_bit_for_bit(
    tiny_data_dir: Path, tmp_path: Path
) -> None:
    changes = {
        "networks": 2, "optimiser": Soba(lr_v=0.01), "epochs": 6, "reinitialise_every": 4,
        "objective": "noisy_cross_entropy",
    }  # fmt: skip
    settings = config(tiny_data_dir, tmp_path / "whole", **changes)
    made = attack_generation.poisoning.Attack(settings, load_dataset(tiny_data_dir))  # of compiled_once
    assert made.gradients_per_step(0) == 2 * Soba().gradients(10 * 2 / 460)
    state, afresh = made.initial_state(), []
    started = state.weights
    assert np.abs(state.weights[0][0] - state.weights[1][0]).max() > 0.01
    for number in range(made.total_steps):
        epoch, step = divmod(number, made.steps_per_epoch)
        if number and step == 0:
            after = made._restarted(state, epoch)
            for network in range(2):
                changed = not np.array_equal(after.weights[network][0], state.weights[network][0])
                fresh = float(ops.sum(ops.abs(after.lower_states[network].p[0]))) == 0
                assert changed == fresh
                assert not changed or not np.array_equal(after.weights[network][0], started[network][0])
                afresh += [(epoch, network)] * changed
        state, _ = made.outer_step(state, number)
    assert afresh == [(2, 1), (4, 0)]
    poison = attack(settings)
    np.testing.assert_array_equal(made.poison(state, tmp_path), poison)
    parts = config(tiny_data_dir, tmp_path / "parts", **changes, max_minutes=1e-9)
    with pytest.raises(StoppedEarly):
        attack(parts)
    np.testing.assert_array_equal(attack(dataclasses.replace(parts, max_minutes=None)), poison)
    with pytest.raises(InputError, match="reinitialise_every is 4 epochs, which 3 networks cannot take in equal turns"):
        dataclasses.replace(settings, networks=3).check()


def test_a_lower_level_in_bfloat16_makes_nearly_the_same_steps(tiny_data_dir: Path, tmp_path: Path) -> None:
    """The same weights, images and noise: one outer step's quantities agree to bfloat16's two or three digits."""
    ends = {}
    for precision in ("float32", "bfloat16"):
        optimiser = FewSteps(lower_steps=2, damping=1.0, lr_v=0.01)
        changes = {"objective": "noisy_cross_entropy", "optimiser": optimiser, "precision": precision}
        made = Attack(config(tiny_data_dir, tmp_path, **changes), load_dataset(tiny_data_dir))
        state, metrics = made.outer_step(made.initial_state(), 0)
        assert {ops.convert_to_numpy(weight).dtype.name for weight in state.weights[0]} == {"float32"}
        ends[precision] = {name: float(value) for name, value in metrics.items()}
    for name in ("f", "g", "hypergradient_norm"):
        one, other = (ends[precision][name] for precision in ("float32", "bfloat16"))
        assert one != other and other == pytest.approx(one, rel=0.05)


def test_the_lower_level_is_jittered_and_the_upper_one_is_not(
    tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the two objectives give their models: training images changed by a line per image, validation images not."""
    settings = config(tiny_data_dir, tmp_path, jitter_brightness=0.15, jitter_contrast=0.2, augment=False)
    made = Attack(settings, load_dataset(tiny_data_dir))
    seeds = Seeds(*(seed_pair(0, i) for i in range(3)))
    state = made.initial_state()
    batch = made._gather(made._images, made.draw_indices(0, 0), seeds, np.float32(0))
    seen: dict[str, np.ndarray] = {}

    def remember(name: str) -> Any:
        def objective(logits: Any, x: Any, *_: Any) -> Any:
            seen[name] = ops.convert_to_numpy(x)
            return 0.0

        return objective

    monkeypatch.setattr(made, "_objective", remember("upper"))
    monkeypatch.setattr(GaussianAugmentationLoss, "__call__", lambda self, *args: remember("lower")(*args))
    u = made._parametrisation.select(state.u, made.draw_indices(0, 0).poison)
    made._f(u, state.weights[0], batch, 1)
    np.testing.assert_array_equal(seen["upper"], batch.x_validation)
    lower = []
    for draw in (0, 0, 1):
        made._g(u, state.weights[0], batch, draw)
        lower.append(seen["lower"])
    np.testing.assert_array_equal(lower[0], lower[1])
    assert np.abs(lower[2] - lower[0]).max() > 0.05
    x = np.concatenate([batch.x_clean, batch.x_to_poison])
    change = (lower[0] - 0.5).reshape(len(x), -1)
    for image, moved in zip((x - 0.5).reshape(len(x), -1), change, strict=True):
        contrast, brightness = np.polyfit(image, moved, 1)
        np.testing.assert_allclose(moved, contrast * image + brightness, atol=1e-5)
        assert abs(contrast - 1) <= 0.2 + 1e-4 and abs(brightness) <= 0.15 + 1e-4


def test_the_lower_level_begins_as_the_victims_models_do(tiny_data_dir: Path, tmp_path: Path) -> None:
    made = Attack(config(tiny_data_dir, tmp_path, standardise=True), load_dataset(tiny_data_dir))
    weights = made.initial_state().weights[0]
    x = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(made._logits(weights, 0.5 * x + 0.3), made._logits(weights, x), atol=1e-3)


def test_clean_and_poisoned_images_may_be_cropped_at_a_place_each(
    tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two crop offsets in a batch, as the published CIFAR10 attack on Gaussian augmentation has; one otherwise."""
    seen: list[tuple[int, np.ndarray]] = []

    def remember(self: Augmentation, x: Any, seed: Any) -> Any:
        seen.append((len(x), ops.convert_to_numpy(seed)))
        return x

    monkeypatch.setattr(Augmentation, "augmented", remember)
    for separate in (False, True):
        seen.clear()
        settings = config(tiny_data_dir, tmp_path, augment=True, separate_crops=separate)
        made = Attack(settings, load_dataset(tiny_data_dir))
        seeds = Seeds(*(seed_pair(0, i) for i in range(3)))
        batch = made._gather(made._images, made.draw_indices(0, 0), seeds, np.float32(0))
        x = np.concatenate([batch.x_clean, batch.x_to_poison])
        for draw in (0, 1):
            np.testing.assert_array_equal(made._augmented(x, batch, draw), x)
        parts = [settings.batch_clean, settings.batch_poison] if separate else [len(x)]
        assert [size for size, _ in seen] == 2 * parts
        assert len({tuple(seed.tolist()) for _, seed in seen}) == len(seen)


def test_the_step_is_clipped_with_the_perturbation_before_it_is_taken_off() -> None:
    """u + delta is clipped to [0, 1] before delta is subtracted (the published code, for SmoothAdv): by hand."""
    x = np.float32([0.5, 0.5, 0.9, 0.5]).reshape(1, 2, 2, 1)
    delta = np.float32([0.0, 0.48, 0.3, -0.55]).reshape(x.shape)
    u = x + np.float32([0.3, 0.08, 0.0, -0.05]).reshape(x.shape)
    found = ops.convert_to_numpy(PerImage(0.1).project(u, x, delta)).ravel()
    # The ball; 1 - .48 in place of .58; 1 - .3 = .7, which the ball brings to .8; 0 + .55 in place of .45.
    np.testing.assert_allclose(found, [0.6, 0.52, 0.8, 0.55], atol=1e-6)
