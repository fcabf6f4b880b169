"""Malformed command lines and malformed files, each with what is right to do about it."""

import copy
import io
import json
import lzma
import math
import os
import random
import zipfile
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import yaml


class Right(IntEnum):
    """What a run may do after a change; of several changes the largest holds."""

    SAME = 0  # refuse, or end as the run without it
    ANY = 1  # refuse, or end well
    REFUSE = 2


# Flags -------------------------------------------------------------------------------------------------------------


class Number(NamedTuple):
    """A numeric flag. most: of the valid values, none larger is tried, for it would be carried out."""

    low: float
    high: float = math.inf
    whole: bool = False
    most: float = math.inf
    finite: bool = True

    def right(self, text: str) -> Right | None:
        """What to do about a value, None where it is not to be tried."""
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            return Right.REFUSE
        above = value >= self.low if self.whole else value > self.low  # 0 is no sigma, but a seed
        if not (above and value <= self.high and (value < math.inf or not self.finite)):
            return Right.REFUSE
        return Right.ANY if value <= self.most else None


def whole(low: int, high: float = math.inf, most: float = math.inf) -> Number:
    """An integer from low on."""
    return Number(low, high, True, most)


SHARE = Number(0, 0.9999)
NUMBERS = {
    "epsilon": Number(0, 1), "sigma": Number(0, 1e5), "alpha": SHARE, "at": SHARE, "q": SHARE, "ridge": Number(0),
    "radius-clip": Number(0, 0.4999), "max-minutes": Number(0, finite=False), "checkpoint-minutes": Number(0),
    "target-class": whole(0, 9), "seed": whole(0), "points": whole(1), "held-out": whole(1), "validation": whole(1),
    "n": whole(1, 2**31 - 1, 20_000), "n0": whole(1, 2**31 - 1, 20_000), "batch-size": whole(1, most=10_000),
    **dict.fromkeys(("lr-u", "lr-v", "lr-p", "learning-rate", "radius-beta"), Number(0)), "damping": Number(-1e-300),
    **dict.fromkeys(("batch-poison", "batch-validation"), whole(1)), "batch-clean": whole(1, most=0),  # 1: slow
    **dict.fromkeys(("epochs", "reinitialise-every", "lower-steps", "solver-steps", "radius-copies"), whole(1, most=2)),
    **dict.fromkeys(("train-points", "validation-points", "test-points", "hidden", "copies"), whole(1, most=10)),
    **dict.fromkeys(("victim-steps", "outer-steps", "network.epochs", "runs"), whole(1, most=2)),
    "network-points": whole(0, most=2), "network-shares": Number(-1e-300, 1), "network.batch-size": whole(1, most=500),
}  # fmt: skip
VALUES = (
    "0", "-0.0", "-1", "1", "2", "0.5", "7", "10", "nan", "inf", "-inf", "1e39", "1e-400", "1e308", "1e6", "-1e-9",
    "1.5", "1e3", "2147483648", "3000000000",
    "9223372036854775808", "abc", "0x10", "1,5", "--", "None", "½", "٣", "True",
    "", " ", "9" * 400, "1" * 5000,
)  # fmt: skip
OPEN = (  # None: as if not given, with some scripts
    "max-minutes", "epochs", "batch-size", "learning-rate", "lower-steps", "solver", "solver-steps", "lr-p", "damping",
)  # fmt: skip
CHOICES = dict.fromkeys(
    ("schedule", "kind", "training-data", "architecture", "precision", "start", "solver", "objective", "features")
)
WORDS = ("", "nothing", "CLEAN", "../clean", "None", "ü", "0", "x" * 5000)
INPUTS = ("model", "poison", "source", "plan", "data-dir", "shards", "studies", "store", "entry")
PLACES = ("nowhere", "", ".", "x" * 300, "ü/ü.npy", "DIGITS/Y_val.npy", "loop", "plan.yaml/below", "/dev/null")
OUTPUTS = ("out", "out-dir", "run-dir", "work-dir", "results-dir", "benchmarks-dir", "directory")
IN_THE_WAY = ("plan.yaml", "loop", "plan.yaml/below", "loop/below", f"out/{'x' * 300}", "/dev/null/below")
OPTIONAL = {
    "attack": "max-minutes lr-v lr-p damping radius-clip radius-beta start solver objective architecture",
    "victim": "max-minutes architecture schedule", "certificate": "max-minutes precision shard",
    "control": "max-minutes", "label": "max-minutes features",
}  # fmt: skip
SHARDS = ("", "1", "0/1", "3/2", "1/0", "-1/2", "a/b", "1/2/3", "1/", "½/1")


