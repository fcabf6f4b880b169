"""The ranking: scores from a frame by hand, what cannot be ranked, and a small ranking from the file to the row."""

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import data.ready_poisons
from data.datasets import labels, load_dataset
from data.poison_files import training_poison
from data.prepare_digits import split_digits
from data.ready_poisons import FOLDER, load_ready_poison, to_8_bit
from evaluation.tables import rank, run_plan
from evaluation.tables.cells import Cell
from evaluation.tables.figures import save_ranking
from evaluation.tables.frame import frame_of
from evaluation.tables.jobs import jobs_of
from evaluation.tables.plan import plan_of, read_plan
from evaluation.tables.rank import Config, main
from evaluation.tables.ranking import kinds_without_reduction, ranking_page, ranking_table, scores
from evaluation.tables.records import read_entries
from evaluation.tables.runs import Entry, Run
from runtime.files import InputError, array_sha256, load_archive, load_array, save_archive

ROOT = Path(data.__file__).parents[1]
PLAN = {
    "table": "rank_toy", "title": "Toy", "dataset": "DIGITS", "architecture": "digits_cnn", "runs": 2,
    "methods": {"gaussianaug": [0.25], "macer": [0.25]}, "rows": ["clean", "constant", "halves", "random"],
    "victims": {"plain": {}, "jittered": {"jitter-brightness": 0.15}},
}  # fmt: skip


def entry_of(cell: Cell, radius: float, seen: float = 0.5, victims: int = 2) -> Entry:
    """Ten points of this radius; two of them are not certified. Victims differ by a little."""
    records = {
        "victim": {"accuracy_class_8": 0.9 if cell.poison is None else 0.8},
        "visibility": {"measured": {"l2_over_sigma": 2.0, "auc": {"brightness": seen, "nearest": 0.6}}},
    }
    runs = [
        Run(seed, np.array([radius * (1 + 0.01 * seed)] * 8 + [-1] * 2), records, 0.25, 8, np.arange(10),
            np.array([0.4, -1]))
        for seed in range(victims)
    ]  # fmt: skip
    return Entry(cell, 2, tuple(runs))


KINDS = {("gaussianaug", "plain"): 0, ("gaussianaug", "jittered"): 1, ("macer", "plain"): 2, ("macer", "jittered"): 3}
RADII = {"clean": (0.4, 0.5, 0.4, 0.5), "constant": (0.1, 0.4, 0.3, 0.3), "halves": (0.2, 0.35, 0.2, 0.3)}


def frame(**lacking: int) -> Any:
    """Of RADII. lacking: by the name of a poison, victims of its last kind."""
    plan = plan_of(PLAN)
    entries = {}
    for cell in plan.cells():
        kind = KINDS[cell.victim.method, cell.victim.variant]
        if radii := RADII.get(cell.row):
            entries[cell] = entry_of(cell, radii[kind], 0.7, lacking.get(cell.row, 2) if kind == 3 else 2)
        else:
            entries[cell] = Entry(cell, 2, ())
    return frame_of(plan, entries)


def test_the_score_is_the_smallest_reduction_over_all_kinds_of_victims() -> None:
    found, rows = scores(frame()), frame()
    assert set(found.index) == {"clean", "constant", "halves"}  # of random there is no victim
    for name, reductions, weakest in (
        ("constant", (75, 20, 25, 40), "gaussianaug, jittered"), ("halves", (50, 30, 50, 40), "gaussianaug, jittered"),
    ):  # fmt: skip
        row = found.loc[name]
        assert row["reduction"].percent == pytest.approx(min(reductions)) and row["victims"] == weakest
        assert row["mean"].percent == pytest.approx(np.mean(reductions))
        assert row["target_accuracy_mean"] == pytest.approx(0.8) and row["others_acr_mean"] == pytest.approx(0.2)
        assert row["seen"] == pytest.approx(0.7) and row["l2_over_sigma"] == 2.0
        kinds = [one for one in rows["reduction"][rows["data"] == name] if one]
        assert row["reduction"].low == min(one.low for one in kinds) <= row["reduction"].percent
        assert row["reduction"].high == min(kinds).high
    # Certified accuracy at 0.25 is 80 %, or 0 where the radius is smaller. The smallest reduction is over four kinds.
    assert found.loc["constant"]["reduction_at_sigma"].percent == pytest.approx(0)
    assert found.loc["halves"]["reduction_at_sigma"].percent == pytest.approx(0)
    text = ranking_table([found]).text
    assert text["training data"].tolist() == ["halves", "constant", "clean"]
    assert text["score"].tolist()[0].startswith("30.0 % (") and text["score"].tolist()[2] == ""
    assert [one.partition(" (")[0] for one in text["mean"]] == ["42.5 %", "40.0 %", ""]
    assert text["class accuracy"].tolist()[2] == "0.9"


