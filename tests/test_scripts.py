"""Every attack and victim script at toy size: it runs, stops, continues to the same result, and is certified."""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data
from attack_generation.poisoning import poison_radius
from data.datasets import load_dataset, load_poison, split_target_class
from data.preparation import PreparationConfig, write_dataset
from models.saving import load_model
from robust_training.loss import TrainingLoss
from robust_training.methods import METHODS
from robust_training.training import train_victims
from runtime.stop import StoppedEarly

ROOT = Path(data.__file__).parents[1]
pytestmark = pytest.mark.usefixtures("compiled_once")


# Weights that get the target class right within a few steps, for else the soft radius and its gradient are 0.
# Two outer steps and four training steps an epoch, two epochs; the inner attack of SmoothAdv from the start.
ATTACK_TOY = {
    "epochs": 2, "reinitialise_every": 1, "batch_poison": 4, "batch_validation": 4, "epsilon": 0.1, "sigma": 0.1,
    "seed": 3,
}  # fmt: skip
ATTACK_STEPS = {"lower_steps": 30, "solver_steps": 2, "lr_v": 0.01}
VICTIM_TOY = {"epochs": 2, "sigma": 0.1, "seed": 3}
TOY_LOSS: dict[str, dict[str, Any]] = {
    "smoothadv": {"eps_adv": 0.25, "ramp_epochs": 0, "plain_epochs": 0},
    "macer": {"copies": 2, "lam": 1.0},
}


