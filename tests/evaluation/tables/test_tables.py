"""Tables from certificates: numbers, what is missing, and certificates written by other programs."""

import csv
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import yaml

from attack_generation.controls import ControlConfig, write_control_poison
from evaluation.tables import make_tables, run_plan
from evaluation.tables.cells import FIGURES, PAGES, Cell
from evaluation.tables.formats import as_latex, as_markdown, as_text
from evaluation.tables.frame import Entries, as_csv, frame_of
from evaluation.tables.layout import Table, tables_by_victims, tables_of
from evaluation.tables.make_tables import Config, main
from evaluation.tables.plan import Plan, plan_of, read_plan
from evaluation.tables.records import NUMERIC, collect, read_entries
from evaluation.tables.runs import Entry, Run
from runtime.files import InputError, load_array, read_json, write_json
from runtime.provenance import project_path
from runtime.store import POINTS, SETTINGS, Store, read_store, write_store

# As Cohen et al.'s code writes them: radii of three digits, -1 for an abstention, and points of other classes.
FOREIGN = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t8\t8\t1.000\t1\t0:00:01.1
20\t8\t-1\t0.000\t0\t0:00:01.1
40\t8\t3\t0.700\t0\t0:00:01.1
60\t8\t8\t0.500\t1\t0:00:01.1
80\t1\t1\t2.000\t1\t0:00:01.1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_plan(folder: Path, **entries: Any) -> Path:
    values = {"table": "t", "title": "Title_1", "dataset": "MNIST", "architecture": "mnist_cnn", **entries}
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def foreign_plan(folder: Path) -> Path:
    """Clean and poisoned victims of another program, two runs and one."""
    for name, text in {
        "clean_0": FOREIGN,
        "clean_1": FOREIGN.replace("0.500", "0.900"),
        "poisoned": FOREIGN.replace("1.000", "0.250"),
    }.items():
        (folder / f"{name}.tsv").write_text(text)
    cell = {"method": "macer", "sigma": 0.25, "target_class": 8}
    return write_plan(
        folder,
        foreign=[
            {**cell, "files": ["clean_0.tsv", "clean_1.tsv"], "accuracy": 0.98},
            {**cell, "files": ["poisoned.tsv"], "poison": "macer"},
        ],
    )


def texts(table: Table) -> list[list[str]]:
    return table.text.to_numpy().tolist()


def test_certificates_of_another_program_fill_the_tables(folder: Path) -> None:
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=folder / "out"))
    clean = [(1.0 + 0.5) / 4, (1.0 + 0.9) / 4]
    poisoned = (0.25 + 0.5) / 4
    reduction = 100 * (1 - poisoned / clean[0])  # the one poisoned run against the clean one of its seed
    markdown = (folder / "out/tables.md").read_text()
    numbers = f"{np.mean(clean):.3f} ± {np.std(clean, ddof=1):.3f}"
    for text in (numbers, f"{poisoned:.3f}", f"{reduction:.1f} % (", "0.500 ± 0.000", "0.980"):
        assert text in markdown
    assert "Missing" not in markdown
    with (folder / "out/tables.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["poison"], second["poison"]) == ("clean", "macer")
    assert float(first["acr_mean"]) == pytest.approx(np.mean(clean), abs=1e-4)
    assert float(second["reduction_percent"]) == pytest.approx(reduction, abs=0.1)
    assert float(second["reduction_low"]) <= reduction <= float(second["reduction_high"])
    assert second["interval_over"] == "points"  # one victim
    assert (first["runs"], first["points"], first["certified_accuracy_mean"]) == ("2", "4", "0.5000")
    assert first["entry"] == "macer_sigma_0.25/clean/class_8" and first["tsv"] == f"t/{POINTS}"
    assert first["settings"] == f"t/{SETTINGS}"
    assert set(read_store(folder / "out").points["entry"]) == {first["entry"], second["entry"]}


def test_every_page_says_once_what_plus_minus_and_the_intervals_are(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=folder / "out"))
    pages = {name: (folder / "out" / f"tables.{name}").read_text() for name in ("md", "html", "tex")}
    captions = re.findall(r"\\caption\{(.*)\}", pages["tex"])
    about = ("{} is the sample standard deviation over victims.", "Its 95 {} interval covers test points")
    assert captions and all(one.format(text) in page for page in captions for one, text in
                            zip(about, (r"$\pm$", r"\%"), strict=True))  # fmt: skip
    for page in (pages["md"], pages["html"], capsys.readouterr().out):
        for one, text in zip(about, ("±", "%"), strict=True):
            assert page.count(one.format(text)) == 1


