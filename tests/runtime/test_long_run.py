"""The owner of a long run: what makes a run what it is, what counts as finished, what a cut leaves behind."""

import dataclasses
import json
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

from attack_generation.config import PoisonConfig
from attack_generation.controls import ControlConfig
from label_flipping.config import LabelFlippingConfig
from randomized_smoothing_certification.certification_run import CertificationConfig
from robust_training.macer import MacerLoss
from robust_training.training import TrainingConfig
from runtime import part_by_part, provenance
from runtime.artifact import Artifact
from runtime.checkpoints import OtherSettings, save_checkpoint
from runtime.command_line import parsed, run_script
from runtime.files import InputError, array_sha256, save_array
from runtime.long_run import CheckpointOptions, LongRun, RunOptions, Step, identity
from runtime.part_by_part import KeptStages, LineByLine
from runtime.stop import Stop, StoppedEarly


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CheckpointOptions):
    rate: float = 0.5


def run_of(folder: Path, config: Config, stop: Stop | None = None) -> LongRun:
    return LongRun(folder / "x.npy", identity(config), config, folder / "run", stop or Stop())


def step_of(config: Config) -> Step:
    """A recurrence in which every step depends on its number and on all before."""
    return lambda state, number: (ops.sin(state * 3 + number + config.rate), {"value": ops.sum(state)})


def make(folder: Path, config: Config, stop: Stop | None = None) -> np.ndarray:
    with run_of(folder, config, stop) as run:
        if not run.is_finished():
            state = run.advance(ops.ones((3,)), step_of(config), 6)
            run.finish(lambda path: save_array(path, ops.convert_to_numpy(state)), measured=1)
    return np.load(folder / "x.npy")


def lines_of(artifact: Path, made_with: dict[str, Any], config: RunOptions, stop: Stop | None = None) -> LineByLine:
    summary = artifact.with_suffix(".summary.json")
    return LineByLine(artifact, "a\tb", {"settings": made_with}, config, stop or Stop(), summary)


NEEDED: dict[type[RunOptions], dict[str, Any]] = {
    PoisonConfig: {"loss": MacerLoss()},
    TrainingConfig: {"loss": MacerLoss()},
    ControlConfig: {},
    CertificationConfig: {"model": Path("a.keras"), "out": Path("a.tsv")},
    LabelFlippingConfig: {},
}


def test_a_number_of_numpy_is_the_same_setting() -> None:
    plain = ControlConfig(seed=3, sigma=0.25, data_dir=Path("x"))
    of_numpy = ControlConfig(seed=np.int64(3), sigma=np.float32(0.25), data_dir=Path("x"))  # type: ignore[arg-type]
    assert json.dumps(identity(of_numpy)) == json.dumps(identity(plain))
    assert provenance.settings({"x": {3}, "y": np.bool_(True), "z": print}) == {"x": "{3}", "y": True, "z": str(print)}


@pytest.mark.parametrize("base", NEEDED)
def test_a_setting_that_is_added_to_a_config_belongs_to_its_identity(base: type[RunOptions], tmp_path: Path) -> None:
    """The one rule: everything but the run options counts, so a result made before the setting is refused."""
    extended = dataclasses.make_dataclass(
        "Extended", [("new_setting", int, 1)], bases=(base,), frozen=True, kw_only=True
    )
    given = {**NEEDED[base], "data_dir": tmp_path}
    old, new = base(**given), extended(**given)
    assert identity(new) == {**identity(old), "new_setting": 1}
    message = "made with new_setting = None, this run has 1"
    if isinstance(old, CheckpointOptions):
        with LongRun(tmp_path / "x.npy", identity(old), old, tmp_path / "run", Stop()) as run:
            run.finish(lambda path: save_array(path, np.zeros(2)))
            assert run.is_finished()
        with pytest.raises(OtherSettings, match=message):
            LongRun(tmp_path / "x.npy", identity(new), new, tmp_path / "run", Stop()).is_finished()
    else:
        with lines_of(tmp_path / "x.tsv", identity(old), old) as lines:
            lines.advance(["1\t1"], str, unit="line")
        with pytest.raises(OtherSettings, match=message):
            lines_of(tmp_path / "x.tsv", identity(new), new).resume()
        KeptStages(tmp_path, identity(old), "refuse", Stop()).get("x.json", lambda: 1)
        with pytest.raises(OtherSettings, match=message):
            KeptStages(tmp_path, identity(new), "refuse", Stop()).get("x.json", lambda: 2)
        assert KeptStages(tmp_path, identity(new), "start_afresh", Stop()).get("x.json", lambda: 2) == 2


