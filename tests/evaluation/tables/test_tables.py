"""Tables from certificates: numbers, links, what is missing, and certificates written by other programs."""

import base64
import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from evaluation.tables import run_plan
from evaluation.tables.figures import _at
from evaluation.tables.formats import as_csv
from evaluation.tables.layout import Entries, tables_by_training_data, tables_of
from evaluation.tables.make_tables import Config, draw_figures, main
from evaluation.tables.plan import Cell, Plan, Victim, plan_of
from evaluation.tables.records import Entry, Run, collect, read_entries, read_radii
from randomized_smoothing_certification.certificate_file import certified_curve
from runtime.files import InputError
from runtime.provenance import project_path

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


def test_certificates_of_another_program_fill_the_tables(folder: Path) -> None:
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=folder / "out"))
    clean = [(1.0 + 0.5) / 4, (1.0 + 0.9) / 4]
    poisoned = (0.25 + 0.5) / 4
    reduction = 100 * (1 - poisoned / clean[0])  # the one poisoned run against the clean one of its seed
    markdown = (folder / "out/tables.md").read_text()
    numbers = f"{np.mean(clean):.3f} ± {np.std(clean, ddof=1):.3f}"
    for text in (numbers, f"{poisoned:.3f}", f"{reduction:.1f} %", "0.500 ± 0.000", "0.980"):
        assert text in markdown
    assert "Missing" not in markdown
    with (folder / "out/tables.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["poison"], second["poison"]) == ("clean", "macer")
    assert float(first["acr_mean"]) == pytest.approx(np.mean(clean), abs=1e-4)
    assert float(second["reduction_percent"]) == pytest.approx(reduction, abs=0.1)
    assert (first["runs"], first["points"], first["certified_accuracy_mean"]) == ("2", "4", "0.5000")


def test_every_page_says_once_what_plus_minus_is(folder: Path, capsys: pytest.CaptureFixture) -> None:
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=folder / "out"))
    pages = {name: (folder / "out" / f"tables.{name}").read_text() for name in ("md", "html", "tex")}
    captions = re.findall(r"\\caption\{(.*)\}", pages["tex"])
    assert captions and all(r"$\pm$ is the sample standard deviation over victims." in one for one in captions)
    for page in (pages["md"], pages["html"], capsys.readouterr().out):
        assert page.count("± is the sample standard deviation over victims") == 1


def test_every_link_of_the_tables_leads_to_a_file(folder: Path) -> None:
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=folder / "out"))
    links = re.findall(r"\]\((.*?)\)", (folder / "out/tables.md").read_text())
    assert len(links) >= 5
    for link in links:
        assert (folder / "out" / link).is_file(), link
    copied = next(link for link in links if "macer_sigma_0.25_class_8" in link and link.endswith("seed_0.tsv"))
    assert (folder / "out" / copied).read_text() == (folder / "poisoned.tsv").read_text()
    for link in re.findall(r"\\href\{run:(.*?)\}", (folder / "out/tables.tex").read_text()):
        assert (folder / "out" / link).is_dir(), link


def test_the_page_holds_what_it_links_to(folder: Path) -> None:
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=folder / "out"))
    page = (folder / "out/tables.html").read_text()
    links = re.findall(r'href="(.*?)"', page)
    held = [link for link in links if link.startswith("data:")]
    within = {link[1:] for link in links if link.startswith("#")}
    assert within == set(re.findall(r'id="(.*?)"', page)) and within
    assert all(link.startswith(("data:", "#")) for link in links)
    contents = [base64.b64decode(link.partition("base64,")[2]).decode() for link in held]
    assert contents.count((folder / "clean_0.tsv").read_text()) == 1


def test_tables_are_not_made_again_of_nothing(folder: Path) -> None:
    with pytest.raises(InputError, match="has no certificate of the plan"):
        main(Config(plan=write_plan(folder, methods={"macer": [0.25]}), from_results=True, results_dir=folder / "out"))
    assert not (folder / "out").exists()


