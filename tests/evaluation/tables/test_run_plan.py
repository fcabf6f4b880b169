"""A plan in one process: it stops, goes on, names what failed, and makes the files that single scripts make."""

import os
import re
import subprocess
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import data
from data.prepare_digits import SOURCE
from evaluation.tables import job_runs, run_plan
from evaluation.tables.jobs import Job, check_scripts, jobs_of
from evaluation.tables.make_tables import Config, main
from evaluation.tables.plan import plan_of, read_plan
from evaluation.tables.records import collect
from models.saving import load_model
from runtime.artifact import Artifact
from runtime.files import InputError, read_json, write_json
from runtime.lazy import keras
from runtime.stop import STOPPED_EARLY, Stop, StoppedEarly
from tests.faults.processes import run
from tests.waiting import HANG, wait_until

ROOT = Path(data.__file__).parents[1]
OUTPUTS = [path.name for path in jobs_of(read_plan(ROOT / "config/demo.yaml"))[-1].outputs]
PLAN: dict[str, Any] = {
    "table": "toy", "title": "Toy", "dataset": "DIGITS", "architecture": "digits_cnn", "runs": 1,
    "methods": {"gaussianaug": [0.25], "macer": [0.25]}, "rows": ["clean", "constant", "optimised"],
    # No batch of MACER can be had: its attack and its victims fail.
    "attack": {
        "all": {"epochs": 1, "lower_steps": 2, "solver_steps": 1, "reinitialise_every": 1},
        "macer": {"batch_clean": 5000},
    },
    "victim": {"all": {"epochs": 4, "learning_rate": 0.01}, "macer": {"loss.copies": 2, "batch_size": 5000}},
    "certification": {"points": 6, "n": 200},
}  # fmt: skip


CLEAR_SESSION = partial(keras.utils.clear_session, free_memory=False)  # to search for garbage takes half a second


def write_plan(folder: Path) -> Path:
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    return folder / "plan.yaml"


class Done(NamedTuple):
    """A run that had a failing job: what it raised and printed, to either stream."""

    error: str
    printed: str
    failed: str


def without_progress(said: str) -> str:
    """The lines but for how many jobs are done and what time is left, which a slow machine shows more often."""
    return "\n".join(line for line in said.splitlines() if not re.fullmatch(r"\d+ of \d+ jobs(, [\d:]+ left)?", line))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def partly_failed(folder: Path) -> Done:
    """In this process, where a first run was stopped at once."""
    with pytest.raises(StoppedEarly, match="the limit of --max-minutes"):
        run_here(folder, max_minutes=1e-9)
    printed, failed = StringIO(), StringIO()
    with redirect_stdout(printed), redirect_stderr(failed), pytest.raises(InputError) as refused:
        run_here(folder)
    return Done(f"error: {refused.value}", printed.getvalue(), without_progress(failed.getvalue().rstrip()))


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The same by the script in two processes, in another folder."""
    folder = tmp_path_factory.mktemp("at_once")
    command = [sys.executable, str(ROOT / "evaluation/tables/run_plan.py"), "--plan", str(write_plan(folder))]
    command += ["--directory", str(folder), "--processes", "2"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 2
    failed, _, error = done.stderr.rstrip().rpartition("\n")
    return folder, Done(error, done.stdout, without_progress(failed))


def run_here(folder: Path, **settings: Any) -> None:
    """Run the plan in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            patch.setenv(name, "1")  # what the run sets, which is then undone
        patch.setattr("keras.utils.clear_session", CLEAR_SESSION)
        patch.chdir(folder)
        run_plan.main(run_plan.Config(plan=write_plan(folder), **{"directory": folder, **settings}))


def test_several_processes_make_the_same_files_and_name_the_same_failures(
    folder: Path, partly_failed: Done, at_once: tuple[Path, Done]
) -> None:
    there, done = at_once
    assert done.error == partly_failed.error and done.printed == partly_failed.printed
    assert sorted(done.failed.splitlines()) == sorted(partly_failed.failed.splitlines())
    for job in jobs_of(read_plan(folder / "plan.yaml"))[1:-1]:
        assert [(there / path).is_file() for path in job.outputs] == [(folder / path).is_file() for path in job.outputs]
        if job.rule in ("poison", "control", "victim") and "macer" not in job.name:
            assert contents(there / job.outputs[0]) == contents(folder / job.outputs[0])
    tables = "runs/tables/toy/incomplete/tables.csv"
    assert (there / tables).read_text() == (folder / tables).read_text()


