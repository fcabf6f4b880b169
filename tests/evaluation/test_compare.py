"""Two sets of certificates are compared only where that means something."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation import compare
from evaluation.compare import Config, main
from evaluation.tables.runs import SAME
from randomized_smoothing_certification import fewer_votes
from randomized_smoothing_certification.certificate_file import Point, as_text, read_points
from randomized_smoothing_certification.core import radius_ceiling
from runtime.files import InputError, write_text
from runtime.part_by_part import settings_path


def certificates(path: Path, *radii: float, first: int = 0) -> Path:
    """A file of another program. Radius -1: predicted wrongly."""
    points = [
        Point(first + idx, 8, 8 if radius >= 0 else 3, f"{max(radius, 0):.6f}", int(radius >= 0), "0:00:01")
        for idx, radius in enumerate(radii)
    ]
    write_text(path, as_text(points))
    return path


def test_the_reduction_is_of_the_mean_radius_and_names_what_varies(tmp_path: Path, capsys: Any) -> None:
    clean = tuple(certificates(tmp_path / f"clean_{seed}.tsv", 1.0, 0.6, 0.4) for seed in range(2))
    poisoned = tuple(certificates(tmp_path / f"{radius}.tsv", 0.5, radius, -1) for radius in (0.3, 0.1))
    main(Config(clean=clean[:1], poisoned=poisoned[:1]))
    one = capsys.readouterr().out
    assert "ACR 0.6667 of clean data, 0.2667 of poisoned data (1 victim, 3 test points)" in one
    assert "lower by 60.0 % (" in one and "95 % over points of this victim" in one
    main(Config(clean=clean, poisoned=poisoned))
    two = capsys.readouterr().out
    assert "0.2333 of poisoned data (2 victims, 3 test points)" in two
    assert "lower by 65.0 % (" in two and "95 % over victims and points" in two


def test_a_radius_is_a_number_as_other_programs_write_it(tmp_path: Path) -> None:
    file = certificates(tmp_path / "a.tsv", 0.5, 0.3)
    file.write_text(file.read_text().replace("0.500000", "0_5"))
    with pytest.raises(InputError, match=r"a\.tsv: line 2 is damaged: label, predict, radius .* must be numbers"):
        read_points(file)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    a, b = certificates(tmp_path / "a.tsv", 0.5, 0.3), certificates(tmp_path / "b.tsv", -1, -1)
    for clean, poisoned, message in (
        ((a, a), (b,), "--clean has 2 files and --poisoned 1; give a file for each seed"),
        ((), (), "--clean has 0 files and --poisoned 0"),
        ((a,), (a,), r"a\.tsv: is given twice; give each victim's file once"),
        ((a,), (certificates(tmp_path / "c.tsv", 0.5, 0.3, first=1),), r"c\.tsv: has other test points than .*a\.tsv"),
        ((b,), (a,), r"b\.tsv: certifies no point, so that there is nothing to lose; train longer"),
        ((a,), (tmp_path / "none.tsv",), r"none\.tsv: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            main(Config(clean=clean, poisoned=poisoned))


def test_certificates_of_other_settings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this project have a record beside them, and so have votes that fewer_votes.py drew."""
    clean, poisoned = certificates(tmp_path / "a.tsv", 0.5, 0.3), certificates(tmp_path / "b.tsv", 0.2, 0.1)
    drawn = certificates(tmp_path / "drawn.tsv", 0.2, 0.1)
    made_with = {"sigma": 0.5, "votes": 10_000, "alpha": 0.001, "failure_mass": 0.0}
    record = {"made_with": made_with, "config": {"n": 2_000}}
    drawn.with_suffix(".json").write_text(json.dumps(record))
    alike = {**dict.fromkeys(SAME, 0), "sigma": 0.5, "alpha": 0.001, "n": 1_000, "radii": (), "noise": {}}
    runs = {clean: alike, poisoned: alike}
    for module in (compare, fewer_votes):
        monkeypatch.setattr(module, "read_certificate_record", lambda file: {"settings": runs[file]})
    monkeypatch.setattr(compare, "read_whole_points", lambda file, record: read_points(file))
    for file in runs:
        settings_path(file).touch()
    main(Config(clean=(clean,), poisoned=(poisoned,)))
    for name in SAME:
        runs[poisoned] = {**alike, name: (other := {"mode": "grid"} if name == "noise" else 3)}
        with pytest.raises(InputError, match=rf"b\.tsv: {name} is {other}, but .* in .*a\.tsv; certify alike"):
            main(Config(clean=(clean,), poisoned=(poisoned,)))
    with pytest.raises(InputError, match=r"drawn\.tsv: n is 2000, but 1000 in .*a\.tsv"):
        main(Config(clean=(clean,), poisoned=(drawn,)))
    for made_with in ({}, {**record["made_with"], "sigma": "0.5"}):
        drawn.with_suffix(".json").write_text(json.dumps({**record, "made_with": made_with}))
        with pytest.raises(InputError, match=r"drawn\.json: not a record of fewer_votes\.py; make it again"):
            main(Config(clean=(clean,), poisoned=(drawn,)))
    runs[poisoned] = {**alike, "radii": (0.25,)}
    with pytest.raises(InputError, match=r"b\.tsv: certified accuracies at fixed radii"):
        main(Config(clean=(clean,), poisoned=(poisoned,)))


