"""Settings that no script can use, and the parser's boxes as one line. Every script: tests/test_bad_input.py."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from runtime.bounds import NOT_NEGATIVE, POSITIVE, PROBABILITY, at_least, at_most, between, require_bounds
from runtime.checkpoints import load_checkpoint, save_checkpoint
from runtime.checks import LARGEST_COUNT, require_name, require_place, require_usable
from runtime.command_line import parsed, parser_error
from runtime.files import InputError, read_record, read_text, write_json


@dataclasses.dataclass(frozen=True)
class Loss:
    lam: float = 1.0


@dataclasses.dataclass(frozen=True)
class Config:
    loss: Loss = Loss()
    shares: tuple[float, ...] = (0.0, 1.0)
    seed: int = 0
    augment: bool = True
    out_dir: Path = Path("out")
    model: Path | None = None
    title: str = "nan"
    mode: Literal["fast", "exact"] | None = None
    of_class: int | Literal["all"] = "all"


def test_settings_that_can_be_used_pass(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    require_usable(Config(mode="fast", of_class=3))
    require_usable(Config(loss=Loss(lam=1), seed=np.int64(3), augment=np.bool_(False)))  # type: ignore[arg-type]
    require_usable(Config(seed=LARGEST_COUNT, out_dir=tmp_path / "a/b", model=tmp_path / "model"))
    for source in (tmp_path, tmp_path / "model", tmp_path / "nowhere/x"):
        require_usable({"source": source})
    require_usable({"attack": {"all": {"lr_u": -0.1, "augment": False, "objective": None}}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Config(loss=Loss(lam=float("nan"))), r"loss\.lam must be finite, got nan"),
        (Config(loss=Loss(lam=-1e39)), r"loss\.lam must be below 3\.4e38, got -1e\+39"),
        (Config(mode="exactly"), "mode must be one of fast, exact, got 'exactly'"),  # type: ignore[arg-type]
        (Config(of_class="none"), "of_class must be one of all, got 'none'"),  # type: ignore[arg-type]
        (Config(mode=1), "mode must be one of fast, exact, got 1"),  # type: ignore[arg-type]
        (Config(mode=print), "mode must be one of fast, exact, got <built-in function print>"),  # type: ignore[arg-type]
        (Config(out_dir="out"), "out_dir must be a Path, got 'out'"),  # type: ignore[arg-type]
        (Config(model="out"), "model must be a Path, got 'out'"),  # type: ignore[arg-type]
        (Config(title=print), "title must be a str, got <built-in function print>"),  # type: ignore[arg-type]
        (Config(shares=(0.1, float("inf"))), "shares must be finite, got inf"),
        (Config(seed=3.0), r"seed must be a whole number, got 3\.0"),  # type: ignore[arg-type]
        (Config(augment="no"), "augment must be True or False, got 'no'"),  # type: ignore[arg-type]
        (Config(seed=-1), f"seed must lie between 0 and {LARGEST_COUNT}, got -1"),
        (Config(seed=10**400), r"seed must lie between .*, got a number of about 2\^1329"),
        ({"attack": {"all": {"lr_u": float("inf")}}}, r"attack\.all\.lr_u must be finite"),
        (Config(out_dir=Path(__file__)), "out_dir is .*test_checks.py, but .*test_checks.py is no folder"),
        (Config(model=Path(__file__).parent), "model is .*, which is a folder or a device; give a file"),
        (Config(model=Path("/dev/null")), "model is /dev/null, which is a folder or a device"),
        ({"source": Path("/dev/null")}, "source is /dev/null, which is a device; give a file or a folder"),
        ({"source": Path(__file__) / "below"}, "source is .*below, but .*test_checks.py is no folder"),
        ({"source": Path("x" * 201)}, "source is 'xxx.*, which cannot be a path"),
        (Config(model=Path("x" * 201)), "model is 'xxx.*, which cannot be a path; give names of at most 200 bytes"),
    ],
    ids=str,
)
def test_the_first_setting_that_cannot_be_used_is_named(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        require_usable(settings)


def test_names_lead_nowhere_else() -> None:
    for name in ("DIGITS", "my data", "a.b", "ß"):
        require_name("name", name)
    for bad in ("", ".", "..", "../x", "/x", "a\\b", "a\nb", "ß" * 51, None, 3):
        with pytest.raises(InputError, match=r"name is .*, which cannot be a file's name"):
            require_name("name", bad)


def test_a_place_below_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"out is .*x\.tsv, but .*file is no folder"):
        require_place("out", tmp_path / "file/a/x.tsv", folder=False)


RICH = """\
╭─ Unrecognized options ─────────────╮
│ Unrecognized options: --sigmma     │
│ ────────────────────────────────── │
│ Perhaps you meant:                 │
│     --sigma FLOAT                  │
│         s (default: 0.5)           │
│ ────────────────────────────────── │
│ For full helptext, run t.py --help │
╰────────────────────────────────────╯
"""
PLAIN = """\
 Value error
 ---------------------------------------------------------------
  Error parsing --target: no type matching INT|{all} could be
  instantiated from ['foo'].

  Got errors:
  - <class 'int'>: invalid literal for int() with base 10: 'foo'
  ---------------------------------------------------------------
  Argument helptext:
      --target INT|{all}
      t (default: 8)
  ---------------------------------------------------------------
  For full helptext, see t.py --help
