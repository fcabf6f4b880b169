"""Two sets of certificates are compared only where that means something."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.compare import Config, main
from evaluation.tables.runs import MUST_AGREE
from randomized_smoothing_certification import certificate_file, certificate_record
from randomized_smoothing_certification.certificate_file import Point, as_text, read_points
from randomized_smoothing_certification.core import radius_ceiling
from runtime.files import InputError, write_text
from runtime.part_by_part import settings_path

RECORDED_SETTINGS = "evaluation.tables.runs.recorded_settings"


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
    assert "ACR 0.6667 of --clean, 0.2667 of --poisoned (1 victim, 3 test points)" in one
    assert "reduction of the ACR: 60.0 % (" in one and "95 % over points of this victim" in one
    main(Config(clean=clean, poisoned=poisoned))
    two = capsys.readouterr().out
    assert "0.2333 of --poisoned (2 victims, 3 test points)" in two
    assert "reduction of the ACR: 65.0 % (" in two and "95 % over victims and points" in two
    assert "below 0" not in one + two
    main(Config(clean=poisoned, poisoned=clean))
    gain = capsys.readouterr().out
    assert "reduction of the ACR: -185.7 % (" in gain and gain.endswith("points; below 0: the ACR is larger\n")


def test_the_order_of_the_points_does_not_matter(tmp_path: Path, capsys: Any) -> None:
    clean, poisoned = certificates(tmp_path / "clean.tsv", 1.0, 0.6), certificates(tmp_path / "poisoned.tsv", 0.5, 0.3)
    header, *lines = poisoned.read_text().splitlines()
    poisoned.write_text("\n".join([header, *lines[::-1]]) + "\n")
    main(Config(clean=(clean,), poisoned=(poisoned,)))
    assert "reduction of the ACR: 50.0 %" in capsys.readouterr().out


def test_a_radius_is_a_number_as_other_programs_write_it(tmp_path: Path) -> None:
    file = certificates(tmp_path / "a.tsv", 0.5, 0.3)
    file.write_text(file.read_text().replace("0.500000", "0_5"))
    with pytest.raises(InputError, match=r"a\.tsv: line 2 is damaged: label, predict, radius .* must be numbers"):
        read_points(file)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_text(file := tmp_path / "a.tsv", "label\tpredict\tradius\tradius\n8\t8\t0.1\t0.9\n")
    with pytest.raises(InputError, match=r"a\.tsv: has the column 'radius' twice"):
        read_points(file)


@pytest.mark.parametrize("radius", ["1", "1E5", "0.63"])
def test_few_digits_do_not_make_a_radius_possible(radius: str, tmp_path: Path) -> None:
    points = [Point(0, 8, 8, radius, 1, "0:00:01")]
    with pytest.raises(InputError, match=r"1000 votes certify at most 0\.61"):
        certificate_file.require_possible_radii(tmp_path, points, n=1_000, alpha=0.001, sigma=0.25)
    certificate_file.require_possible_radii(
        tmp_path, [points[0]._replace(radius="0.62")], n=1_000, alpha=0.001, sigma=0.25
    )


@pytest.mark.parametrize(("votes", "message"), [(10, "10 votes certify at most"), (-5, "has -5 votes of 1000")])
def test_a_point_has_no_larger_radius_than_its_own_votes_certify(votes: int, message: str, tmp_path: Path) -> None:
    points = [Point(0, 8, 8, "0.5", 1, "0:00:01", votes)]
    with pytest.raises(InputError, match=message):
        certificate_file.require_possible_radii(tmp_path, points, n=1_000, alpha=0.001, sigma=0.25)


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
    alike = {**dict.fromkeys(MUST_AGREE, 0), "sigma": 0.5, "alpha": 0.001, "n": 1_000, "radii": (), "noise": {}}
    runs = {clean: alike, poisoned: alike}
    for module in (certificate_file, certificate_record):
        monkeypatch.setattr(module, "read_certificate_record", lambda file: {"settings": runs[file], "provenance": {}})
    monkeypatch.setattr(certificate_file, "read_whole_points", lambda file, record: read_points(file))
    for file in runs:
        settings_path(file).touch()
    main(Config(clean=(clean,), poisoned=(poisoned,)))
    for name in MUST_AGREE:
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
    monkeypatch.setattr(RECORDED_SETTINGS, lambda file: known)
    largest = radius_ceiling(0.5, 1_000, 0.001)
    clean = certificates(tmp_path / "clean.tsv", largest, 0.9 * largest, -1, largest)
    with pytest.raises(
        InputError, match=r"large\.tsv: point 0 has the radius 9\.000000, but 1000 votes certify at most"
    ):
        main(Config(clean=(clean,), poisoned=(certificates(tmp_path / "large.tsv", 9, 9, 9, 9),)))
    main(Config(clean=(clean,), poisoned=(certificates(tmp_path / "poisoned.tsv", 0.1, 0.2, 0.3, largest),)))
    expected = "points at the ceiling of n = 1,000 votes: 50.0 % of --clean, 25.0 % of --poisoned"
    assert expected in capsys.readouterr().out


KNOWN = {"n": 1_000, "alpha": 0.001, "sigma": 0.5, "failure_mass": 0.0}


def with_victims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates of models whose records lie beside the certificates."""

    def recorded(file: Path) -> dict[str, Any]:
        return {**KNOWN, "model_sha256": file.stem, "model": str(file.with_suffix(".keras"))}

    monkeypatch.setattr(RECORDED_SETTINGS, recorded)


