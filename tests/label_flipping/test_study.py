"""The curves of certified accuracy against changed labels, from a script's constants to its files."""

import dataclasses
import runpy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import data
from data.datasets import SPLITS, labels, load_dataset
from data.preparation import PreparationConfig, write_dataset
from label_flipping.certificates.fixed_weights import Certified, FixedWeights, RidgeRegression
from label_flipping.certificates.label_flips import LabelFlips
from label_flipping.certificates.training_set_smoothing import Smoothed
from label_flipping.config import LEARNERS, LabelFlippingConfig
from label_flipping.features import Images, features_name, fit_features, images_of_classes
from label_flipping.report import COLUMNS, LabelCurve, _study_label, curve_table, curves_of, tables_page
from label_flipping.study import _learner, certify_labels
from models.diffusion import fit_diffusion_map
from models.embeddings import fit_embedding
from randomized_smoothing_certification.core import ABSTAIN
from runtime.artifact import Artifact
from runtime.files import InputError, save_archive, write_json
from runtime.stop import StoppedEarly
from runtime.store import Store, read_store

ROOT = Path(data.__file__).parents[1]
SCRIPTS = ("digits", "mnist_1_7", "mnist", "cifar10")


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "label_flipping" / f"{name}.py"))


def toy(name: str, data_dir: Path, folder: Path, **changes: Any) -> tuple[Any, Any]:
    loaded = script(name)
    network = loaded["Network"](epochs=1, architecture="digits_cnn", batch_size=50)
    settings = {
        "q": (0.1, 0.3), "ridge": (10.0, 1e3), "points": 40, "network_shares": (0.2, 0.0, 0.2), "network_points": 2,
        "features": "raw", "work_dir": folder / "work", "results_dir": folder / "results", "data_dir": data_dir,
        "network": network, "features_dir": folder / "features", "ridge_unit": "one",
    }  # fmt: skip
    return certify_labels, loaded["Config"](**{**settings, **changes})


def the_store(folder: Path) -> Store:
    """What the one study in a folder wrote."""
    (study,) = (folder / "results").iterdir()
    return read_store(study)


def lines(store: Store, certificate: str, q: float | None = None) -> pd.DataFrame:
    """The points of one certificate."""
    points = store.points[store.points["certificate"] == certificate]
    return points[points["q"].isna() if q is None else points["q"] == q].reset_index(drop=True)


def record_of(store: Store) -> dict[str, Any]:
    """The record of the one run."""
    ((record,),) = (of_seeds.values() for of_seeds in store.records.values())
    return record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_data_dir: Path) -> Path:
    """Files of one run of the digits script."""
    folder = tmp_path_factory.mktemp("labels")
    main, config = toy("digits", tiny_data_dir, folder)
    main(config)
    return folder


def test_files_of_a_run_agree_with_each_other(folder: Path, tiny_data_dir: Path) -> None:
    results, store = folder / "results" / "DIGITS_raw_tight", the_store(folder)
    assert sorted(path.name for path in results.iterdir()) == [
        "certified_accuracy.png", "points.csv.xz", "settings.json.xz", "tables.md",
    ]  # fmt: skip
    assert tuple(store.points) == COLUMNS and set(store.points["entry"]) == {"DIGITS_raw_tight"}
    test = labels(load_dataset(tiny_data_dir).y_test)
    kinds = [("ridge", None), *((bound, q) for bound in ("tight", "closed_form") for q in (0.1, 0.3))]
    assert len(store.points) == 40 * len(kinds)
    page, table = (results / "tables.md").read_text(), curve_table(store)
    assert page == tables_page(store)
    for certificate, q in kinds:
        points = lines(store, certificate, q)
        correct, flips = points["correct"].to_numpy() == 1, points["flips"].to_numpy()
        assert (points["label"] == test[points["idx"]]).all() and len(set(points["idx"])) == 40
        assert ((points["label"] == points["predict"]) == correct).all()
        assert flips.max() > 2 and correct.sum() > 20
        at = table["certificate"].eq(certificate) & (table["q"].isna() if q is None else table["q"].eq(q))
        (row,) = table[at].to_dict("records")
        assert row["unattacked"] == np.mean(correct) and row["accuracy"] == np.mean(correct & (flips >= 14))
        assert row["low"] <= row["accuracy"] <= row["high"] and row["points"] == 40
        robust = np.where(correct, flips, -1)
        median = max((n for n in range(flips.max() + 1) if np.mean(robust >= n) >= 0.5), default=np.nan)
        np.testing.assert_equal(row["median"], median)
        first = int(stats.binom.ppf(0.025, 40, 0.5))  # a median lies below this order statistic with probability 2.5 %
        ends = np.sort(robust)[[first - 1, 40 - first]]
        np.testing.assert_equal([row["median_low"], row["median_high"]], np.where(ends < 0, np.nan, ends))
        shown = "" if np.isnan(median) else median
        assert (
            f"| {row['unattacked']:.3f} | {row['accuracy']:.3f} | {row['low']:.3f} to {row['high']:.3f} | {shown} |"
            in page
        )
    assert (results / "certified_accuracy.png").stat().st_size > 10_000
    record = record_of(store)
    tried = [one for one in record["choice"]["tried"] if one["q"] is None]  # exact certificates
    best = max(tried, key=lambda one: (one["certified_accuracy"], one["mean_flips"]))
    assert record["choice"]["ridge"] == best["ridge"] and len(record["choice"]["tried"]) == 2 * 3
    assert "14 flips (1.0%)" in page and record["choice"]["trusted"] == 1_437
    chosen = f"Labels trusted: 1,437. ridge {best['ridge']:g} was chosen by the exact certificates of 340 held-out"
    assert chosen in page
    names = ["network_random", "network_greedy", "network_pointwise"]
    assert [curve["certificate"] for curve in record["curves"]] == names
    assert all(len(curve["accuracy"]) == 2 and curve["flips"] == [0, 287] for curve in record["curves"])