"""


@pytest.mark.parametrize(
    ("box", "line"),
    [
        (RICH, "Unrecognized options: --sigmma; Perhaps you meant: --sigma FLOAT"),
        (PLAIN, "Error parsing --target: no type matching INT|{all} could be instantiated from ['foo']"),
        ("one line", "one line"),
        ("", ""),
    ],
)
def test_the_parsers_boxes_of_several_versions_become_one_line(box: str, line: str) -> None:
    assert parser_error(box) == line


def test_a_record_has_what_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"settings": {"a": 1}, "points": [1]})
    assert read_record(path, settings=dict, points=list)["points"] == [1]
    for kinds in ({"points": dict}, {"more": dict}):
        with pytest.raises(InputError, match=r"a\.json: not a record of this project"):
            read_record(path, **kinds)
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"a\.json: not text in UTF-8"):
        read_text(path)


def test_a_checkpoint_of_another_type_or_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, [np.zeros(2)], {"settings": {}})
    with pytest.raises(InputError, match="shapes or types differ"):
        load_checkpoint(path, like=[np.zeros(2, np.float32)])
    for record in ("null", "[]", "[" * 100_000, "1" * 5000):
        np.savez(path, record=np.array(record), leaf_0=np.zeros(2))
        with pytest.raises(InputError, match="not a checkpoint of this project"):
            load_checkpoint(path, like=[np.zeros(2)])


@dataclasses.dataclass(frozen=True)
class Bounded:
    epochs: Annotated[int, POSITIVE] = 1
    rate: Annotated[float, POSITIVE, at_most(1, "it is a share")] | None = None
    shares: tuple[Annotated[float, between(0, 1)], ...] = (0.0, 1.0)
    seed: Annotated[int, NOT_NEGATIVE] = 0
    alpha: Annotated[float, PROBABILITY] = 0.5
    copies: Annotated[int, at_least(2)] = 2
    kind: Annotated[str, POSITIVE] = "text has no bound"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"rate": float("nan")}, "rate must be positive, got nan"),
        ({"rate": 1.5}, r"rate must be at most 1 \(it is a share\), got 1.5"),
        ({"shares": (0.5, -0.5)}, "shares must lie between 0 and 1, got -0.5"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"alpha": 1.0}, "alpha must lie strictly between 0 and 1, got 1.0"),
        ({"copies": 1}, "copies must be at least 2, got 1"),
        ({"shares": 0.1}, r"shares must be a tuple, such as \(1,\), got 0\.1"),
        ({"alpha": (0.1,)}, r"alpha must be one value, got \(0\.1,\)"),
    ],
    ids=str,
)
def test_a_field_declares_its_bounds(settings: dict[str, Any], message: str) -> None:
    require_usable(Bounded())
    for config in (Bounded(**settings), {"nested": Bounded(**settings)}):
        with pytest.raises(InputError, match=message):
            require_usable(config)
    with pytest.raises(InputError, match=message.replace(" must", " of macer must")):
        require_bounds(Bounded(**settings), " of macer")


def test_a_constant_that_a_script_declares_again_keeps_its_bounds() -> None:
    @dataclasses.dataclass(frozen=True)
    class Base:
        share: Annotated[float, PROBABILITY] = 0.5
        epochs: int = 1

    @dataclasses.dataclass(frozen=True)
    class Script(Base):
        share: float = 0.1
        epochs: float = 3  # type: ignore[assignment]

    require_bounds(Script())
    with pytest.raises(InputError, match=r"share must lie strictly between 0 and 1, got 2\.0"):
        require_bounds(Script(share=2.0))
    with pytest.raises(InputError, match=r"epochs must be a whole number, got 2\.5"):
        require_bounds(Script(epochs=2.5))


def test_a_command_line_without_words_has_the_defaults() -> None:
    @dataclasses.dataclass(frozen=True)
    class Settings:
        seed: int = 3
        radii: tuple[float, ...] = ()

    assert parsed(Settings, words=[]) == Settings()