def victim(file: Path, sha256: str | None = None, training_data: str | None = None, **settings: Any) -> Path:
    """Write the record of a file's victim."""
    what = {"epochs": 3, "seed": 0, "x_train": "clean", **settings}
    record = {"settings": what, "config": {"training_data": training_data}, "sha256": sha256 or file.stem}
    file.with_suffix(".json").write_text(json.dumps(record))
    return file


def test_victims_of_two_kinds_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    files = [certificates(tmp_path / f"{name}.tsv", 0.5, 0.3) for name in ("clean", "poisoned")]
    with_victims(monkeypatch)

    def noted(sha256: str | None = None, **settings: Any) -> str:
        for file, changed in zip(files, ({}, settings), strict=True):
            victim(file, sha256, **changed)
        main(Config(clean=tuple(files[:1]), poisoned=tuple(files[1:])))
        return capsys.readouterr().out

    assert "note" not in noted(x_train="poisoned")
    assert "note: the victims have the seeds 0 and 1" in noted(x_train="poisoned", seed=1)
    assert "note: victims differ in epochs: 3, 4; the reduction is not the poison's alone" in noted(epochs=4)
    assert "note" not in noted(a_setting_that_older_records_lack=True)
    changed = {"environment": {"TF_ENABLE_ONEDNN_OPTS": "0"}}  # a record has this setting where it is not the usual one
    assert "note: victims differ in environment: {}, {'TF_ENABLE_ONEDNN_OPTS': '0'}" in noted(**changed)
    unknown = noted(sha256="of another model", epochs=4)
    assert "poisoned.tsv: the record of its victim is not found" in unknown and "differ" not in unknown
    files[1].with_suffix(".json").write_text('{"layers": []}')  # another program's
    main(Config(clean=tuple(files[:1]), poisoned=tuple(files[1:])))


def test_victims_are_given_in_the_same_order_of_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = tuple(certificates(tmp_path / f"clean_{seed}.tsv", 0.5, 0.3) for seed in (0, 1))
    poisoned = tuple(certificates(tmp_path / f"poisoned_{seed}.tsv", 0.2, 0.1) for seed in (0, 1))
    with_victims(monkeypatch)
    for file in (*clean, *poisoned):
        victim(file, seed=int(file.stem[-1]))
    main(Config(clean=clean, poisoned=poisoned))
    with pytest.raises(InputError, match=r"--clean has the seeds \[0, 1\], --poisoned has \[1, 0\]"):
        main(Config(clean=clean, poisoned=poisoned[::-1]))


