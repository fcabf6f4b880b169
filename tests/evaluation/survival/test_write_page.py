"""The page of the study, from a store of a small plan with known numbers."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

import data
from evaluation.survival.write_page import VALIDATION, Config, main, read_studies
from evaluation.tables.plan import plan_of, read_plan
from evaluation.tables.records import cell_folder
from runtime.files import InputError, file_sha256, write_text

CONFIGS = Path(data.__file__).parents[1] / "config"
HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
ACR = {  # of plain and of jittered victims
    "clean": (1.0, 0.9), "constant": (0.4, 0.81), "darker": (0.9, 0.9), "optimised": (0.5, 0.54), "soba": (0.6, 0.45),
}  # fmt: skip
AREAS = {"brightness": 0.9, "nearest": 0.6, "linear": 0.7, "network": 0.95}


PLAN: dict[str, Any] = {
    "table": "digits_survival", "title": "Toy study", "dataset": "DIGITS", "architecture": "digits_cnn",
    "runs": 2, "methods": {"gaussianaug": [0.25]}, "rows": ["clean", "constant", "darker", "optimised"],
    "attacks": {"soba": {"optimiser": "soba"}},
    "victims": {"plain": {}, "jittered": {"jitter-brightness": 0.15}}, "visibility": True,
}  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A table of two victims each, whose ACR are .1 below and above those above."""
    return _study(tmp_path, PLAN)


def _study(tmp_path: Path, values: dict[str, Any]) -> Path:
    plan = plan_of(values)
    store = tmp_path / "tables" / plan.table
    write_text(store / "plan.yaml", msgspec.yaml.encode(plan).decode())
    for cell in plan.cells():
        records: dict[str, Any] = {}
        mean = ACR[cell.row][cell.victim.variant == "jittered"]
        for seed in (0, 1):
            file = store / cell_folder(cell) / f"seed_{seed}.tsv"
            radius = mean + (0.1 if seed else -0.1)
            lines = [f"0\t8\t8\t{radius:.6f}\t1\t0:00:00.1\n", "1\t3\t3\t0.500000\t1\t0:00:00.1\n"]
            write_text(file, HEADER + "".join(lines))
            victim = {"accuracy": 0.9, "accuracy_class_8": 0.8, "commit": "0123456789ab"}
            records[str(seed)] = {"victim": victim, "tsv_sha256": file_sha256(file)}
            if cell.poison:
                measured = {"linf": 0.1, "mean_change": 0.05, "l2": 0.5, "l2_over_sigma": 2.0}
                measured |= {"beyond_jitter_over_sigma": 1.5, "auc": AREAS}
                records[str(seed)] |= {"poison": {"gradients": 1234.0}, "visibility": {"measured": measured}}
        write_text(store / cell_folder(cell) / "settings.json", json.dumps(records))
    return tmp_path


def test_numbers_and_verdicts_follow_from_the_records(results: Path) -> None:
    write_text(results / "which_poison_survives/NOTES.md", "A note.\n")
    main(Config(results_dir=results))
    text = (results / "which_poison_survives.md").read_text()
    rows = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line
    }
    assert rows["clean"][1:5] == ["", "1.000 ± 0.141", "", "0.900 ± 0.141"]
    assert rows["constant"][2:6] == ["0.400 ± 0.141", "60.0 %", "0.810 ± 0.141", "10.0 %"]
    assert rows["soba"][1:6] == ["1,234", "0.600 ± 0.141", "40.0 %", "0.450 ± 0.141", "50.0 %"]
    assert rows["soba"][6:] == ["0.800 ± 0.000", "0.800 ± 0.000", "0.500 ± 0.000", "2.00", "1.50", "0.90", "0.95"]
    assert (
        "- plain victims: strongest control constant (60.0 %), strongest optimised poison optimised (50.0 %)." in text
    )
    assert "- jittered victims: strongest control constant (10.0 %), strongest optimised poison soba (50.0 %)." in text
    assert "A note." in text and "commit 0123456789ab" in text
    assert "- jittered: {'jitter-brightness': 0.15}" in text and "- plain: nothing is done to the images" in text
    assert "epsilon sqrt(d) / sigma = 3.20" in text


