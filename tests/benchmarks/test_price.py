"""The price list runs at toy size, and its hours are those of the units that it times."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import price
from bilevel_optimizer.soba import Soba
from runtime.files import InputError


def test_every_stage_has_its_price(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = price.main(price.works.TimedConfig(quick=True, seconds=0.05, out=tmp_path / "price.json"))
    assert [(row["name"], row["unit"]) for row in rows] == [
        ("attack", "h"), ("25 victims", "h"), ("25 certificates", "h"), ("together", "h"),
        ("together, were the gradient 65 ms", "h"), ("gradient of 20", "ms"), ("outer step", "ms"),
        ("training step", "ms"), ("certificate of a point", "ms"),
    ]  # fmt: skip
    assert all(math.isfinite(value) and value > 0 for row in rows for value in (row["published"], row["cheap"]))
    printed = capsys.readouterr().out
    assert all(row["name"] in printed for row in rows) and "toy sizes" in printed
    record = json.loads((tmp_path / "price.json").read_text())
    assert [row["name"] for row in record["rows"]] == [row["name"] for row in rows] and record["commit"]


def test_hours_follow_from_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    took = {
        "gradient": 0.13, "votes, published": 0.5, "votes, cheap": 0.5, "attack, published": 8.0, "attack, cheap": 0.5,
        "training, published": 0.3, "training, cheap": 0.6,
    }  # fmt: skip
    asked: list[str] = []
    monkeypatch.setattr(price.works, "median_seconds", lambda works, seconds: (asked.extend(works), took)[1])
    cheap = price.Settings({"optimiser": Soba(), "epochs": 5}, {"schedule": "one_cycle", "epochs": 10}, 0.25)
    monkeypatch.setitem(price.SETTINGS, "cheap", cheap)
    rows = {row["name"]: row for row in price.main(price.works.TimedConfig(quick=True))}
    assert set(asked) == set(took)
    steps = {"attack": 360 // 18, "victim": 400 // 8}  # of an epoch at toy size
    hours = {
        "attack": (50 * steps["attack"] * 8.0 / 3600, 5 * steps["attack"] * 0.5 / 3600),
        "25 victims": (25 * 101 * steps["victim"] * 0.1 / 3600, 25 * 10 * steps["victim"] * 0.2 / 3600),
        "25 certificates": (25 * 974 * 0.5 / 3600, 25 * 974 * 0.25 * 0.5 / 3600),
    }
    for name, both in hours.items():
        assert (rows[name]["published"], rows[name]["cheap"]) == pytest.approx(both), name
    together = [sum(values) for values in zip(*hours.values(), strict=True)]
    assert (rows["together"]["published"], rows["together"]["cheap"]) == pytest.approx(together)
    there = rows["together, were the gradient 65 ms"]
    assert (there["published"], there["cheap"]) == pytest.approx([value / 2 for value in together])
    assert there["bar"] == 1.5 and there["met"] is (there["cheap"] <= 1.5)
    assert rows["gradient of 20"]["cheap"] == pytest.approx(130)
    assert rows["training step"]["cheap"] == pytest.approx(200)
    assert rows["certificate of a point"]["cheap"] == pytest.approx(125)


@pytest.mark.parametrize("setting", [{"seconds": 0.0}, {"batch_size": 0}])
def test_bad_settings(setting: dict) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        price.main(price.works.TimedConfig(quick=True, **setting))