def test_neighbours_and_kernel_regression_take_the_place_of_least_squares(tiny_data_dir: Path, tmp_path: Path) -> None:
    for learner, changes in (
        ("neighbours", {"neighbours": (20, 60), "diffusion": 6, "network_shares": (0.0, 0.2), "network_points": 0}),
        ("kernel", {"bandwidths": (0.1, 0.3), "network_shares": ()}),
        ("signed_neighbours", {"neighbours": (20, 60), "network_shares": (0.0, 0.2), "network_points": 0}),
        ("signed_least_squares", {"neighbours": (20, 60), "ridge": (1.0, 100.0), "network_shares": ()}),
    ):
        folder = tmp_path / learner
        main, config = toy("digits", tiny_data_dir, folder, learner=learner, **changes)
        main(config)
        store = the_store(folder)
        assert list(store.records) == [f"DIGITS_raw_{'diffusion_' * (learner == 'neighbours')}{learner}_tight"]
        choice = record_of(store)["choice"]
        names = LEARNERS[learner].settings
        for name in names:
            candidates = set(changes[{"bandwidth": "bandwidths"}.get(name, name)])
            assert {one[name] for one in choice["tried"]} == candidates and choice[name] in candidates
        assert len(choice["tried"]) == 2 ** len(names) * (1 + len(config.q))
        exact, smoothed = lines(store, LEARNERS[learner].certificate), lines(store, "tight", 0.1)
        assert (exact["flips"] * exact["correct"]).mean() > 5 and exact["correct"].mean() > 0.75
        same = exact["predict"] == smoothed["predict"]
        # The exact number of flips is of the classifier itself: the smoothed one is another, but not far from it here.
        assert same.sum() > 30 and (smoothed["flips"] <= exact["flips"])[same].mean() > 0.9
        assert ", ".join(f"{name} {choice[name]:g}" for name in names) in tables_page(store)


def test_no_label_chooses_as_many_clusters_as_classes(tiny_data_dir: Path, tmp_path: Path) -> None:
    """All points of a cluster share a certificate, and no held-out label is trusted. Of neighbours n / K vote."""
    settings: dict[str, Any] = {"features": "deskewed", "centroids": 40, "diffusion": 10, "network_shares": ()}
    settings["together_seconds"] = 0.0
    main, config = toy("digits", tiny_data_dir, tmp_path, learner="signed_clusters", **settings)
    main(config)
    store = the_store(tmp_path)
    assert record_of(store)["curves"] == []
    exact, record = lines(store, "signed"), record_of(store)
    assert list(store.records) == ["DIGITS_deskewed_diffusion_signed_clusters_tight"]
    only = {"clusters": 10, "q": 0.1}
    assert record["choice"] == {**only, "held_out": 0, "trusted": 0, "tried": [only]}
    assert exact.groupby("predict")["flips"].nunique().max() <= 3  # clusters of one class may be several
    assert exact["correct"].mean() > 0.7 and exact["flips"].nunique() <= 10 and exact["flips"].max() > 60
    assert "Labels trusted: 0. No label chose anything: clusters 10 was fixed beforehand." in tables_page(store)
    chosen = config.candidates(1_437, 10)
    assert chosen == [{"clusters": 10}]
    assert dataclasses.replace(config, learner="neighbours").candidates(1_437, 10) == [{"neighbours": 143}]


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_label_chooses_a_setting_of_any_learner_by_default(name: str) -> None:
    """Every script and learner has one value for each setting, so that nothing is left to choose."""
    config = script(name)["Config"]()
    for learner, kind in LEARNERS.items():
        (only,) = dataclasses.replace(config, learner=learner).candidates(13_007, 2)
        assert list(only) == list(kind.settings)


