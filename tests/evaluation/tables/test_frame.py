"""The frame of entries: shares, ceilings, reductions, attack runs, classes, other programs and names of data."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evaluation.tables.cells import Cell, Foreign, Poison, Victim
from evaluation.tables.claims import Selection, shown_numbers
from evaluation.tables.frame import MEAN, Entries, as_csv, cautions, data_name, frame_of, measured_line
from evaluation.tables.layout import tables_of
from evaluation.tables.plan import Plan, plan_of
from evaluation.tables.runs import Entry, Run
from randomized_smoothing_certification.core import radius_ceiling
from randomized_smoothing_certification.run_statistics import reduction_of

SIGMA = 0.5


def plan_with(**entries: Any) -> Plan:
    values = {
        "table": "t", "title": "T", "dataset": "MNIST", "architecture": "mnist_cnn", "runs": 2,
        "methods": {"macer": [SIGMA]}, "rows": ["clean", "optimised"],
    }  # fmt: skip
    return plan_of({**values, **entries})


def run_of(cell: Cell, seed: int, radii: list[float], **settings: Any) -> Run:
    """settings: of the certificate."""
    records: dict[str, Any] = {"victim": {"accuracy": 0.9, "accuracy_class_8": 0.8}}
    if settings:
        records["certificate"] = {"settings": {"sigma": SIGMA, "alpha": 0.001, **settings}}
    return Run(seed, np.array(radii), records, SIGMA, cell.target_class, np.arange(len(radii)))


def foreign_run(foreign: Foreign, radii: list[float]) -> Run:
    certificate = {"n": foreign.n, "alpha": foreign.alpha, "sigma": foreign.sigma}
    records = {"victim": {"accuracy": foreign.accuracy}, "foreign": certificate}
    return run_of(foreign.cell, 0, radii)._replace(records=records)


def entry(cell: Cell, *radii: list[float], wanted: int = 2, **settings: Any) -> Entry:
    return Entry(cell, wanted, tuple(run_of(cell, seed, one, **settings) for seed, one in enumerate(radii)))


def row_of(frame: pd.DataFrame, **values: Any) -> pd.Series:
    """The only row of these values."""
    (row,) = (row for _, row in frame.iterrows() if all(row[name] == value for name, value in values.items()))
    return row


def test_shares_are_of_the_points_certified_at_0_and_at_parts_of_sigma() -> None:
    plan = plan_with(rows=["clean"])
    (cell,) = plan.cells()
    radii = [[-1, 0, 0.2, 0.25, 0.4, 0.5, 0.9, 1.0], [1.0, 1, 1, 1, 1, 1, 1, 0.9]]
    frame = frame_of(plan, {cell: entry(cell, *radii)})
    (row,) = frame.to_dict("records")
    shares = {"certified_accuracy": (7, 8), "certified_at_half_sigma": (5, 8), "certified_at_sigma": (3, 8),
              "certified_at_2_sigma": (1, 7)}  # fmt: skip
    for name, counts in shares.items():
        assert row[f"{name}_mean"] == pytest.approx(np.mean(counts) / 8), name
        assert row[f"{name}_std"] == pytest.approx(np.std(counts, ddof=1) / 8), name
    assert row["acr_mean"] == pytest.approx((3.25 + 7.9) / 16)
    assert (row["accuracy_mean"], row["target_accuracy_mean"]) == (0.9, 0.8)
    assert row["others_acr_mean"] is row["reduction"] is row["at_ceiling"] is None and row["n"] == ""
    single = frame_of(plan, {cell: entry(cell, radii[0])}).to_dict("records")[0]
    assert single["acr_std"] is None and (single["runs"], single["runs_wanted"]) == (1, 2)


def test_the_share_at_the_ceiling_follows_from_n_and_alpha() -> None:
    plan = plan_with(rows=["clean"])
    (cell,) = plan.cells()
    of_100, of_1000 = (radius_ceiling(SIGMA, n, 0.001) for n in (100, 1000))
    assert of_100 < of_1000
    radii = [-1.0, 0.1, of_100, of_1000]
    for settings, share in (
        ({"n": 100}, 0.5), ({"n": 1000}, 0.25), ({"n": 10_000}, 0.0), ({"n": 100, "alpha": 1e-9}, 0.5), ({}, None),
    ):  # fmt: skip
        (row,) = frame_of(plan, {cell: entry(cell, radii, **settings)}).to_dict("records")
        assert row["at_ceiling"] == share, settings
        assert row["n"] == settings.get("n", "")
    for settings in ({}, {"noise": {"mode": "grid", "failure_mass": 1e-6}}):  # files round radii
        largest = radius_ceiling(SIGMA, 10**5, 0.001, settings.get("noise", {}).get("failure_mass", 0.0))
        frame = frame_of(plan, {cell: entry(cell, [round(largest, 3), 0.98 * largest], n=10**5, **settings)})
        assert frame["at_ceiling"].tolist() == [0.5]


def test_entries_of_another_n_get_no_reduction() -> None:
    plan = plan_with()
    clean, poisoned = plan.cells()
    before, after = ([1.0, 0.8, 0.9], [0.7, 0.9, 0.8]), ([0.5, 0.4, 0.3], [0.2, 0.1, 0.3])

    def reduction(of_clean: dict[str, Any], of_poisoned: dict[str, Any]) -> Any:
        entries = {clean: entry(clean, *before, **of_clean), poisoned: entry(poisoned, *after, **of_poisoned)}
        frame = frame_of(plan, entries)
        return row_of(frame, data="optimised"), tables_of(plan.title, frame)[0].text["reduction"].tolist()

    same, text = reduction({"n": 1000}, {"n": 1000})
    expected = reduction_of(np.array([after]), np.array(before))
    assert expected is not None and same["reduction"] == expected
    assert same["reduction_percent"] == expected.percent == pytest.approx(100 * (1 - 1.8 / 5.1))
    assert (same["reduction_low"], same["reduction_high"]) == (expected.low, expected.high)
    assert same["interval_over"] == "victims, points" and text == ["", expected.text]
    other, text = reduction({"n": 1000}, {"n": 10_000})
    assert other["reduction"] is None and pd.isna(other["reduction_percent"]) and text == ["", "—"]
    unknown, _ = reduction({"n": 1000}, {})
    assert unknown["reduction"] == expected
    of_unknown = pd.DataFrame([unknown])
    assert [line.rpartition(": ")[2] for line in cautions(of_unknown)] == [
        "its reduction compares radii of known and of unknown n"
    ]
    assert cautions(pd.DataFrame([same])) == cautions(pd.DataFrame([reduction({}, {})[0]])) == []
    (line,) = cautions(pd.DataFrame([same, other]))
    assert line.endswith("no reduction, because certificates of clean data differ in n")
    at_alpha, _ = reduction({"n": 1000}, {"n": 1000, "alpha": 0.05})
    assert at_alpha["reduction"] is None
    at_other, _ = reduction({"n": 1000, "split": "test"}, {"n": 1000, "split": "val"})
    assert at_other["reduction"] is None
    exact, _ = reduction({"noise": {"mode": "float32"}}, {"noise": {"mode": "grid"}})
    assert exact["reduction"] is None
    whole, _ = reduction({"n": 1000, "radius_loss": 0.0}, {"n": 1000, "radius_loss": 0})  # from Python
    assert whole["reduction"] == expected


def test_reductions_compare_the_seeds_and_the_points_that_both_have() -> None:
    plan = plan_with(runs=3)
    clean, poisoned = plan.cells()
    random = np.random.default_rng(0)
    before, after = random.uniform(0.5, 1, (3, 20)), random.uniform(0, 0.5, (2, 20))
    entries = {
        clean: entry(clean, *before.tolist(), wanted=3), poisoned: entry(poisoned, *after.tolist(), wanted=3),
    }  # fmt: skip
    row = row_of(frame := frame_of(plan, entries), data="optimised")
    assert row["reduction_percent"] == pytest.approx(100 * (1 - after.mean() / before[:2].mean()))
    assert row["reduction"].runs == 2 and cautions(frame) == []
    for run in (*entries[clean].runs, *entries[poisoned].runs):
        run.records["victim"]["settings"] = {"x_train": "of clean data"}
    assert [line.rpartition(": ")[2] for line in cautions(frame)] == ["its training images are those of clean data"]
    for run in entries[poisoned].runs:
        run.records["victim"]["settings"] = {"x_train": "of the poison"}
    fewer = {**entries, clean: entries[clean]._replace(runs=entries[clean].runs[1:])}
    (line,) = cautions(frame := frame_of(plan, fewer))
    assert row_of(frame, data="optimised")["runs"] == 2 and "is over 1 of 2 victims: the seeds of" in line
    (shown,) = shown_numbers(Selection(folder="t", where={"data": "optimised"}), {"t": frame})
    assert shown.over == "1 victim, 1 attack run, 20 test points"
    assert row["reduction"] == reduction_of(after[None], before[:2])
    # Of other points the two are resampled apart.
    elsewhere = entries[poisoned]._replace(
        runs=tuple(run._replace(idx=run.idx + 100) for run in entries[poisoned].runs)
    )
    apart = row_of(frame_of(plan, {**entries, poisoned: elsewhere}), data="optimised")["reduction"]
    assert apart == reduction_of(after[None], before[:2], same_points=False) != row["reduction"]
    # Victims of different numbers of points have no common bootstrap.
    first, second = entries[poisoned].runs
    uneven = entries[poisoned]._replace(runs=(first, second._replace(radii=np.array([0.2]), idx=np.array([0]))))
    assert row_of(frame_of(plan, {**entries, poisoned: uneven}), data="optimised")["reduction"] is None
    # Clean victims of other seeds are not those that a poisoned one is compared with.
    others = entries[clean]._replace(runs=tuple(run._replace(seed=run.seed + 7) for run in entries[clean].runs))
    assert row_of(frame_of(plan, {**entries, clean: others}), data="optimised")["reduction"] is None
    alone = frame_of(plan, {poisoned: entries[poisoned]})
    assert row_of(alone, data="optimised")["reduction"] is None
    assert [line.rpartition(": ")[2] for line in cautions(alone)] == [
        "no reduction, because the table has no clean data with these victims"
    ]


def seeded() -> tuple[Plan, Entries]:
    """An attack run with three seeds and two budgets; of one budget only one seed is measured."""
    attacks = {"soba": {"optimiser": "soba", "epochs": [1, 5], "seed": [0, 1, 2]}}
    plan = plan_with(rows=["clean"], attacks=attacks)
    random = np.random.default_rng(0)
    entries = {}
    for cell in plan.cells():
        if cell.poison is None:
            entries[cell] = entry(cell, [1.0, 0.8, 0.9], [0.7, 0.9, 0.8], n=1000)
        elif "epochs_1" in cell.poison.variant or cell.poison.variant.endswith("seed_1"):
            entries[cell] = entry(cell, *random.uniform(0, 0.5, (2, 3)).tolist(), n=1000)
        else:
            entries[cell] = Entry(cell, 2, ())
    return plan, entries


def test_several_attack_runs_are_one_row_more() -> None:
    plan, entries = seeded()
    frame = frame_of(plan, entries)
    assert len(frame) == len(entries) + 1  # none of the budget of which one attack run was measured
    row = row_of(frame, data="soba_epochs_1")
    assert (row["attack_runs"], row["runs"], row["runs_wanted"], row["attack_epochs"]) == (3, 6, 6, 1)
    of_seeds = [entries[cell] for cell in entries if cell.poison and "epochs_1" in cell.poison.variant]
    assert row["acr_mean"] == pytest.approx(np.mean([run.acr for one in of_seeds for run in one.runs]))
    assert row["acr_std"] == pytest.approx(np.std([run.acr for one in of_seeds for run in one.runs], ddof=1))
    after = np.array([[run.radii for run in one.runs] for one in of_seeds])
    before = np.array([run.radii for run in entries[plan.cells()[0]].runs])
    assert row["reduction"] == reduction_of(after, before)
    assert row["interval_over"] == "attack runs, victims, points"
    single = row_of(frame, data="soba_epochs_1_seed_1")
    assert (single["attack_runs"], single["interval_over"]) == (1, "victims, points")
    table = tables_of(plan.title, frame)[0].text.set_index("training data")["runs"]
    assert table["soba_epochs_1"] == "3 attacks, 6 victims"
    assert (table["soba_epochs_1_seed_1"], table["soba_epochs_5_seed_0"]) == ("2", "0 of 2")
    lost = next(cell for cell in entries if cell.poison and cell.poison.variant == "soba_epochs_1_seed_2")
    row = row_of(frame_of(plan, {**entries, lost: Entry(lost, 2, ())}), data="soba_epochs_1")
    assert (row["attack_runs"], row["runs"], row["runs_wanted"]) == (2, 4, 6)  # a missing attack run is missing here
    short = {**entries, lost: entries[lost]._replace(runs=entries[lost].runs[:1])}
    assert ["is over 3 of 5 victims" in line for line in cautions(frame_of(plan, short))] == [True]


def test_attacks_that_are_only_named_like_seeds_are_no_attack_runs() -> None:
    plan = plan_with(rows=["clean"], attacks={f"x_seed_{seed}": {"seed": seed, "epochs": 9 * seed} for seed in (1, 2)})
    entries = {cell: entry(cell, [1.0, 0.8], [0.7, 0.9], n=1000) for cell in plan.cells()}
    assert set(frame_of(plan, entries)["data"]) == {"clean", "x_seed_1", "x_seed_2"}


def test_certificates_of_another_program_with_the_name_of_a_mean_are_no_attack_run() -> None:
    """Poison of a named attack, of which the plan makes runs with two seeds."""
    theirs = {"method": "macer", "sigma": SIGMA, "target_class": 8, "architecture": "mnist_cnn", "files": ["a.tsv"]}
    theirs |= {"poison": "macer", "poison_architecture": "mnist_cnn", "poison_variant": "soba"}
    plan = plan_with(rows=["clean"], attacks={"soba": {"seed": [0, 1]}}, foreign=[theirs])
    radii = {None: 1.0, "soba_seed_0": 0.5, "soba_seed_1": 0.3}
    entries = {cell: entry(cell, [radii[cell.poison and cell.poison.variant]], n=1000) for cell in plan.cells()}
    other = plan.foreign[0].cell
    entries = {other: entry(other, [0.0], n=1000), **entries}
    mean = row_of(frame_of(plan, entries), data="soba", attack_runs=2)
    assert mean["acr_mean"] == pytest.approx(0.4) and mean["reduction_percent"] == pytest.approx(60.0)


def test_the_mean_over_classes_is_of_all_their_points() -> None:
    plan = plan_with(target_classes=[1, 2])
    radii = {(1, True): [1.0, 1.0, 1.0], (2, True): [0.4], (1, False): [0.5, 0.5, 0.0], (2, False): [0.1]}
    entries = {
        cell: entry(cell, radii[cell.target_class, cell.poison is None], wanted=1, n=1000) for cell in plan.cells()
    }
    for cell, (one, wanted, (run,)) in entries.items():
        entries[cell] = Entry(one, wanted, (run._replace(other_radii=np.full(3, 0.2 * cell.target_class)),))
    frame = frame_of(plan, entries)
    assert list(frame["target_class"]) == [1, 1, 2, 2, MEAN, MEAN]
    clean, poisoned = (row_of(frame, target_class=MEAN, data=name) for name in ("clean", "optimised"))
    assert clean["acr_mean"] == pytest.approx(3.4 / 4) and poisoned["acr_mean"] == pytest.approx(1.1 / 4)
    assert poisoned["reduction_percent"] == pytest.approx(100 * (1 - 1.1 / 3.4))
    assert (clean["points"], clean["n"], clean["accuracy_mean"]) == (4, 1000, 0.9)
    assert pd.isna(clean["target_accuracy_mean"])  # of no class
    assert clean["others_acr_mean"] == pytest.approx(0.3)
    # A mean of whole entries only, and none where there is one class.
    lacking = {**entries, plan.cells()[-1]: Entry(plan.cells()[-1], 1, ())}
    assert list(frame_of(plan, lacking)["target_class"]) == [1, 1, 2, 2, MEAN]
    assert MEAN not in set(frame_of(plan_with(target_classes=[1]), entries)["target_class"])
    (other,) = entries[plan.cells()[-1]].runs
    other.records["certificate"]["settings"]["n"] = 200  # radii of other votes
    assert list(frame_of(plan, entries)["target_class"]) == [1, 1, 2, 2, MEAN]


def test_the_mean_over_classes_knows_n_of_another_program() -> None:
    theirs = {"method": "theirs", "sigma": SIGMA, "files": ["a.tsv"], "n": 1000}
    plan = plan_with(target_classes=[1, 2], foreign=[{**theirs, "target_class": label} for label in (1, 2)])
    entries: Entries = {}
    for foreign in plan.foreign:
        run = foreign_run(foreign, [0.5])
        entries[foreign.cell] = Entry(foreign.cell, 1, (run,))
    row = row_of(frame_of(plan, entries), target_class=MEAN)
    assert (row["n"], row["method"], row["acr_mean"], row["at_ceiling"]) == (1000, "theirs", 0.5, 0.0)


def test_other_programs_stand_beside_the_plans_own() -> None:
    theirs = {"method": "theirs", "sigma": SIGMA, "target_class": 8, "files": ["a.tsv"]}
    foreign = [{**theirs, "n": 1000, "accuracy": 0.7}, {**theirs, "poison": "constant", "n": 1000},
               {**theirs, "poison": "macer", "n": 100}]  # fmt: skip
    plan = plan_with(foreign=foreign)
    entries: Entries = {}
    for one, radius in zip(plan.foreign, (1.0, 0.5, 0.25), strict=True):
        run = foreign_run(one, [radius, radius / 2])
        entries[one.cell] = Entry(one.cell, 1, (run,))
    frame = frame_of(plan, entries)
    assert list(frame["data"]) == ["clean", "constant", "optimised against macer"]
    assert list(frame["n"]) == [1000, 1000, 100] and frame["accuracy_mean"][0] == 0.7
    assert frame["reduction_percent"][1] == pytest.approx(50.0) and pd.isna(frame["reduction_percent"][2])
    assert list(frame["commit"]) == ["", "", ""] and list(frame["dataset"]) == 3 * ["MNIST"]
    assert list(frame["attack_runs"]) == ["", "", 1]


def test_data_of_transfers_is_named_by_what_the_poison_was_made_against() -> None:
    plan = plan_with(
        methods={"macer": [SIGMA], "smoothadv": [SIGMA]},
        method_transfer={"sigmas": [SIGMA], "against": ["macer", "standard"]},
        architecture_transfer={
            "method": "macer", "sigmas": [SIGMA], "attacked": ["mnist_cnn", "mlp"], "victims": ["mlp"],
        },
    )  # fmt: skip
    names = {
        (cell.victim.method, cell.victim.architecture, data_name(plan, cell)) for cell in plan.cells() if cell.poison
    }
    assert names == {
        ("macer", "mnist_cnn", "optimised"),
        ("macer", "mnist_cnn", "optimised against standard"),
        ("smoothadv", "mnist_cnn", "optimised"),
        ("smoothadv", "mnist_cnn", "optimised against macer"),
        ("smoothadv", "mnist_cnn", "optimised against standard"),
        ("macer", "mlp", "optimised with mnist_cnn"),
        ("macer", "mlp", "optimised with mlp"),
    }
    own = Cell(Victim("macer", SIGMA, "mlp"), 8, Poison("macer", "mlp", SIGMA, 8))
    assert data_name(plan_with(), own) == "optimised"  # of a plan without such a transfer
    assert data_name(plan, plan.cells()[0]) == "clean"
    foreign = own._replace(poison=Poison("macer", "", SIGMA, 8))  # of another program: its network need not be named
    assert data_name(plan_with(), foreign) == "optimised with an unknown network"


def test_the_mean_over_classes_pairs_points_in_whatever_order_another_program_lists_its_classes() -> None:
    random = np.random.default_rng(0)
    before = random.uniform(0.1, 1, (2, 2, 20))  # (victims, classes, points)
    found = []
    for labels in ([8, 3], [3, 8]):
        about = {"method": "macer", "sigma": SIGMA, "architecture": "mnist_cnn", "poison": "smoothadv"}
        foreign = [{**about, "target_class": label, "files": [f"{label}.tsv"]} for label in labels]
        plan = plan_with(target_classes=[8, 3], rows=["clean"], foreign=foreign)
        entries = {}
        for cell in (*(one.cell for one in plan.foreign), *plan.cells()):
            radii = before[:, [8, 3].index(cell.target_class)] * (0.5 if cell.poison else 1)
            runs = entry(cell, *radii.tolist()).runs
            entries[cell] = Entry(cell, 2, tuple(run._replace(idx=run.idx + 100 * cell.target_class) for run in runs))
        found.append(row_of(frame_of(plan, entries), target_class=MEAN, poison="smoothadv")["reduction"])
    assert found[0] == found[1] and found[0].low == pytest.approx(50) == found[0].high  # each radius is halved


def test_the_visibility_of_a_poison_may_be_in_the_record_of_any_of_its_victims() -> None:
    """A store that grew in parts has it for the victims of some parts."""
    plan = plan_with()
    clean, poisoned = plan.cells()
    entries = {clean: entry(clean, [1.0], [1.0]), poisoned: entry(poisoned, [0.5], [0.5])}
    entries[poisoned].runs[1].records["visibility"] = {"measured": {"l2": 1.5, "auc": {"linear": 0.9}}}
    row = row_of(frame_of(plan, entries), data="optimised")
    assert (row["l2"], row["auc_linear"]) == (1.5, 0.9)


@pytest.mark.parametrize(
    ("recorded", "share"), [({}, 1), ({"share": None}, 1), ({"share": 1.0}, 1), ({"share": 0.5}, 0.5)]
)
def test_epsilon_and_share_are_those_of_each_poison(recorded: dict[str, Any], share: float) -> None:
    plan = plan_with(epsilon=0.2, rows=["clean", "constant"], ready={"published": "mnist_published"})
    entries = {cell: entry(cell, [1.0, 0.8], [0.7, 0.9], n=1000) for cell in plan.cells()}
    for run in entries[plan.cells()[-1]].runs:
        run.records["poison"] = {"settings": {"epsilon": 0.1, **recorded}}  # packed after an attack on a share
    frame = frame_of(plan, entries)
    assert list(frame["epsilon"]) == ["", 0.2, 0.1] and list(frame["share"]) == ["", 1, share]


def test_the_numbers_as_a_file_are_those_of_the_frame() -> None:
    plan, entries = seeded()
    frame = frame_of(plan, entries)
    lines = list(csv.DictReader(as_csv(frame).splitlines()))
    assert len(lines) == len(frame)
    for line, (_, row) in zip(lines, frame.iterrows(), strict=True):
        for name in ("acr_mean", "acr_std", "certified_at_sigma_mean", "reduction_percent", "reduction_low"):
            known = not pd.isna(row[name])
            assert (float(line[name]) == pytest.approx(row[name], abs=0.06)) if known else line[name] == "", name
        assert line["entry"] == ", ".join(one.cell.key for one in row["entries"])
        assert line["runs"] == str(row["runs"]) and line["sigma"] == "0.5"
    assert not {"reduction", "cell", "entries"} & lines[0].keys()


def test_one_line_says_how_all_was_measured() -> None:
    plan, entries = seeded()
    frame = frame_of(plan, entries)
    assert measured_line(frame) == "test points 3; n 1000; victims of an entry 2; epsilon 0.1"
    (first, *_), records = entries, {"victim": {"commit": "0123456789abcdef", "backend": "jax", "machine": "x86_64"}}
    run = entries[first].runs[0]._replace(records={**run_of(first, 0, [1.0]).records, **records})
    line = measured_line(frame_of(plan, {**entries, first: entries[first]._replace(runs=(run,))}))
    assert line == "commit 0123456789ab; jax; x86_64; test points 3; n 1000; victims of an entry 1, 2; epsilon 0.1"
    records["victim"]["commit"] += "-dirty"
    line = measured_line(frame_of(plan, {**entries, first: entries[first]._replace(runs=(run,))}))
    assert line.startswith("commit 0123456789ab-dirty; ")


@pytest.mark.parametrize("values", [{}, {"methods": {}, "rows": ["clean"]}], ids=["no runs", "no entries"])
def test_of_nothing_there_are_rows_of_nothing(values: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_with(**values)
    entries = {cell: Entry(cell, 2, ()) for cell in plan.cells()}
    frame = frame_of(plan, entries)
    assert len(frame) == len(entries)
    assert (list(frame["runs"]), list(frame["acr_mean"])) == ([0, 0], [None, None]) if entries else frame.empty