def test_tables_are_not_made_again_of_nothing(folder: Path) -> None:
    plan = write_plan(folder, methods={"macer": [0.25]})
    config = Config(plan=plan, from_results=True, results_dir=folder / "out")
    with pytest.raises(InputError, match=r"points\.csv\.xz: no such file; make the tables of a plan there first"):
        main(config)
    write_store(folder, Store(pd.DataFrame(columns=["entry", *NUMERIC]), {}))
    with pytest.raises(InputError, match="has no certificate of the plan"):
        main(config)
    with pytest.raises(InputError, match="has no certificate of the plan"):
        collect(plan_of(yaml.safe_load(plan.read_text())), folder / "out")
    assert not (folder / "out").exists()


def test_a_table_does_not_overwrite_another_tables_folder(folder: Path) -> None:
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=folder / "out"))
    before = {path: path.read_bytes() for path in (folder / "out").iterdir()}
    other = folder / "other.yaml"
    other.write_text((folder / "plan.yaml").read_text().replace("table: t", "table: u"))
    with pytest.raises(InputError, match="out: holds the table 't'; choose another results_dir"):
        main(Config(plan=other, directory=folder, results_dir=folder / "out"))
    plan = msgspec.structs.replace(read_plan(other), results_dir="out")
    with pytest.raises(InputError, match="out: holds the table 't'"):  # before its jobs run
        run_plan.require_inputs(plan, folder, "plan")
    assert {path: path.read_bytes() for path in (folder / "out").iterdir()} == before


def test_a_picture_of_an_earlier_run_is_named(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "out").mkdir()
    (folder / "out/images.png").write_bytes(b"earlier")
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=folder / "out"))
    assert "note: images.png shows poison of an earlier run" in capsys.readouterr().out


def test_a_store_of_other_measurements_is_not_overwritten(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = foreign_plan(folder), folder / "out"
    for results in (out, folder / "other"):
        main(Config(plan=plan, directory=folder, results_dir=results))
    message = r"holds other measurements \(points\.csv\.xz\); choose another --results-dir"
    with pytest.raises(InputError, match=message):
        main(Config(plan=folder / "other/plan.yaml", from_results=True, results_dir=out))
    main(Config(plan=out / "plan.yaml", from_results=True, results_dir=out))
    (folder / "other/plan.yaml").unlink()  # as in the folder of another study
    with pytest.raises(InputError, match=message):
        main(Config(plan=plan, directory=folder, results_dir=folder / "other"))
    foreign = yaml.safe_load(plan.read_text())["foreign"]
    plan = write_plan(folder, methods={}, foreign=foreign[:1])
    capsys.readouterr()
    main(Config(plan=plan, directory=folder, results_dir=out))
    said = capsys.readouterr().out
    gone = [("macer_sigma_0.25/macer_sigma_0.25_class_8/class_8", "1")]
    assert re.findall("note: (.*): out loses (.*) of its runs", said) == gone and len(foreign) == 2
    monkeypatch.setattr(make_tables, "_images", lambda plan, paths: load_array(folder / "none.npy"))
    with pytest.raises(InputError, match=r"none\.npy: no such file"):
        main(Config(plan=plan, directory=folder, results_dir=folder / "new"))
    assert not (folder / "new").exists()  # no half result


OUTSIDE = {POINTS, SETTINGS, "plan.yaml", *PAGES, *FIGURES}


def test_every_file_is_made_outside_the_projects_results(folder: Path, capsys: pytest.CaptureFixture) -> None:
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=folder / "out"))
    assert {path.name for path in (folder / "out").iterdir()} == OUTSIDE
    said = capsys.readouterr().out
    assert "certified_accuracy.png and, per point, points.csv.xz" in said and "Title_1" in said


def in_the_projects_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that counts as one of the project's results."""
    for module in ("runtime.provenance", "evaluation.tables.make_tables"):
        monkeypatch.setattr(f"{module}.project_path", lambda relative: folder / relative)
    return folder / "results/t"


