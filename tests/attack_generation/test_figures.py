"""Every figure is the same whatever a user's matplotlibrc says."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.provenance import project_path
from tests.test_import_rules import FILES

OF_A_USER = """
text.usetex: True
font.family: monospace
font.size: 21
mathtext.fontset: cm
figure.dpi: 300
figure.facecolor: yellow
figure.autolayout: True
savefig.bbox: standard
savefig.dpi: 50
savefig.pad_inches: 2
savefig.transparent: True
savefig.facecolor: blue
axes.prop_cycle: cycler('color', ['r', 'k'])
axes.facecolor: green
axes.titlesize: 40
axes.grid: True
axes.xmargin: 0.4
axes.unicode_minus: False
lines.linewidth: 9
lines.marker: x
image.interpolation: bicubic
legend.fontsize: 30
hatch.linewidth: 4
path.sketch: 1, 100, 2
xtick.labelsize: 30
"""
DRAW = """
import sys
from pathlib import Path
import numpy as np
from attack_generation.visibility import save_image_grids

from evaluation.tables.figures import save_acr, save_acr_against_gradients, save_distributions
from evaluation.tables.frame import frame_of
from evaluation.tables.plan import plan_of
from evaluation.tables.runs import Entry, Run

folder = Path(sys.argv[1])
images = np.linspace(0, 1, 2 * 64).reshape(2, 8, 8, 1)
save_image_grids(folder / "image.png", {"": (images, images[::-1])}, 0.1)
save_image_grids(folder / "images.png", {"a": (images, images[::-1]), "b": (images, images)}, 0.1, "title")
plan = plan_of({
    "table": "t", "title": "title", "dataset": "MNIST", "architecture": "mnist_cnn", "methods": {"macer": [0.5]},
    "rows": ["clean", "constant"], "attacks": {"soba": {"epochs": [1, 5]}},
})
entries = {}
for number, cell in enumerate(plan.cells()):
    records = {"victim": {}, "poison": {"gradients": 10.0 * (number + 1)} if number > 1 else {}}
    radii = np.linspace(-0.2, 1, 9) / (number + 1)
    runs = tuple(Run(seed, radii + seed / 9, records, 0.5, 8, np.arange(9)) for seed in range(2))
    entries[cell] = Entry(cell, 2, runs)
frame = frame_of(plan, entries)
save_acr(folder / "acr.png", plan.title, frame)
save_acr_against_gradients(folder / "against.png", plan.title, frame)
save_distributions(folder / "p_a.png", plan.title, frame)
save_distributions(folder / "radii.png", plan.title, frame, against_radius=True)
"""


def drawn(folder: Path, matplotlibrc: str = "", before: str = "") -> tuple[str, dict[str, bytes]]:
    """The figures of a process whose user has this file and runs this code first, and what is printed."""
    (folder / "matplotlibrc").write_text(matplotlibrc)
    say = "\nimport matplotlib; print(matplotlib.rcParams['axes.titlesize'])"
    command = [sys.executable, "-c", f"{before}\n{DRAW}{say}", str(folder)]
    environment = os.environ | {"MATPLOTLIBRC": str(folder / "matplotlibrc")}
    done = subprocess.run(command, cwd=project_path(""), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The figures of a user who has changed nothing."""
    said, figures = drawn(tmp_path_factory.mktemp("default"))
    assert said == "large\n" and len(figures) == 6
    return figures


@pytest.mark.parametrize("before", ["", "import matplotlib.pyplot as plt; plt.style.use('dark_background')"])
def test_a_users_matplotlibrc_changes_no_figure(before: str, default: dict[str, bytes], tmp_path: Path) -> None:
    said, figures = drawn(tmp_path, OF_A_USER, before)
    assert said == "40.0\n"  # the user's own figures stay as they were
    assert figures == default


def test_every_function_that_draws_has_the_default_style() -> None:
    drawing = 0
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            imported = {one.module for one in node.body if isinstance(one, ast.ImportFrom)}
            called = {ast.unparse(one.func) for one in ast.walk(node) if isinstance(one, ast.Call)}
            if "matplotlib.figure" in imported or {"save_png", "_save"} & called:
                drawing += 1
                assert "default_style()" in map(ast.unparse, node.decorator_list), f"{path}: {node.name}"
    assert drawing == 9