def test_several_processes_stop_when_asked_and_leave_none_behind(tmp_path: Path) -> None:
    plan = read_plan(write_plan(tmp_path))
    command = [sys.executable, str(ROOT / "evaluation/tables/run_plan.py"), "--plan", str(tmp_path / "plan.yaml")]
    command += ["--directory", str(tmp_path), "--methods", "gaussianaug", "--processes", "2"]
    command += ["--set", "victim={all: {epochs: 10000}}", "rows=[clean, constant]"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    victims = tmp_path / plan.paths.work / "runs" / "gaussianaug_digits_cnn_sigma_0.25"
    wait_until(lambda: len(list(victims.rglob("events.out*"))) == 2, "two victims are trained", process)
    process.terminate()
    _, said = process.communicate(timeout=HANG)
    assert process.returncode == STOPPED_EARLY and without_progress(said).startswith("stopped: SIGTERM"), said
    assert len(list(victims.rglob("checkpoint.npz"))) == 2
    # multiprocessing's own helper ends once its parent has.
    wait_until(lambda: not is_there(process.pid), "no process is left")


def test_a_process_of_a_plan_that_is_asked_to_stop_between_two_jobs_ends_cleanly() -> None:
    worker = ProcessPoolExecutor(1, mp_context=job_runs._SPAWN, initializer=job_runs._in_a_worker)
    with worker:
        worker.submit(os.getpid).result(HANG)
        (process,) = worker._processes.values()
        # A request that comes while a result is sent is lost.
        wait_until(lambda: process.terminate() or process.join(0.2) or not process.is_alive(), "the process ends")
    assert process.exitcode == STOPPED_EARLY


def is_there(group: int) -> bool:
    """Whether a group of processes has any."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_flag_that_a_script_does_not_have_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    for change, message in (
        ("victim={macer: {epoch: 3}}", r"victim 0, macer .*: .*/macer_training\.py: Unrecognized options: --epoch"),
        ("attack={all: {solver: qr}}", r"poison optimised against gaussianaug .*: .*qr"),
    ):
        with pytest.raises(InputError, match=message):
            run_here(tmp_path, set=(change,))
        assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]


def test_a_failing_job_stops_no_other_and_is_named(folder: Path, partly_failed: Done) -> None:
    assert "jobs failed, see above; an incomplete table is in runs/tables/toy/incomplete" in partly_failed.error
    assert "batch_size is 5000" in partly_failed.failed and "needs runs/tables/toy/victims" in partly_failed.failed
    assert "macer (digits_cnn), σ = 0.25, class 8, training data: clean: 0 of 1 runs" in partly_failed.printed
    assert (folder / "runs/tables/toy/incomplete/tables.md").is_file()
    assert not (folder / "runs/tables/toy/results").exists()


def test_a_job_that_ends_without_a_word_has_failed(tmp_path: Path) -> None:
    (script := tmp_path / "silent.py").write_text("raise SystemExit(3)")
    job = Job("data", "the data", str(script), {}, (tmp_path / "x.npy",), (), tmp_path)
    for _ in range(2):
        assert job_runs.run_job(job, Stop()) == "ended with status 3"
        job.log.write_text("the last line of an earlier attempt\n")


def test_where_every_job_fails_the_last_line_names_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="3 jobs failed, see above; no table was made"):
        run_here(tmp_path, directory=tmp_path / "there", methods=("macer",), set=("rows=[clean]",))
    printed = capsys.readouterr()
    jobs, *notes = printed.out.splitlines()  # and no table
    assert jobs.startswith("3 jobs, with their output in ") and jobs.endswith("runs/tables/toy/logs")
    assert all(note.startswith("note: the commit is ") for note in notes)
    victim, certificate, tables = printed.err.splitlines()[-3:]
    assert victim.startswith("victim 0, macer (digits_cnn), σ = 0.25, training data: clean: error: batch_size is 5000")
    assert "; its output is in " in victim and "runs/tables/toy/logs/victims/" in victim
    assert certificate.startswith("certificates of victim 0, macer") and "needs " in certificate
    assert tables.startswith("the tables: error: runs/tables/toy: has no certificate") and ": 0 of 1 runs" in tables
    assert {path.name for path in (tmp_path / "there/runs/tables/toy").iterdir()} == {"logs", "plan.json"}


def test_the_tables_of_a_plan_that_was_run_are_made_from_anywhere(
    folder: Path, partly_failed: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(Config(plan=folder / "plan.yaml", directory=folder, results_dir=Path("out")))
    made = {str(path.relative_to(tmp_path / "out")) for path in Path(tmp_path / "out").rglob("*")}
    assert made == {*OUTPUTS, "points.csv.xz", "settings.json.xz", "plan.yaml", "images.png"}
    incomplete = folder / "runs/tables/toy/incomplete"
    assert made == {str(path.relative_to(incomplete)) for path in incomplete.rglob("*")}
    assert Path("out/tables.csv").read_text() == (incomplete / "tables.csv").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_little_is_printed_and_nothing_by_the_backend(
    folder: Path, partly_failed: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = jobs_of(read_plan(folder / "plan.yaml"))
    assert all(line.startswith(tuple(f"{job.about}: " for job in jobs)) for line in partly_failed.failed.splitlines())
    run_here(folder, methods=("gaussianaug",))
    again = capsys.readouterr()
    assert again.err == "" and len(again.out.splitlines()) < 40
    assert "gaussianaug" in again.out and "macer" not in again.out


def test_what_a_script_makes_by_itself_is_the_same(
    folder: Path, partly_failed: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last jobs of a process make what the first of another one makes."""
    monkeypatch.chdir(folder)
    plan = read_plan(folder / "plan.yaml")
    for rule in ("poison", "victim"):
        job = [job for job in jobs_of(plan) if job.rule == rule and "macer" not in job.command][-1]
        words = job.command.replace(str(job.outputs[0].parent), str(tmp_path)).split()
        words[words.index("--run-dir") + 1] = str(tmp_path / "run")
        outcome = run(words, folder)
        assert outcome.status == 0, outcome
        one, other = (contents(folder / job.outputs[0].name) for folder in (tmp_path, job.outputs[0].parent))
        assert one == other
        command = read_json(job.outputs[1])["command"]
        assert command.startswith(f"python {job.command}")


def contents(path: Path) -> list[Any]:
    """What is to be the same to the bit: the array, or a model's layers and weights (its file holds a date)."""
    if path.suffix == ".npy":
        return [path.read_bytes()]
    model = load_model(path)
    return [layer.name for layer in model.layers] + [array.tobytes() for array in model.get_weights()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"set": ("epsilon",)}, r"--set epsilon: give an entry of the plan as name=value"),
        ({"set": ("epsylon=0.1",)}, r"with --set: .*unknown field `epsylon`; did you mean epsilon\?"),
        ({"set": ("runs=0",)}, "runs must lie between 1 and 1000, got 0"),
        ({"processes": 0}, "processes must be positive, got 0"),
        ({"methods": ("smoothadv",)}, "the plan has gaussianaug, macer"),
        ({"methods": ("macer",), "set": ("methods={gaussianaug: [0.25]}",)}, "the plan has gaussianaug; choose"),
        (
            {"set": ("ready={a: digits_per_image}", "epsilon=0.05")},
            "digits_per_image has epsilon 0.1, above the plan's",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_changed_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(PLAN))
    with pytest.raises(InputError, match=message):
        run_plan.main(run_plan.Config(plan=plan, directory=tmp_path, **change))