def test_the_share_of_points_at_the_largest_radius_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    known = {"n": 1_000, "alpha": 0.001, "sigma": 0.5, "failure_mass": 0.0}
    monkeypatch.setattr(compare, "recorded_settings", lambda file: known)
    largest = radius_ceiling(0.5, 1_000, 0.001)
    clean = certificates(tmp_path / "clean.tsv", largest, 0.9 * largest, -1, largest)
    main(Config(clean=(clean,), poisoned=(certificates(tmp_path / "poisoned.tsv", 0.1, 0.2, 0.3, largest),)))
    expected = "points at the ceiling of n = 1,000 votes: 50.0 % of clean, 25.0 % of poisoned data"
    assert expected in capsys.readouterr().out


def test_victims_of_two_kinds_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    files = [certificates(tmp_path / f"{name}.tsv", 0.5, 0.3) for name in ("clean", "poisoned")]
    for file in files:
        settings_path(file).touch()
    known = {"n": 1_000, "alpha": 0.001, "sigma": 0.5, "failure_mass": 0.0}
    monkeypatch.setattr(compare, "recorded_settings", lambda file: known)
    monkeypatch.setattr(compare, "require_certified_radii", lambda *_: None)
    monkeypatch.setattr(compare, "read_whole_points", lambda file, record: read_points(file))
    monkeypatch.setattr(
        compare,
        "read_certificate_record",
        lambda file: {
            "settings": {"model_sha256": "of the model"},
            "provenance": {"config": {"model": str(file.with_suffix(".keras"))}},
        },
    )

    def noted(sha256: str = "of the model", **settings: Any) -> str:
        for file, changed in zip(files, ({}, settings), strict=True):
            of_victim = {"epochs": 3, "seed": 0, "x_train": "clean", **changed}
            file.with_suffix(".json").write_text(json.dumps({"settings": of_victim, "sha256": sha256}))
        main(Config(clean=tuple(files[:1]), poisoned=tuple(files[1:])))
        return capsys.readouterr().out

    assert "note" not in noted(x_train="poisoned", seed=1)
    assert "note: victims differ in epochs: 3, 4; the reduction is not the poison's alone" in noted(epochs=4)
    assert "note" not in noted(a_setting_that_older_records_lack=True)
    assert "note" not in noted(sha256="of another model", epochs=4)
    files[1].with_suffix(".json").write_text('{"layers": []}')  # another program's
    main(Config(clean=tuple(files[:1]), poisoned=tuple(files[1:])))


def test_victims_are_given_in_the_same_order_of_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = tuple(certificates(tmp_path / f"clean_{seed}.tsv", 0.5, 0.3) for seed in (0, 1))
    poisoned = tuple(certificates(tmp_path / f"poisoned_{seed}.tsv", 0.2, 0.1) for seed in (0, 1))
    monkeypatch.setattr(compare, "_victim", lambda file: {"seed": int(file.stem[-1])})
    main(Config(clean=clean, poisoned=poisoned))
    with pytest.raises(InputError, match=r"--clean has the seeds \[0 1\], --poisoned has \[1 0\]"):
        main(Config(clean=clean, poisoned=poisoned[::-1]))


def test_a_run_of_this_project_that_is_not_whole_is_no_other_programs_file(tmp_path: Path) -> None:
    clean, poisoned = certificates(tmp_path / "a.tsv", 0.5, 0.3), certificates(tmp_path / "b.tsv", 0.2, 0.1)
    settings_path(poisoned).write_text("{}")
    with pytest.raises(InputError, match=r"b\.settings\.json: not a record of certificates"):
        main(Config(clean=(clean,), poisoned=(poisoned,)))