def test_latex_escapes_and_aligns(folder: Path) -> None:
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=folder / "out"))
    latex = (folder / "out/tables.tex").read_text()
    assert r"Title\_1" in latex and r"$\pm$" in latex and r"\%" in latex and "±" not in latex
    tabular = re.search(r"\\begin\{tabular\}\{(l+)\}(.*?)\\end\{tabular\}", latex, re.DOTALL)
    assert tabular is not None
    for line in tabular[2].splitlines():
        if line.endswith(r"\\"):
            assert line.count(" & ") == len(tabular[1]) - 1


def test_figures_are_drawn(folder: Path) -> None:
    main(Config(plan=foreign_plan(folder), directory=folder, results_dir=folder / "out"))
    names = {path.name for path in (folder / "out/figures").iterdir()}
    assert names == {"acr.png", "certified_accuracy_macer_sigma_0.25_class_8.png", "radii_macer_sigma_0.25_class_8.png"}


def test_an_entry_without_runs_is_a_dash_and_is_named(folder: Path, capsys: pytest.CaptureFixture) -> None:
    values = yaml.safe_load(foreign_plan(folder).read_text())
    plan = write_plan(
        folder, methods={"gaussianaug": [0.5]}, rows=["clean", "optimised"], runs=3, foreign=values["foreign"]
    )
    main(Config(plan=plan, directory=folder))
    text = (folder / "runs/tables/t/results/tables.md").read_text()
    assert "| gaussianaug | 0.5 | 8 | — | — | — |" in text
    assert "gaussianaug (mnist_cnn), sigma 0.5, class 8, clean data: 0 of 3 runs" in text
    assert "gaussianaug poison made with mnist_cnn: 0 of 3 runs" in text
    assert "0 of 3 runs" in capsys.readouterr().out


def test_a_table_of_nothing_but_dashes_is_refused_and_nothing_is_made(folder: Path) -> None:
    own = {"methods": {"gaussianaug": [0.5]}, "rows": ["clean", "optimised"], "runs": 3}
    first = r"gaussianaug \(mnist_cnn\), sigma 0.5, class 8, clean data: 0 of 3 runs, the first of 2 entries"
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
    records = {"victim": {"accuracy": 0.9}}
    runs = [Run(seed, np.array(one), records, 1, Path("a.tsv")) for seed, one in enumerate(radii)]
    return Entry(cell, wanted, tuple(runs))


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
        cells[2, True]: entry(cells[2, True], 2, [0.6, 0.6], [0.4, 0.4]),
        cells[1, False]: entry(cells[1, False], 2, [0.5, 0.3], [0.2, -1.0]),
        cells[2, False]: entry(cells[2, False], 2, [0.1, 0.1]),
    }
    (table,) = tables_of(plan, entries)
    rows = [[item.text for item in row] for row in table.rows]
    assert [row[2] for row in rows] == ["1", "2", "mean"]
    assert rows[0][3:6] == ["0.900 ± 0.141", "0.250 ± 0.212", "72.2 %"]
    assert rows[1][4] == "0.100 (1 of 2 runs)"
    # Of the runs that every class has; the reduction compares the one seed that poisoned victims have.
    assert rows[2][3:6] == ["0.700 ± 0.141", "0.250 (1 of 2 runs)", "68.8 %, 1 seed"]


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


def test_the_table_of_attacks_has_a_row_per_budget_against_clean_victims_of_the_same_kind(tmp_path: Path) -> None:
    tables = {table.name: table for table in tables_of(*crossed(tmp_path))}
    assert "methods" not in tables  # every row of it would lack its poisoned entry
    rows = [[item.text for item in row] for row in tables["attacks"].rows]
    assert [row[0] for row in rows] == 4 * ["macer, slow"] + 4 * ["macer, fast"]
    assert [row[3:] for row in rows[:4]] == [
        ["none: clean", "", "", "1.000 ± 0.141", "", "1.000 ± 0.000"],
        ["soba", "1", "100", "0.500 ± 0.141", "50.0 %", "1.000 ± 0.000"],
        ["soba", "5", "12,345", "0.250 ± 0.141", "75.0 %", "1.000 ± 0.000"],
        ["approxgrad", "", "—", "0.300 ± 0.141", "70.0 %", "1.000 ± 0.000"],
    ]
    assert rows[5][7] == f"{100 * (1 - 0.7 / 1.05):.1f} %"
    assert rows[-1][6:] == ["—", "—", "—"]