def test_run_options_are_no_part_of_an_identity_and_settings_of_the_loss_are(tmp_path: Path) -> None:
    config = TrainingConfig(loss=MacerLoss(), data_dir=tmp_path)
    other_options = dataclasses.replace(
        config, data_dir=tmp_path / "b", out_dir=tmp_path, run_dir=tmp_path, max_minutes=3.0, overwrite=True,
        on_other_settings="start_afresh", checkpoint_minutes=1.0, runs=7,
    )  # fmt: skip
    assert identity(config) == identity(other_options)
    assert identity(config) != identity(dataclasses.replace(config, loss=MacerLoss(copies=3)))
    assert identity(config, sigma="hash")["sigma"] == "hash"


def test_a_continued_run_names_the_commit_that_began_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(data_dir=tmp_path)
    for number, commit in enumerate(("first-dirty", "second", "second")):
        monkeypatch.setattr(provenance, "git_commit", lambda commit=commit: commit)
        with pytest.raises(StoppedEarly) if number < 2 else nullcontext():
            make(
                tmp_path,
                dataclasses.replace(config, max_minutes=1e-9 if number < 2 else None),
                Stop(1e-9 if number < 2 else None),
            )
    record = json.loads((tmp_path / "x.json").read_text())
    assert (record["commit"], record["begun"]["commit"]) == ("second", "first-dirty")
    assert record["begun"].keys() == provenance.session().keys()


@pytest.mark.parametrize("other", [{"versions": {"keras": "3.12"}}, {"machine": "B"}, {"device": "gpu"}], ids=str)
def test_a_run_continued_elsewhere_names_where_it_began(other: dict[str, Any]) -> None:
    now = provenance.session()
    assert provenance.continued(now, {**now, "written": "then"}) == {**now, "written": "then"}
    assert provenance.continued(now, {**now, **other}) == {**now, "begun": {**now, **other}}


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


def test_a_truncated_artifact_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(data_dir=tmp_path)
    whole = make(tmp_path, config)
    assert json.loads((tmp_path / "x.json").read_text())["measured"] == 1
    (tmp_path / "x.npy").write_bytes(b"cut short")
    assert np.array_equal(make(tmp_path, config), whole)
    assert "missing or changed since it was made; it is made again" in capsys.readouterr().out


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
    config = Config(data_dir=tmp_path)
    make(tmp_path, config)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json: not a record of this project"):
        make(tmp_path, config)
    (tmp_path / "y.tsv").write_text("a\tb\n")
    (tmp_path / "y.settings.json").write_text(text)
    with pytest.raises(InputError, match=r"y\.settings\.json: not a record of this project"):
        lines_of(tmp_path / "y.tsv", identity(config), config).resume()
    for stage in (text, '{"settings": {}}'):
        (tmp_path / "s.json").write_text(stage)
        with pytest.raises(InputError, match=r"s\.json: not a record of this project"):
            KeptStages(tmp_path, {}, "refuse", Stop()).get("s.json", lambda: 1)


def test_stages_of_other_features_are_refused(tmp_path: Path) -> None:
    stages, x = KeptStages(tmp_path, {}, "refuse", Stop()), np.ones(3)
    for _ in range(2):
        stages.require_same("features.json", array_sha256(x))
    with pytest.raises(InputError, match=r"features\.json: the stages beside it are of other features or clusters"):
        stages.require_same("features.json", array_sha256(np.nextafter(x, 2)))


