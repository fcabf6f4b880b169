"""Certificates from some of a file's votes: the votes are found, and what is drawn of them is what a run counts."""

from pathlib import Path

import numpy as np
import pytest

from randomized_smoothing_certification.certificate_file import read_points
from randomized_smoothing_certification.core import ABSTAIN, lower_confidence_bound, radius_of_probability, round_down
from randomized_smoothing_certification.fewer_votes import Config, count_of_radius, main
from runtime.files import InputError, write_text

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


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
        ({"n": 2_000}, "n is 2000, more than the file's 1000 votes"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"alpha": 1.0}, "alpha must lie strictly between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_the_files(change: dict[str, float], message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", (8, radius(1_000, 1_000)))
    settings = {"sigma": 0.5, "votes": 1_000, "n": 100, **change}
    with pytest.raises(InputError, match=message):
        main(Config(certificates=file, out=tmp_path / "b.tsv", **settings))
    assert not (tmp_path / "b.tsv").exists()


def test_points_with_votes_of_their_own_are_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "a.tsv", HEADER.replace("time", "time\tvotes") + "0\t8\t8\t1.000000\t1\t0:00:00.1\t70\n")
    with pytest.raises(InputError, match="different numbers of votes"):
        main(Config(certificates=tmp_path / "a.tsv", sigma=0.5, out=tmp_path / "b.tsv"))


@pytest.mark.parametrize("text", ["", HEADER], ids=["empty", "header"])
def test_a_file_without_a_point_is_refused(text: str, tmp_path: Path) -> None:
    write_text(tmp_path / "a.tsv", text)
    with pytest.raises(InputError, match=r"a\.tsv: has no point; choose another file"):
        main(Config(certificates=tmp_path / "a.tsv", sigma=0.5, out=tmp_path / "b.tsv"))
    assert not (tmp_path / "b.tsv").exists()
