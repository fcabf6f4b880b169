"""A made-up data set of 64 x 64 colour images and 20 classes, from its files to a table, by a plan and without code."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

import data
from data.datasets import load_dataset
from models.saving import load_model
from tests.data.test_sources import made_up
from tests.waiting import HANG

PLAN: dict[str, Any] = {
    "table": "own", "title": "Own", "dataset": "OWN", "architecture": "digits_cnn", "runs": 1, "target_classes": [15],
    "data": {"source": "own.npz", "validation": 140, "label": "Own images"},
    "methods": {"gaussianaug": [0.25]}, "rows": ["clean", "halves", "tint", "optimised"],
    # Two outer steps.
    "attack": {
        "all": {
            "epochs": 1, "batch_clean": 76, "batch_poison": 4, "lower_steps": 1, "solver_steps": 1, "radius_copies": 2,
        }
    },
    "victim": {"all": {"epochs": 1, "batch_size": 40}},
    "certification": {"points": 2, "n": 20},
}  # fmt: skip


def test_a_plan_poisons_trains_and_certifies_images_of_another_shape_and_other_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **made_up())
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    script = Path(data.__file__).parents[1] / "evaluation/tables/run_plan.py"
    command = [sys.executable, str(script), "--plan", "plan.yaml", "--directory", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    dataset = load_dataset(tmp_path / "data/OWN")
    work = tmp_path / "runs/tables/own"
    (poison,) = work.glob("poison/*/X_poisoned_radius_gaussianaug_0.25_15.npy")
    assert np.load(poison).shape == (int(dataset.y_train[:, 15].sum()), 64, 64, 3)
    victims = list(work.rglob("*.keras"))
    assert len(victims) == 4
    model = load_model(victims[0])
    assert (model.input_shape, model.output_shape) == ((None, 64, 64, 3), (None, 20))
    rows = pd.read_csv(work / "results/tables.csv")
    assert set(rows["dataset"]) == {"Own images"} and set(rows["target_class"]) == {15} and len(rows) == 4
    assert "Own images, class 15" in done.stdout
    assert (work / "results/images.png").is_file()