def test_a_state_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    def breaks(state: Any, number: int) -> tuple[Any, dict[str, Any]]:
        return state / 0 if number == 2 else state, {"value": 1.0}

    config = Config(data_dir=tmp_path, checkpoint_minutes=1e-9)
    with pytest.raises(FloatingPointError, match="state is inf at step 2"), run_of(tmp_path, config) as run:
        run.advance(ops.ones((3,)), breaks, 6)
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
    kept = json.loads((tmp_path / "s.json").read_text())
    (tmp_path / "s.json").write_text(json.dumps(kept | {"session": {"commit": "other"}}))
    assert stages.get("s.json", stage) == {"a": 1} and stages.begun == {"s.json": {"commit": "other"}}
    other = KeptStages(tmp_path, identity(dataclasses.replace(config, rate=1.0)), "refuse", Stop())
    with pytest.raises(InputError, match=r"made with rate = 0\.5, this run has 1\.0"):
        other.get("s.json", stage)
    with pytest.raises(InputError, match=r"made with rate = 0\.5, this run has 1\.0"), other:
        other.get("before_it.json", stage)
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]
    with KeptStages(tmp_path, {**identity(config), "a newer option": None}, "refuse", Stop()):
        assert (tmp_path / "s.json").exists()  # an option that is None is the same as none
    kept = tmp_path / "s.json"
    kept.write_text(kept.read_text().replace('"a": 1', '"a": "x"'))
    with pytest.raises(InputError, match="the result changed since it was kept"):
        stages.get("s.json", stage)
    with pytest.raises(StoppedEarly, match="after t"):
        KeptStages(tmp_path, identity(config), "refuse", Stop(1e-9)).get("t.json", stage)


class Killed(BaseException):
    """Nothing is done on the disk from here on."""


class Kill:
    """Ends the program at its file operation number ``at``; what would clean up after it does nothing any more."""

    OPERATIONS = ((Path, "unlink"), (Path, "replace"), (part_by_part, "append"))

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.left = at
        for owner, name in self.OPERATIONS:
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, operation: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise Killed
            return operation(*arguments, **options) if self.left > 0 else None

        return counted


def killed_at(at: int, monkeypatch: pytest.MonkeyPatch, work: Any) -> bool:
    """Whether the work was killed at that operation, or else came to its end before it."""
    with monkeypatch.context() as patch:
        Kill(patch, at)
        try:
            work()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("replaces", [{"on_other_settings": "start_afresh"}, {"overwrite": True}], ids=str)