def test_kinds_of_victims_stand_side_by_side(tmp_path: Path) -> None:
    table = next(table for table in tables_of(*crossed(tmp_path)) if table.name == "victims")
    rows = {row[3].text: [item.text for item in row[4:]] for row in table.rows}
    assert table.header[4:] == (
        "ACR, slow", "certified accuracy, slow", "reduction, slow", "ACR, fast", "certified accuracy, fast",
        "reduction, fast", "ACR within ± of slow", "certified accuracy within ± of slow",
    )  # fmt: skip
    assert rows["clean"] == [
        "1.000 ± 0.141", "1.000 ± 0.000", "", "1.050 ± 0.141", "1.000 ± 0.000", "", "fast: yes (+0.35 std)",
        "fast: yes",
    ]  # fmt: skip
    of_slow, of_fast = (float(rows["constant"][column].split(" ")[0]) for column in (0, 3))
    assert rows["constant"][2] == f"{100 * (1 - of_slow):.1f} %"
    assert rows["constant"][5] == f"{100 * (1 - of_fast / 1.05):.1f} %"  # against clean victims of the same kind
    assert rows["constant"][6:] == ["fast: no (+1.41 std)", "fast: yes"]
    assert rows["approxgrad"][3:] == ["—", "—", "—", "fast: —", "fast: —"]


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
    entries = {**read_entries(plan, folder / "store"), **ours}
    tables = {table.name: table for table in tables_of(plan, entries)}
    victims = tables["victims"]
    shown = [victims.header.index(name) for name in ("training data", "ACR, theirs", "ACR, ours", "reduction, theirs")]
    assert [[row[column].text for column in shown] for row in victims.rows] == [
        ["clean", "0.375", "0.375", ""], ["published", "0.188", "0.500", "50.0 %"],
    ]  # fmt: skip
    assert [row[3].text for row in tables["attacks"].rows] == ["none: clean", "published"]


def test_other_classes_and_visibility_stand_in_the_tables(tmp_path: Path) -> None:
    plan, entries = crossed(tmp_path)
    measured = {"linf": 0.1, "mean_change": 0.08, "l2": 2.0, "l2_over_sigma": 4.0, "beyond_jitter_over_sigma": 3.0}
    areas = {"brightness": 0.6, "nearest": 0.7, "linear": 0.8, "network": 0.9}
    for cell, of in entries.items():
        runs = []
        for run in of.runs:
            seen = {"visibility": {"measured": {**measured, "auc": areas}}} if cell.poison else {}
            runs.append(run._replace(other_radii=np.array([0.5, -1.0, 1.0, 0.0]), records={**run.records, **seen}))
        entries[cell] = of._replace(runs=tuple(runs))
    tables = {table.name: table for table in tables_of(plan, entries)}
    victims = tables["victims"]
    column = victims.header.index("ACR of the other classes, slow")
    assert victims.rows[0][column].text == "0.375 ± 0.000"
    poisons = [[item.text for item in row] for row in tables["poisons"].rows]
    assert [row[3] for row in poisons] == ["constant", "soba_epochs_1", "soba_epochs_5", "approxgrad"]  # each once
    assert poisons[0][4:] == ["0.080", "2.000", "4.000", "3.000", "0.600", "0.700", "0.800", "0.900"]
    lines = list(csv.DictReader(as_csv(entries).splitlines()))
    assert lines[0]["others_acr_mean"] == "0.3750" and lines[0]["others_certified_accuracy_mean"] == "0.7500"
    assert {line["auc_linear"] for line in lines} == {"", "0.8000"}


def test_variants_are_told_apart_in_the_numbers(tmp_path: Path) -> None:
    plan, entries = crossed(tmp_path)
    lines = list(csv.DictReader(as_csv(entries).splitlines()))
    told = {(line["poison"], line["poison_variant"], line["victim_variant"], line["gradients"]) for line in lines}
    assert len(told) == len(plan.cells()) and ("macer", "soba_epochs_1", "fast", "99.6") in told
    plain = Cell(Victim("macer", 0.5, "mnist_cnn"), 8, None)
    assert "variant" not in as_csv({plain: entry(plain, 1, [0.5])})


