"""The benchmark runs at toy size, has every row, and counts multiply-adds correctly."""

import json
import math
from dataclasses import replace
from pathlib import Path

import keras
import pytest

from benchmarks import speed
from models.registry import build_model
from runtime.files import InputError

UNITS = (
    {
        "gradient, batch 20": "ms",
        "Hessian-vector product, marginal": "ms",
        "outer step, Adam on the residual, redrawn noise": "ms",
        "outer step, arithmetic": "TFLOP/s",
        "outer step, conjugate gradient, fixed noise": "ms",
        "training step, batch 8": "ms",
        "training": "images/s",
        "training, arithmetic": "TFLOP/s",
    }
    | {
        f"{dtype} {name}": unit
        for dtype in ("float32", "bfloat16")
        for name, unit in {
            "votes, 100 together": "votes/s",
            "votes with noise that points share": "votes/s",
            "votes with exact noise, in the time of others": "%",
            "model alone": "us/vote",
            "noise alone": "us/vote",
            "vote loop, neither model nor noise": "%",
            "matrix product": "TFLOP/s",
            "votes at the matrix product's rate": "votes/s",
            "share of that limit reached": "%",
            "share reached with shared noise": "%",
        }.items()
    }
    | {f"{name}, share of the float32 matrix product's rate": "%" for name in ("outer step", "training")}
)


def test_every_row_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MATMUL_SIZES", (64, 128))
    measure = speed.works.median_seconds

    def as_if_undisturbed(works: dict[str, speed.works.Work], seconds: float) -> dict[str, float]:
        """Each work a millisecond longer than the one before: a busy machine may measure any order."""
        assert all(took > 0 for took in measure(works, seconds).values())
        return {name: 1e-3 * number for number, name in enumerate(works, start=1)}

    monkeypatch.setattr(speed.works, "median_seconds", as_if_undisturbed)
    out = tmp_path / "speed.json"
    rows = speed.main(speed.Config(quick=True, seconds=0.05, batch_size=50, out=out))
    assert {row["name"]: row["unit"] for row in rows} == UNITS
    rates, toy = {row["name"]: row["value"] for row in rows}, build_model("digits_cnn", (8, 8, 1), 10, seed=0)
    assert rates["training, arithmetic"] == pytest.approx(6e-12 * rates["training"] * speed.multiply_adds(toy))
    whole = rates["outer step, share of the float32 matrix product's rate"] / 100 * rates["float32 matrix product"]
    assert whole == pytest.approx(rates["outer step, arithmetic"])
    for row in rows:
        assert math.isfinite(row["value"])
        assert row["value"] > 0 or row["name"].endswith("neither model nor noise")
        assert (row["gradients"] is None) == (row["unit"] != "ms")
        assert (row["met"] is None) == (row["bar"] is None)
    barred = [row for row in rows if row["bar"] is not None]
    assert [row["bar"] for row in barred] == [90, 45, pytest.approx(0.2135, abs=1e-4), 120, 10, 120, 10]
    printed = capsys.readouterr().out
    assert all(row["name"] in printed for row in rows)
    record = json.loads(out.read_text())
    assert [row["name"] for row in record["rows"]] == list(UNITS)
    assert record["backend"] == keras.backend.backend()


def test_multiply_adds_of_the_mnist_cnn() -> None:
    model = build_model("mnist_cnn", (28, 28, 1), 10, seed=0)
    assert speed.multiply_adds(model) == 24 * 24 * 20 * 25 + 8 * 8 * 50 * 500 + 800 * 500 + 500 * 10


def test_multiply_adds_of_an_unknown_layer() -> None:
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2DTranspose(2, 3)])
    with pytest.raises(InputError, match="not known"):
        speed.multiply_adds(model)


def test_bars_compare_gradients_first() -> None:
    assert speed.row("step", 9000.0, "ms", 69.0, 70.0)["met"] is True
    assert speed.row("loss", 11.0, "%", None, 10.0)["met"] is False
    assert speed.row("votes", 11.0, "votes/s")["met"] is None


@pytest.mark.parametrize("setting", [{"seconds": 0.0}, {"batch_size": 0}])
def test_bad_settings(setting: dict) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        speed.main(speed.Config(quick=True, **setting))


def test_the_attack_on_cifar10_crops_as_published() -> None:
    small = replace(speed.works.CIFAR10.attack, architecture="cnn_3x3")
    measured = speed.works.CIFAR10._replace(attack=small, train=1_000, validation=200)
    config = speed.works.attack(measured, speed.works.random_dataset(measured), "adam").config
    assert config.augment and config.separate_crops and not config.check()
    measured = speed.works.TOY
    assert not speed.works.attack(measured, speed.works.random_dataset(measured), "adam").config.augment
