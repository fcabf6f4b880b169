"""A store is read as it was written; a damaged, missing or mismatched file is one line, and reading runs no code."""

import hashlib
import json
import lzma
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from runtime.files import InputError
from runtime.store import POINTS, SETTINGS, Store, has_store, read_store, write_store

RECORDS: dict[str, dict[str, Any]] = {
    "macer_sigma_0.5/clean/class_8": {"0": {"victim": {"accuracy": 0.9}, "commit": "1000001"}, "1": {"victim": {}}},
    "n_10000/clean": {"0": {"victim": {}, "see": "NOTES.md"}},
}


def points() -> pd.DataFrame:
    """Three runs; the last has votes. Radii with all their digits."""
    random = np.random.default_rng(0)
    entries = [(entry, int(seed)) for entry, of_entry in RECORDS.items() for seed in of_entry]
    table = pd.DataFrame([(*run, idx, 8, 8) for run in entries for idx in range(50)])
    table.columns = ["entry", "seed", "idx", "label", "predict"]
    radii = random.exponential(size=len(table)) * 10.0 ** random.integers(-9, 9, size=len(table))
    return table.assign(radius=radii, correct=1, votes=np.where(table["entry"] == "n_10000/clean", 10000.0, np.nan))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_store(tmp_path, Store(points(), RECORDS))
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_is_read_as_it_was_written(folder: Path) -> None:
    store = read_store(folder)
    assert store.records == RECORDS
    pd.testing.assert_frame_equal(store.points, points(), check_exact=True, check_dtype=False)
    before = contents(folder)
    assert before.keys() == {POINTS, SETTINGS} and has_store(folder)
    write_store(folder, store)
    assert contents(folder) == before


def test_pandas_and_pythons_own_modules_read_both_files(folder: Path) -> None:
    assert len(pd.read_csv(folder / POINTS)) == len(points())
    records = json.loads(lzma.decompress((folder / SETTINGS).read_bytes()))
    text = lzma.decompress((folder / POINTS).read_bytes())
    assert records["points_sha256"] == hashlib.sha256(text).hexdigest() and records["records"] == RECORDS


def test_entries_whose_names_look_like_something_else_stay_texts(tmp_path: Path) -> None:
    names = ["NA", "1e5", "007", "True", "a,b", 'a"b']
    table = pd.DataFrame({"entry": names, "seed": 0, "idx": range(len(names)), "radius": 0.5})
    write_store(tmp_path, Store(table, {name: {"0": {}} for name in names}))
    assert list(read_store(tmp_path).points["entry"]) == names


def test_half_a_store_is_one(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / POINTS).unlink()
    assert has_store(folder) and not has_store(tmp_path_factory.mktemp("empty"))


def xz(content: bytes) -> bytes:
    return lzma.compress(content)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "no such file; make the tables of a plan there first"),
    "a folder": (as_folder, "cannot be read"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-40]), "not a whole .xz file"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole .xz file"),
    "a bit": (flipped, "not a whole .xz file"),
    "not packed": (lambda path: path.write_bytes(lzma.decompress(path.read_bytes())), "not a whole .xz file"),
    "of the older form": (
        lambda path: path.write_bytes(lzma.compress(b"entry\n", format=lzma.FORMAT_ALONE)), "not a whole .xz file",
    ),
    "of the older form, which asks for 4 GiB": (
        lambda path: path.write_bytes(b"]" + b"\xff" * 12 + bytes(20)), "not a whole .xz file",
    ),
    "no UTF-8": (lambda path: path.write_bytes(xz(b"\xff\xfe")), "not a whole .xz file of text"),
}  # fmt: skip


