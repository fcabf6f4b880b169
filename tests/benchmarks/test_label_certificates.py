"""The benchmark of the label-flipping certificates runs at toy size and says what it measured."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from benchmarks import label_certificates
from benchmarks.label_certificates import BAR_SECONDS, Config, main, measure
from label_flipping.certificates.label_flips import LabelFlips
from label_flipping.certificates.smoothed_weights import smooth_weights
from label_flipping.certificates.training_set_smoothing import Smoothed, answers
from runtime.files import InputError


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


@pytest.mark.parametrize(("certified", "is_refused"), [({0}, False), ({1}, False), (set(), True)])
def test_a_block_without_certificates_is_refused_only_where_no_block_has_one(
    certified: set[int], is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = iter(range(2))

    def smoothed(alpha: np.ndarray, y: np.ndarray, noise: LabelFlips) -> Smoothed:
        found = smooth_weights(alpha, y, noise)
        return found if next(blocks) in certified else answers(found.prediction, np.zeros(len(alpha)))

    monkeypatch.setattr(label_certificates, "_BLOCK", 20)
    monkeypatch.setattr(label_certificates, "smooth_weights", smoothed)
    with pytest.raises(InputError, match="no test point was certified") if is_refused else nullcontext():
        assert measure("toy", 200, 40, 2, 0.1)["test_points"] == 40