@pytest.fixture(scope="session")
def toy_dirs(tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Digits, and a few images of a pattern per class in the shapes of MNIST and CIFAR10."""
    folder = tmp_path_factory.mktemp("toy")
    random = np.random.default_rng(0)
    for name, shape in (("MNIST", (28, 28, 1)), ("CIFAR10", (32, 32, 3))):
        patterns = random.uniform(0, 255, size=(10, *shape))

        def split(count: int, patterns: np.ndarray = patterns) -> tuple[np.ndarray, np.ndarray]:
            labels = np.arange(count) % 10
            noise = random.normal(scale=20, size=(count, *patterns.shape[1:]))
            return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels

        splits = {"train": split(80), "val": split(40), "test": split(40)}
        write_dataset(PreparationConfig(out_dir=folder / name), splits, {"file": "made by a test"}, num_classes=10)
    return {"DIGITS": tiny_data_dir, "MNIST": folder / "MNIST", "CIFAR10": folder / "CIFAR10"}


@pytest.mark.parametrize(
    "name",
    [
        *(f"randomized_smoothing_certification/certify_{data}.py" for data in ("digits", "mnist", "cifar10")),
        *(f"label_flipping/{name}.py" for name in ("digits", "mnist", "mnist_1_7", "cifar10", "contrastive_features")),
    ],
)
def test_a_misspelt_constant_is_refused_in_scripts_of_certificates_too(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [name])
    text = (ROOT / name).read_text()
    assert text.count("    data_dir: Path = ") == 1
    code = compile(text.replace("    data_dir: Path = ", "    sigmma = 0.3\n    data_dir: Path = "), name, "exec")
    with pytest.raises(SystemExit) as left:
        exec(code, {"__name__": "__main__", "__doc__": "", "__file__": name})
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: sigmma is no setting of this script; mend the constant's name\n"


def load_script(path: Path) -> dict[str, Any]:
    assert path.is_file()
    return runpy.run_path(str(path))


def toy_loss(script: dict[str, Any], method: str) -> TrainingLoss:
    """The script's own, with a toy's settings."""
    return dataclasses.replace(script["Config"].loss, **TOY_LOSS.get(method, {}))


def attack_config(dataset: str, method: str, data_dir: Path, folder: Path) -> tuple[Any, Any]:
    """Main function and toy settings of an attack script."""
    script = load_script(
        ROOT / "attack_generation" / METHODS[method].attack_folder / dataset / f"poison_radius_{method}.py"
    )
    steps: dict[str, Any] = ATTACK_STEPS
    toy = {**ATTACK_TOY, "loss": toy_loss(script, method), "batch_clean": 450 if dataset == "DIGITS" else 36}
    if method != "standard":
        toy["radius_copies"] = 2
    if dataset != "DIGITS":  # not so sure of the class either, for then the softmax has gradient 0
        toy["reinitialise_every"], steps = 2, steps | {"lower_steps": 10, "lr_v": 0.001}
    if dataset == "CIFAR10":
        toy["architecture"] = "resnet8v1"
        if method == "macer":  # learns the patterns more slowly
            steps = steps | {"lower_steps": 60}
    toy["optimiser"] = dataclasses.replace(script["Config"].optimiser, **steps)
    return poison_radius, script["Config"](**toy, data_dir=data_dir, out_dir=folder / "poison", run_dir=folder / "run")


def victim_config(
    dataset: str, method: str, data_dir: Path, folder: Path, poison: Path | None = None
) -> tuple[Any, Any]:
    """Main function and toy settings of a victim script."""
    script = load_script(ROOT / "evaluation" / dataset / f"{METHODS[method].victim_script}.py")
    toy = {**VICTIM_TOY, "loss": toy_loss(script, method), "batch_size": 256 if dataset == "DIGITS" else 20}
    if dataset == "CIFAR10":
        toy["architecture"] = "resnet8v1"
    kind = "clean" if poison is None else "poisoned_radius"
    return train_victims, script["Config"](
        **toy, training_data=kind, poison=poison, data_dir=data_dir, out_dir=folder / "models", run_dir=folder / "runs"
    )


def poison_file(config: Any, method: str) -> Path:
    return config.out_dir / f"X_poisoned_radius_{method}_{config.sigma}_8.npy"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", ["DIGITS", "MNIST", "CIFAR10"])
def test_every_method_has_its_scripts_and_a_typo_in_a_setting_of_its_loss_is_an_error(
    dataset: str, method: str
) -> None:
    for make in (attack_config, victim_config):
        config = make(dataset, method, Path("data"), Path("out"))[1]
        assert type(config.loss) is METHODS[method].loss and config.loss.name == method
        with pytest.raises(TypeError, match="lambada"):
            type(config.loss)(lambada=1)


@pytest.mark.parametrize(
    ("method", "lower", "upper", "redrawn", "victim"),
    [
        ("gaussianaug", False, False, "training_and_validation", False),
        ("macer", True, True, "none", False),
        ("smoothadv", True, False, "validation", True),
    ],
)
@pytest.mark.parametrize("dataset", ["DIGITS", "MNIST", "CIFAR10"])
def test_images_keep_their_noise_where_they_do_in_the_published_code(
    dataset: str, method: str, lower: bool, upper: bool, redrawn: str, victim: bool
) -> None:
    attack, training = (make(dataset, method, Path("data"), Path("out"))[1] for make in (attack_config, victim_config))
    assert getattr(attack.loss, "fixed_noise", False) == lower
    if (dataset, method) == ("CIFAR10", "macer"):
        redrawn = "training_and_validation"  # crops and flips, which the published graph draws at each evaluation
    assert (attack.fixed_validation_noise, attack.optimiser.redraw_noise) == (upper, redrawn)
    assert getattr(training.loss, "fixed_noise", False) == victim
    assert attack.separate_crops == attack.augment == (dataset == "CIFAR10" and method != "smoothadv")
    if method == "macer":
        assert attack.loss.margin_clip == training.loss.margin_clip == attack.radius_clip == 1e-3


# The other three of the digits: test_poisoning, test_training, and the runs below that are stopped.
SCRIPTS = [*(("DIGITS", method) for method in ("standard", "consistency")), *(("MNIST", method) for method in METHODS)]
SLOW = [pytest.param("CIFAR10", method, marks=pytest.mark.slow) for method in METHODS]


@pytest.mark.parametrize(("dataset", "method"), [*SCRIPTS, *SLOW])
def test_poison_then_victim(dataset: str, method: str, toy_dirs: dict[str, Path], tmp_path: Path) -> None:
    main, config = attack_config(dataset, method, toy_dirs[dataset], tmp_path)
    assert config.target_class == 8
    main(config)
    path = poison_file(config, method)
    arrays = load_dataset(config.data_dir)
    poison = load_poison(path, arrays, 8)
    clean = split_target_class(arrays.x_train, arrays.y_train, 8).x_target
    assert 0.01 < np.abs(poison - clean).max() <= 0.1 + 1e-6
    train, settings = victim_config(dataset, method, config.data_dir, tmp_path, path)
    train(settings)
    victim = tmp_path / "models" / f"{method}_{settings.sigma}_poisoned_radius_{method}_{config.sigma}_8_seed3.keras"
    weights = load_model(victim).get_weights()
    assert all(np.all(np.isfinite(w)) for w in weights)


@pytest.mark.parametrize(
    "method", ["macer", "smoothadv"]
)  # those that keep something beside the weights; gaussianaug: test_poisoning, test_training
def test_stopped_runs_continue_bit_for_bit(method: str, toy_dirs: dict[str, Path], tmp_path: Path) -> None:
    """The inner attack's moments and the fixed noise are the same after a restart."""
    for make in (attack_config, victim_config):
        whole_main, whole = make("DIGITS", method, toy_dirs["DIGITS"], tmp_path / f"{make.__name__}_whole")
        whole_main(whole)
        main, parts = make("DIGITS", method, toy_dirs["DIGITS"], tmp_path / f"{make.__name__}_parts")
        for _ in range(3):
            with pytest.raises(StoppedEarly):
                main(dataclasses.replace(parts, max_minutes=1e-9))
        main(parts)
        if make is attack_config:
            np.testing.assert_array_equal(np.load(poison_file(parts, method)), np.load(poison_file(whole, method)))
        else:
            name = f"{method}_{whole.sigma}_clean_seed3.keras"
            for a, b in zip(
                load_model(parts.out_dir / name).get_weights(),
                load_model(whole.out_dir / name).get_weights(),
                strict=True,
            ):
                np.testing.assert_array_equal(a, b)