def values_of(flag: str) -> list[tuple[str, Right]]:
    """Values to try for a flag, and what is right about each."""
    if number := NUMBERS.get(flag):
        values = [value for value in VALUES if value != "None" or flag not in OPEN]
        return [(value, right) for value in values if (right := number.right(value)) is not None]
    if flag in OUTPUTS:
        names = [f"{place}.tsv" for place in IN_THE_WAY[2:]] + ["out/whole.txt", "out"] if flag == "out" else IN_THE_WAY
        return [(name, Right.REFUSE) for name in names]
    words = WORDS if flag in CHOICES else SHARDS if flag == "shard" else PLACES if flag in INPUTS else ()
    return [(word, Right.REFUSE) for word in words if word != "None" or flag not in OPEN]


# Files -------------------------------------------------------------------------------------------------------------


class Damage(NamedTuple):
    """A change of a file. kind: 'broken' (cannot be what it should be), 'wrong' (a record no run writes), 'flipped'
    or 'edited' (may be as good as before)."""

    name: str
    kind: str
    change: Callable[[Path, random.Random], None]


NASTY = (
    None, True, -1, 0, 2, 10**30, 1e39, math.nan, math.inf, "", "x", "../..", "ü" * 300, [], {}, [[]], {"a": None},
    "2026-01-01", [1, "a"],
)  # fmt: skip


def flipped(path: Path, draw: random.Random) -> None:
    """One to eight bits, half of the time in the header."""
    content = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 8) if content else 0):
        content[draw.randrange(min(len(content), draw.choice((128, len(content)))))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def replaced(content: bytes) -> Callable[[Path, random.Random], None]:
    """Other bytes."""
    return lambda path, _draw: path.write_bytes(content) and None


def other_zip(path: Path, _draw: random.Random) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")


def as_folder(path: Path, _draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def as_loop(path: Path, _draw: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def halved(path: Path, _draw: random.Random) -> None:
    os.truncate(path, path.stat().st_size // 2)


ANY_FILE = [
    Damage("flipped", "flipped", flipped),
    Damage("flipped", "flipped", flipped),
    Damage("removed", "removed", lambda path, _: path.unlink()),
    Damage("half of it", "broken", halved),
    Damage("empty", "broken", replaced(b"")),
    Damage("a folder", "broken", as_folder),
    Damage("a link to itself", "broken", as_loop),
    Damage("another zip", "broken", other_zip),
    Damage("no UTF-8", "broken", replaced(b"\xff\xfe\x00\x80" * 50)),
    Damage("text", "broken", replaced(b"nothing\n")),
]


def node_edited(value: Any, draw: random.Random) -> Any:
    """A copy of nested lists and dicts in which one place is another value, has another name or is gone."""
    value = copy.deepcopy(value)
    places = [
        (inner, key)
        for inner in _containers(value)
        for key in (inner if isinstance(inner, dict) else range(len(inner)))
    ]
    if not places:
        return draw.choice(NASTY)
    inner, key = draw.choice(places)
    how = draw.random()
    if how < 0.2:
        del inner[key]
    elif how < 0.3 and isinstance(inner, dict):
        inner[draw.choice(("", "ü", str(key) * 2))] = inner.pop(key)
    else:
        inner[key] = draw.choice(NASTY)
    return value


def _containers(value: Any) -> list[Any]:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value, *(one for part in inner for one in _containers(part))] if isinstance(value, dict | list) else []


def json_edited(path: Path, draw: random.Random) -> None:
    path.write_text(json.dumps(node_edited(json.loads(path.read_text()), draw)))


JSON_FILE = [
    *(Damage(f"JSON {text[:9]}", "broken", replaced(text.encode())) for text in
      ("null", "[]", "{}", '"text"', "5", '{"settings": null}', "[" * 100_000, "1" * 5000, '{"settings": {}}')),
    *[Damage("a value edited", "edited", json_edited)] * 6,
]  # fmt: skip


def manifest_leading(name: Any) -> Callable[[Path, random.Random], None]:
    """A manifest whose dataset's name is a path."""
    return lambda path, _draw: path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": name})) and None


MANIFEST_FILE = [
    Damage(f"the dataset is {name!r:.20}", "broken", manifest_leading(name))
    for name in ("../../led", "/dev/null/led", "", None, "a/b", "..", "x" * 300)
]


def array_edited(how: str) -> Callable[[Path, random.Random], None]:
    """An array of another type, shape or content."""

    def change(path: Path, _draw: random.Random) -> None:
        array = np.load(path)
        if how == "an object":
            array = np.array([{"a": 1}], dtype=object)
        elif how in ("f8", "f2", "i4", "c8", ">f4", "U3"):
            array = array.astype(how)
        elif how == "records":
            array = np.zeros(len(array), dtype=[("a", "f4")])
        elif how == "a scalar":
            array = array.reshape(-1)[0]
        elif how == "flat":
            array = array.reshape(-1)
        elif how == "no rows":
            array = array[:0]
        elif how == "fewer rows":
            array = array[:-1]
        elif how == "columns first":
            array = np.asfortranarray(array)
        else:
            array = array.copy()
            array.reshape(-1)[1] = float(how)
        np.save(path, array, allow_pickle=True)

    return change


ARRAY_FILE = [
    *(Damage(f"array: {how}", "broken", array_edited(how)) for how in
      ("an object", "i4", "c8", "U3", "f2", "records", "a scalar", "flat", "no rows", "fewer rows", "nan", "inf", "-1",
       "2")),
    *(Damage(f"array: {how}", "edited", array_edited(how)) for how in ("f8", ">f4", "columns first")),
]  # fmt: skip


def member_edited(path: Path, draw: random.Random) -> None:
    """One array of an .npz edited."""
    with np.load(path) as archive:
        arrays = dict(archive)
    name = draw.choice(sorted(arrays))
    if (how := draw.random()) < 0.2:
        del arrays[name]
    elif how < 0.4:
        arrays[name] = arrays[name].reshape(-1)[:1]
    elif how < 0.6:
        arrays[name] = arrays[name].astype("U9")
    elif arrays[name].size and arrays[name].dtype.kind in "fiu":
        arrays[name] = np.full_like(arrays[name], draw.choice((0, 1, 77)))
    np.savez(path, **arrays)


def row_edited(column: str, value: str) -> Callable[[Path, random.Random], None]:
    """A certificate whose second row has another value in a column."""

    def change(path: Path, _draw: random.Random) -> None:
        lines = [line.split("\t") for line in path.read_text().split("\n")]
        if column in lines[0] and len(lines) > 3:
            lines[2][lines[0].index(column)] = value
        path.write_text("\n".join("\t".join(line) for line in lines))

    return change


def lines_edited(change: Callable[[list[str]], list[str]]) -> Callable[[Path, random.Random], None]:
    return lambda path, _draw: path.write_text("\n".join(change(path.read_text().split("\n")))) and None


ROWS_FILE = [
    *(Damage(f"row: {column} {value}", "wrong", row_edited(column, value)) for column, value in (
        ("radius", "-1"), ("radius", "99"), ("radius", "nan"), ("radius", "x"), ("predict", "99"), ("predict", "-2"),
        ("label", "3"), ("correct", "5"), ("idx", "0"), ("idx", "x"), ("time", "nan"), ("time", ""),
        ("time", "0:00:inf"))),
    Damage("a row twice", "wrong", lines_edited(lambda lines: [*lines[:2], *lines[1:]])),
    Damage("rows swapped", "wrong", lines_edited(lambda lines: [lines[0], *lines[2:0:-1], *lines[3:]])),
    Damage("no header", "wrong", lines_edited(lambda lines: lines[1:])),
    Damage("another header", "wrong", lines_edited(lambda lines: ["a\tb\tc\td\te\tf", *lines[1:]])),
    Damage("a column too few", "wrong", lines_edited(lambda rows: [rows[0], rows[1].rpartition("\t")[0], *rows[2:]])),
]  # fmt: skip


def plan_edited(**changes: Any) -> Callable[[Path, random.Random], None]:
    return lambda path, _draw: path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes})) and None


