"""The overview keeps every entry of every plan; claims get their numbers and verdicts from the stores."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import yaml

from evaluation.tables.claims import (
    Claim,
    Selection,
    ShownNumber,
    claims_page,
    claims_table,
    judged,
    read_claims,
    shown_numbers,
    verdict,
)
from evaluation.tables.plan import Plan, plan_of
from evaluation.tables.records import points_table, read_entries
from evaluation.write_results import MARKS, Config, main, overview, read_frames, with_headlines
from randomized_smoothing_certification.certificate_file import Point
from runtime.files import InputError, read_text, write_json, write_text
from runtime.provenance import require_clean_commits
from runtime.store import Store, read_store, write_store

PLAIN: dict[str, Any] = {
    "table": "plain", "title": "Plain", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 3,
    "methods": {"macer": [0.5]}, "rows": ["clean", "constant", "optimised"],
}  # fmt: skip
CROSSED = {**PLAIN, "table": "crossed", "attacks": {"soba": {"epochs": [1, 5]}}, "victims": {"slow": {}, "fast": {}}}
ABOUT = {"command": "python x.py", "commit": "0123456789ab", "backend": "jax", "machine": "x86_64"}


def write_plan(results: Path, values: dict[str, Any]) -> Plan:
    """A plan's store. The first entry has the radius 1, each later one a tenth less, all have 20 points."""
    plan, tables = plan_of(values), []
    records: dict[str, Any] = {}
    for number, cell in enumerate(plan.cells()):
        for seed in plan.seeds:
            radius = 1 - number / 10 + seed / 100
            label = cell.target_class
            points = [Point(idx, label, label, f"{radius + idx / 1000:.6f}", 1, "0:00:01") for idx in range(20)]
            tables.append(points_table(cell.key, seed, points))
            spent = {"poison": {"gradients": 100.0 + number}} if cell.poison and cell.poison.variant else {}
            victim = {**ABOUT, "accuracy": 0.99 - number / 100}
            records.setdefault(cell.key, {})[str(seed)] = {"victim": victim, **spent}
    write_store(results / plan.table, Store(pd.concat(tables), records))
    write_text(results / plan.table / "plan.yaml", msgspec.yaml.encode(plan).decode())
    return plan


def write_claims(results: Path, *claims: dict[str, Any]) -> list[Claim]:
    write_text(results / "claims.yaml", yaml.safe_dump(list(claims)))
    return read_claims(results / "claims.yaml")


def claim_of(**values: Any) -> dict[str, Any]:
    return {"claim": "It falls.", "source": "1902.02918", "paper": "all", "here": "reduced", **values}


def test_a_store_without_its_plan_is_named(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAIN)
    write_plan(tmp_path, CROSSED)
    (tmp_path / "crossed/plan.yaml").unlink()
    with pytest.raises(InputError, match=r"crossed: has a store and no plan\.yaml; fetch it"):
        read_frames(tmp_path)


def test_the_rows_of_a_plan_do_not_depend_on_other_plans(tmp_path: Path) -> None:
    def rows() -> list[dict[str, str]]:
        return list(csv.DictReader(overview(tmp_path, read_frames(tmp_path), [])["summary.csv"].splitlines()))

    plain = write_plan(tmp_path, PLAIN)
    before = rows()
    crossed = write_plan(tmp_path, CROSSED)
    after = rows()
    assert len(before) == len(plain.cells()) and len(after) == len(plain.cells()) + len(crossed.cells())
    assert [row for row in after if row["table"] == "plain"] == before
    names = ("table", "method", "sigma", "target_class", "poison", "poison_variant", "victim_variant")
    assert len({tuple(row[name] for name in names) for row in after}) == len(after)
    acr = {
        cell: np.mean([run.acr for run in one.runs])
        for cell, one in read_entries(crossed, tmp_path / "crossed").items()
    }
    (row,) = (row for row in after if row["poison_variant"] == "soba_epochs_5" and row["victim_variant"] == "fast")
    (cell,) = (cell for cell in acr if cell.row == "soba_epochs_5" and cell.victim.variant == "fast")
    assert float(row["acr_mean"]) == pytest.approx(acr[cell], abs=1e-4)
    assert row["gradients"] == f"{100 + list(acr).index(cell)}.0" and row["commit"] == ABOUT["commit"]
    assert row["tsv"] == "crossed/points.csv.xz" and row["entry"] == cell.key