def test_files_of_the_working_folder_are_not_in_the_way_of_a_plan_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan's paths start from --directory, also in the checks before the run."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "runs"):
        (tmp_path / name).write_text("")
    plan = plan_of({**PLAN, "shards": 2, "data": {"seed": 3}})
    jobs = run_plan.jobs_to_run(plan, [plan], tmp_path / "there", "plan")
    assert jobs == jobs_of(plan)
    with pytest.raises(InputError, match="data is no folder"):
        run_plan.jobs_to_run(plan, [plan], tmp_path, "plan")
    manifest = {"source": {"file": SOURCE}, "classes": 10, "provenance": {"config": {"seed": 3}}}
    write_json(tmp_path / "there/data/DIGITS/manifest.json", manifest)
    assert run_plan.jobs_to_run(plan, [plan], tmp_path / "there", "plan") == jobs[1:]


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/proc/nowhere: cannot be written .*; choose another folder"):
        run_plan.main(run_plan.Config(plan=write_plan(tmp_path), directory=Path("/proc/nowhere")))


def test_folders_that_a_plan_cannot_write_or_would_delete_are_refused_before_its_jobs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/proc/nowhere/plan\.yaml: cannot be written .*; choose another folder"):
        run_here(tmp_path, set=("results_dir=/proc/nowhere",))
    (tmp_path / "incomplete").mkdir()
    (tmp_path / "incomplete/mine.txt").write_text("")
    with pytest.raises(InputError, match="incomplete: a plan deletes this folder; move your files"):
        run_here(tmp_path, set=("work_dir=.",))
    assert {path.name for path in tmp_path.rglob("*")} == {"plan.yaml", "incomplete", "mine.txt"}


