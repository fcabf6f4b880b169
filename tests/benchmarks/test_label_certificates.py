"""The benchmark of the label-flipping certificates runs at toy size and says what it measured."""

import json
from pathlib import Path

import pytest

from benchmarks.label_certificates import BAR_SECONDS, Config, main


def test_it_runs_and_its_stages_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = main(Config(quick=True, q=0.1, out=tmp_path / "speed.json"))
    assert [row["classes"] for row in rows] == [2, 10]
    for row in rows:
        stages = {key: value for key, value in row["seconds"].items() if key not in ("together", "product")}
        assert len(stages) == 4 and all(value > 0 for value in stages.values())
        assert sum(stages.values()) == pytest.approx(row["seconds"]["together"])
    assert rows[0]["met"] is (rows[0]["seconds"]["together"] <= BAR_SECONDS) and rows[1]["peak_gib"] < 8
    printed = capsys.readouterr().out
    assert "toy sizes" in printed and "seconds product" in printed
    assert json.loads((tmp_path / "speed.json").read_text())["rows"][0]["training_points"] == 650