def yaml_edited(path: Path, draw: random.Random) -> None:
    path.write_text(yaml.safe_dump(node_edited(yaml.safe_load(path.read_text()), draw)))


_FOREIGN = {"method": "macer", "sigma": 0.25, "target_class": 8, "files": ["shards/1.tsv"]}
_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
PLAN_FILE = [
    *[Damage("an entry edited", "edited", yaml_edited)] * 12,
    *(Damage(f"YAML {text[:12]!r}", "broken", replaced(text.encode())) for text in
      ("null", "[]", "5", "!!python/object/apply:os.system [exit]", _BOMB, "a: [", "\t", "{" * 5000, "? {a: b}\n: c")),
    *(Damage(f"plan: {changes}", "broken", plan_edited(**changes)) for changes in (
        {"table": "../led"}, {"table": ""}, {"architecture": "../x"}, {"dataset": "../.."}, {"methods": {"": [1]}},
        {"methods": {"macer": [math.nan]}}, {"methods": {"macer": [math.inf]}}, {"methods": {"macer": [-1]}},
        {"epsilon": 2}, {"epsilon": math.nan}, {"runs": 0}, {"runs": -3}, {"shards": 0}, {"threads": 0},
        {"attack": {"": {}}},
        {"victim": {" ": {}}}, {"target_classes": ["x"]}, {"target_classes": [-1]}, {"seed": -1}, {"rows": []},
        {"no": 1},
        {"foreign": [{**_FOREIGN, "method": "../../../led"}]}, {"foreign": [{**_FOREIGN, "sigma": math.nan}]},
        {"foreign": [{**_FOREIGN, "poison": "../../../led"}]}, {"foreign": [{**_FOREIGN, "files": ["nowhere.tsv"]}]},
        {"foreign": [{**_FOREIGN, "n": 0}]}, {"foreign": [{**_FOREIGN, "alpha": math.nan}]},
        {"foreign": [{**_FOREIGN, "architecture": "../../led"}]}, {"limits": {"all": {"minutes": -1}}},
        {"certification": {"n": 0}}, {"certification": {"alpha": math.nan}}, {"certification": {"points": -1}})),
]  # fmt: skip