def test_the_tables_are_made_again_from_the_results_alone(
    folder: Path, partly_failed: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    if not (results := folder / "runs/tables/toy/results").exists():
        results = folder / "runs/tables/toy/incomplete"  # which a whole run of another test removes
    # The page also shows the jobs' run times where there are any, the images what no store has.
    before = {results / name: (results / name).read_bytes() for name in OUTPUTS}
    assert len(before) == 7
    for path in before:
        path.unlink()
    main(Config(plan=results / "plan.yaml", from_results=True))
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_of_no_commit_does_not_go_into_the_results(
    folder: Path, partly_failed: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    plan = read_plan(folder / "plan.yaml")
    monkeypatch.setattr("runtime.provenance.project_path", lambda relative: tmp_path / relative)
    for number, commit in enumerate(("0123456789ab-dirty", "unknown (fatal: not a git repository)", "unknown", "")):
        for cell in plan.cells()[:1]:
            record = plan.paths.model(cell, 0).with_suffix(".json")
            write_json(record, {**read_json(record), "commit": commit})
        elsewhere, results = tmp_path / f"elsewhere_{number}", tmp_path / "results/toy"
        collect(plan, elsewhere)
        with pytest.raises(InputError, match=f"measured at {re.escape(commit)}, which is no commit"):
            collect(plan, results)
        with pytest.raises(InputError, match="which is no commit"):
            main(Config(plan=elsewhere / "plan.yaml", results_dir=results, from_results=True))
    assert not list(tmp_path.glob("results/**/*.*"))


@pytest.mark.parametrize("name", ["points.csv.xz", "settings.json.xz"])
def test_reading_the_store_needs_both_files(
    name: str, folder: Path, partly_failed: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    plan = read_plan(folder / "plan.yaml")
    collect(plan, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        main(Config(plan=tmp_path / "plan.yaml", from_results=True))
    assert not list(tmp_path.rglob("tables.md"))


def test_an_idle_worker_that_was_killed_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Worker:
        def __init__(self, is_dead: bool) -> None:
            self.is_dead, self.is_shut_down = is_dead, False

        def submit(self, *_: object) -> "Future[None]":
            if self.is_dead:
                raise BrokenProcessPool
            return Future()

        def shutdown(self) -> None:
            self.is_shut_down = True

    dead, new = Worker(True), Worker(False)
    monkeypatch.setattr(job_runs, "ProcessPoolExecutor", lambda *_, **__: new)
    job = jobs_of(read_plan(write_plan(tmp_path)))[1]
    future, worker = job_runs._submitted(job, None, idle := [dead])  # type: ignore[list-item]
    assert worker is new and not future.done() and not idle and dead.is_shut_down


def test_one_of_several_processes_makes_the_attacks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of({**PLAN, "attacks": {"other": {"seed": [1, 2]}}})
    begun: list[str] = []

    def submitted(job: Job, *_: Any) -> tuple[Future[str | None], Any]:
        begun.append(job.rule)
        (done := Future()).set_result(None)  # type: ignore[var-annotated]
        return done, None

    monkeypatch.setattr(job_runs, "_submitted", submitted)
    jobs = [job for job in jobs_of(plan) if job.rule != "tables"]
    assert not job_runs.run_jobs(jobs, 2, Stop())
    attacks = begun.count("poison")
    assert attacks == 6 and len(begun) == len(jobs)
    # After the data, each pair of jobs has one attack until all are made.
    assert begun[0] == "data" and [begun[1 + 2 * at] for at in range(attacks)] == ["poison"] * attacks
    assert "poison" not in {begun[2 + 2 * at] for at in range(attacks)}


def test_after_a_change_every_job_of_a_run_replaces_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, replacing = plan_of({**PLAN, "shards": 2, "ready": {"r": "digits_per_image"}, "visibility": True}), set()

    def called(script: str, **_: str) -> None:
        if "--on-other-settings start_afresh" in " ".join(sys.argv):
            replacing.add(Path(script).stem.rpartition("_")[0])

    monkeypatch.setattr("evaluation.tables.job_runs.runpy.run_path", called)
    monkeypatch.setattr("keras.utils.clear_session", CLEAR_SESSION)
    monkeypatch.chdir(tmp_path)
    assert not any(job_runs.run_job(job, Stop()) for job in jobs_of(plan))
    assert replacing == {
        "control", "poison_radius", "gaussian_augmented", "macer", "certify", "merge",
    }  # fmt: skip


def test_arrays_that_nobody_prepared_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "data/DIGITS").mkdir(parents=True)
    (tmp_path / "data/DIGITS/X_train.npy").write_bytes(b"arrays of the authors")
    with pytest.raises(
        InputError, match=r"X_train\.npy: has no manifest\.json beside it, so that the plan would replace"
    ):
        run_here(tmp_path)
    (tmp_path / "data/DIGITS/.manifest.json.lock").touch()  # a preparation was killed
    run_plan.require_inputs(plan_of(PLAN), tmp_path, "plan")


def test_other_data_and_a_second_run_in_the_folder_are_refused(tmp_path: Path, tiny_data_dir: Path) -> None:
    here = f"data_dir={tiny_data_dir}"
    with pytest.raises(InputError, match="DIGITS: was prepared with seed 0, the plan's data says 7; delete this"):
        run_here(tmp_path, set=(here, "data={seed: 7}"), methods=("gaussianaug",))
    with pytest.raises(InputError, match=r"target_classes: no class 11 in .*manifest\.json; choose from 0 to 9"):
        run_here(tmp_path, set=(here, "target_classes=[8, 11]"))
    with Artifact(tmp_path / "runs/tables/toy/plan.json"), pytest.raises(InputError, match=r"json: another run is"):
        run_here(tmp_path, set=(here, "data={seed: 0}"), methods=("gaussianaug",))
    assert not list(tmp_path.rglob("plan.json"))


def test_jobs_that_were_made_before_say_nothing_of_the_time_left(tmp_path: Path) -> None:
    jobs = jobs_of(read_plan(write_plan(tmp_path)))[:3]
    (tmp_path / "there").touch()
    made, other = (replace(job, outputs=(tmp_path / name,)) for job, name in zip(jobs, ("there", "not"), strict=False))
    bar = job_runs._Bar(list(jobs), 1)
    for job in (made, other):
        bar.begin(job)
        bar.end(job)
    assert (bar.bar.n, bar.bar.initial) == (2, 1)
    assert bar.bar._state(10.0) == "2 of 3 jobs, 0:00:10 left"


def test_settings_of_a_sigma_that_the_plan_lacks_are_refused(tmp_path: Path) -> None:
    for change in ({}, {"victim": {"macer 0.5": {"epochs": 3}}}):
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**PLAN, "methods": {"macer": [0.25]}, **change}))
        with pytest.raises(InputError, match="the plan has no macer 0.5; mend" if change else "runs must lie"):
            run_plan.main(run_plan.Config(plan=tmp_path / "plan.yaml", set=() if change else ("runs=0",)))


def test_settings_of_a_sigma_that_only_the_command_line_names_are_refused(tmp_path: Path) -> None:
    plan = write_plan(tmp_path)
    with pytest.raises(InputError, match=r"the plan has no macer 0\.3; mend the sigma"):
        run_plan.main(run_plan.Config(plan=plan, set=("victim={macer 0.3: {epochs: 3}}",)))


def test_a_method_without_a_script_is_one_line(tmp_path: Path) -> None:
    jobs = [replace(job, script="attack_generation/none/DIGITS/poison_radius_none.py") for job in
            jobs_of(read_plan(write_plan(tmp_path)))[1:2]]  # fmt: skip
    with pytest.raises(InputError, match=r"there is no script attack_generation/none/DIGITS/poison_radius_none\.py"):
        check_scripts(jobs)