def test_the_page_names_every_plan_and_how_it_was_measured(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAIN)
    write_text(tmp_path / "NOTES.md", "## What a person says\n")
    page = overview(tmp_path, read_frames(tmp_path), [])["README.md"]
    assert "| [plain](plain/tables.md) | Plain | commit 0123456789ab; jax; x86_64;" in page
    assert "## What a person says" in page and "test points 20" in page


def test_verdicts_follow_from_the_intervals() -> None:
    claim = msgspec.convert(claim_of(above=30), Claim)
    over, across, under = (ShownNumber("", low, high) for low, high in ((31, 40), (20, 40), (10, 20)))
    assert verdict(claim, [over, over]) == "confirmed"
    assert verdict(claim, [over, across]) == "partly confirmed (of 2: 1 hold, 1 undecided)"
    assert verdict(claim, [over, across, under]) == "mixed (of 3: 1 hold, 1 on the other side, 1 undecided)"
    assert verdict(claim, [across, under]) == "not confirmed (of 2: 1 on the other side, 1 undecided)"
    assert verdict(claim, [across]) == "not confirmed (undecided)"
    assert verdict(claim, [under]) == "not confirmed (on the other side)"
    assert verdict(claim, []) == "not measured"
    of_one_victim = ShownNumber("0.5", -np.inf, np.inf)
    assert verdict(msgspec.convert(claim_of(equals=0.4), Claim), [of_one_victim]) == "not confirmed (undecided)"
    assert verdict(msgspec.convert(claim_of(below=30), Claim), [under]) == "confirmed"
    assert verdict(msgspec.convert(claim_of(below=30), Claim), [across]) == "not confirmed (undecided)"
    assert verdict(msgspec.convert(claim_of(equals=25), Claim), [across]) == "consistent"
    assert verdict(msgspec.convert(claim_of(equals=25), Claim), [over]) == "not confirmed (on the other side)"
    assert verdict(msgspec.convert(claim_of(), Claim), [over]) == "(observation)"


def test_a_claims_numbers_are_those_of_the_store(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAIN)
    frames = read_frames(tmp_path)
    acr = {"clean": 1.0195, "constant": 0.9195, "optimised": 0.8195}

    def of(**values: Any) -> ShownNumber:
        (one,) = shown_numbers(Selection(folder="plain", **values), frames)
        return one

    for data, against in (("optimised", "clean"), ("optimised", "constant"), ("constant", "clean")):
        found = of(where={"data": data}, against=against)
        percent = 100 * (1 - acr[data] / acr[against])
        assert found.text.startswith(f"{percent:.1f} % (") and found.low < percent < found.high
    found = of(where={"data": "clean"}, of="acr")
    assert found.text.startswith("1.02") and found.low < acr["clean"] < found.high
    assert of(where={"data": "optimised"}, of="accuracy_loss").text == "2.0 points (2.0 to 2.0)"
    write_plan(tmp_path, {**PLAIN, "table": "several", "target_classes": [8, 3], "rows": ["clean", "constant"]})
    write_plan(tmp_path, {**PLAIN, "table": "runs", "attacks": {"soba": {"seed": [0, 1]}}})
    frames = read_frames(tmp_path)
    acr_of = frames["runs"].set_index("data")["acr_mean"]
    (found,) = shown_numbers(Selection(folder="runs", where={"data": "soba"}, of="acr"), frames)  # over two attack runs
    assert found.high - found.low > 10 * abs(acr_of["soba_seed_0"] - acr_of["soba_seed_1"]) > 0
    with pytest.raises(
        InputError, match="claims: soba in runs has several attack runs; name one"
    ):  # which of its runs?
        shown_numbers(Selection(folder="runs", where={"data": "constant"}, against="soba"), frames)
    by_class = Selection(folder="several", where={"data": "constant"}, against="clean", of="accuracy_loss")
    assert [one.text[:3] for one in shown_numbers(by_class, frames)] == ["1.0"] * 3  # class 8, class 3, both
    with pytest.raises(InputError, match=r"claims: plain has no measured entry \{'data': 'halves'\}"):
        of(where={"data": "halves"})
    with pytest.raises(InputError, match="claims: plain has no column 'colour'"):
        of(where={"colour": "red"})
    with pytest.raises(InputError, match="claims: nothing has no"):
        shown_numbers(Selection(folder="nothing", where={"data": "clean"}), frames)