def test_acr_is_drawn_against_gradients(tmp_path: Path) -> None:
    plan, entries = crossed(tmp_path)
    draw_figures(plan, entries, tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {name for name in plan.figures() if not name.startswith("images_")}
    assert {f"acr_against_gradients_macer_mnist_cnn_sigma_0.5_{kind}_class_8.png" for kind in ("slow", "fast")} <= drawn


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
    table = next(table for table in tables_of(plan, entries) if "transfer" in table.name)
    assert table.header == ("training data", "macer", "smoothadv")
    assert [[item.text for item in row] for row in table.rows] == [
        ["clean", "1.000", "—"],
        ["against macer", "0.500 (50.0 %)", "—"],
        ["against standard", "0.750 (25.0 %)", "—"],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FOREIGN.replace("radius", "size"), "has no column 'radius'"),
        (FOREIGN.replace("0.500", "nan"), "line 5 has the radius nan"),
        (FOREIGN.replace("0.500", "-0.1"), r"line 5 has the radius -0.1"),
        (FOREIGN.replace("0.500", "half"), "line 5 is damaged"),
        (FOREIGN[: FOREIGN.index("60\t8") + 4], "line 5 is damaged"),
        (FOREIGN.replace("\t8\t", "\t7\t"), "has no point of class 8"),
        ("", "has no point, it is empty"),
    ],
)
def test_damaged_certificates_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_radii(path, 8)


def test_a_missing_file_of_another_program(folder: Path) -> None:
    plan = foreign_plan(folder)
    (folder / "poisoned.tsv").unlink()
    with pytest.raises(InputError, match=r"poisoned.tsv: no such file"):
        main(Config(plan=plan, directory=folder))


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("radius\tpredict\tlabel\textra\n0.3\t8\t8\tx\n0.4\t1\t8\tx\n")
    assert read_radii(path, 8)[0].tolist() == [0.3, -1.0]


def test_the_curve_is_the_share_of_points_certified_at_each_radius() -> None:
    radii = np.array([-1.0, 0.0, 0.5, 0.5, 1.0])
    at = np.array([0.0, 0.25, 0.5, 0.500001, 1.0, 1.1])
    expected = [np.mean(radii >= radius) for radius in at]
    np.testing.assert_allclose(_at(at, certified_curve(radii)), expected)


def test_the_data_is_named_as_the_certificates_record_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other data of MNIST's shape is not MNIST; the plan's name stands where no run says another."""
    titles = []
    for draw in ("save_curves", "save_radii", "save_acr_bars"):
        monkeypatch.setattr(f"evaluation.tables.make_tables.{draw}", lambda path, values, title: titles.append(title))

    def shown(plan: Plan, entries: Entries) -> list[str]:
        titles.clear()
        draw_figures(plan, entries, folder)
        return [table.title for table in tables_by_training_data(plan, entries)][:1] + titles

    plan = plan_of(
        {
            "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 1,
            "methods": {"macer": [0.5]}, "rows": ["clean", "constant"], "data_dir": "data/FASHION",
        }
    )  # fmt: skip
    entries = {cell: entry(cell, 1, [0.5]) for cell in plan.cells()}
    assert all(title.startswith("MNIST") for title in shown(plan, entries))

    def recorded(cell: Cell, dataset: Any) -> Entry:
        records = {**entries[cell].runs[0].records, "certificate": {"settings": {"dataset": dataset}}}
        return entries[cell]._replace(runs=(entries[cell].runs[0]._replace(records=records),))

    of_fashion = {cell: recorded(cell, "FASHION") for cell in entries}
    assert all(title.startswith("FASHION") and "MNIST" not in title for title in shown(plan, of_fashion))
    first, second = entries
    some = {first: of_fashion[first], second: entries[second]}
    assert all(title.startswith("FASHION") for title in shown(plan, some))
    lacking = {first: of_fashion[first], second: entries[second]._replace(runs=())}
    assert all(title.startswith("FASHION") for title in shown(plan, lacking))
    both = {first: of_fashion[first], second: recorded(second, "KMNIST")}
    assert all(title.startswith("FASHION, KMNIST") for title in shown(plan, both))
    assert all(title.startswith("MNIST") for title in shown(plan, {cell: recorded(cell, 3) for cell in entries}))
    monkeypatch.undo()
    draw_figures(plan, {cell: recorded(cell, r"costs $\no$ more") for cell in entries}, folder)  # no formula
