"""Certificates from some of a file's votes: the votes are found, and what is drawn of them is what a run counts."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from randomized_smoothing_certification import core
from randomized_smoothing_certification.certificate_file import read_points
from randomized_smoothing_certification.certificate_record import recorded_settings
from randomized_smoothing_certification.core import ABSTAIN, lower_confidence_bound, radius_of_probability, round_down
from randomized_smoothing_certification.fewer_votes import Config, count_of_radius, main
from randomized_smoothing_certification.grid_noise import GridNoise
from runtime.files import InputError, file_sha256, read_json, write_json, write_text

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


@cache
def radius(count: int, votes: int, digits: int = 6) -> str:
    return round_down(radius_of_probability(lower_confidence_bound(count, votes, 0.001), 0.5), digits)


def write(path: Path, *points: tuple[int, str]) -> Path:
    """Points of class 8: the predicted class and the radius of each."""
    lines = [f"{i}\t8\t{predict}\t{of}\t{int(predict == 8)}\t0:00:00.1\n" for i, (predict, of) in enumerate(points)]
    write_text(path, HEADER + "".join(lines))
    return path


@pytest.mark.parametrize(("votes", "count"), [(100_000, 100_000), (100_000, 99_999), (100_000, 61_234), (1_000, 560)])
def test_the_votes_behind_a_radius(votes: int, count: int) -> None:
    assert count_of_radius(float(radius(count, votes)), votes, 0.001, 0.5) == count


@pytest.mark.parametrize("alpha", [1e-100, 1e-17, 0.999])
@pytest.mark.parametrize("count", [999, 980, 870])
def test_the_votes_behind_a_radius_are_found_at_any_alpha(count: int, alpha: float) -> None:
    of_count = radius_of_probability(lower_confidence_bound(count, 999, alpha), 0.5)
    assert of_count > 0 and count_of_radius(float(round_down(of_count)), 999, alpha, 0.5) == count


def test_all_votes_give_the_file_itself(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", (8, radius(990, 1_000)), (3, radius(700, 1_000)), (ABSTAIN, "0.000000"))
    main(Config(certificates=file, sigma=0.5, votes=1_000, n=1_000, out=tmp_path / "b.tsv"))
    assert (tmp_path / "b.tsv").read_text() == file.read_text()


def test_drawn_votes_are_distributed_as_fresh_ones(tmp_path: Path) -> None:
    """Counts of a run of 1,000 votes, each turned into one of 200: binomial, as the votes of a run of 200 are."""
    probability, points = 0.9, 4_000
    counts = np.random.default_rng(0).binomial(1_000, probability, points)
    file = write(tmp_path / "a.tsv", *((8, radius(count, 1_000)) for count in counts))
    main(Config(certificates=file, sigma=0.5, votes=1_000, n=200, out=tmp_path / "b.tsv"))
    new = [count_of_radius(point.certified_radius, 200, 0.001, 0.5) for point in read_points(tmp_path / "b.tsv")]
    assert np.mean(new) == pytest.approx(200 * probability, abs=4 * np.sqrt(18 / points))
    assert np.var(new) == pytest.approx(200 * probability * (1 - probability), rel=0.1)


def test_few_votes_may_abstain_and_a_wrong_class_stays_wrong(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", (8, radius(560, 1_000)), (3, radius(1_000, 1_000)))
    main(Config(certificates=file, sigma=0.5, votes=1_000, n=100, out=tmp_path / "b.tsv"))
    few, wrong = read_points(tmp_path / "b.tsv")
    assert (few.predict, few.radius, few.correct) == (ABSTAIN, "0.000000", 0)
    assert (wrong.predict, wrong.correct) == (3, 0) and wrong.radius == radius(100, 100)
    file.write_text(file.read_text().replace("\t8\t8\t", "\t-1\t8\t"))  # a point of no class
    main(Config(certificates=file, sigma=0.5, votes=1_000, n=100, out=tmp_path / "c.tsv"))
    assert (tmp_path / "c.tsv").read_text().splitlines()[1].startswith("0\t-1\t-1\t0.000000\t0\t")


def test_radii_of_three_digits_are_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", (8, "1.74"), (8, "0.123"))
    main(Config(certificates=file, sigma=0.5, out=tmp_path / "b.tsv"))
    first, second = read_points(tmp_path / "b.tsv")
    assert first.certified_radius == pytest.approx(1.55, abs=0.15)
    assert second.certified_radius == pytest.approx(0.11, abs=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.25}, "no count of 1000 votes has the radius .* at sigma 0.25, alpha 0.001"),
        ({"votes": 500}, "no count of 500 votes"),
        ({"votes": 1_600_000_000}, r"votes must be below 10\^9"),
        ({"n": 2_000}, "n is 2000, more than the file's 1000 votes"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"alpha": 1.0}, "alpha must lie strictly between 0 and 1"),
        ({"failure_mass": -0.6}, "failure_mass must be at least 0 and below 0.5"),
        ({"failure_mass": 0.5}, "failure_mass must be at least 0 and below 0.5"),
    ],
)
def test_settings_that_cannot_be_the_files(change: dict[str, float], message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", (8, radius(1_000, 1_000)))
    settings = {"sigma": 0.5, "votes": 1_000, "n": 100, **change}
    with pytest.raises(InputError, match=message):
        main(Config(certificates=file, out=tmp_path / "b.tsv", **settings))
    assert not (tmp_path / "b.tsv").exists()


def with_record(file: Path, failure_mass: float = 0.0, **settings: Any) -> None:
    """Put the record beside a file that a run of this project has."""
    noise = {"mode": "grid" if failure_mass else "float32", "failure_mass": failure_mass}
    what = {
        "dataset": "MNIST", "split": "test", "target_class": 8, "points": 2, "seed": 0, "n0": 100, "n": 1_000,
        "alpha": 0.001, "sigma": 0.5, "precision": "float32", "noise": noise, "shard": None, "model_sha256": "",
        "shared_noise": True, "acr_only": False, "radius_loss": 0.0, "radii": [], "noise_of": "seed and images",
        **settings,
    }  # fmt: skip
    points = [point.idx for point in read_points(file)]
    write_json(file.with_suffix(".settings.json"), {"settings": what, "points": points, "provenance": {}})


@pytest.mark.parametrize(("sigma", "size"), [(0.75, 784), (1.0, 784), (0.16, 3072), (0.33, 3072), (1.0, 3072)])
def test_exact_noise_is_known(sigma: float, size: int, tmp_path: Path) -> None:
    """Its failure mass is taken off every bound: at these noise levels it is so large that it shows in the radius."""
    mass = GridNoise(sigma, 255).failure_mass(size)
    counts = (1_000, 999, 870, 560)
    bounds = [lower_confidence_bound(count, 1_000, 0.001) - mass for count in counts]
    radii = [round_down(radius_of_probability(bound, sigma)) for bound in bounds]
    file = write(tmp_path / "a.tsv", *((8, of) for of in radii))
    with_record(file, mass, sigma=sigma)
    main(Config(certificates=file, n=1_000, out=tmp_path / "b.tsv"))
    assert (tmp_path / "b.tsv").read_text() == file.read_text()
    main(Config(certificates=file, n=100, out=tmp_path / "few.tsv"))
    assert read_points(tmp_path / "few.tsv")[0].radius == round_down(core.radius_ceiling(sigma, 100, 0.001, mass))
    file.with_suffix(".settings.json").unlink()
    main(Config(certificates=file, sigma=sigma, votes=1_000, failure_mass=mass, n=100, out=tmp_path / "c.tsv"))
    assert (tmp_path / "c.tsv").read_text() == (tmp_path / "few.tsv").read_text()


def test_the_record_beside_a_file_says_how_it_was_made(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", (8, radius(990, 1_000)))
    with pytest.raises(InputError, match="has no record beside it; give --sigma"):
        main(Config(certificates=file, n=1_000, out=tmp_path / "b.tsv"))
    with_record(file)
    main(Config(certificates=file, n=1_000, out=tmp_path / "b.tsv"))
    assert (tmp_path / "b.tsv").read_text() == file.read_text()
    with pytest.raises(InputError, match=r"sigma is 0\.25, but the record beside .*a\.tsv says 0\.5; leave it out"):
        main(Config(certificates=file, sigma=0.25, n=1_000, out=tmp_path / "b.tsv"))


def test_the_times_of_points_do_not_change_the_draw(tmp_path: Path) -> None:
    """A run and its merged shards differ in nothing else."""
    file = write(tmp_path / "a.tsv", *[(8, radius(900, 1_000))] * 20)
    (tmp_path / "b.tsv").write_text(file.read_text().replace("0:00:00.1", "0:00:07"))
    for name in ("a", "b"):
        main(
            Config(certificates=tmp_path / f"{name}.tsv", sigma=0.5, votes=1_000, n=300, out=tmp_path / f"{name}2.tsv")
        )
    drawn = [[point.radius for point in read_points(tmp_path / f"{name}2.tsv")] for name in ("a", "b")]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 1


def test_half_a_run_is_refused_and_the_settings_stay(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", (8, radius(990, 1_000)), (8, radius(900, 1_000)))
    with_record(file, test_sha256="of the test images")
    for source, out in (("a", "b"), ("b", "c")):
        main(Config(certificates=tmp_path / f"{source}.tsv", n=100, out=tmp_path / f"{out}.tsv"))
        known = recorded_settings(tmp_path / f"{out}.tsv")
        assert known == {**recorded_settings(file), "n": 100, "votes": {"b": 1_000, "c": 100}[out]}
    assert (known["test_sha256"], known["noise"]["mode"]) == ("of the test images", "float32")
    write(file, (8, radius(990, 1_000)))
    with pytest.raises(InputError, match=r"a\.tsv: has 1 of 2 points; run its certification again"):
        main(Config(certificates=file, n=100, out=tmp_path / "d.tsv"))
    whole = read_json(record := file.with_suffix(".settings.json"))
    for config in ([], {"model": 3}, {"model": None}):
        write_json(record, {**whole, "provenance": {"config": config}})
        with pytest.raises(InputError, match=r"a\.settings\.json: not a record of certificates \(Expected"):
            recorded_settings(file)


def test_points_with_votes_of_their_own(tmp_path: Path) -> None:
    """As with --acr-only and --radius-loss: points that have no more votes already keep their certificates."""
    rows = [(8, radius(990, 1_000), 1_000), (8, radius(70, 70), 70), (-1, "0.000000", 0), (8, radius(195, 200), 200)]
    lines = [
        f"{i}\t8\t{predict}\t{of}\t{int(predict == 8)}\t0:00:00.1\t{votes}\n"
        for i, (predict, of, votes) in enumerate(rows)
    ]
    write_text(tmp_path / "a.tsv", HEADER.replace("time", "time\tvotes") + "".join(lines))
    with_record(tmp_path / "a.tsv", acr_only=True, radius_loss=0.05)
    main(Config(certificates=tmp_path / "a.tsv", n=100, out=tmp_path / "b.tsv"))
    first, second, third, fourth = read_points(tmp_path / "b.tsv")
    assert [point.votes for point in (first, second, third, fourth)] == [100, 70, 0, 100]
    assert (second.radius, third.predict) == (rows[1][1], -1)
    for point in (first, fourth):
        assert 0 < float(point.radius) <= radius_of_probability(lower_confidence_bound(100, 100, 0.001), 0.5)
    write_text(tmp_path / "a.tsv", HEADER.replace("time", "time\tvotes") + "0\t8\t8\t0.300001\t1\t0:00:00.1\t70\n")
    with_record(tmp_path / "a.tsv", acr_only=True, radius_loss=0.05)
    with pytest.raises(InputError, match=r"no count of 70 votes has the radius 0\.300001 of point 0"):
        main(Config(certificates=tmp_path / "a.tsv", n=50, out=tmp_path / "c.tsv"))


def test_another_set_of_points_has_other_draws(tmp_path: Path) -> None:
    """What is chosen on validation points must not see the draws of the test points."""
    radii = [(8, radius(900, 1_000))] * 50
    file = write(tmp_path / "test.tsv", *radii)
    (tmp_path / "val.tsv").write_text(file.read_text().replace("\n", "\n1", 50))  # other numbers of the same images
    drawn = []
    for name in ("test", "val"):
        main(Config(certificates=tmp_path / f"{name}.tsv", sigma=0.5, votes=1_000, n=300, out=tmp_path / "b.tsv"))
        drawn.append([point.radius for point in read_points(tmp_path / "b.tsv")])
    assert np.mean(np.array(drawn[0]) == drawn[1]) < 0.5


def test_fewer_votes_of_fewer_votes_keep_their_confidence(tmp_path: Path) -> None:
    """Draws of the second step that depended on those of the first gave three times as many wrong certificates."""
    probability, points, alpha = 0.8, 3_000, 0.01
    counts = np.random.default_rng(1).binomial(10_000, probability, points)
    bound = cache(lower_confidence_bound)
    radii = [radius_of_probability(bound(int(count), 10_000, alpha), 0.5) for count in counts]
    file = write(tmp_path / "a.tsv", *((8, round_down(of)) for of in radii))
    settings: dict[str, Any] = {"sigma": 0.5, "alpha": alpha}
    main(Config(certificates=file, votes=10_000, n=5_000, out=tmp_path / "b.tsv", **settings))
    main(Config(certificates=tmp_path / "b.tsv", votes=5_000, n=2_500, out=tmp_path / "c.tsv", **settings))
    true_radius = radius_of_probability(probability, 0.5)
    wrong = sum(point.certified_radius > true_radius for point in read_points(tmp_path / "c.tsv"))
    assert wrong <= stats.binom.isf(1e-4, points, alpha)


def test_nothing_of_another_run_is_overwritten(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", (8, radius(990, 1_000)))
    before = file.read_text()
    settings: dict[str, Any] = {"certificates": file, "sigma": 0.5, "votes": 1_000, "n": 100}
    with pytest.raises(InputError, match="is the file of certificates itself"):
        main(Config(out=file, **settings))
    with pytest.raises(InputError, match=r"ends in \.tsv"):
        main(Config(out=tmp_path / "b.json", **settings))
    with_record(run := write(tmp_path / "run.tsv", (8, radius(990, 1_000))))
    with pytest.raises(InputError, match=r"run\.settings\.json beside it says that it is a certification run's"):
        main(Config(out=run, **settings))
    assert file.read_text() == run.read_text() == before
    in_the_way = r"c\.tsv: it or c\.json is there, and not of this script"
    for name, others, message in (
        ("c.json", '{"accuracy": 0.9}', in_the_way), ("c.json", "5", r"c\.json: "), ("c.tsv", "theirs", in_the_way),
    ):  # fmt: skip
        (tmp_path / name).write_text(others)
        with pytest.raises(InputError, match=message):
            main(Config(out=tmp_path / "c.tsv", **settings))
        assert (tmp_path / name).read_text() == others
        (tmp_path / name).unlink()
    main(Config(out=tmp_path / "c.tsv", **settings))
    main(Config(out=tmp_path / "c.tsv", **settings))  # its own output may be written again
    with pytest.raises(InputError, match=r"c\.tsv: has certificates of n = 100; choose another output"):
        main(Config(out=tmp_path / "c.tsv", **{**settings, "n": 50}))
    record = read_json(tmp_path / "c.json")
    assert record["source_sha256"] == file_sha256(file) and record["config"]["n"] == 100
    main(Config(certificates=tmp_path / "c.tsv", n=50, out=tmp_path / "d.tsv"))  # the record says the rest
    assert float(read_points(tmp_path / "d.tsv")[0].radius) > 0


@pytest.mark.parametrize("form", ["%.3e", "%.6g", "%.2f", "%r", "float32"])
def test_radii_of_any_form_are_found(form: str, tmp_path: Path) -> None:
    counts = (560, 750, 990, 1_000)
    exact = [radius_of_probability(lower_confidence_bound(count, 1_000, 0.001), 0.5) for count in counts]
    texts = [str(np.float32(of)) if form == "float32" else form % of for of in exact]
    file = write(tmp_path / "a.tsv", *((8, text) for text in texts))
    main(Config(certificates=file, sigma=0.5, votes=1_000, n=1_000, out=tmp_path / "b.tsv"))
    assert len(read_points(tmp_path / "b.tsv")) == 4


def test_numbers_of_votes_that_are_floats_are_numbers(tmp_path: Path) -> None:
    """As pandas writes them where one is missing."""
    write_text(tmp_path / "a.tsv", f"label\tpredict\tradius\tvotes\n8\t8\t{radius(990, 1_000)}\t1000.0\n")
    main(Config(certificates=tmp_path / "a.tsv", sigma=0.5, votes=2_000, n=1_000, out=tmp_path / "b.tsv"))
    (point,) = read_points(tmp_path / "b.tsv")
    assert (point.votes, point.radius) == (1_000, radius(990, 1_000))