def test_a_number_that_is_not_judged_does_not_change_the_verdict(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAIN)
    entries = [{"folder": "plain", "where": {"data": "optimised"}, "name": "poison, sigma {sigma}"},
               {"folder": "plain", "where": {"data": "clean"}, "of": "acr", "judged": False, "name": "of clean data"},
    ]  # fmt: skip
    claims = write_claims(tmp_path, claim_of(entries=entries, above=10), claim_of(claim="Nobody looked.", above=1))
    frames = read_frames(tmp_path)
    first, second = claims_table(judged(claims, frames)).splitlines()[2:]
    assert first == "| [It falls.](claims.md#claim-1) | 1902.02918 | confirmed |"
    assert second == "| [Nobody looked.](claims.md#claim-2) | 1902.02918 | not measured |"
    page = claims_page(judged(claims, frames))
    settings = "Our setting: reduced.\n\nThe setting of 1902.02918: all."
    assert f"## Claim 1\n\n**It falls.**\n\nVerdict: confirmed.\n\n{settings}\n\n| what |" in page
    assert "\n| poison, sigma 0.5 | ACR lower by | [19.6 % (" in page
    assert (
        "](plain/tables.md) | 3 victims, 1 attack run, 20 test points |\n| of clean data (not judged) | ACR | [1.02"
        in page
    )
    assert page.endswith(f"**Nobody looked.**\n\nNot measured.\n\n{settings}")


def test_our_own_questions_stand_apart_and_have_no_setting_of_a_paper(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAIN)
    claims = write_claims(tmp_path, {"claim": "Ours.", "here": "tried"}, claim_of())
    frames = read_frames(tmp_path)
    pages = overview(tmp_path, frames, judged(claims, frames))
    papers, ours = pages["README.md"].partition("## Claims of the papers")[2].split("## Our own questions")
    assert (
        "| claim | paper | verdict |" in papers and "[It falls.](claims.md#claim-1)" in papers and "Ours." not in papers
    )
    assert "| question | verdict |" in ours and "| [Ours.](claims.md#question-1) | not measured |" in ours
    of_papers, questions = pages["claims.md"].split("## Question 1")
    assert "The setting of 1902.02918: all." in of_papers and questions.endswith("Our setting: tried.\n")


def test_a_claim_is_not_judged_by_the_runs_that_are_there_where_others_are_missing(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAIN)
    store = read_store(tmp_path / "plain")
    (lost,) = (entry for entry in store.records if "constant" in entry)
    records = {entry: of_entry for entry, of_entry in store.records.items() if entry != lost}
    write_store(tmp_path / "plain", Store(store.points[store.points["entry"] != lost], records))
    with pytest.raises(InputError, match=r"claims: plain has no measured entry .*, or lacks a run of it"):
        shown_numbers(Selection(folder="plain", where={"data": ["constant", "optimised"]}), read_frames(tmp_path))


@pytest.mark.parametrize("of", ["acr", "accuracy_loss"])
def test_attack_runs_that_lack_different_victims_have_no_common_interval(of: Any, tmp_path: Path) -> None:
    write_plan(tmp_path, {**PLAIN, "attacks": {"soba": {"seed": [0, 1]}}})
    store = read_store(tmp_path / "plain")
    lost = {entry: "02"["soba_seed_1" in entry] for entry in store.records if "soba_seed" in entry}
    assert len(lost) == 2
    records = {
        entry: {seed: one for seed, one in by_seed.items() if seed != lost.get(entry)}
        for entry, by_seed in store.records.items()
    }
    seeds = store.points["seed"].astype(int).astype(str)
    write_store(tmp_path / "plain", Store(store.points[seeds != store.points["entry"].map(lost)], records))
    with pytest.raises(InputError, match=r"claims: plain has no measured entry .*, or lacks a run of it"):
        shown_numbers(Selection(folder="plain", where={"data": "soba"}, of=of), read_frames(tmp_path))