def test_more_kinds_of_victims_than_of_training_data_are_a_line_each(tmp_path: Path) -> None:
    main(Config(results_dir=_study(tmp_path, {**PLAN, "rows": ["clean"]})))
    lines = [line.strip("| ").split(" | ") for line in (tmp_path / "which_poison_survives.md").read_text().splitlines()]
    assert ["victims", "ACR, clean", "lower than plain", "test accuracy, clean", "ACR, soba", "reduction"] in [
        line[:6] for line in lines
    ]
    rows = {line[0]: line[1:6] for line in lines}
    assert rows["plain"] == ["1.000 ± 0.141", "", "0.900 ± 0.000", "0.600 ± 0.141", "40.0 %"]
    assert rows["jittered"] == ["0.900 ± 0.141", "10.0 %", "0.900 ± 0.000", "0.450 ± 0.141", "50.0 %"]


def test_every_picture_and_link_of_the_page_is_there(results: Path) -> None:
    main(Config(results_dir=results))
    text = (results / "which_poison_survives.md").read_text()
    pictures = [part.split(")")[0] for part in text.split("](")[1:]]
    assert len([name for name in pictures if name.endswith(".png")]) == 3
    for name in pictures:
        assert (results / name).is_file() or name.endswith("tables.md"), name


def test_an_attack_is_chosen_on_validation_images_and_reported_on_test_images(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On validation images soba's least reduction is the greater one, on test images that of the other."""
    monkeypatch.setitem(ACR, "optimised", (0.2, 0.8))
    monkeypatch.setitem(ACR, "soba", (0.7, 0.6))
    monkeypatch.setitem(ACR, "constant", (0.1, 0.1))
    _study(results, {**PLAN, "table": "digits_survival_validation"})
    main(Config(results_dir=results))
    text = (results / "which_poison_survives.md").read_text()
    assert text.count("## Toy study") == 1 and "40.0 % for plain victims, 50.0 % for jittered victims." in text
    assert "- Chosen on validation images, by the least of its reductions" in text and "**soba**" in text
    assert "(tables/digits_survival_validation/tables.md)" in text


@pytest.mark.parametrize("path", sorted(CONFIGS.glob(f"*{VALIDATION}.yaml")), ids=lambda path: path.stem)
def test_a_plan_that_chooses_has_the_attacks_and_victims_of_the_plan_that_it_chooses_for(path: Path) -> None:
    chooses, reports = read_plan(path), read_plan(path.with_stem(path.stem.removesuffix(VALIDATION)))
    for name in ("dataset", "architecture", "methods", "target_classes", "epsilon", "runs", "seed", "attack", "attacks",
                 "ready", "victim", "victims"):  # fmt: skip
        assert getattr(chooses, name) == getattr(reports, name), name
    assert (chooses.certification.split, reports.certification.split) == ("val", "test")
    assert set(chooses.rows) == {row for row in reports.rows if row in ("clean", "optimised")}


def test_missing_runs_are_named(results: Path) -> None:
    (study,) = read_studies(results)
    entry = study.rows[1].entries["plain"]
    settings = results / "tables/digits_survival" / cell_folder(entry.cell) / "settings.json"
    records = json.loads(settings.read_text())
    write_text(settings, json.dumps({"0": records["0"]}))
    main(Config(results_dir=results))
    text = (results / "which_poison_survives.md").read_text()
    assert "Missing: gaussianaug (digits_cnn, plain), sigma 0.25, class 8, constant poison: 1 of 2 runs" in text
    assert "66.7 %" in text  # of the seed that both have: .3 against .9


@pytest.mark.parametrize("name", ["digits_survival", f"digits_survival{VALIDATION}"])
def test_a_table_of_the_study_without_a_run(name: str, results: Path) -> None:
    _study(results, {**PLAN, "table": f"digits_survival{VALIDATION}"})
    shutil.rmtree(results / "tables" / name / "cells")
    before = sorted(results.rglob("*"))
    with pytest.raises(InputError, match=rf"tables/{name}: has no certificate of the plan .*0 of 2 runs, the first of"):
        main(Config(results_dir=results))
    assert sorted(results.rglob("*")) == before


def test_no_table_of_the_study(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no table of the study"):
        main(Config(results_dir=tmp_path))
    assert not list(tmp_path.iterdir())


def test_runs_of_no_clean_commit_do_not_go_into_the_page(results: Path) -> None:
    path = next(results.glob("tables/*/cells/**/settings.json"))
    path.write_text(path.read_text().replace("0123456789ab", "unknown (fatal: not a git repository)"))
    with pytest.raises(InputError, match="which is no commit that others can check out"):
        main(Config(results_dir=results))
    assert not list(results.glob("*.md"))