def test_a_folder_of_the_projects_results_keeps_store_tables_and_two_figures(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = in_the_projects_results(folder, monkeypatch)
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=results))
    assert {path.name for path in results.iterdir()} == {
        POINTS, SETTINGS, "plan.yaml", "tables.md", "acr.png", "p_a.png",
    }  # fmt: skip
    assert {path.name for path in folder.glob("results/*")} == {"t"}


@pytest.mark.parametrize("is_of_record", [False, True])
def test_tables_are_made_again_from_the_store_alone(
    is_of_record: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = in_the_projects_results(folder, monkeypatch) if is_of_record else folder / "out"
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=results))
    before = {path.name: path.read_bytes() for path in results.iterdir()}
    for path in folder.glob("*.tsv"):
        path.unlink()
    for path in results.iterdir():
        if path.name not in (POINTS, SETTINGS, "plan.yaml"):
            path.unlink()
    main(Config(plan=results / "plan.yaml", from_results=True))
    assert {path.name: path.read_bytes() for path in results.iterdir()} == before
    main(Config(plan=results / "plan.yaml", from_results=True, results_dir=folder / "again"))
    again = {path.name: path.read_bytes() for path in (folder / "again").iterdir()}
    assert again.keys() == OUTSIDE - {POINTS, SETTINGS, "plan.yaml"}  # no store is written
    assert {name: again[name] for name in before.keys() & again.keys()} == {
        name: before[name] for name in before.keys() & again.keys()
    }


def test_the_images_of_a_poison_are_drawn(folder: Path, tiny_data_dir: Path) -> None:
    foreign = yaml.safe_load(foreign_plan(folder).read_text())["foreign"]
    plan = write_plan(
        folder, dataset="DIGITS", architecture="digits_cnn", methods={"macer": [0.25]}, rows=["clean", "constant"],
        data_dir=str(tiny_data_dir), foreign=foreign,
    )  # fmt: skip
    read = plan_of(yaml.safe_load(plan.read_text()))
    (poison,) = read.poisons()
    out_dir = folder / read.paths.poison(poison).parent
    write_control_poison(ControlConfig(data_dir=tiny_data_dir, kind="constant", sigma=0.25, out_dir=out_dir))
    main(Config(plan=plan, directory=folder, results_dir=folder / "out"))
    assert {path.name for path in (folder / "out").iterdir()} == OUTSIDE | {"images.png"}
    (record,) = out_dir.glob("X_*.json")
    write_json(record, {**read_json(record), "sha256": "of another poison"})
    with pytest.raises(InputError, match=r"X_.*npy: has sha256 .*, its record says of another poison; make the poison"):
        main(Config(plan=plan, directory=folder, results_dir=folder / "other"))
    record.unlink()
    (tiny_data_dir / "manifest.json").rename(
        tiny_data_dir / "elsewhere.json"
    )  # as where only the work folder was copied
    try:
        main(Config(plan=plan, directory=folder, results_dir=folder / "without_data"))
    finally:
        (tiny_data_dir / "elsewhere.json").rename(tiny_data_dir / "manifest.json")
    assert {path.name for path in (folder / "without_data").iterdir()} == OUTSIDE


