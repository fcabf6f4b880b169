"""The owner of a long run: what makes a run what it is, what counts as finished, what a cut leaves behind."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

from attack_generation.config import PoisonConfig
from attack_generation.controls import ControlConfig
from evaluation.label_flipping.config import LabelFlippingConfig
from evaluation.training import TrainingConfig
from randomized_smoothing_certification.certification_run import CertificationConfig
from robust_training.macer import MacerLoss
from runtime.checkpoints import OtherSettings
from runtime.files import InputError, save_array
from runtime.long_run import CheckpointControls, KeptStages, LineByLine, LongRun, RunControls, identity
from runtime.stop import Stop, StoppedEarly


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CheckpointControls):
    rate: float = 0.5


def run_of(folder: Path, config: Config, stop: Stop | None = None) -> LongRun:
    return LongRun(folder / "x.npy", identity(config), config, folder / "run", stop or Stop())


def step(state: Any, number: int) -> tuple[Any, dict[str, Any]]:
    """A recurrence in which every step depends on its number and on all before."""
    return ops.sin(state * 3 + number), {"value": ops.sum(state)}


def make(folder: Path, config: Config, stop: Stop | None = None) -> np.ndarray:
    run = run_of(folder, config, stop)
    if not run.is_finished():
        state = run.advance(ops.ones((3,)), step, 6)
        run.finish(lambda path: save_array(path, ops.convert_to_numpy(state)), config, measured=1)
    return np.load(folder / "x.npy")


NEEDED: dict[type[RunControls], dict[str, Any]] = {
    PoisonConfig: {"loss": MacerLoss()},
    TrainingConfig: {"loss": MacerLoss()},
    ControlConfig: {},
    CertificationConfig: {"model": Path("a.keras"), "out": Path("a.tsv")},
    LabelFlippingConfig: {},
}


@pytest.mark.parametrize("base", NEEDED)
def test_a_setting_that_is_added_to_a_config_belongs_to_its_identity(base: type[RunControls], tmp_path: Path) -> None:
    """The one rule: everything but the run controls counts, so a result made before the setting is refused."""
    extended = dataclasses.make_dataclass(
        "Extended", [("new_setting", int, 1)], bases=(base,), frozen=True, kw_only=True
    )
    given = {**NEEDED[base], "data_dir": tmp_path}
    old, new = base(**given), extended(**given)
    assert identity(new) == {**identity(old), "new_setting": 1}
    message = "made with new_setting = None, this run has 1"
    if isinstance(old, CheckpointControls):
        run = LongRun(tmp_path / "x.npy", identity(old), old, tmp_path / "run", Stop())
        run.finish(lambda path: save_array(path, np.zeros(2)), old)
        assert run.is_finished()
        with pytest.raises(OtherSettings, match=message):
            LongRun(tmp_path / "x.npy", identity(new), new, tmp_path / "run", Stop()).is_finished()
    else:
        LineByLine(tmp_path / "x.tsv", "a", {"settings": identity(old)}, old, Stop()).resume()
        with pytest.raises(OtherSettings, match=message):
            LineByLine(tmp_path / "x.tsv", "a", {"settings": identity(new)}, new, Stop()).resume()
        KeptStages(tmp_path, identity(old), "refuse", Stop()).get("x.json", lambda: 1)
        with pytest.raises(OtherSettings, match=message):
            KeptStages(tmp_path, identity(new), "refuse", Stop()).get("x.json", lambda: 2)
        assert KeptStages(tmp_path, identity(new), "start_afresh", Stop()).get("x.json", lambda: 2) == 2


def test_run_controls_are_no_part_of_an_identity_and_settings_of_the_loss_are(tmp_path: Path) -> None:
    config = TrainingConfig(loss=MacerLoss(), data_dir=tmp_path)
    other_controls = dataclasses.replace(
        config, data_dir=tmp_path / "b", out_dir=tmp_path, run_dir=tmp_path, max_minutes=3.0, overwrite=True,
        on_other_settings="start_afresh", checkpoint_minutes=1.0, runs=7,
    )  # fmt: skip
    assert identity(config) == identity(other_controls)
    assert identity(config) != identity(dataclasses.replace(config, loss=MacerLoss(copies=3)))
    assert identity(config, sigma="hash")["sigma"] == "hash"


def test_a_run_stopped_after_every_step_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", Config(data_dir=tmp_path))
    config = Config(data_dir=tmp_path, max_minutes=1e-9)
    for done in range(1, 6):
        with pytest.raises(StoppedEarly, match=f"after {done} of 6 steps of x"):
            make(tmp_path / "parts", config, Stop(1e-9))
        with pytest.raises(InputError, match=r"made with rate = 0\.5, this run has 0\.7"):
            make(tmp_path / "parts", dataclasses.replace(config, rate=0.7))
    np.testing.assert_array_equal(make(tmp_path / "parts", config), whole)
    assert not (tmp_path / "parts" / "run" / "checkpoint.npz").exists()


def test_a_cut_between_artifact_and_record_and_a_truncated_artifact_are_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(data_dir=tmp_path)
    whole = make(tmp_path, config)
    record = tmp_path / "x.json"
    assert json.loads(record.read_text())["measured"] == 1
    (tmp_path / "x.npy").write_bytes(b"cut short")
    assert np.array_equal(make(tmp_path, config), whole)
    assert "not the file that was made; it is made again" in capsys.readouterr().out
    # Killed when the artifact was there and its record not: the checkpoint is still there, and goes on.
    record.unlink()
    with pytest.raises(StoppedEarly):
        run_of(tmp_path, config, Stop(1e-9)).advance(ops.ones((3,)), step, 6)
    assert not run_of(tmp_path, config).is_finished()
    assert np.array_equal(make(tmp_path, config), whole)


def test_an_artifact_of_unknown_origin_is_refused_or_replaced(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path)
    (tmp_path / "x.npy").write_text("somebody's")
    with pytest.raises(InputError, match=r"x\.npy: exists without x\.json"):
        make(tmp_path, config)
    assert (tmp_path / "x.npy").read_text() == "somebody's"
    afresh = dataclasses.replace(config, on_other_settings="start_afresh")
    assert make(tmp_path, afresh).shape == (3,)


@pytest.mark.parametrize("text", ["null", "[]", '{"settings": null}'])
def test_a_record_of_another_form_is_one_line(tmp_path: Path, text: str) -> None:
    make(tmp_path, Config(data_dir=tmp_path))
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json: not a record of this project"):
        make(tmp_path, Config(data_dir=tmp_path))


def test_a_state_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    def breaks(state: Any, number: int) -> tuple[Any, dict[str, Any]]:
        return state / 0 if number == 2 else state, {"value": 1.0}

    config = Config(data_dir=tmp_path, checkpoint_minutes=1e-9)
    with pytest.raises(FloatingPointError, match="state is inf at step 2"):
        run_of(tmp_path, config).advance(ops.ones((3,)), breaks, 6)
    with np.load(tmp_path / "run" / "checkpoint.npz") as kept:
        assert json.loads(str(kept["record"]))["done"] == 2


def test_stages_are_kept_for_their_settings(tmp_path: Path) -> None:
    config, calls = Config(data_dir=tmp_path), []

    def stage() -> dict[str, int]:
        calls.append(1)
        return {"a": 1}

    stages = KeptStages(tmp_path, identity(config), "refuse", Stop())
    assert stages.get("s.json", stage) == stages.get("s.json", stage) == {"a": 1}
    assert len(calls) == 1
    other = KeptStages(tmp_path, identity(dataclasses.replace(config, rate=1.0)), "refuse", Stop())
    with pytest.raises(InputError, match=r"made with rate = 0\.5, this run has 1\.0"):
        other.get("s.json", stage)
    with pytest.raises(StoppedEarly, match="after t"):
        KeptStages(tmp_path, identity(config), "refuse", Stop(1e-9)).get("t.json", stage)