def test_a_poison_without_all_its_victims_has_no_score_and_the_first_of_two_stores_counts() -> None:
    part = scores(frame(constant=1))
    assert set(part.index) == {"clean", "halves"}
    other = scores(frame())
    other["target_accuracy_mean"] = 0.1
    text = ranking_table([part, other]).text.set_index("training data")
    assert text["class accuracy"].to_dict() == {"halves": "0.8", "constant": "0.1", "clean": "0.9"}


def test_poisons_without_all_clean_victims_have_a_score_and_a_mean_of_the_seeds_that_are_there() -> None:
    whole = frame()
    (lost, *_) = whole.index[(whole["data"] == "clean")]
    whole.at[lost, "runs"] = 1  # of two
    found = scores(whole)
    assert set(found.index) == {"constant", "halves"} and found["mean"].notna().all()


def test_a_poison_without_a_reduction_is_named_with_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kinds_without_reduction(frame(), "constant") == []
    monkeypatch.setitem(RADII, "clean", (0.4, 0.5, 0.0, 0.5))
    assert "constant" not in scores(frame()).index
    assert kinds_without_reduction(frame(), "constant") == ["macer, plain"]


def test_the_page_has_the_ranking_and_the_shares_of_the_class(tmp_path: Path) -> None:
    toy = {**PLAN, "victims": {}, "methods": {"gaussianaug": [0.25]}, "rows": ["clean", "constant"]}
    plan = plan_of({**toy, "shares": [0.5, 1]})
    radii = {None: 0.4, 0.5: 0.3, 1.0: 0.1}
    entries = {cell: entry_of(cell, radii[cell.poison and cell.poison.share]) for cell in plan.cells()}
    page = ranking_page(
        {"mnist_shares": frame_of(plan, entries).assign(title="Shares"), "rank_toy": frame().assign(title="Toy")}
    )
    assert page.index("## Toy") < page.index("| halves | 30.0 %") < page.index("| constant | 20.0 %")
    assert "| training data | 50% | 100% |" in page
    assert "| constant | 25.0 % (25.0 to 25.0) | 75.0 % (75.0 to 75.0) |" in page
    plan = plan_of({**toy, "victims": PLAN["victims"], "shares": [0.125, 1]})
    entries = {cell: entry_of(cell, 0.3 if cell.poison else 0.4) for cell in plan.cells()}
    page = ranking_page({"shares": frame_of(plan, entries).assign(title="Shares")})
    assert "| training data | 12.5% | 100% |" in page and "| constant, victim variant jittered | 25.0 % (" in page
    theirs = {"method": "gaussianaug", "sigma": 0.25, "target_class": 8, "files": ["a.tsv"]}  # of another model
    plan = plan_of({**toy, "shares": [0.5, 1], "foreign": [theirs, {**theirs, "poison": "constant"}]})
    cells = [*plan.cells(), *(one.cell for one in plan.foreign)]
    entries = {cell: entry_of(cell, 0.3 if cell.poison else 0.4) for cell in cells}
    page = ranking_page({"shares": frame_of(plan, entries).assign(title="Shares")})
    assert "| constant, architecture  |  | 25.0 % (" in page  # of theirs
    assert "| constant, architecture digits_cnn | 25.0 % (" in page
    save_ranking(tmp_path / "ranking.png", {"rank_toy": frame()})
    assert 500 < Image.open(tmp_path / "ranking.png").width < 2000


def test_an_interval_that_the_figure_cuts_ends_in_an_arrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def arrows() -> int:
        drawn: list[Any] = []
        monkeypatch.setattr("evaluation.tables.figures.save_png", lambda _, figure, **__: drawn.append(figure))
        save_ranking(tmp_path / "ranking.png", {"rank_toy": frame()})
        return sum(line.get_marker() == "<" for line in drawn[0].axes[0].get_lines())

    assert arrows() == 0
    monkeypatch.setitem(RADII, "halves", (0.7, 0.35, 0.2, 0.3))  # 75 % above clean victims, of one kind
    assert arrows() == 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a plan and a folder of poisons in place of the project's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data.ready_poisons, "FOLDER", tmp_path / "poisons")
    monkeypatch.setattr(rank, "pack_poison", partial(data.ready_poisons.pack_poison, folder=tmp_path / "poisons"))
    monkeypatch.setattr(rank, "project_path", lambda name: tmp_path / name)
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    (tmp_path / "poisons").mkdir()
    for ending in ("json", "npz"):
        shutil.copy(FOLDER / f"digits_per_image.{ending}", tmp_path / "poisons")
    small = {
        **PLAN, "runs": 1, "methods": {"gaussianaug": [0.25]}, "rows": ["clean", "constant"], "epsilon": 0.11,
        "ready": {"per_image": "digits_per_image"}, "visibility": True,
        "victim": {"all": {"schedule": "one_cycle", "epochs": 2}},
        "certification": {"points": 4, "n": 100, "all_classes": True, "acr_only": True},
    }  # fmt: skip
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(small))
    return tmp_path