def test_latex_escapes_and_aligns(folder: Path) -> None:
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=folder / "out"))
    latex = (folder / "out/tables.tex").read_text()
    assert r"Title\_1" in latex and r"$\pm$" in latex and r"\%" in latex and "±" not in latex
    tabular = re.search(r"\\begin\{tabular\}\{(l+)\}(.*?)\\end\{tabular\}", latex, re.DOTALL)
    assert tabular is not None
    rows = [line for line in tabular[2].splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3  # header, clean and poisoned
    for line in rows:
        assert line.count(" & ") == len(tabular[1]) - 1


def test_no_character_of_a_title_or_a_name_is_read_as_markup() -> None:
    table = Table("t", r"a_b $\no$ {50 %} ^~ \x", pd.DataFrame({"a|b": ["c|d", "<e>"]}))
    latex = as_latex([table])
    assert r"a\_b \$\textbackslash{}no\$ \{50 \%\} \^{}\~{} \textbackslash{}x." in latex
    assert as_markdown([table]).splitlines()[2:6] == [r"| a\|b |", "| --- |", r"| c\|d |", "| <e> |"]
    assert as_text([table]).splitlines()[:5] == [table.title, "", "a|b", "---", "c|d"]


def test_an_entry_without_runs_is_a_dash_and_is_named(folder: Path, capsys: pytest.CaptureFixture) -> None:
    values = yaml.safe_load(foreign_plan(folder).read_text())
    plan = write_plan(
        folder, methods={"gaussianaug": [0.5]}, rows=["clean", "optimised"], runs=3, foreign=values["foreign"]
    )
    main(Config(plan=plan, directory=folder))
    text = (folder / "runs/tables/t/results/tables.md").read_text()
    assert "| gaussianaug | 0.5 | 8 | clean | — | 0 of 3 | — |  | — | — | — | — | — | — | — |" in text
    assert "| gaussianaug | 0.5 | 8 | optimised | — | 0 of 3 | — | — | — | — | — | — | — | — | — |" in text
    assert "gaussianaug (mnist_cnn), σ = 0.5, class 8, training data: clean: 0 of 3 runs" in text
    assert "training data: optimised against gaussianaug with mnist_cnn: 0 of 3 runs" in text
    assert "0 of 3 runs" in capsys.readouterr().out


def test_a_table_of_nothing_but_dashes_is_refused_and_nothing_is_made(folder: Path) -> None:
    own = {"methods": {"gaussianaug": [0.5]}, "rows": ["clean", "optimised"], "runs": 3}
    first = r"gaussianaug \(mnist_cnn\), σ = 0.5, class 8, training data: clean: 0 of 3 runs, the first of 2 entries"
    for entries, given, message in (
        (own, {}, rf"{folder}/runs/tables/t: has no certificate of the plan \({first}\); run the plan first"),
        (own, {"results_dir": folder / "out"}, r"--directory"),
        ({**own, "work_dir": "w", "results_dir": "r"}, {}, rf"{folder}/w: has no certificate"),
        ({**own, "work_dir": str(folder / "w")}, {"directory": Path("nowhere")}, rf"{folder}/w: has no certificate"),
        ({}, {}, "the plan names no entry"),
        ({"methods": {"gaussianaug": []}}, {}, "the plan names no entry"),
    ):
        plan = write_plan(folder, **entries)
        with pytest.raises(InputError, match=message):
            main(Config(plan=plan, **{"directory": folder, **given}))
        assert list(folder.iterdir()) == [plan]


def test_a_plans_paths_start_from_the_directory_and_those_of_the_command_line_from_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Config(plan=Path("a.yaml")).directory == run_plan.Config(plan=Path("a.yaml")).directory == project_path("")
    foreign_plan(folder)
    (folder / "user").mkdir()
    monkeypatch.chdir(folder / "user")
    for directory in (folder, Path("..")):
        main(Config(plan=Path("../plan.yaml"), directory=directory, results_dir=Path("out")))
        assert "0.500 ± 0.000" in (folder / "user/out/tables.md").read_text()
        main(Config(plan=Path("../plan.yaml"), directory=directory))
        assert (folder / "runs/tables/t/results/tables.md").is_file()
        assert [path.name for path in Path().iterdir()] == ["out"]
    with pytest.raises(InputError, match=r"clean_0\.tsv: no such file"):
        main(Config(plan=Path("../plan.yaml"), directory=Path()))


def entry(cell: Cell, wanted: int, *radii: list[float]) -> Entry:
    """Runs of seeds 0, 1, ... with these radii, -1 where a point is not certified."""
    sigma, label = cell.victim.sigma, cell.target_class
    runs = [
        Run(seed, np.array(one), {"victim": {"accuracy": 0.9}}, sigma, label, np.arange(len(one)))
        for seed, one in enumerate(radii)
    ]
    return Entry(cell, wanted, tuple(runs))


def tables(plan: Plan, entries: Entries) -> dict[str, Table]:
    return {table.name: table for table in tables_of(plan.title, frame_of(plan, entries))}


def test_the_mean_over_classes_and_missing_runs() -> None:
    plan = plan_of(
        {
            "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 2,
            "methods": {"macer": [0.5]}, "target_classes": [1, 2], "rows": ["clean", "optimised"],
        }
    )  # fmt: skip
    cells = {(cell.target_class, cell.poison is None): cell for cell in plan.cells()}
    entries = {
        cells[1, True]: entry(cells[1, True], 2, [1.0, 1.0], [0.8, 0.8]),
        cells[1, False]: entry(cells[1, False], 2, [0.5, 0.3], [0.2, -1.0]),
        cells[2, True]: entry(cells[2, True], 2, [0.6, 0.6], [0.4, 0.4]),
        cells[2, False]: entry(cells[2, False], 2, [0.1, 0.1]),
    }
    table = tables(plan, entries)["entries"].text.set_index(["class", "training data"])
    assert list(table.index) == [
        (label, data) for label in ("1", "2", "mean") for data in ("clean", "optimised")
    ]  # fmt: skip
    assert table.loc[("1", "clean"), "ACR"] == "0.900 ± 0.141"
    assert table.loc[("1", "optimised"), "ACR"] == "0.250 ± 0.212"
    assert table.loc[("1", "optimised"), "reduction"].startswith("72.2 % (")
    assert table.loc[("2", "optimised"), "runs"] == "1 of 2" and table.loc[("2", "optimised"), "ACR"] == "0.100"
    # Of the runs that every class has; the reduction compares the one seed that poisoned victims have.
    assert table.loc[("mean", "clean"), "ACR"] == "0.700 ± 0.141"
    assert table.loc[("mean", "optimised"), "ACR"] == "0.250"
    assert table.loc[("mean", "optimised"), "reduction"].startswith("68.8 % (")
    assert table.loc[("mean", "clean"), "certified at σ"] == "0.750 ± 0.354"


def crossed(folder: Path) -> tuple[Plan, Entries]:
    """Two attacks, one of two budgets, and two kinds of victims, with numbers; one entry has no runs."""
    plan = plan_of(
        {
            "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 2,
            "methods": {"macer": [0.5]}, "rows": ["clean", "constant"], "results_dir": str(folder),
            "attacks": {"soba": {"epochs": [1, 5]}, "approxgrad": {}}, "victims": {"slow": {}, "fast": {}},
        }
    )  # fmt: skip
    acr = {"clean": 1.0, "constant": 0.9, "soba_epochs_1": 0.5, "soba_epochs_5": 0.25, "approxgrad": 0.3}
    gradients = {"soba_epochs_1": 99.6, "soba_epochs_5": 12345.0}
    entries = {}
    for cell in plan.cells():
        mean = acr[cell.row] + 0.05 * (cell.victim.variant == "fast") * (1 if cell.row == "clean" else 4)
        found = entry(cell, 2, [mean - 0.1], [mean + 0.1])
        records = {**found.runs[0].records, "poison": {"gradients": gradients.get(cell.row)}}
        entries[cell] = found._replace(runs=tuple(run._replace(records=records) for run in found.runs))
    last = plan.cells()[-1]
    return plan, {**entries, last: entries[last]._replace(runs=())}


def test_the_table_of_entries_has_a_row_per_budget_against_clean_victims_of_the_same_kind(tmp_path: Path) -> None:
    table = tables(*crossed(tmp_path))["entries"].text
    assert list(table["victims"]) == 5 * ["macer, slow"] + 5 * ["macer, fast"]
    shown = table[["training data", "gradients", "ACR", "reduction", "certified at 0"]].to_numpy().tolist()
    percents = [[*row[:3], row[3].partition(" (")[0], row[4]] for row in shown]
    assert percents[:5] == [
        ["clean", "", "1.000 ± 0.141", "", "1.000 ± 0.000"],
        ["constant", "", "0.900 ± 0.141", "10.0 %", "1.000 ± 0.000"],
        ["soba_epochs_1", "100", "0.500 ± 0.141", "50.0 %", "1.000 ± 0.000"],
        ["soba_epochs_5", "12,345", "0.250 ± 0.141", "75.0 %", "1.000 ± 0.000"],
        ["approxgrad", "", "0.300 ± 0.141", "70.0 %", "1.000 ± 0.000"],
    ]
    assert percents[7][3] == f"{100 * (1 - 0.7 / 1.05):.1f} %"
    assert percents[-1][2:] == ["—", "—", "—"]


def test_kinds_of_victims_stand_side_by_side(tmp_path: Path) -> None:
    table = tables(*crossed(tmp_path))["kinds_of_victims"].text
    assert list(table) == ["method", "σ", "class", "training data", "slow", "fast", "fast, ACR below slow"]
    rows = table.set_index("training data")
    assert rows.loc["clean", ["slow", "fast"]].tolist() == ["1.000 ± 0.141", "1.050 ± 0.141"]
    assert rows.loc["constant", "slow"].startswith("0.900 ± 0.141; 10.0 % (")
    # Against clean victims of the same kind.
    assert rows.loc["constant", "fast"].startswith(f"1.100 ± 0.141; {100 * (1 - 1.1 / 1.05):.1f} % (")
    # And against victims of the first kind on the same data.
    assert rows.loc["constant", "fast, ACR below slow"].startswith(f"{100 * (1 - 1.1 / 0.9):.1f} % (")
    assert rows.loc["clean", "fast, ACR below slow"].startswith("-5.0 % (")
    assert rows.loc["approxgrad", ["fast", "fast, ACR below slow"]].tolist() == ["—; —", ""]


def test_poison_stands_against_controls_of_the_same_victims(tmp_path: Path) -> None:
    table = tables(*crossed(tmp_path))["poison_and_controls"].text
    assert list(table) == ["victim_variant", "σ", "class", "training data", "constant"]
    shown = [[*line[:1], line[3], line[4].partition(" (")[0]] for line in table.to_numpy().tolist()]
    assert shown[:3] == [
        ["slow", "soba_epochs_1", f"{100 * (1 - 0.5 / 0.9):.1f} %"],
        ["slow", "soba_epochs_5", f"{100 * (1 - 0.25 / 0.9):.1f} %"],
        ["slow", "approxgrad", f"{100 * (1 - 0.3 / 0.9):.1f} %"],
    ]
    assert [line[0] for line in shown] == 3 * ["slow"] + 2 * ["fast"]  # the last entry was not measured
    assert shown[3][2] == f"{100 * (1 - 0.7 / 1.1):.1f} %"  # against the same kind of victims

    classes = {
        "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 1,
        "methods": {"macer": [0.5]}, "target_classes": [1, 2],
    }  # fmt: skip
    plan = plan_of({**classes, "rows": ["clean", "constant", "optimised"]})
    acr = {("constant", 1): 0.8, ("optimised", 1): 0.4, ("constant", 2): 0.4, ("optimised", 2): 0.6}
    entries = {cell: entry(cell, 1, [acr.get((cell.row, cell.target_class), 1.0)]) for cell in plan.cells()}
    assert texts(tables(plan, entries)["poison_and_controls"]) == [
        ["0.5", "1", "optimised", "50.0 %"],
        ["0.5", "2", "optimised", "-50.0 %"],
    ]
    plan = plan_of({**classes, "rows": ["clean", "optimised"]})
    assert "poison_and_controls" not in tables(plan, {cell: entry(cell, 1, [1.0]) for cell in plan.cells()})


def test_victims_of_another_program_are_a_kind_beside_those_of_the_plan(folder: Path) -> None:
    for name, text in {"clean": FOREIGN, "poisoned": FOREIGN.replace("1.000", "0.250")}.items():
        (folder / f"{name}.tsv").write_text(text)
    theirs = {
        "method": "macer", "victim": "theirs", "sigma": 0.25, "target_class": 8, "architecture": "mnist_cnn",
    }  # fmt: skip
    poison = {"poison": "ready", "poison_variant": "published"}
    plan = plan_of(
        {
            "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "methods": {"macer": [0.25]},
            "rows": ["clean"], "runs": 1, "ready": {"published": "mnist_published"}, "victims": {"ours": {}},
            "foreign": [{**theirs, "files": ["clean.tsv"]}, {**theirs, **poison, "files": ["poisoned.tsv"]}],
        }
    )  # fmt: skip
    ours = {cell: entry(cell, 1, [0.5 if cell.poison else 0.375]) for cell in plan.cells()}
    collect(plan, folder / "store")
    made = tables(plan, {**read_entries(plan, folder / "store"), **ours})
    victims = made["kinds_of_victims"].text.set_index("training data")
    assert victims.loc["clean", ["theirs", "ours"]].tolist() == ["0.375", "0.375"]
    assert victims.loc["published", "theirs"].startswith("0.188; 50.0 % (") and victims.loc["published", "ours"] == (
        "0.500; -33.3 %"  # of one point nothing varies
    )
    assert list(made["entries"].text["training data"]) == ["clean", "published", "clean", "published"]


def test_other_classes_and_visibility_stand_in_the_tables(tmp_path: Path) -> None:
    plan, entries = crossed(tmp_path)
    measured = {"linf": 0.1, "mean_change": 0.08, "l2": 2.0, "l2_over_sigma": 4.0, "beyond_jitter_over_sigma": 3.0}
    measured["common_over_sigma"] = 3.5
    areas = {"brightness": 0.6, "nearest": 0.7, "linear": 0.8, "network": 0.9}
    for cell, of in entries.items():
        runs = []
        for run in of.runs:
            seen = {"visibility": {"measured": {**measured, "auc": areas}}} if cell.poison else {}
            runs.append(run._replace(other_radii=np.array([0.5, -1.0, 1.0, 0.0]), records={**run.records, **seen}))
        entries[cell] = of._replace(runs=tuple(runs))
    made = tables(plan, entries)
    assert made["entries"].text["ACR, other classes"][0] == "0.375 ± 0.000"
    poisons = made["poisons"].text
    assert list(poisons["training data"]) == ["constant", "soba_epochs_1", "soba_epochs_5", "approxgrad"]  # each once
    assert texts(made["poisons"])[0][3:7] == ["0.080", "2.000", "4.000", "3.500"]
    assert texts(made["poisons"])[0][7:] == ["3.000", "0.600", "0.700", "0.800", "0.900"]
    lines = list(csv.DictReader(as_csv(frame_of(plan, entries)).splitlines()))
    assert lines[0]["others_acr_mean"] == "0.3750" and lines[0]["others_certified_accuracy_mean"] == "0.7500"
    assert {line["auc_linear"] for line in lines} == {"", "0.8000"}
    assert "ACR, other classes" not in tables(*crossed(tmp_path))["entries"].text


def test_variants_are_told_apart_in_the_numbers(tmp_path: Path) -> None:
    plan, entries = crossed(tmp_path)
    lines = list(csv.DictReader(as_csv(frame_of(plan, entries)).splitlines()))
    told = {(line["poison"], line["poison_variant"], line["victim_variant"], line["gradients"]) for line in lines}
    assert len(told) == len(plan.cells()) and ("macer", "soba_epochs_1", "fast", "99.6") in told
    assert len({line["entry"] for line in lines}) == len(lines)


def test_transfer_tables_have_poison_in_rows_and_victims_in_columns() -> None:
    plan = plan_of(
        {
            "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 1,
            "methods": {"macer": [0.5], "smoothadv": [0.5]}, "rows": ["clean"],
            "method_transfer": {"sigmas": [0.5], "against": ["macer", "standard"]},
        }
    )  # fmt: skip
    acr = {None: 1.0, "macer": 0.5, "standard": 0.75}
    entries = {
        cell: entry(cell, 1, [acr[cell.poison.against if cell.poison else None]])
        for cell in plan.cells()
        if cell.victim.method == "macer"
    }
    entries |= {cell: entry(cell, 1) for cell in plan.cells() if cell.victim.method == "smoothadv"}
    table = tables(plan, entries)["transfer_methods"]
    assert list(table.text) == ["σ", "class", "training data", "macer", "smoothadv"]
    assert texts(table) == [
        ["0.5", "8", "clean", "1.000", "—"],
        ["0.5", "8", "against macer", "0.500; 50.0 %", "—; —"],
        ["0.5", "8", "against standard", "0.750; 25.0 %", "—; —"],
    ]


def test_a_transfer_table_of_several_classes_ends_with_their_mean() -> None:
    plan = plan_of(
        {
            "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 1,
            "methods": {"macer": [0.5], "smoothadv": [0.5]}, "rows": ["clean"], "target_classes": [8, 3],
            "method_transfer": {"sigmas": [0.5], "against": ["macer"]},
        }
    )  # fmt: skip
    acr = {8: 0.5, 3: 0.25}
    entries = {cell: entry(cell, 1, [acr[cell.target_class] if cell.poison else 1.0]) for cell in plan.cells()}
    table = tables(plan, entries)["transfer_methods"]
    lines = {(line[1], line[2]): [text[:13] for text in line[3:]] for line in texts(table)}
    assert lines == {
        **{(name, "clean"): ["1.000"] * 2 for name in ("8", "3", "mean")},
        ("8", "against macer"): ["0.500; 50.0 %"] * 2,
        ("3", "against macer"): ["0.250; 75.0 %"] * 2,
        ("mean", "against macer"): ["0.375; 62.5 %"] * 2,
    }


def test_transfer_over_architectures_likewise() -> None:
    transfer = {"method": "macer", "sigmas": [0.5], "attacked": ["mlp", "random"], "victims": ["mnist_cnn", "mlp"]}
    plan = plan_of(
        {
            "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 1,
            "architecture_transfer": transfer,
        }
    )  # fmt: skip
    entries = {cell: entry(cell, 1, [0.25 if cell.poison else 1.0]) for cell in plan.cells()}
    table = tables(plan, entries)["transfer_architectures"]
    assert list(table.text) == ["σ", "class", "training data", "mnist_cnn", "mlp"]
    assert texts(table) == [
        ["0.5", "8", "clean", "1.000", "1.000"],
        ["0.5", "8", "made with mlp", "0.250; 75.0 %", "0.250; 75.0 %"],
        ["0.5", "8", "random", "0.250; 75.0 %", "0.250; 75.0 %"],
    ]
    titles = [one.title.split(", ") for one in tables_by_victims(frame_of(plan, entries))]
    assert [title[3] for title in titles] == ["mnist_cnn", "mlp"] and all("victims macer" in title for title in titles)


def test_a_missing_file_of_another_program(folder: Path) -> None:
    plan = foreign_plan(folder)
    (folder / "poisoned.tsv").unlink()
    with pytest.raises(InputError, match=r"poisoned.tsv: no such file"):
        main(Config(plan=plan, directory=folder))


def test_the_data_is_named_as_the_certificates_record_it() -> None:
    """Other data of MNIST's shape is not MNIST; the plan's name stands where no run says another."""
    plan = plan_of(
        {
            "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 1,
            "methods": {"macer": [0.5]}, "rows": ["clean", "constant"], "data_dir": "data/FASHION",
        }
    )  # fmt: skip
    entries = {cell: entry(cell, 1, [0.5]) for cell in plan.cells()}

    def shown(entries: Entries) -> str:
        (table,) = tables_by_victims(frame_of(plan, entries))
        return table.title.partition(", class")[0]

    def recorded(cell: Cell, dataset: str) -> Entry:
        records = {**entries[cell].runs[0].records, "certificate": {"settings": {"dataset": dataset}}}
        return entries[cell]._replace(runs=(entries[cell].runs[0]._replace(records=records),))

    assert shown(entries) == "MNIST"
    of_fashion = {cell: recorded(cell, "FASHION") for cell in entries}
    assert shown(of_fashion) == "FASHION"
    first, second = entries
    lacking = {first: of_fashion[first], second: entries[second]._replace(runs=())}
    assert shown(lacking) == "FASHION"
    assert shown({first: of_fashion[first], second: recorded(second, "KMNIST")}) == "FASHION, KMNIST"


def test_versions_and_run_times_stand_on_the_page(folder: Path) -> None:
    plan = foreign_plan(folder)
    write_json(folder / "runs/tables/t/plan.json", {})
    times = folder / "runs/tables/t/benchmarks/victim/a.tsv"
    times.parent.mkdir(parents=True)
    times.write_text("s\th:m:s\tmax_rss\n7200\t2:00:00\t512\n")
    main(Config(plan=plan, directory=folder, results_dir=folder / "out"))
    page = (folder / "out/tables.html").read_text()
    assert "<h2>Run times</h2>" in page and "<h2>Versions</h2>" in page and "<h2>Plan</h2>" in page
    assert re.search(r"<td>victim</td>\s*<td>1</td>\s*<td>2</td>\s*<td>120</td>\s*<td>512</td>", page)
    assert "table: t" in page and not re.search(r'(src|href)="', page)
