"""A made-up data set of 64 x 64 colour images and 20 classes, from its files to a table, by a plan and without code."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from data.datasets import load_dataset
from evaluation.tables import run_plan
from models.saving import load_model
from tests.data.test_sources import made_up

PLAN: dict[str, Any] = {
    "table": "own", "title": "Own", "dataset": "OWN", "architecture": "digits_cnn", "runs": 1, "target_classes": [15],
    "data": {"source": "own.npz", "validation": 140, "label": "Own images"},
    "methods": {"gaussianaug": [0.25]}, "rows": ["clean", "tint", "optimised"],
    # Two outer steps.
    "attack": {
        "all": {
            "epochs": 1, "batch_clean": 76, "batch_poison": 4, "lower_steps": 1, "solver_steps": 1, "radius_copies": 2,
        }
    },
    "victim": {"all": {"epochs": 1, "batch_size": 40}},
    "certification": {"points": 2, "n": 20},
}  # fmt: skip


def test_a_plan_poisons_trains_and_certifies_images_of_another_shape_and_other_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "own.npz", **made_up())
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    monkeypatch.chdir(tmp_path)
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, "1")  # what the run sets, which is then undone
    run_plan.main(run_plan.Config(plan=tmp_path / "plan.yaml", directory=tmp_path))
    dataset = load_dataset(tmp_path / "data/OWN")
    work = tmp_path / "runs/tables/own"
    (poison,) = work.glob("poison/*/X_poisoned_radius_gaussianaug_0.25_15.npy")
    assert np.load(poison).shape == (int(dataset.y_train[:, 15].sum()), 64, 64, 3)
    victims = list(work.rglob("*.keras"))
    assert len(victims) == 3
    model = load_model(victims[0])
    assert (model.input_shape, model.output_shape) == ((None, 64, 64, 3), (None, 20))
    rows = pd.read_csv(work / "results/tables.csv")
    assert set(rows["dataset"]) == {"Own images"} and set(rows["target_class"]) == {15} and len(rows) == 3
    assert "Own images, class 15" in capsys.readouterr().out
    assert (work / "results/images.png").is_file()