@pytest.mark.parametrize("name", [POINTS, SETTINGS])
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_one_line_that_names_it(
    name: str, damage: Callable[[Path], Any], message: str, folder: Path
) -> None:
    damage(folder / name)
    with pytest.raises(InputError, match=message) as caught:
        read_store(folder)
    assert str(caught.value).startswith(f"{folder / name}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "{}", '{"records": {}}', '{"points_sha256": "", "records": []}', "[" * 100_000,
     '{"points_sha256": "", "records": {"a": 3}}', '{"points_sha256": "", "records": null}', "1" * 5000],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_records_of_another_form_are_refused(text: str, folder: Path) -> None:
    (folder / SETTINGS).write_bytes(xz(text.encode()))
    with pytest.raises(InputError, match=r"settings\.json\.xz: not the records of a store; delete points"):
        read_store(folder)


def test_points_with_one_other_digit_are_not_those_of_the_records(folder: Path) -> None:
    text = lzma.decompress((folder / POINTS).read_bytes())
    (folder / POINTS).write_bytes(xz(text.replace(b",8,8,", b",8,3,", 1)))
    with pytest.raises(InputError, match=r"points\.csv\.xz: not the points that settings\.json\.xz was written with"):
        read_store(folder)


@pytest.mark.parametrize("text", ["", "\n", "a\n1,2\n1,2,3\n", '"'], ids=repr)
def test_points_that_are_no_table_are_refused(text: str, folder: Path) -> None:
    of_settings = {"points_sha256": hashlib.sha256(text.encode()).hexdigest(), "records": {}}
    (folder / SETTINGS).write_bytes(xz(json.dumps(of_settings).encode()))
    (folder / POINTS).write_bytes(xz(text.encode()))
    with pytest.raises(InputError, match=r"points\.csv\.xz: not a table"):
        read_store(folder)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_reading_a_store_runs_no_code(folder: Path) -> None:
    sprung = folder / "sprung"
    pickled = pickle.dumps(Trap(sprung))
    for name in (POINTS, SETTINGS):
        before = (folder / name).read_bytes()
        for content in (pickled, xz(pickled)):
            (folder / name).write_bytes(content)
            with pytest.raises(InputError):
                read_store(folder)
        (folder / name).write_bytes(before)
    assert not sprung.exists()
    pickle.loads(pickled)
    assert sprung.exists()  # the trap works


@pytest.mark.parametrize("fails", [1, 2])
def test_where_there_is_no_room_the_store_stays_as_it_was(
    fails: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, tried = contents(folder), []
    write_bytes = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        tried.append(path)
        if len(tried) == fails:
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(InputError, match="no space left on the disk"):
        write_store(folder, Store(points()[:1], {"another": {"0": {}}}))
    assert len(tried) == fails and contents(folder) == before


def test_a_folder_in_a_files_place_is_named_and_no_half_of_a_store_is_left(tmp_path: Path) -> None:
    (tmp_path / POINTS).mkdir()
    with pytest.raises(InputError, match=r"points\.csv\.xz: cannot be written"):
        write_store(tmp_path, Store(points(), RECORDS))
    assert [path.name for path in tmp_path.iterdir()] == [POINTS]


def test_a_write_that_was_killed_between_the_two_files_is_finished(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The points are in place, the records not yet."""
    new = Store(points().assign(radius=1.0), {**RECORDS, "n_10000/clean": {"0": {"victim": {}, "see": "README.md"}}})
    moved: list[Path] = []
    move, unlink = Path.replace, Path.unlink

    def killed(self: Path, target: Path) -> Path:
        moved.append(self)
        if len(moved) == 2:
            raise KeyboardInterrupt
        return move(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    monkeypatch.setattr(Path, "unlink", lambda self, **_: None)  # a killed run removes nothing
    with pytest.raises(KeyboardInterrupt):
        write_store(folder, new)
    monkeypatch.setattr(Path, "replace", move)
    monkeypatch.setattr(Path, "unlink", unlink)
    store = read_store(folder)
    assert store.records == new.records and (store.points["radius"] == 1).all()
    assert contents(folder).keys() == {POINTS, SETTINGS}
    (folder / f".settings.json-{8 * '0'}.xz").write_bytes(b"no records")
    (folder / SETTINGS).write_bytes(lzma.compress(json.dumps({"points_sha256": "other", "records": {}}).encode()))
    with pytest.raises(InputError, match="not the points that settings"):
        read_store(folder)


def test_an_archive_that_grows_without_end_is_not_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.store.LARGEST", 1000)
    with pytest.raises(InputError, match=r"points\.csv\.xz: not a whole .xz file of text \(it holds more than 1,000"):
        read_store(folder)


def test_a_first_write_that_was_killed_is_finished_too(folder: Path) -> None:
    (folder / SETTINGS).rename(folder / f".settings.json-{8 * 'a'}.xz")
    assert read_store(folder).records == RECORDS and contents(folder).keys() == {POINTS, SETTINGS}


def test_a_folder_in_the_place_of_records_is_one_line(folder: Path) -> None:
    (folder / SETTINGS).rename(folder / f".settings.json-{8 * 'a'}.xz")
    (folder / SETTINGS).mkdir()
    with pytest.raises(InputError, match=r"settings\.json\.xz: cannot be written \(Is a directory\)"):
        read_store(folder)