@pytest.mark.parametrize("of", ["certified", "unattacked", "median"])
def test_a_number_that_a_folder_does_not_tell_is_one_line(of: str, tmp_path: Path) -> None:
    write_plan(tmp_path, PLAIN)
    with pytest.raises(InputError, match=f"claims: plain has no number {of!r}"):
        shown_numbers(msgspec.convert({"folder": "plain", "of": of}, Selection), read_frames(tmp_path))


def test_an_unknown_end_of_a_median_is_open() -> None:
    row = {"entry": "toy", "median": 4.0, "median_low": np.nan, "median_high": np.nan, "points": 5.0}
    (found,) = shown_numbers(Selection(folder="labels", of="median"), {"labels": pd.DataFrame([row])})
    assert (found.low, found.high, found.text) == (-np.inf, np.inf, "4 (-inf to inf)")


@pytest.mark.parametrize("marks", [MARKS[::-1], MARKS[:1], (MARKS[0], *MARKS), (*MARKS, *MARKS)])
def test_a_page_of_other_marks_is_refused(marks: tuple[str, ...], tmp_path: Path) -> None:
    write_plan(tmp_path, PLAIN)
    found = judged(write_claims(tmp_path, claim_of()), read_frames(tmp_path))
    with pytest.raises(InputError, match="must have <!-- claims: begin --> and then <!-- claims: end -->, each once"):
        with_headlines("\n".join(marks), found)


def test_headlines_are_written_between_their_marks(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAIN)
    entries = [
        {"folder": "plain", "where": {"data": data}, "headline": f"{data}, {{method}}"}
        for data in ("optimised", "constant")
    ]
    detail = {"folder": "plain", "where": {"data": "clean"}, "of": "acr"}
    claims = write_claims(
        tmp_path, claim_of(entries=[*entries, detail], headline="**It\n falls.**"), claim_of(entries=[detail], above=0)
    )
    found, page = judged(claims, read_frames(tmp_path)), f"before\n{MARKS[0]}\nstale\n{MARKS[1]}\nafter\n"
    written = with_headlines(page, found)
    assert written.startswith("before\n") and written.endswith("\nafter\n") and "stale" not in written
    first, second = (line for line in written.splitlines() if "](results/plain/tables.md)" in line)
    link = "[Claim 1](results/claims.md#claim-1)"
    assert first.startswith(f"| **It falls.** *{link}.* | optimised, MACER | [19.6 % (")
    bounded = write_claims(tmp_path, claim_of(entries=entries, headline="It falls.", above=10))
    assert f"| It falls. *{link}, more than 10 %: partly confirmed (of 2: " in with_headlines(
        page, judged(bounded, read_frames(tmp_path))
    )
    assert first.endswith("](results/plain/tables.md) | 3 victims, 1 attack run, 20 test points |")
    assert second.startswith("|  | constant, MACER | [9.8 % (") and second.endswith("| 3 victims, 20 test points |")
    assert with_headlines(written, found) == written
    assert with_headlines("no marks", found) == "no marks"


