"""Stores of studies joined into one."""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import data
from label_flipping.collect import Config, by_dataset, joined, main, read_label_studies
from label_flipping.report import COLUMNS, curve_table, tables_page, trusted_labels
from runtime.files import InputError
from runtime.provenance import project_path
from runtime.store import Store, read_store, write_store

ROOT = Path(data.__file__).parents[1]


def study(entry: str, title: str, flips: list[int], seed: int = 0, commit: str = "0123456789ab") -> Store:
    """A study of four test points, all right, by its exact certificate and one smoothed; and a kept curve."""
    lines = [
        (entry, seed, certificate, q, idx, 1, 1, number, 1)
        for certificate, q in (("tight", 0.1), ("ridge", None))
        for idx, number in enumerate(flips)
    ]
    kept = {"certificate": "network_random", "q": None, "flips": [0, 10], "accuracy": [1.0, 0.25]}
    record = {
        "title": title, "training_points": 100, "held_out_points": 10, "test_points": 4, "features": "raw", "width": 2,
        "choice": {"ridge": 1.0, "q": 0.1, "held_out": 10, "tried": [{"ridge": 1.0, "q": 0.1}]}, "curves": [kept],
        "config": {"learner": "least_squares", "at": 0.05, "points": None}, "command": "python a.py", "commit": commit,
    }  # fmt: skip
    return Store(pd.DataFrame(lines, columns=COLUMNS), {entry: {str(seed): record}})


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, ...]:
    studies = study("B", "MNIST, 1 against 7", [3, 5, 5, 9]), study("A", "MNIST, all 10 classes", [1, 1, 1, 1])
    for one in studies:
        write_store(tmp_path / next(iter(one.records)), one)
    return tmp_path / "B", tmp_path / "A"


def test_studies_become_one_store_and_the_store_gives_its_tables_again(
    folders: tuple[Path, ...], tmp_path: Path
) -> None:
    config = Config(studies=folders, results_dir=tmp_path / "all")
    main(config)
    names = ["MNIST_1_against_7.png", "MNIST_all_10_classes.png", "points.csv.xz", "settings.json.xz", "tables.md"]
    assert sorted(path.name for path in config.results_dir.iterdir()) == names
    table = (config.results_dir / "tables.md").read_text()
    assert table.index("## A") < table.index("## B") and "    python a.py" in table
    assert "| ridge regression, exact | 1.000 | 0.750 | 0.301 to 0.954 | 5 | 4 |" in table
    assert "| network, random changes | 1.000 | 0.625 |  |  |  |" in table
    before = {path.name: path.read_bytes() for path in config.results_dir.iterdir()}
    main(dataclasses.replace(config, studies=(config.results_dir,)))
    assert {path.name: path.read_bytes() for path in config.results_dir.iterdir()} == before


def test_studies_say_how_many_labels_they_trust_and_what_is_outside_data() -> None:
    """They chose on held-out images by exact certificates, computed from the labels of the other images."""
    old = study("A", "MNIST", [1, 1, 1, 1])
    record = old.records["A"]["0"]
    assert trusted_labels(record) == 100
    record["choice"]["held_out"] = 4
    assert "Labels trusted: 94. ridge 1 was chosen by the exact certificates of 4 held-out" in tables_page(old)
    record["choice"]["held_out"] = 0
    assert "Labels trusted: 0. No label chose anything: ridge 1 was fixed beforehand." in tables_page(old)
    record["features"] = "imagenet_diffusion"
    assert "Features imagenet_diffusion (2). **Outside data:** ImageNet's labels made them." in tables_page(old)
    recorded = read_label_studies(project_path("results/label_flipping")).records
    counts = {entry: trusted_labels(one["0"]) for entry, one in recorded.items() if "0" in one}
    assert counts["MNIST_raw_tight"] == 55_000 + 300 and counts["MNIST_deskewed_diffusion_signed_clusters_tight"] == 0


def test_of_one_study_twice_the_last_is_taken_and_another_seed_stands_beside_it(folders: tuple[Path, ...]) -> None:
    stores = [read_label_studies(folder) for folder in folders]
    newer, other = (study("B", "MNIST, 1 against 7", [7, 7, 7, 7], seed) for seed in (0, 1))
    both = joined([*stores, newer, other])
    assert list(both.records) == ["A", "B"] and list(both.records["B"]) == ["0", "1"]
    assert (both.points.query("entry == 'B'")["flips"] == 7).all() and len(both.points) == 8 + 2 * 8
    assert list(by_dataset(both)) == ["MNIST_all_10_classes.png", "MNIST_1_against_7.png"]
    assert tables_page(both).count("## B") == 2
    assert curve_table(both).groupby(["entry", "seed"]).size().to_dict() == {("A", 0): 3, ("B", 0): 3, ("B", 1): 3}


def test_studies_that_are_there_stay(folders: tuple[Path, ...], tmp_path: Path) -> None:
    first, *others = folders
    out = tmp_path / "joined"
    for studies in ((first,), tuple(others)):
        main(Config(studies=studies, results_dir=out))
    assert set(read_label_studies(out).records) == {
        entry for one in folders for entry in read_label_studies(one).records
    }


def test_other_stores_and_runs_of_no_commit_are_refused(folders: tuple[Path, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no settings\.json\.xz; give a folder that a script of"):
        main(Config(studies=(tmp_path,), results_dir=tmp_path / "all"))
    with pytest.raises(InputError, match="studies names no folder; give at least one"):
        main(Config(studies=(), results_dir=tmp_path / "all"))
    store = read_store(folders[0])
    changes: list[Store] = [
        store._replace(points=store.points.drop(columns="flips")),
        store._replace(records={"B": {"0": {**store.records["B"]["0"], "curves": None}}}),
        store._replace(records={**store.records, "C": store.records["B"]}),
        store._replace(records={"B": {"x": store.records["B"]["0"]}}),
        Store(store.points[:0], {}),
    ]
    for number, changed in enumerate(changes):
        write_store(tmp_path / str(number), changed)
        with pytest.raises(InputError, match=f"{number}: not a store of studies of changed labels"):
            main(Config(studies=(tmp_path / str(number),), results_dir=tmp_path / "all"))
    write_store(tmp_path / "dirty", study("B", "MNIST", [1], commit="0123456789ab-dirty"))
    with pytest.raises(InputError, match="B: measured at 0123456789ab-dirty, which is no commit"):
        main(Config(studies=(tmp_path / "dirty",), results_dir=project_path("results/none")))
    assert not (tmp_path / "all").exists() and not project_path("results/none").exists()


def test_the_script_takes_the_studies_folders(folders: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    script = str(ROOT / "label_flipping/collect.py")
    words: list[Any] = [script, "--studies", *folders, "--results-dir", folders[0].parent / "all"]
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    runpy.run_path(script, run_name="__main__")
    assert len(read_label_studies(folders[0].parent / "all").records) == 2