def test_the_exact_certificate_chooses_settings_and_the_smoothed_one_q(
    tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two made-up settings the first has the better exact certificates, the second the better smoothed ones."""

    class MadeUp(FixedWeights):
        def __init__(self, ridge: float) -> None:
            self._first = ridge == 10

        def __call__(self, x_test: np.ndarray) -> np.ndarray:
            raise AssertionError

        def certify(self, x_test: np.ndarray, y: np.ndarray, noises: Sequence[LabelFlips]) -> Certified:
            zeros = np.zeros(len(x_test), np.int64)  # predictions, right for some points
            log_eps = [-20.0, -25.0] if self._first else [-90.0, -80.0]  # of each q
            smoothed = [Smoothed(zeros, zeros + one) for one in log_eps]
            return Certified(smoothed, zeros, zeros + (50 if self._first else 40))

    monkeypatch.setattr("label_flipping.study._learner", lambda *_: lambda one: MadeUp(one["ridge"]))
    main, config = toy("digits", tiny_data_dir, tmp_path, q=(0.25, 0.3), network_shares=(), held_out=100)
    choice = record_of(main(config))["choice"]
    smoothed = [one for one in choice["tried"] if one["q"] is not None]
    best = max(smoothed, key=lambda one: (one["certified_accuracy"], one["mean_flips"]))
    assert best["ridge"] == 1e3 and choice["ridge"] == 10 and choice["q"] == 0.3
    assert (choice["held_out"], choice["trusted"]) == (100, 1_097 + 100)


def test_certificates_for_every_candidate_trust_no_label(tiny_data_dir: Path, tmp_path: Path) -> None:
    """They are the least of those of studies with one candidate each, exact and smoothed, where all of these agree."""
    frames = {}
    for name, clusters in {"both": (10, 16, 10), "10": (10, 10), "16": (16,)}.items():
        changes: dict[str, Any] = {"clusters": clusters, "select": "every" if name == "both" else "held_out"}
        changes |= {"learner": "signed_clusters", "network_shares": (), "together_seconds": float(name == "both")}
        main, config = toy("digits", tiny_data_dir, tmp_path / name, **changes)
        frames[name] = main(config)
    store = frames["both"]
    assert list(store.records) == ["DIGITS_raw_signed_clusters_every_tight"] and record_of(store)["curves"] == []
    tried = [{"clusters": 10, "q": 0.1}, {"clusters": 16, "q": 0.1}]
    assert record_of(store)["choice"] == {"q": 0.1, "held_out": 0, "trusted": 0, "tried": tried}
    assert "Labels trusted: 0. Certificates hold for any choice among clusters 10; clusters 16." in tables_page(store)
    both, first, second = (frames[name].points for name in ("both", "10", "16"))
    same = first["predict"] == second["predict"]
    least = np.minimum(first["flips"], second["flips"])
    assert (both["predict"] == first["predict"].where(same, ABSTAIN)).all()
    assert (both["flips"] == least.where(same, 0)).all() and same.any() and not same.all()
    assert (least < np.maximum(first["flips"], second["flips"]))[same].any() and both["flips"].max() > 10


def test_a_class_that_can_outvote_its_supporters_is_named(
    tiny_data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The labels are read for the line alone: the study without it has the same points."""
    dataset = load_dataset(tiny_data_dir)
    sizes = np.bincount(np.concatenate([labels(dataset.y_train), labels(dataset.y_val)]))
    most, largest = int(sizes.max()), int(sizes.argmax())
    for learner, setting, k, told in (
        ("signed_neighbours", "neighbours", (most - 1) // 2, (sizes > 2 * ((most - 1) // 2)).sum()),
        ("signed_neighbours", "neighbours", (most + 1) // 2, 0),
        ("neighbours", "neighbours", 2, 0),
        ("signed_clusters", "clusters", 40, 10),
        ("signed_clusters", "clusters", 2, 0),
    ):
        changes: dict[str, Any] = {setting: (k,), "network_shares": (), "together_seconds": 0.0}
        main, config = toy("digits", tiny_data_dir, tmp_path / f"{learner}{k}", learner=learner, **changes)
        main(config)
        found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: class")]
        assert len(found) == told, (learner, k)
        if learner == "signed_neighbours" and told:
            line = f"warning: class {largest} has {most} of the training labels, more than twice the {k} points that"
            assert sum(one.startswith(line) for one in found) == 1


def test_a_study_with_another_learner_takes_the_features_that_are_kept(
    tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its certificates are those of a study that makes them, to the bit. A damaged file is made again."""
    made = []
    monkeypatch.setattr("label_flipping.features.fit_embedding", lambda *a: made.append(a) or fit_embedding(*a))
    kept = tmp_path / "features"

    def study(name: str, **changes: Any) -> Store:
        settings = {"features": "patches", "centroids": 20, "diffusion": 8, "network_shares": (), "features_dir": kept}
        main, config = toy("digits", tiny_data_dir, tmp_path / name, **{**settings, "neighbours": (60, 140), **changes})
        return main(config)

    study("first", learner="signed_neighbours")
    assert len(made) == 2 and len(list(kept.iterdir())) == 4  # held-out and test images, embedding and map
    with_kept = study("second", learner="neighbours")
    assert len(made) == 2 and "of an earlier study" in capsys.readouterr().out
    without = study("without", learner="neighbours", features_dir=None)
    assert len(made) == 4
    pd.testing.assert_frame_equal(with_kept.points, without.points, check_exact=True)
    assert record_of(with_kept)["choice"] == record_of(without)["choice"]
    for path in kept.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    again = study("again", learner="neighbours")
    pd.testing.assert_frame_equal(again.points, without.points, check_exact=True)
    out = capsys.readouterr().out
    assert len(made) == 6 and f"the features are made again: {kept}/" in out and "not a whole .npz file" in out

    def full(*_: object) -> None:
        raise InputError("no space left on the disk")

    monkeypatch.setattr("label_flipping.features.save_archive", full)
    in_vain = study("full", learner="neighbours", features_dir=tmp_path / "full_disk")
    pd.testing.assert_frame_equal(in_vain.points, without.points, check_exact=True)
    assert "the features are not kept: no space left on the disk" in capsys.readouterr().out
    assert not (tmp_path / "full_disk").exists()


@pytest.mark.parametrize("of_file", [False, True])
def test_features_of_other_settings_or_images_are_not_those_that_are_kept(
    of_file: bool, tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, made = load_dataset(tiny_data_dir), []
    monkeypatch.setattr("label_flipping.features.fit_diffusion_map", lambda *a: made.append(a) or fit_diffusion_map(*a))
    settings: dict[str, Any] = {"features": "patches", "centroids": 20, "diffusion": 8, "features_dir": tmp_path}
    for name, factor in (("a", 1), ("b", 2)):
        of_split = {split: getattr(dataset, f"x_{split}").reshape(-1, 64)[:, ::factor] for split in SPLITS}
        save_archive(tmp_path / f"{name}.npz", of_split)
    if of_file:
        settings |= {"features_file": tmp_path / "a.npz", "joined": True}
    _, first = toy("digits", tiny_data_dir, tmp_path, **settings)
    train, _, test = images_of_classes(dataset, first)
    fit_features(first, train.at(np.arange(300)), test)
    changes = [{"seed": 1}, {"centroids": 21}, {"features": "pca"}, {"diffusion": 5}, {"diffusion_neighbours": 5}]
    if of_file:
        changes += [{"features_file": tmp_path / "b.npz"}, {"joined": False}]
    cases = [(change, 300, "test") for change in changes] + [({}, 299, "test"), ({}, 300, "train")]
    for change, count, others in cases:
        config = dataclasses.replace(first, **change)
        train, _, test = images_of_classes(dataset, config)
        images = train.at(np.arange(count)), test if others == "test" else train.at(np.arange(50))
        kept, again, anew = (
            fit_features(dataclasses.replace(config, features_dir=folder), *images)
            for folder in (tmp_path, tmp_path, None)
        )
        for found, found_again, wanted in zip(kept, again, anew, strict=True):
            np.testing.assert_array_equal(found, wanted)
            np.testing.assert_array_equal(found_again, wanted)
    assert len(made) == 1 + 2 * len(cases)  # of three each, one is read


def test_one_adversary_against_all_points_is_a_second_curve(tiny_data_dir: Path, tmp_path: Path) -> None:
    """It lies above the certificates of single points, at their ends and beyond. A stopped study goes on."""
    main, config = toy(
        "digits", tiny_data_dir, tmp_path, learner="signed_clusters", classes=(0, 1, 4), network_shares=(), points=None
    )
    for done in ("features.json", "clusters_0.json", "points_0.json", "together_0.json", "together_4.json"):
        with pytest.raises(StoppedEarly):
            main(dataclasses.replace(config, max_minutes=1e-9))
        assert (tmp_path / "work" / done).is_file()
    main(config)
    store = the_store(tmp_path)
    table = curve_table(store).set_index("certificate")
    single, together = (
        next(curve for curve in curves_of(store) if curve.certificate == name) for name in ("signed", "signed_together")
    )
    assert together.at(0) == single.at(0) > 0.9 and together.flips[1] == 4
    ends = lines(store, "signed").query("correct == 1")["flips"]
    assert {*ends} <= {*together.flips} and together.flips.max() == 2 * ends.max()
    assert all(together.at(flips) >= single.at(flips) for flips in together.flips)
    assert together.at(ends.max() + 1) > single.at(ends.max() + 1) == 0
    assert np.all(np.diff(together.accuracy) <= 0) and list(together.attacked) == together.accuracy.tolist()
    row = table.loc["signed_together"]
    assert row["label"] == "signed votes, one adversary against all points" and np.isnan(row["points"])
    assert f"| {row['label']} | {row['unattacked']:.3f} | {row['accuracy']:.3f} |" in tables_page(store)


def test_features_of_a_file_are_those_of_the_images_that_they_belong_to(tiny_data_dir: Path, tmp_path: Path) -> None:
    """Raw pixels from a file, centred with a constant, give the raw features' files to the letter."""
    dataset = load_dataset(tiny_data_dir)
    x, y = (np.concatenate([getattr(dataset, f"{k}_{split}") for split in ("train", "val")]) for k in "xy")
    mean = x[np.isin(labels(y), (3, 8))].reshape(-1, 64).astype(float).mean(axis=0)
    for name in ("own", "of_file"):
        settings: dict[str, Any] = {"network_shares": (), "classes": (3, 8), "ridge": (10.0,)}
        if name == "of_file":
            settings["features_file"] = tmp_path / "pixels.npz"
            pixels = {split: getattr(dataset, f"x_{split}").reshape(-1, 64) - mean for split in SPLITS}
            arrays = {split: np.concatenate([x, np.ones((len(x), 1))], axis=1) for split, x in pixels.items()}
            save_archive(settings["features_file"], arrays)
            write_json(tmp_path / "pixels.json", {"settings": {"epochs": 3}})
        main, config = toy("digits", tiny_data_dir, tmp_path / name, **settings)
        main(config)
    own, of_file = (the_store(tmp_path / name) for name in ("own", "of_file"))
    assert [*own.records, *of_file.records] == ["DIGITS_3_8_raw_tight", "DIGITS_3_8_pixels_tight"]
    assert record_of(of_file)["features_record"] == {"settings": {"epochs": 3}}
    assert len(lines(own, "ridge")) == 40 and set(own.points["label"]) == {3, 8}
    pd.testing.assert_frame_equal(own.points.drop(columns="entry"), of_file.points.drop(columns="entry"))


def test_features_of_a_network_are_kept_by_the_content_of_its_file(
    tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def powers(path: Path) -> Any:
        return lambda x: x.reshape(len(x), -1) ** len(path.read_bytes())

    monkeypatch.setattr("models.embeddings.imagenet_features", powers)
    dataset, found = load_dataset(tiny_data_dir), []
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"11")):
        (tmp_path / name).write_bytes(content)
        changes: dict[str, Any] = {
            "features": "imagenet",
            "weights": tmp_path / name,
            "features_dir": tmp_path / "kept",
        }
        _, config = toy("digits", tiny_data_dir, tmp_path, **changes)
        train, _, test = images_of_classes(dataset, config)
        found.append(fit_features(config, train, test)[1])
        assert len(list((tmp_path / "kept").glob("*.npz"))) == 1 + (name == "c")
    assert np.array_equal(found[0], found[1]) and not np.allclose(found[0], found[2])
    monkeypatch.setattr("label_flipping.config.read_weights", powers)
    main, config = toy(
        "digits", tiny_data_dir, tmp_path, features="imagenet", weights=tmp_path / "a", network_shares=()
    )
    main(config)
    (tmp_path / "a").write_bytes(b"111")
    with pytest.raises(InputError, match="made with weights"):  # the same path with another content
        main(config)
    fixed = {"tried": [{}], "held_out": 0}
    record = {"features": "imagenet", "test_points": 1, "config": {"learner": "kernel"}, "choice": fixed}
    assert _study_label(record, 1) == ("kernel regression, ImageNet features (outside data)")


def test_joined_features_are_both_of_one_scale(tiny_data_dir: Path, tmp_path: Path) -> None:
    dataset = load_dataset(tiny_data_dir)
    random = np.random.default_rng(0)
    arrays = {split: 1e3 * random.normal(3, 1, (len(getattr(dataset, f"x_{split}")), 5)) for split in SPLITS}
    save_archive(tmp_path / "wide.npz", arrays)
    _, config = toy("digits", tiny_data_dir, tmp_path, features="patches", features_file=tmp_path / "wide.npz")
    config = dataclasses.replace(config, joined=True, centroids=7)
    assert features_name(config) == "patches_wide"
    train, held_out, test = images_of_classes(dataset, config)
    everything = Images(*(np.concatenate(pair) for pair in zip(train, held_out, strict=True)))
    x, x_test = fit_features(config, everything, test)
    assert x.shape[1] == 4 * 7 + 5 + 1 and len(x_test) == len(test.x)
    for part in (x[:, :28], x[:, 28:33]):
        np.testing.assert_allclose(part.mean(axis=0), 0, atol=1e-9)
        assert np.square(part).sum(axis=1).mean() == pytest.approx(1)
    assert (x[:, 33] == 1).all() and (x_test[:, 33] == 1).all()
    of_file = np.concatenate([arrays["train"], arrays["val"]])
    scale = np.sqrt(of_file.var(axis=0).sum())
    np.testing.assert_allclose(x_test[:, 28:33], (arrays["test"] - of_file.mean(axis=0)) / scale, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": np.zeros((3, 2))}, r"test is float64 of shape \(3, 2\), floats of shape \(\d+, 2\) expected"),
        ({"val": np.zeros((0, 2), int)}, r"val is int64 of shape"),
        ({"train": np.zeros(7)}, r"train is float64 of shape \(7,\)"),
        ({"test": None}, "has no array 'test'"),
        ({"test": "nan"}, "test holds NaN or infinite values"),
    ],
)
def test_a_file_of_other_features_is_refused(
    change: dict[str, Any], message: str, tiny_data_dir: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(tiny_data_dir)
    arrays = {split: np.zeros((len(getattr(dataset, f"x_{split}")), 2)) for split in ("train", "val", "test")}
    for name, array in change.items():
        if array is None:
            del arrays[name]
        elif isinstance(array, str):
            arrays[name][1, 1] = np.nan
        else:
            arrays[name] = array
    save_archive(tmp_path / "a.npz", arrays)
    main, config = toy("digits", tiny_data_dir, tmp_path, features_file=tmp_path / "a.npz")
    with pytest.raises(InputError, match=f"{tmp_path}/a.npz: {message}"):
        main(config)
    with pytest.raises(InputError, match="no such file"):
        main(dataclasses.replace(config, features_file=tmp_path / "b.npz"))


def test_a_draw_of_test_points_without_some_class_changes_no_certificate(
    folder: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    main, config = toy("digits", tiny_data_dir, tmp_path, points=3, network_shares=())
    main(config)
    whole, few = lines(the_store(folder), "tight", 0.1), lines(the_store(tmp_path), "tight", 0.1)
    assert len(few) == 3
    pd.testing.assert_frame_equal(whole[whole["idx"].isin(few["idx"])].reset_index(drop=True), few)


def test_certificates_lie_below_the_exact_robustness_of_ridge_on_the_whole(folder: Path) -> None:
    curves = {(curve.certificate, curve.q): curve for curve in curves_of(the_store(folder))}

    def area(name: str, q: float | None) -> float:
        curve = curves[name, q]
        assert np.all(np.diff(curve.accuracy) <= 0)
        return float(np.sum(np.diff(curve.flips) * curve.accuracy[1:]))

    assert 0 < area("closed_form", 0.1) < area("tight", 0.1) < area("ridge", None)


def test_a_stopped_run_continues_to_the_same_files(folder: Path, tiny_data_dir: Path, tmp_path: Path) -> None:
    main, config = toy("digits", tiny_data_dir, tmp_path)
    stages = ("ridge_10.json", "ridge_1000.json", "features.json", "points_0.json")
    for done in (*stages, "points_0.json"):  # the last stop is in the first training
        with pytest.raises(StoppedEarly):
            main(dataclasses.replace(config, max_minutes=1e-9))
        assert (tmp_path / "work" / done).is_file()
    assert not list((tmp_path / "work").glob("network*"))
    main(config)
    again, whole = the_store(tmp_path), the_store(folder)
    pd.testing.assert_frame_equal(again.points, whole.points)
    assert record_of(again)["curves"] == record_of(whole)["curves"]
    other = dataclasses.replace(config, at=0.2)
    for work in (config.work_dir, tmp_path / "elsewhere"):  # the second knows the finished study alone
        with pytest.raises(InputError, match=r"made with at = 0\.01, this run has 0\.2"):
            main(dataclasses.replace(other, work_dir=work))
    pd.testing.assert_frame_equal(the_store(tmp_path).points, whole.points)
    afresh = dataclasses.replace(other, ridge=(10.0,), on_other_settings="start_afresh")
    main(afresh)
    main(dataclasses.replace(afresh, on_other_settings="refuse"))  # no stage of the first study is left
    assert {path.stem for path in (tmp_path / "work").glob("*.json")}.isdisjoint({"ridge_10", "ridge_1000"})


@pytest.mark.parametrize("part", ["Y_train", "X_val", "Y_val", "Y_test"])
def test_other_labels_or_held_out_images_are_another_study(
    folder: Path, tiny_data_dir: Path, tmp_path: Path, part: str
) -> None:
    for path in tiny_data_dir.glob("*.npy"):
        array = np.load(path)
        np.save(tmp_path / path.name, np.roll(array, 1, axis=0) if path.stem == part else array)
    main, config = toy("digits", tmp_path, tmp_path, work_dir=folder / "work")
    with pytest.raises(InputError, match=f"made with {part.lower()} = "):
        main(config)


def test_the_record_is_the_last_and_only_one_study_writes(
    folder: Path, tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results" / "DIGITS_raw_tight"
    shutil.copytree(folder / "results", tmp_path / "results")
    main, config = toy("digits", tiny_data_dir, tmp_path, work_dir=folder / "work")
    for held in (folder / "work" / "stages", results / "settings.json.xz"):
        with Artifact(held), pytest.raises(InputError, match=f"{held}: another run is writing it"):
            main(config)

    def full(*_: object) -> None:
        raise InputError("no space left on the disk")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="no space left"):
        patch.setattr("label_flipping.study.save_label_curves", full)
        main(config)
    assert not (results / "settings.json.xz").exists()
    (results / "tables.md").unlink()
    (results / "tables.md").mkdir()
    with pytest.raises(InputError, match=r"tables\.md: is a folder"):
        main(config)
    (results / "tables.md").rmdir()
    main(config)
    assert (results / "settings.json.xz").exists() and not list(results.glob(".*"))


def test_every_script_runs_on_arrays_of_its_kind(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, shape in (("mnist_1_7", (28, 28, 1)), ("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))):
        patterns = random.uniform(50, 200, size=(10, *shape))
        splits = {}
        for split, count in (("train", 200), ("val", 60), ("test", 60)):
            y = np.arange(count) % 10
            x = np.clip(patterns[y] + random.normal(scale=20, size=(count, *shape)), 0, 255)
            splits[split] = (x.astype(np.uint8), y)
        folder = tmp_path / name
        write_dataset(PreparationConfig(out_dir=folder / "data"), splits, {"file": "made by a test"}, num_classes=10)
        main, config = toy(
            name,
            folder / "data",
            folder,
            q=(0.1,),
            network_shares=(),
            features=script(name)["Config"]().features,
            centroids=20,
        )
        main(config)
        rows = lines(the_store(folder), "tight", 0.1)
        expected = {1, 7} if name == "mnist_1_7" else set(range(10))
        assert set(rows["label"]) <= expected and len(rows) == (12 if name == "mnist_1_7" else 40)
        assert rows["correct"].mean() > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": (0.1, 0.6)}, "q must be at least 1e-6 and below 1/2, got 0.6"),
        ({"network_points": -1}, "network_points must lie between 0 and 1000, got -1"),
        ({"q": ()}, "q must hold at least one probability below 1/2"),
        ({"q": (0.1, 0.1)}, r"each once, got \(0.1, 0.1\)"),
        ({"weights": Path("a.pth")}, "only for imagenet features that are made here; add --features"),
        ({"classes": (1, 12)}, "class 12 is out of range; choose from 0 to 9"),
        ({"classes": (1, 1)}, "at least two different ones"),
        ({"at": 0.0}, "at must lie strictly between 0 and 1, got 0.0"),
        ({"points": 0}, "points must be at least 1, got 0"),
        ({"ridge": ()}, "ridge must hold at least one number"),
        ({"ridge": (1.0, -1.0)}, "ridge must not be negative, got -1.0"),
        ({"neighbours": (0,)}, "neighbours must be positive, got 0"),
        ({"bandwidths": ()}, "bandwidths must hold at least one number"),
        ({"bandwidths": (0.1, 0.0)}, "bandwidths must be positive, got 0.0"),
        ({"diffusion": -2}, "diffusion must not be negative, got -2"),
        ({"learner": "neighbours", "neighbours": (10**6,)}, "neighbours must lie between 1 and the"),
        ({"learner": "signed_neighbours", "neighbours": (10**6,)}, "signed votes need from 1 to"),
        ({"joined": True}, "joined needs features_file"),
        ({"features": "imagenet"}, "imagenet features need a file of weights, got None; give the .pth file"),
        ({"centroids": 0}, "centroids must be positive, got 0"),
        ({"network_shares": (1.5,)}, "network_shares must lie between 0 and 1, got 1.5"),
    ],
)
def test_bad_settings_get_one_clear_line(
    changes: dict[str, Any], message: str, tiny_data_dir: Path, tmp_path: Path
) -> None:
    main, config = toy("digits", tiny_data_dir, tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        main(config)


def test_a_certificate_falls_in_steps_and_a_network_in_lines() -> None:
    flips, accuracy = np.array([0, 5, 6, 9, 10]), np.array([0.9, 0.9, 0.5, 0.5, 0.0])
    certificate = LabelCurve("a", 0, "tight", 0.1, flips, accuracy)
    assert [certificate.at(flips) for flips in (0, 3, 5, 6, 7, 10, 11)] == [0.9, 0.9, 0.9, 0.5, 0.5, 0.0, 0.0]
    assert certificate.most_flips() == 9 and certificate.most_flips(0.6) == 5
    few = LabelCurve("a", 0, "tight", 0.1, np.array([0, 5, 6]), np.array([1.0, 1.0, 0.0]), 3)
    assert few.median_interval() == (None, None)  # three points bound no median
    network = LabelCurve("a", 0, "network_random", None, np.array([0, 10]), np.array([1.0, 0.5]))
    assert network.at(5) == 0.75 and network.most_flips() is None
    later = LabelCurve("a", 0, "network_random", None, np.array([5, 10]), np.array([1.0, 0.5]))
    assert later.at(5) == 1 and np.isnan([later.at(4), later.at(11)]).all()  # not measured


def test_ridge_in_units_of_the_mean_eigenvalue_fits_any_scale_of_the_features() -> None:
    x = np.random.default_rng(0).normal(size=(30, 5))
    config = LabelFlippingConfig(data_dir=Path(), learner="least_squares", ridge=(2.0,))
    first, scaled = (_learner(config, scale * x)({"ridge": 2.0})(scale * x[:4]) for scale in (1, 7))
    np.testing.assert_allclose(scaled, first)
    by_hand = np.linalg.eigvalsh(x.T @ x).mean()
    np.testing.assert_allclose(first, RidgeRegression(x, 2 * by_hand)(x[:4]))


def test_a_figure_names_features_whose_name_has_two_words() -> None:
    record = {"features": "root_patches_diffusion", "test_points": 10, "config": {"learner": "signed_clusters"}}
    record["choice"] = {"tried": [{}], "held_out": 0}
    assert _study_label(record, 10) == "signed votes of clusters, roots of patches + diffusion map"
    every = {**record, "choice": {"tried": [{}, {}], "held_out": 0}}
    assert _study_label(every, 10) == "signed votes of clusters, roots of patches + diffusion map, any choice"