def model_edited(how: str) -> Callable[[Path, random.Random], None]:
    """A model file that loads, or seems to, and is no classifier of these images."""

    def change(path: Path, _draw: random.Random) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        if how in ("nan", "inf"):
            with h5py.File(weights := io.BytesIO(members["model.weights.h5"]), "r+") as file:
                arrays: list[Any] = []
                file.visititems(lambda _, one: arrays.append(one) if getattr(one, "shape", ()) else None)
                arrays[-1][...] = float(how)
            members["model.weights.h5"] = weights.getvalue()
        else:
            config = json.loads(members["config.json"])
            layers = config["config"]["layers"]
            if how == "dictionary outputs":
                config["config"]["output_layers"] = {"a": config["config"]["output_layers"]}
            elif how == "another shape":
                layers[0]["config"]["batch_shape"] = [None, 9, 9, 1]
            elif how == "code":
                layers[1].update(class_name="Lambda", config={"name": "conv2d", "function": "os.system"})
            elif how == "a layer unknown":
                layers[1].update(module="nowhere", class_name="Nothing")
            members["config.json"] = json.dumps(config).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return change


MODEL_FILE = [
    Damage(f"model: {how}", "broken", model_edited(how))
    for how in ("nan", "inf", "dictionary outputs", "another shape", "code", "a layer unknown")
]


def packed(change: Callable[[str, random.Random], str]) -> Callable[[Path, random.Random], None]:
    """A file of a store whose text is another."""
    return lambda path, draw: (
        path.write_bytes(lzma.compress(change(lzma.decompress(path.read_bytes()).decode(), draw).encode())) and None
    )


def text_edited(text: str, draw: random.Random) -> str:
    """Another value in JSON, another character elsewhere."""
    if text.startswith("{"):
        return json.dumps(node_edited(json.loads(text), draw))
    place = draw.randrange(len(text))
    return text[:place] + draw.choice("0,x\n-") + text[place + 1 :]


STORE_FILE = [
    *[Damage("a value edited", "edited", packed(text_edited))] * 6,
    Damage("empty inside", "broken", packed(lambda _text, _draw: "")),
    Damage("half inside", "broken", packed(lambda text, _draw: text[: len(text) // 2])),
]
OF_SUFFIX = {
    ".json": JSON_FILE, ".npy": ARRAY_FILE, ".tsv": ROWS_FILE, ".yaml": PLAN_FILE, ".keras": MODEL_FILE,
    ".npz": [Damage("an array edited", "edited", member_edited)] * 4, ".xz": STORE_FILE,
}  # fmt: skip


def damages_of(path: Path) -> list[Damage]:
    """What to try on a file."""
    return ANY_FILE + OF_SUFFIX.get(path.suffix, []) + (MANIFEST_FILE if path.name == "manifest.json" else [])


def right_of(damage: Damage, name: str, writes: tuple[str, ...]) -> Right:
    """What to do about a damaged file. name: its path in the folder; writes: the parts that the stage itself makes."""
    part, path = name.split("/")[0], Path(name)
    if part == "out":  # the run's own: made again, or refused, or whole as they are
        passive = path.suffix == ".png" or path.stem.startswith("poison_after")
        # Labels that are right are left as they are, in whatever type and order.
        unsure = damage.kind == "edited" and (path.suffix != ".npy" or path.name.startswith("Y_"))
        unsure |= damage.kind == "flipped" and path.suffix in (".json", ".tsv")
        return Right.ANY if passive or unsure else Right.SAME
    aside = (part in ("models", "poison") and path.suffix == ".json") or name.endswith(".summary.json")
    is_gone = damage.kind == "removed" or damage.name in ("a folder", "a link to itself")
    optional = is_gone and path.name.startswith(("manifest", "Y_poison"))
    stored = part in writes or part in ("work", "results", "benchmarks")
    if aside or optional or stored or (name == "plan.yaml" and damage.name == "half of it"):
        return Right.ANY
    if part == "DIGITS" and damage.kind in ("flipped", "edited") and path.suffix == ".npy":
        return Right.SAME  # the manifest has their hashes
    if path.name.startswith("Y_poison") and damage.name in ("array: i4", "array: f2"):
        return Right.SAME  # the same labels in another type
    return Right.ANY if damage.kind in ("flipped", "edited") else Right.REFUSE