def test_victims_of_clean_data_are_the_clean_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with_victims(monkeypatch)
    file = {name: certificates(tmp_path / f"{name}.tsv", 0.5, 0.3) for name in ("clean", "again", "one", "other")}
    for name in ("clean", "again"):
        victim(file[name], training_data="clean")
    for name in ("one", "other"):
        victim(file[name], training_data="poisoned_radius", x_train=name)
    main(Config(clean=(file["clean"],), poisoned=(file["one"],)))
    assert "of clean data, 0.4000 of poisoned data" in capsys.readouterr().out
    main(Config(clean=(file["one"],), poisoned=(file["other"],)))  # two poisons
    assert "of --clean, 0.4000 of --poisoned" in capsys.readouterr().out
    for other in ("one", "again"):
        with pytest.raises(InputError, match="--poisoned: has victims of clean data; give these as --clean"):
            main(Config(clean=(file[other],), poisoned=(file["clean"],)))
    victim(file["again"], training_data="clean", x_train="of a defence")
    main(Config(clean=(file["clean"],), poisoned=(file["again"],)))
    assert "of --clean, 0.4000 of --poisoned" in capsys.readouterr().out
    victim(file["again"], training_data="clean")
    victim(file["one"], training_data="poisoned_radius", x_train="one", target_class=3)
    main(Config(clean=(file["clean"],), poisoned=(file["one"],)))
    assert "one.tsv: target_class is None, that of the poison 3" in capsys.readouterr().out
    victim(file["other"], training_data="poisoned_radius", x_train="other", y_train="of another split")
    victim(file["again"], training_data="clean", y_train="of this split")
    main(Config(clean=(file["again"],), poisoned=(file["other"],)))
    assert "note: victims differ in y_train" in capsys.readouterr().out
    victim(file["again"], training_data="clean")
    monkeypatch.setattr(RECORDED_SETTINGS, lambda file: {**KNOWN, "model_sha256": "the same", "model": "-"})
    with pytest.raises(InputError, match=r"clean\.tsv: is of the same victim as .*one\.tsv; give each victim's file"):
        main(Config(clean=(file["clean"], file["one"]), poisoned=(file["again"], file["other"])))
    twins = {"clean": "a", "one": "b", "again": "a", "other": "c"}  # a victim on both sides
    monkeypatch.setattr(RECORDED_SETTINGS, lambda file: {**KNOWN, "model_sha256": twins[file.stem], "model": "-"})
    with pytest.raises(InputError, match=r"clean\.tsv: is of the same victim as .*again\.tsv; give each victim's file"):
        main(Config(clean=(file["clean"], file["one"]), poisoned=(file["other"], file["again"])))
    with_victims(monkeypatch)
    with pytest.raises(InputError, match="--clean: its victims have different training images"):
        main(Config(clean=(file["clean"], file["one"]), poisoned=(file["again"], file["other"])))


def test_an_exported_entry_brings_its_settings_and_victims(tmp_path: Path) -> None:
    file = certificates(tmp_path / "seed_1.tsv", 0.5, 0.3)
    settings = {"n": 1_000, "alpha": 0.001, "sigma": 0.5, "noise": {"mode": "float32"}, "split": "test"}
    about = {"settings": {"seed": 1}, "config": {}}
    exported = {"1": {"victim": about, "certificate": {"settings": settings}}}
    (tmp_path / "settings.json").write_text(json.dumps(exported))
    assert certificate_record.recorded_settings(file) == {**settings, "failure_mass": 0.0, "victim": about}
    for other in ("[]", "{}", '{"1": {"certificate": {"settings": {"n": "1"}}}}'):  # another program's
        (tmp_path / "settings.json").write_text(other)
        assert certificate_record.recorded_settings(file) == {}


def test_a_damaged_path_of_the_model_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [certificates(tmp_path / f"{name}.tsv", 0.5, 0.3) for name in "ab"]
    for model in ("a\0b", "a" * 5_000, "", "..", "/"):
        monkeypatch.setattr(RECORDED_SETTINGS, lambda file, model=model: {**KNOWN, "model": model})
        main(Config(clean=(files[0],), poisoned=(files[1],)))


def test_a_run_of_this_project_that_is_not_whole_is_no_other_programs_file(tmp_path: Path) -> None:
    clean, poisoned = certificates(tmp_path / "a.tsv", 0.5, 0.3), certificates(tmp_path / "b.tsv", 0.2, 0.1)
    settings_path(poisoned).write_text("{}")
    with pytest.raises(InputError, match=r"b\.settings\.json: not a record of certificates"):
        main(Config(clean=(clean,), poisoned=(poisoned,)))
