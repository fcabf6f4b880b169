"""Victim training on the 8 x 8 digits: restarts, seeds, poison, BatchNorm and refusals."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from attack_generation.controls import ControlConfig, write_control_poison
from data.datasets import Dataset, load_dataset, partly_poisoned
from data.ready_poisons import FOLDER
from models.saving import load_model
from robust_training import training
from robust_training.gaussian_augmentation import GaussianAugmentationLoss
from robust_training.methods import METHODS
from robust_training.schedules import Schedule
from robust_training.smoothadv import SmoothAdvLoss
from robust_training.standard import StandardLoss
from robust_training.training import Training, TrainingConfig, partitioned, train_victim, train_victims
from runtime.artifact import Artifact
from runtime.files import InputError, load_archive
from runtime.stop import Stop, StoppedEarly

LOSS = GaussianAugmentationLoss()
pytestmark = pytest.mark.usefixtures("compiled_once")


def config(data_dir: Path, folder: Path, **changes: Any) -> TrainingConfig:
    """Eight steps in two epochs, writing into one folder."""
    values = {
        "loss": LOSS, "target_class": 3, "sigma": 0.25, "epochs": 2, "batch_size": 256, "architecture": "digits_cnn",
        "data_dir": data_dir, "out_dir": folder / "models", "run_dir": folder / "runs",
    }  # fmt: skip
    return TrainingConfig(**{**values, **changes})


def weights(path: Path) -> np.ndarray:
    return np.concatenate([w.ravel() for w in load_model(path).get_weights()])


@pytest.fixture(scope="module")
def whole(tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingConfig, list[Path]]:
    """Two victims that were trained without a stop, and their settings."""
    settings = config(tiny_data_dir, tmp_path_factory.mktemp("whole"), runs=2)
    return settings, train_victims(settings)


def test_every_run_has_its_seed_and_its_record(whole: tuple[TrainingConfig, list[Path]]) -> None:
    settings, paths = whole
    assert [path.name for path in paths] == [f"gaussianaug_0.25_clean_seed{k}.keras" for k in (0, 1)]
    assert not np.array_equal(weights(paths[0]), weights(paths[1]))
    dataset = load_dataset(settings.data_dir)
    for seed, path in enumerate(paths):
        record = json.loads(path.with_suffix(".json").read_text())
        assert record["settings"]["seed"] == seed and record["commit"]
        assert record["config"]["epochs"] == 2 and "keras" in record["versions"]
        hits = load_model(path).predict(dataset.x_test, verbose=0).argmax(-1) == dataset.y_test.argmax(-1)
        assert record["accuracy"] == pytest.approx(hits.mean(), abs=0.003)
        of_target = hits[dataset.y_test[:, 3] == 1]
        assert record["target_accuracy"] == pytest.approx(of_target.mean(), abs=1 / len(of_target))
        for label in range(10):
            of_class = hits[dataset.y_test[:, label] == 1]
            assert record[f"accuracy_class_{label}"] == pytest.approx(of_class.mean(), abs=1 / len(of_class))


def test_a_stopped_training_continues_bit_for_bit(whole: tuple[TrainingConfig, list[Path]], tmp_path: Path) -> None:
    """Stopped after the first step, at the end of the first epoch, and in the second epoch."""
    settings = config(whole[0].data_dir, tmp_path, max_minutes=1e-9)
    for done in range(1, 8):
        with pytest.raises(StoppedEarly, match=f"after {done} of 8 steps of gaussianaug_0.25_clean_seed0"):
            train_victims(settings)
        if done == 1:
            with pytest.raises(InputError, match=r"made with learning_rate = 0\.001, this run has 0\.01"):
                train_victims(dataclasses.replace(settings, learning_rate=0.01))
    path = train_victims(settings)[0]
    np.testing.assert_array_equal(weights(path), weights(whole[1][0]))
    assert not (tmp_path / "runs" / "DIGITS" / path.stem / "checkpoint.npz").exists()


def test_a_finished_victim_is_kept_and_another_setting_refused(
    whole: tuple[TrainingConfig, list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, paths = whole
    before = [path.stat().st_mtime_ns for path in paths]
    assert train_victims(settings) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert capsys.readouterr().out.count("already made with these settings") == 2
    with pytest.raises(InputError, match="made with epochs = 2, this run has 3"):
        train_victims(dataclasses.replace(settings, epochs=3))
    with pytest.raises(InputError, match="made with augment = False, this run has True"):
        train_victims(dataclasses.replace(settings, augment=True))


def test_a_clean_victim_serves_every_class(whole: tuple[TrainingConfig, list[Path]]) -> None:
    settings, paths = whole
    before = [path.read_bytes() for path in paths]
    other = (settings.target_class + 1) % 10
    assert train_victims(dataclasses.replace(settings, target_class=other, runs=len(paths))) == paths
    assert [path.read_bytes() for path in paths] == before


def test_a_stopped_clean_victim_continues_for_every_class(tiny_data_dir: Path, tmp_path: Path) -> None:
    first = config(tiny_data_dir, tmp_path, max_minutes=1e-9)
    with pytest.raises(StoppedEarly):
        train_victims(first)
    other = (first.target_class + 1) % 10
    (path,) = train_victims(dataclasses.replace(first, target_class=other, max_minutes=None))
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["settings"]["target_class"] == first.target_class
    assert record["target_accuracy"] == record[f"accuracy_class_{first.target_class}"]


def test_a_clean_victim_that_is_made_again_has_the_class_of_this_run(tiny_data_dir: Path, tmp_path: Path) -> None:
    settings = config(tiny_data_dir, tmp_path)
    (path,) = train_victims(settings)
    path.unlink()
    other = (settings.target_class + 1) % 10
    train_victims(dataclasses.replace(settings, target_class=other, on_other_settings="start_afresh"))
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["settings"]["target_class"] == other
    assert record["target_accuracy"] == record[f"accuracy_class_{other}"]


def test_poisoned_training_uses_the_poison_file(
    whole: tuple[TrainingConfig, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, (clean, _) = whole
    dataset = load_dataset(settings.data_dir)
    control = ControlConfig(
        kind="constant", sigma=0.25, target_class=3, epsilon=0.5, data_dir=settings.data_dir, out_dir=tmp_path
    )
    poison = write_control_poison(control)
    poisoned = config(settings.data_dir, tmp_path, training_data="poisoned_radius", poison=poison)
    seen: list[Dataset] = []
    start = Training.__init__

    def remember(self: Training, config: Any, dataset: Dataset, *rest: Any) -> None:
        seen.append(dataset)
        start(self, config, dataset, *rest)

    monkeypatch.setattr(Training, "__init__", remember)
    path = train_victims(poisoned)[0]
    assert path.name == "gaussianaug_0.25_poisoned_radius_constant_0.25_3_seed0.keras"
    target = dataset.y_train[:, 3] == 1
    np.testing.assert_array_equal(seen[0].x_train[target], np.load(poison))
    np.testing.assert_array_equal(seen[0].x_train[~target], dataset.x_train[~target])
    assert not np.array_equal(weights(path), weights(clean))  # same seed, other images
    half = train_victims(dataclasses.replace(poisoned, share=0.5))[0]
    assert half.name == "gaussianaug_0.25_poisoned_radius_constant_0.25_3_share_0.5_seed0.keras"
    np.testing.assert_array_equal(
        seen[1].x_train[target], partly_poisoned(np.load(poison), dataset.x_train[target], 0.5)
    )
    # Other images under the same file name are another victim.
    write_control_poison(dataclasses.replace(control, epsilon=0.1, overwrite=True))
    with pytest.raises(InputError, match="made with x_train = "):
        train_victims(poisoned)


def test_a_victim_that_was_cut_short_is_trained_again(
    whole: tuple[TrainingConfig, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, (path, _) = whole
    (tmp_path / "models").mkdir()
    for file in (path, path.with_suffix(".json")):
        (tmp_path / "models" / file.name).write_bytes(file.read_bytes())
    copy = tmp_path / "models" / path.name
    copy.write_bytes(path.read_bytes()[:100])
    train_victims(dataclasses.replace(settings, runs=1, out_dir=copy.parent, run_dir=tmp_path / "runs"))
    assert "missing or changed since it was made; it is made again" in capsys.readouterr().out
    np.testing.assert_array_equal(weights(copy), weights(path))


@pytest.mark.parametrize("part", ["y_train", "x_test", "y_test"])
def test_other_labels_or_test_images_are_another_record(whole: tuple[TrainingConfig, list[Path]], part: str) -> None:
    """Labels train the victim; on the test set its recorded accuracies are measured."""
    settings, (path, _) = whole
    dataset = load_dataset(settings.data_dir)
    rolled = dataclasses.replace(dataset, **{part: np.roll(getattr(dataset, part), 1, axis=0)})
    with Stop() as stop, pytest.raises(InputError, match=f"made with {part} = "):
        train_victim(settings, rolled, path, stop)


def test_what_is_in_the_way_is_one_line_before_the_work(tiny_data_dir: Path, tmp_path: Path) -> None:
    settings = config(tiny_data_dir, tmp_path, epochs=10_000)
    checkpoint = tmp_path / "runs" / "DIGITS" / "gaussianaug_0.25_clean_seed0" / "checkpoint.npz"
    checkpoint.mkdir(parents=True)
    with pytest.raises(InputError, match=f"{checkpoint}: is a folder"):
        train_victims(settings)
    checkpoint.rmdir()
    refused = pytest.raises(InputError, match=r"seed0\.keras: another run is writing it")
    with Artifact(tmp_path / "models" / "gaussianaug_0.25_clean_seed0.keras"), refused:
        train_victims(settings)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="file is no folder; choose another place"):
        train_victims(dataclasses.replace(settings, run_dir=tmp_path / "file"))
    assert not list(tmp_path.rglob("*.keras"))


def test_a_few_epochs_learn_the_digits(tiny_data_dir: Path, tmp_path: Path) -> None:
    settings = config(tiny_data_dir, tmp_path, epochs=6, batch_size=64, learning_rate=5e-3)
    path = train_victims(settings)[0]
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["accuracy"] > 0.85


def test_training_that_diverges_saves_nothing(
    tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robust_training.training.learning_rate", lambda *_: np.inf)
    settings = config(tiny_data_dir, tmp_path, max_minutes=1e-9)
    # The loss of the first step is that of the initial weights; the weights after it are lost.
    with pytest.raises(FloatingPointError, match=r"(state|training_loss) is -?(inf|nan) at step 0"):
        train_victims(settings)
    assert not list(tmp_path.rglob("*.npz")) and not list(tmp_path.rglob("*.keras"))
    one_step = dataclasses.replace(settings, batch_size=1097, epochs=1, max_minutes=None)
    with pytest.raises(FloatingPointError, match=r"(state|training_loss) is -?(inf|nan) at step 0"):
        train_victims(one_step)
    assert not list(tmp_path.rglob("*.keras"))


def test_overwrite_starts_afresh_and_can_be_continued(tiny_data_dir: Path, tmp_path: Path) -> None:
    settings = config(tiny_data_dir, tmp_path, epochs=1)
    path = train_victims(settings)[0]
    again = dataclasses.replace(settings, learning_rate=0.01, overwrite=True, max_minutes=1e-9)
    with pytest.raises(StoppedEarly):
        train_victims(again)
    assert not path.exists()
    checkpoint = load_archive(tmp_path / "runs" / "DIGITS" / path.stem / "checkpoint.npz")
    assert json.loads(str(checkpoint["record"]))["settings"]["learning_rate"] == 0.01
    with pytest.raises(StoppedEarly, match="after 2 of 4"):
        train_victims(dataclasses.replace(again, overwrite=False))


def test_other_settings_start_afresh_where_that_is_allowed(
    tiny_data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(tiny_data_dir, tmp_path, epochs=1)
    path = train_victims(settings)[0]
    before = weights(path)
    other = dataclasses.replace(settings, learning_rate=0.01, on_other_settings="start_afresh", max_minutes=1e-9)
    with pytest.raises(StoppedEarly, match="after 1 of 4"):  # the finished victim is discarded
        train_victims(other)
    said = capsys.readouterr().out
    assert "starting afresh" in said and "this run has 0.01\n" in said and not path.exists()  # no remedy is needed
    with pytest.raises(StoppedEarly, match="after 2 of 4"):  # its own checkpoint is continued
        train_victims(other)
    with pytest.raises(StoppedEarly, match="after 1 of 4"):  # another's is discarded
        train_victims(dataclasses.replace(other, learning_rate=0.02))
    again = dataclasses.replace(settings, on_other_settings="start_afresh")
    np.testing.assert_array_equal(weights(train_victims(again)[0]), before)


def test_one_cycle_stopped_anywhere_ends_with_the_same_bits(tiny_data_dir: Path, tmp_path: Path) -> None:
    settings = config(tiny_data_dir, tmp_path / "whole", schedule="one_cycle", learning_rate=0.01)
    whole = train_victims(settings)[0]
    parts = config(tiny_data_dir, tmp_path / "parts", schedule="one_cycle", learning_rate=0.01, max_minutes=1e-9)
    for _ in range(7):
        with pytest.raises(StoppedEarly):
            train_victims(parts)
    path = train_victims(parts)[0]
    np.testing.assert_array_equal(weights(path), weights(whole))
    constant = config(tiny_data_dir, tmp_path / "constant", learning_rate=0.01)
    assert not np.array_equal(weights(train_victims(constant)[0]), weights(whole))


@pytest.mark.parametrize("method", METHODS)
def test_every_step_has_the_rate_of_its_schedule(method: str, tiny_data_dir: Path, tmp_path: Path) -> None:
    """A first step of Adam moves a weight by the rate, whatever the gradient; rates are those of the formula."""
    loss = METHODS[method].loss()
    settings = config(tiny_data_dir, tmp_path, schedule="one_cycle", learning_rate=0.004, loss=loss, batch_size=100)
    training = Training(settings, load_dataset(settings.data_dir))
    assert training.total_steps == 20
    start = training.initial_state()
    for number, rate in ((0, 0.004 / 6), (5, 0.004), (12, 0.002), (19, 0.0)):
        state, _ = training.step(start, number)
        moved = np.abs(start.weights[-1] - state.weights[-1])
        np.testing.assert_allclose(moved.max(), rate, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
@pytest.mark.parametrize("batch_norm", ["proper", "fixed_affine"])
def test_batch_norm(batch_norm: Any, schedule: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ResNet's averages move in proper training and stay at mean 0, variance 1 as a fixed affine map."""
    random = np.random.default_rng(0)
    x, y = random.uniform(size=(8, 8, 8, 3)).astype("float32"), np.eye(2, dtype="float32")[np.arange(8) % 2]
    dataset = Dataset("TOY", x, y, x, y, x, y)
    settings = config(
        tmp_path,
        tmp_path,
        architecture="resnet8v1",
        batch_size=4,
        batch_norm=batch_norm,
        schedule=schedule,
        loss=StandardLoss(),
    )
    training = Training(settings, dataset)
    start = training.initial_state()
    state, _ = training.step(start, 0)
    moved = [
        not np.allclose(before, after)
        for before, after in zip(
            keras.tree.map_structure(keras.ops.convert_to_numpy, start.statistics),
            keras.tree.map_structure(keras.ops.convert_to_numpy, state.statistics),
            strict=True,
        )
    ]
    assert len(moved) == 14  # two averages in each of seven layers
    assert all(moved) if batch_norm == "proper" else not any(moved)
    trained = [not np.allclose(a, b) for a, b in zip(start.weights, state.weights, strict=True)]
    assert sum(trained) > len(trained) / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training_data": "poisoned_radius"}, "X_poisoned_radius_gaussianaug_0.25_3.npy: no such poison"),
        (
            {"training_data": "poisoned_radius", "poison": FOLDER / "digits_per_image.npz"},
            "is poison of class 8; choose",
        ),
        ({"poison": Path("x.npy")}, "poison is x.npy, but training_data is clean; add --training-data poisoned_radius"),
        ({"share": 0.5}, "share is 0.5, but training_data is clean; add --training-data poisoned_radius"),
        ({"target_class": 12}, "target_class 12 is out of range; choose one of 0 to 9"),
        ({"target_class": -1}, "target_class must lie between 0 and 2147483647, got -1"),
        ({"batch_size": 2000}, "batch_size is 2000, but .* has 1097 training images"),
        ({"runs": 0}, "runs must be positive, got 0"),
        ({"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
        ({"seed": -3}, "seed must not be negative, got -3"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
        ({"max_minutes": -1.0}, "max_minutes must be positive"),
        ({"architecture": "resnet9v1"}, "resnet_v1 has no depth 9"),
    ],
)
def test_bad_settings_are_one_line(tiny_data_dir: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        train_victims(config(tiny_data_dir, tmp_path, **changes))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_schedule_that_trains_nothing_is_one_line(tiny_data_dir: Path, tmp_path: Path) -> None:
    class NoEpochs(TrainingConfig):
        constant = Schedule(epochs=0, batch_size=256)

    values = {**vars(config(tiny_data_dir, tmp_path)), "epochs": None}
    with pytest.raises(InputError, match="epochs must be positive, got 0"):
        train_victims(NoEpochs(**values))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_poison_names_the_flag_and_the_poisons_that_are_there(tiny_data_dir: Path, tmp_path: Path) -> None:
    control = ControlConfig(
        kind="constant", sigma=0.25, target_class=3, epsilon=0.5, data_dir=tiny_data_dir, out_dir=tmp_path
    )
    there = write_control_poison(control).name
    for name in ("X_train.npy", "Y_train.npy", "X_val.npy", "Y_val.npy", "X_test.npy", "Y_test.npy", "manifest.json"):
        shutil.copy(tiny_data_dir / name, tmp_path)
    for poison in (None, tmp_path / "X_other.npy"):
        settings = config(tmp_path, tmp_path, training_data="poisoned_radius", poison=poison)
        with pytest.raises(InputError, match=rf"no such poison; .* by --poison FILE \(in .*: {there}\)"):
            train_victims(settings)


def test_a_victim_that_knows_nothing_of_the_class_is_warned_of(
    tiny_data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for accuracy in (0.0, 0.5):
        training._print_accuracies(
            config(tiny_data_dir, Path()), Path("v"), {"accuracy": 0.5, "target_accuracy": accuracy}
        )
        assert ("warning: this victim classifies no clean test image" in capsys.readouterr().out) == (accuracy == 0)


def test_a_victim_without_its_methods_inner_attack_is_told(
    tiny_data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_victims(config(tiny_data_dir, tmp_path, loss=SmoothAdvLoss(), epochs=1))
    assert "note: smoothadv has no inner attack here. It begins after 1 epochs" in capsys.readouterr().out


def test_victims_are_trained_on_jittered_images(
    tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that is the images' mean shows what the step gives it; steps differ, and repeat."""
    settings = config(tiny_data_dir, tmp_path, jitter_brightness=0.3, blur=0.5)
    plain = dataclasses.replace(settings, jitter_brightness=0.0, blur=0.0)
    monkeypatch.setattr(
        GaussianAugmentationLoss, "__call__", lambda self, logits, x, *_: ops.mean(x) + 0 * ops.sum(logits(x))
    )
    dataset = load_dataset(tiny_data_dir)
    values = {}
    for name, of_run in (("jittered", settings), ("plain", plain)):
        training = Training(of_run, dataset)
        values[name] = [
            float(training.step(training.initial_state(), number)[1]["training_loss"]) for number in (0, 1, 0)
        ]
    assert values["jittered"][0] == values["jittered"][2] != values["jittered"][1]
    differences = np.abs(np.subtract(values["jittered"], values["plain"]))
    assert differences.min() > 1e-4 and differences.max() < 0.05  # a mean of 256 shifts of -0.3 to 0.3


def test_a_standardising_victim_is_saved_as_such(tiny_data_dir: Path, tmp_path: Path) -> None:
    settings = config(tiny_data_dir, tmp_path, standardise=True, epochs=1)
    model = load_model(train_victims(settings)[0])
    x = load_dataset(tiny_data_dir).x_test[:20]
    np.testing.assert_allclose(model(0.5 * x + 0.2), model(x), atol=1e-3)


def test_partitions_depend_on_an_images_content_alone(tiny_data_dir: Path) -> None:
    dataset = load_dataset(tiny_data_dir)
    parts = partitioned(dataset, 4)
    assert sum(len(part.x_train) for part in parts) == len(dataset.x_train)
    assert all(0.15 < len(part.x_train) / len(dataset.x_train) < 0.35 for part in parts)
    order = np.random.default_rng(0).permutation(len(dataset.x_train))
    mixed = dataclasses.replace(dataset, x_train=dataset.x_train[order], y_train=dataset.y_train[order])
    for one, other in zip(parts, partitioned(mixed, 4), strict=True):
        assert {x.tobytes() for x in one.x_train} == {x.tobytes() for x in other.x_train}
    of_image = {x.tobytes(): y.tobytes() for x, y in zip(dataset.x_train, dataset.y_train, strict=True)}
    assert all(of_image[x.tobytes()] == y.tobytes() for x, y in zip(parts[1].x_train, parts[1].y_train, strict=True))
    with pytest.raises(InputError, match="partitions is 5000, too many for 1097 training images"):
        partitioned(dataset, 5_000)


def test_the_majority_vote_of_partitions_is_one_victim_and_continues(tiny_data_dir: Path, tmp_path: Path) -> None:
    settings = config(tiny_data_dir, tmp_path, partitions=3, batch_size=64, epochs=8)
    with pytest.raises(StoppedEarly):  # a victim with a defence is begun in the same run_dir
        train_victims(dataclasses.replace(settings, defence="bit_depth", out_dir=tmp_path / "bits", max_minutes=1e-9))
    path = train_victims(settings)[0]
    parts = [load_model(path.with_suffix(".parts") / f"part_{number}.keras") for number in range(3)]
    x = load_dataset(tiny_data_dir).x_test
    votes = np.stack([ops.convert_to_numpy(part(x)).argmax(axis=1) for part in parts])
    assert np.any(votes[0] != votes[1])
    shares = np.stack([(votes == label).mean(axis=0) for label in range(10)], axis=1)
    found = ops.convert_to_numpy(load_model(path)(x))
    assert np.mean(np.abs(found - shares).max(axis=1) < 0.01) > 0.99
    record = json.loads(path.with_suffix(".json").read_text())
    truth = load_dataset(tiny_data_dir).y_test.argmax(axis=1)
    assert record["accuracy"] == pytest.approx(np.mean(found.argmax(axis=1) == truth), abs=1e-6)
    assert record["accuracy"] > 0.3 and record["settings"]["partitions"] == 3
    stopped = dataclasses.replace(settings, out_dir=tmp_path / "again", run_dir=tmp_path / "runs2", max_minutes=1e-9)
    with pytest.raises(StoppedEarly):
        train_victims(stopped)
    again = train_victims(dataclasses.replace(stopped, max_minutes=None))[0]
    np.testing.assert_array_equal(weights(again), weights(path))