def config(folder: Path, data_dir: Path, poison: Path) -> Config:
    return Config(plan=folder / "plan.yaml", poison=poison, directory=folder, set=(f"data_dir={data_dir}",))


def poison_file(folder: Path, data_dir: Path, **changes: Any) -> Path:
    """The first 40 images of the class, brighter."""
    dataset = load_dataset(data_dir)
    in_class = labels(dataset.y_train) == changes.get("target_class", 8)
    clean, index = dataset.x_train[in_class][:40], split_digits(0)["train"][in_class][:40]
    arrays = {"X_poisoned": to_8_bit(clean + 0.1, clean, 0.1), "index": index, "target_class": 8, "epsilon": 0.1,
              "name": "null", "source": "a test", **changes}  # fmt: skip
    save_archive(folder / "mine.npz", {name: np.asarray(value) for name, value in arrays.items()})
    return folder / "mine.npz"


def test_what_cannot_be_ranked(folder: Path, tiny_data_dir: Path) -> None:
    for changes, message in (
        ({"target_class": 3}, r"null: is poison of class 3, epsilon 0\.1; rank_toy ranks class 8, epsilon 0\.11"),
        ({"epsilon": 0.2}, r"null: is poison of class 8, epsilon 0\.2; rank_toy ranks"),
        ({"epsilon": 0.05}, r"mine\.npz: fails epsilon on DIGITS, class 8"),
        ({"name": "constant"}, "constant: data/poisons or the plan has another poison or row of this name; choose"),
        ({"name": "per_image"}, "per_image: data/poisons or the plan has another poison"),
        ({"name": "digits_per_image"}, "digits_per_image: data/poisons or the plan has another poison"),
    ):
        with pytest.raises(InputError, match=message):
            main(config(folder, tiny_data_dir, poison_file(folder, tiny_data_dir, **changes)))
    with pytest.raises(InputError, match=r"X_train\.npy: no such file; prepare the data first"):
        main(config(folder, folder, poison_file(folder, tiny_data_dir)))
    assert not (folder / "runs").exists() and data.ready_poisons.ready_names() == ["digits_per_image"]
    for ending in ("json", "npz"):  # its victims would replace those of the plan's row of this name
        shutil.copy(FOLDER / f"digits_per_image.{ending}", folder / f"poisons/per_image.{ending}")
    with pytest.raises(InputError, match="per_image: data/poisons or the plan has another poison or row of this name"):
        main(config(folder, tiny_data_dir, Path("per_image")))
    (folder / "results/rank_toy").mkdir(parents=True)  # a store without a run of its plan
    for name in ("points.csv.xz", "settings.json.xz"):
        shutil.copy(ROOT / "results/mnist_row" / name, folder / "results/rank_toy")
    shutil.copy(folder / "plan.yaml", folder / "results/rank_toy")
    with pytest.raises(InputError, match=r"results/rank_toy: has no certificate of the plan"):
        main(config(folder, tiny_data_dir, poison_file(folder, tiny_data_dir)))
    assert not (folder / "runs").exists()