@pytest.mark.parametrize("checkpoint_minutes", [5.0, 1e-9])
def test_no_kill_makes_one_run_pass_for_another(
    replaces: dict[str, Any], checkpoint_minutes: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run A ends; run B, which may replace it, is killed at every file operation; then either is called again."""
    a = Config(data_dir=tmp_path, checkpoint_minutes=checkpoint_minutes)
    b = dataclasses.replace(a, rate=0.7)
    wanted = {0.5: make(tmp_path / "a", a), 0.7: make(tmp_path / "b", b)}
    folder, at = tmp_path / "x", 0
    while True:
        at += 1
        shutil.rmtree(folder, ignore_errors=True)
        make(folder, a)
        if not killed_at(at, monkeypatch, lambda: make(folder, dataclasses.replace(b, **replaces))):
            break
        kept = shutil.copytree(folder, tmp_path / f"killed_{at}")
        for again in (a, b):
            shutil.rmtree(folder)
            shutil.copytree(kept, folder)
            try:
                found = make(folder, again)
            except OtherSettings:  # the other run's are in the way, and are not taken for this one's
                found = make(folder, dataclasses.replace(again, on_other_settings="start_afresh"))
            np.testing.assert_array_equal(found, wanted[again.rate])
            assert sorted(path.name for path in folder.iterdir()) == ["run", "x.json", "x.npy"]
    assert at > 8


@pytest.mark.parametrize("checkpoint_minutes", [5.0, 1e-9])
def test_a_killed_run_is_continued_by_the_same_command(
    checkpoint_minutes: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(data_dir=tmp_path, checkpoint_minutes=checkpoint_minutes)
    whole, at = make(tmp_path / "whole", config), 1
    while killed_at(at, monkeypatch, partial(make, tmp_path / f"{at}", config)):
        np.testing.assert_array_equal(make(tmp_path / f"{at}", config), whole)
        at += 1
    assert at > 5


def test_two_runs_make_no_artifact_and_use_no_folder_at_once(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path)
    with Artifact(tmp_path / "x.npy"), pytest.raises(InputError, match=r"x\.npy: another run is writing it"):
        make(tmp_path, config)
    other = LongRun(tmp_path / "other.npy", identity(config), config, tmp_path / "run", Stop())
    with run_of(tmp_path, config) as run, other:
        run.advance(ops.ones((3,)), step_of(config), 1)
        with pytest.raises(InputError, match=r"run/checkpoint\.npz: another run is writing it"):
            other.advance(ops.ones((3,)), step_of(config), 1)
    with lines_of(tmp_path / "x.tsv", {}, config), pytest.raises(InputError, match=r"x\.tsv: another run"):
        lines_of(tmp_path / "x.tsv", {}, config).__enter__()
    with KeptStages(tmp_path, {}, "refuse", Stop()), pytest.raises(InputError, match="another run"):
        KeptStages(tmp_path, {}, "refuse", Stop()).__enter__()


def test_what_may_be_replaced_is_kept_until_the_run_begins(tmp_path: Path) -> None:
    """Between the question and the first step a bad setting may be found."""
    config = Config(data_dir=tmp_path)
    whole = make(tmp_path, config)
    for change in ({"overwrite": True}, {"rate": 0.7, "on_other_settings": "start_afresh"}):
        with run_of(tmp_path, dataclasses.replace(config, **change)) as run:
            assert not run.is_finished()
    assert np.array_equal(make(tmp_path, config), whole) and (tmp_path / "x.json").exists()


def test_a_setting_that_the_first_step_refuses_replaces_nothing(tmp_path: Path) -> None:
    """A blur that is too wide for the images is found when the step is compiled."""

    def refusing(state: Any, number: int) -> Any:
        raise InputError("too wide")

    config = Config(data_dir=tmp_path)
    make(tmp_path, config)
    save_checkpoint(tmp_path / "run/checkpoint.npz", np.ones(3, "float32"), {"settings": identity(config), "done": 2})
    before = {path: path.read_bytes() for path in tmp_path.glob("**/*.np*")}
    for change in ({"overwrite": True}, {"rate": 0.7, "on_other_settings": "start_afresh"}):
        other = run_of(tmp_path, dataclasses.replace(config, **change))
        with other as run, pytest.raises(InputError, match="too wide"):
            assert not run.is_finished()
            run.advance(ops.ones((3,)), refusing, 6)
        assert json.loads((tmp_path / "x.json").read_text())["settings"]["rate"] == config.rate
        assert (tmp_path / "x.npy").read_bytes() == before[tmp_path / "x.npy"]
        assert {path: path.read_bytes() for path in tmp_path.glob("**/*.np*")} == before


@pytest.mark.parametrize("name", ["x.npy", "x.json", "run/checkpoint.npz"])
def test_a_folder_in_the_way_is_one_line_before_the_work(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(InputError, match=f"{name}: is a folder"):
        run_of(tmp_path, Config(data_dir=tmp_path)).__enter__()


def test_a_run_folder_that_cannot_be_made_is_one_line_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(InputError, match=r"run/checkpoint\.npz: cannot be written"):
        make(tmp_path, Config(data_dir=tmp_path))


@pytest.mark.parametrize("done", [1_000_000, -1, None])
def test_a_checkpoint_of_no_step_of_this_run_is_refused(done: int | None, tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path)
    save_checkpoint(
        tmp_path / "run/checkpoint.npz", np.ones(3, "float32"), {"settings": identity(config), "done": done}
    )
    with pytest.raises(InputError, match=rf"after {done} of 6 steps; delete it to start again"):
        make(tmp_path, config)


def test_a_finished_run_leaves_the_checkpoint_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, others = Config(data_dir=tmp_path), Config(data_dir=tmp_path, rate=0.25)
    make(tmp_path, config)
    other = LongRun(tmp_path / "other.npy", identity(others), others, tmp_path / "run", Stop())
    with other:  # is writing
        other.advance(ops.ones((3,)), step_of(others), 6)
        make(tmp_path, config)
    lock = tmp_path / "run/.checkpoint.npz.lock"
    save_checkpoint(tmp_path / "run/checkpoint.npz", np.ones(3, "float32"), {"settings": identity(others), "done": 1})
    lock.touch()  # was killed
    make(tmp_path, config)
    assert (tmp_path / "run/checkpoint.npz").is_file() and not lock.exists()
    assert capsys.readouterr().out.count("already made") == 2


@pytest.mark.parametrize("provenance", [None, "x", []])
def test_a_checkpoint_whose_provenance_is_no_object_is_continued(provenance: Any, tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path)
    record = {"settings": identity(config), "done": 1, "provenance": provenance}
    save_checkpoint(tmp_path / "run/checkpoint.npz", np.ones(3, "float32"), record)
    make(tmp_path, config)
    assert json.loads((tmp_path / "x.json").read_text())["begun"] == provenance


def test_scalars_that_cannot_be_written_do_not_stop_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(data_dir=tmp_path)
    (tmp_path / "a" / "run").mkdir(parents=True)
    (tmp_path / "a" / "run" / "tensorboard").write_text("in the way")
    np.testing.assert_array_equal(make(tmp_path / "a", config), make(tmp_path / "b", config))
    assert capsys.readouterr().out.count("goes on without TensorBoard's scalars") == 1


def test_lines_begin_when_the_first_is_there(tmp_path: Path) -> None:
    """Until then a run that is refused leaves what was there, or nothing."""
    config, artifact = Config(data_dir=tmp_path), tmp_path / "new" / "x.tsv"

    def fails(_: str) -> str:
        raise InputError("no such setting")

    def write(made_with: dict[str, Any], line: Any, **changes: Any) -> None:
        with lines_of(artifact, made_with, dataclasses.replace(config, **changes)) as lines:
            lines.advance(["1\t1", "2\t2"][lines.resume() :], line, unit="line")

    with pytest.raises(InputError, match="no such setting"):
        write({"n": 1}, fails)
    assert list(tmp_path.iterdir()) == []
    write({"n": 1}, str)
    artifact.with_suffix(".summary.json").write_text("{}")
    before = {path.name: path.read_text() for path in artifact.parent.iterdir()}
    with pytest.raises(InputError, match="no such setting"):
        write({"n": 2}, fails, on_other_settings="start_afresh")
    assert {path.name: path.read_text() for path in artifact.parent.iterdir()} == before
    write({"n": 2}, str.upper, on_other_settings="start_afresh")
    assert artifact.read_text() == "a\tb\n1\t1\n2\t2\n" and not artifact.with_suffix(".summary.json").exists()
    artifact.write_text("other\tcolumns\n")
    with pytest.raises(OtherSettings, match="its columns are not those of this run"):
        write({"n": 2}, str)


def test_lines_that_were_killed_are_continued_and_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path, n: int) -> None:
        artifact = folder / "x.tsv"
        with lines_of(artifact, {"n": n}, Config(data_dir=tmp_path, on_other_settings="start_afresh")) as lines:
            lines.advance(list(range(lines.resume(), 4)), lambda i: f"{i}\t{i * n}", unit="line")
        artifact.with_suffix(".summary.json").write_text(artifact.read_text())

    at = 1
    while True:
        write(tmp_path / f"{at}", 1)
        killed = killed_at(at, monkeypatch, partial(write, tmp_path / f"{at}", 2))
        summary, artifact = tmp_path / f"{at}/x.summary.json", tmp_path / f"{at}/x.tsv"
        assert not summary.exists() or summary.read_text() == artifact.read_text()
        write(tmp_path / f"{at}", 2)
        assert artifact.read_text() == "a\tb\n0\t0\n1\t2\n2\t4\n3\t6\n"
        assert not list(artifact.parent.glob(".*"))
        if not killed:
            break
        at += 1
    assert at > 6


@pytest.mark.parametrize("again", [dataclasses.dataclass(frozen=True, kw_only=True), lambda config: config])
def test_a_config_is_a_dataclass_with_and_without_the_decorator(again: Any, tmp_path: Path) -> None:
    @again
    class Script(Config):
        rate: float = 0.7
        names: list[str] = dataclasses.field(default_factory=lambda: ["a"])

    class Further(Script):
        rate = 0.8
        seeds: list[int] = dataclasses.field(default_factory=list)

    assert Script(data_dir=tmp_path).names == ["a"] and Further(data_dir=tmp_path).names == ["a"]
    given = parsed(Script, words=["--data-dir", "a"])
    assert (given.names, given.rate) == (["a"], 0.7)
    assert Further(data_dir=tmp_path).seeds == []


def test_constants_of_a_script_without_a_type_are_settings() -> None:
    class Script(PoisonConfig):
        epochs = 3
        loss = MacerLoss(copies=2)
        data_dir = Path("data/DIGITS")

    class Shorter(Script):
        epochs = 2

    config = parsed(Shorter, "", ["--loss.copies", "4"])
    assert (config.epochs, config.loss.copies, config.data_dir) == (2, 4, Path("data/DIGITS"))
    assert parsed(Shorter, "", ["--epochs", "5"]).epochs == 5


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("base", [PoisonConfig, TrainingConfig])
def test_a_misspelt_constant_of_a_script_is_one_line(
    base: Any, typed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be a further setting, which nothing reads, or with no type nothing at all."""

    def script(name: str) -> Any:
        values: dict[str, Any] = {"epochs": 3, "loss": MacerLoss(copies=2), "data_dir": Path("x"), name: 0.3}
        values |= {"_of_its_own": 1, "helper": lambda self: self, "another": classmethod(print), "a": property(print)}
        types = {"__annotations__": {name: float}} if typed else {}
        return type("Shorter", (type("Script", (base,), {**values, **types}),), {"epochs": 2})

    monkeypatch.setattr("sys.argv", ["script"])
    with pytest.raises(SystemExit) as left:
        run_script(print, script("sigmma"), "", base)
    assert left.value.code == 2
    assert capsys.readouterr() == ("", "error: sigmma is no setting of this script; mend the constant's name\n")
    run_script(print, script("sigma"), "", base)
    assert "epochs=2" in capsys.readouterr().out


@pytest.mark.parametrize("base", [PoisonConfig, TrainingConfig])
def test_a_misspelt_loss_of_a_script_is_one_line(
    base: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss can be called, as a method can."""
    values = {"loss": MacerLoss(), "losss": MacerLoss(lam=2), "data_dir": Path("x")}
    monkeypatch.setattr("sys.argv", ["script"])
    with pytest.raises(SystemExit):
        run_script(print, type("Script", (base,), values), "", base)
    assert capsys.readouterr().err == "error: losss is no setting of this script; mend the constant's name\n"


@pytest.mark.parametrize("base", [PoisonConfig, TrainingConfig])
def test_a_script_may_leave_out_constants(
    base: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting without a default is a required flag. The other constants are checked all the same."""

    def script(**values: Any) -> Any:
        return type("Script", (base,), {"__annotations__": {"loss": MacerLoss}, **values})

    monkeypatch.setattr("sys.argv", ["script"])
    for made, line in (
        (script(), "error: Missing: --data-dir PATH; see --help\n"),
        (script(data_dir="x"), "error: data_dir must be a Path, got 'x'\n"),
        (script(architecture=print), "error: architecture must be a str, got <built-in function print>\n"),
    ):
        with pytest.raises(SystemExit) as left:
            run_script(print, made, "", base)
        assert left.value.code == 2 and capsys.readouterr() == ("", line)
    monkeypatch.setattr("sys.argv", ["script", "--data-dir", "y", "--loss.lam", "3"])
    for made in (script(), script(data_dir=Path("x"))):
        run_script(lambda config: print(config.data_dir, config.loss.lam), made, "", base)
        assert capsys.readouterr().out == "y 3.0\n"


@pytest.mark.parametrize(
    ("base", "name", "value", "line"),
    [
        (TrainingConfig, "epochs", "3", "epochs must be a whole number, got '3'"),
        (TrainingConfig, "learning_rate", "0.1", "learning_rate must be a number, got '0.1'"),
        (TrainingConfig, "max_minutes", "3", "max_minutes must be a number, got '3'"),
        (TrainingConfig, "schedule", 1, "schedule must be one of constant, one_cycle, got 1"),
        (TrainingConfig, "out_dir", "x", "out_dir must be a Path, got 'x'"),
        (TrainingConfig, "poison", "mnist_published", "poison must be a Path, got 'mnist_published'"),
        (
            PoisonConfig,
            "objective",
            0,
            "objective must be one of soft_radius, cross_entropy, noisy_cross_entropy, got 0",
        ),
        (PoisonConfig, "epochs", "50", "epochs must be a whole number, got '50'"),
        (PoisonConfig, "epsilon", "0.1", "epsilon must be a number, got '0.1'"),
        (PoisonConfig, "optimiser", "f2sa", "optimiser must be a BilevelOptimizer, got 'f2sa'"),
        (PoisonConfig, "loss", "macer", "loss must be a TrainingLoss, got 'macer'"),
    ],
)
def test_a_constant_of_another_type_is_one_line(
    base: Any, name: str, value: Any, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"loss": MacerLoss(copies=2), "data_dir": Path("x"), name: value}
    monkeypatch.setattr("sys.argv", ["script"])
    with pytest.raises(SystemExit) as left:
        run_script(print, type("Script", (base,), values), "", base)
    assert left.value.code == 2 and capsys.readouterr() == ("", f"error: {line}\n")