@pytest.mark.parametrize("name", ["{victims}", "{0}", "{sigma", "{sigma.x}", "{sigma[0]}"])
def test_a_name_that_cannot_be_filled_in_is_one_line(name: str, tmp_path: Path) -> None:
    write_plan(tmp_path, PLAIN)
    frames = read_frames(tmp_path)
    with pytest.raises(InputError, match=f"claims: the name {re.escape(repr(name))} cannot be filled in: .*; mend "):
        shown_numbers(Selection(folder="plain", where={"data": "clean"}, of="acr", name=name), frames)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {claim: 1}", "claims.yaml: Expected `str`"), ("- {sentence: a}", "claims.yaml: Object "),
        ("[{claim: a, source: '', paper: b, here: c, above: 1, below: 2}]", "claims.yaml: 'a' must have one bound"),
        ("[{claim: a, source: '', paper: b, here: c, above: .nan}]", "claims.yaml: 'a' must have one bound"),
        ("[{claim: a, here: c, headline: d, entries: [{folder: b}]}]", "'a': a claim has a headline where"),
        ("[{claim: a, here: c, entries: [{folder: b, headline: d}]}]", "'a': a claim has a headline where"),
        ("[{claim: a, here: c, headline: d, entries: [{folder: b, headline: d, of: acr}]}]", "these are reductions"),
        ("[{claim: a, here: c, entries: [{folder: b, of: acr, against: constant}]}]", "leave out 'against'"),
        ("{", "claims.yaml: not YAML"), ("3", "claims.yaml: Expected `array`"),
    ],
)  # fmt: skip
def test_damaged_claims_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    write_text(tmp_path / "claims.yaml", text)
    with pytest.raises(InputError, match=message):
        read_claims(tmp_path / "claims.yaml")


def config_in(folder: Path) -> Config:
    return Config(results_dir=folder / "results", benchmarks_dir=folder / "benchmarks")


def test_pages_are_not_written_of_nothing(tmp_path: Path) -> None:
    results, benchmarks = tmp_path / "results", tmp_path / "benchmarks"

    def refused(message: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=message):
            main(config_in(tmp_path))
        assert sorted(tmp_path.rglob("*")) == before

    refused(rf"{results}: has no store with a plan.yaml")
    write_text(results / "plain/plan.yaml", msgspec.yaml.encode(plan_of(PLAIN)).decode())
    refused(rf"{results}/plain/points.csv.xz: no such file")
    write_plan(results, PLAIN)
    refused(rf"{benchmarks}/records: has no record")


@pytest.mark.parametrize(
    "commit", ["unknown", "unknown (fatal: no repository)", "0123456789ab-dirty", "", "0123ab", "HEAD"]
)
@pytest.mark.parametrize("kind", ["plan", "benchmark"])
def test_what_is_of_no_clean_commit_is_refused_before_anything_is_written(
    kind: str, commit: str, tmp_path: Path
) -> None:
    folder, benchmark = tmp_path / "results/plain", tmp_path / "benchmarks/records/speed.json"

    def with_commit(of_plan: str, of_benchmark: str) -> None:
        write_plan(tmp_path / "results", PLAIN)
        store = read_store(folder)
        text = json.dumps(store.records).replace(ABOUT["commit"], of_plan)
        write_store(folder, Store(store.points, json.loads(text)))
        write_json(benchmark, {**ABOUT, "commit": of_benchmark, "about": {}, "rows": [{"seconds": 1.0}]})

    with_commit(*((commit, ABOUT["commit"]) if kind == "plan" else (ABOUT["commit"], commit)))
    with pytest.raises(InputError, match="which is no commit that others can check out") as caught:
        main(config_in(tmp_path))
    assert f"measured at {commit}," in str(caught.value)
    assert str(folder if kind == "plan" else benchmark) in str(caught.value)
    assert not list(tmp_path.rglob("README.md"))
    with_commit(ABOUT["commit"], ABOUT["commit"])
    main(config_in(tmp_path))
    assert ABOUT["commit"] in read_text(tmp_path / "benchmarks/README.md")


def test_a_run_of_this_project_names_a_commit_and_another_programs_need_not(tmp_path: Path) -> None:
    require_clean_commits(tmp_path, {"victim": {"accuracy": 0.9}, "file": "a.tsv"})
    with pytest.raises(InputError, match="its records name no commit"):
        require_clean_commits(tmp_path, {"victim": {}, "certificate": {"settings": {}, "points": []}})
    with pytest.raises(InputError, match="measured at None, which is no commit"):
        require_clean_commits(tmp_path, {"victim": {"commit": None}})