def test_from_a_file_to_its_row(folder: Path, tiny_data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poison = poison_file(folder, tiny_data_dir)
    main(config(folder, tiny_data_dir, poison))
    printed = capsys.readouterr().out
    assert "ok    epsilon" in printed and "victims gaussianaug, jittered" in printed
    work = folder / "runs/tables/rank_toy"
    page = (work / "ranking/ranking.md").read_text()
    assert "| null | " in page and "| clean | " in page and "per_image" not in page
    packed = load_ready_poison("null")
    assert packed.record["settings"]["epsilon"] == 0.1  # its own, not the plan's
    assert packed.record["entry"]["source"] == "a test" and packed.pixels.shape == (106, 8, 8, 1)
    victims = {path: path.stat().st_mtime_ns for path in work.glob("victims/**/*.keras")}
    assert len(victims) == 4
    shutil.copytree(work / "ranking", folder / "results/rank_toy")
    for certificates in work.glob("certificates/*/ready_*null"):
        shutil.rmtree(certificates)
    main(config(folder, tiny_data_dir, folder / "poisons/digits_per_image.npz"))  # a shipped poison: two more victims
    assert len(list(work.glob("victims/**/*.keras"))) == 6
    assert {path: path.stat().st_mtime_ns for path in victims} == victims
    page = (work / "ranking/ranking.md").read_text()
    assert "| per_image | " in page and "| null (recorded) | " in page and page.count("| clean") == 1
    assert "run `make plan TABLE=rank_toy` first" in page and "TABLE=rank_toy" in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(rank, "_test_images", lambda entries: {str(id(entries))})
        main(config(folder, tiny_data_dir, folder / "poisons/digits_per_image.npz"))
    assert "rank_toy was measured with other test images; its rows are left out" in capsys.readouterr().out
    with pytest.raises(InputError, match="null: data/poisons or the plan has another poison"):
        main(config(folder, tiny_data_dir, poison_file(folder, tiny_data_dir, X_poisoned=packed.pixels[:40] // 2 * 2)))
    for file in (folder / "poisons").glob("null.*"):
        file.unlink()  # its victims stay
    with pytest.raises(InputError, match=r"class_8_null: has victims of an earlier poison null; delete them"):
        main(config(folder, tiny_data_dir, poison))


def test_a_plan_takes_the_file_itself(folder: Path, tiny_data_dir: Path) -> None:
    poison_file(folder, tiny_data_dir, epsilon=np.float32(0.1))  # a little above 0.1
    (folder / "digits_per_image").mkdir()  # as check_poison.py --png-dir digits_per_image makes it
    own = {"ready": {"mine": "mine.npz"}, "rows": ["clean"], "victims": {}, "visibility": False}
    (folder / "plan.yaml").write_text(yaml.safe_dump(yaml.safe_load((folder / "plan.yaml").read_text()) | own))

    def run(*changes: str) -> None:
        run_plan.main(
            run_plan.Config(
                plan=folder / "plan.yaml", directory=folder, set=(f"data_dir={tiny_data_dir}", "table=own", *changes)
            )
        )

    run("epsilon=0.1")
    work = folder / "runs/tables/own"
    (file,) = work.glob("poison/ready_*mine/*.npy")
    dataset = load_dataset(tiny_data_dir)
    assert np.array_equal(load_array(file), training_poison(folder / "mine.npz", dataset, tiny_data_dir, 8))
    assert "| mine | " in (work / "results/tables.md").read_text() and len(list(work.glob("victims/*/*/*.keras"))) == 2
    before = array_sha256(load_array(file))
    pixels = load_archive(folder / "mine.npz")["X_poisoned"]
    poison_file(folder, tiny_data_dir, X_poisoned=pixels // 2 * 2)  # a file of other images in its place
    victims = {path: path.stat().st_mtime_ns for path in work.glob("victims/*/*/*.keras")}
    run("epsilon=0.1")
    retrained = [path.parent.name for path, made in victims.items() if path.stat().st_mtime_ns != made]
    assert array_sha256(load_array(file)) != before and retrained == ["ready_sigma_0.25_class_8_mine"]
    plan = read_plan(work / "plan.json")
    (frame,) = frame_of(plan, read_entries(plan, work / "results")).query("data == 'mine'").to_dict("records")
    assert frame["attack_runs"] == ""
    (job,) = (job for job in jobs_of(plan) if job.rule == "ready")
    assert Path("mine.npz") in job.needs
    shipped = "ready={mine: digits_per_image, again: %s}" % (folder / "poisons/digits_per_image.npz")
    run(shipped, "epsilon=0.11")
    assert "| again | " in (work / "results/tables.md").read_text()
    for changes, message in (
        (["ready={mine: none.npz}"], r"none\.npz: no such file"),
        (["epsilon=0.05"], r"ready: mine\.npz has epsilon 0\.1, above the plan's 0\.05"),
        (["target_classes=[3]"], r"ready: mine\.npz is poison of class 8; plan it with target_classes: \[8\]"),
    ):
        with pytest.raises(InputError, match=message):
            run(*changes)


def test_the_plans_of_the_ranking_have_eight_kinds_of_victims() -> None:
    for name in ("digits", "mnist"):
        plan = read_plan(ROOT / f"config/rank_{name}.yaml")
        assert len({cell.victim for cell in plan.cells()}) == 8 and plan.runs == 3 and plan.visibility
        assert plan.certification["all_classes"] and set(plan.victims) == {"plain", "jittered"}


def test_make_rank_takes_a_file_whose_name_has_a_space() -> None:
    command = ["make", "-n", "rank", "POISON=my poison.npz", "DATA=DIGITS"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert '--poison "my poison.npz" ' in shown
