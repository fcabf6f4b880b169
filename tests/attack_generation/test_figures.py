"""Every figure is the same whatever a user's matplotlibrc says."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.provenance import project_path

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
from attack_generation.figures import save_image_grid

from evaluation.tables.figures import save_acr_against_gradients, save_acr_bars, save_curves, save_radii

folder = Path(sys.argv[1])
images = np.linspace(0, 1, 2 * 64).reshape(2, 8, 8, 1)
curve = {"radius": [0.0, 0.5], "accuracy": [1.0, 0.5]}
save_image_grid(folder / "images.png", images, images[::-1], 0.1)
save_curves(folder / "curves.png", {"clean": [curve], "constant": [curve]}, "title")
save_acr_bars(folder / "bars.png", {"macer": {"clean": [0.5, 0.6]}}, "title")
save_acr_against_gradients(folder / "against.png", {"soba": [(4.0, [0.3])]}, [1.0, 1.2], {"constant": [0.9]}, "title")
save_radii(folder / "radii.png", {"clean": np.array([-1, 0.1, 0.5])}, "title")
"""


@pytest.mark.parametrize("before", ["", "import matplotlib.pyplot as plt; plt.style.use('dark_background')"])
def test_a_users_matplotlibrc_changes_no_figure(before: str, tmp_path: Path) -> None:
    drawn = []
    for name, text, first in (("default", "", ""), ("users", OF_A_USER, before)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "matplotlibrc").write_text(text)
        say = "\nimport matplotlib; print(matplotlib.rcParams['axes.titlesize'])"
        command = [sys.executable, "-c", f"{first}\n{DRAW}{say}", str(folder)]
        environment = os.environ | {"MATPLOTLIBRC": str(folder / "matplotlibrc")}
        done = subprocess.run(command, cwd=project_path(""), env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ("40.0\n" if text else "large\n")  # the user's own figures stay as they were
        drawn.append({path.name: path.read_bytes() for path in folder.glob("*.png")})
    assert len(drawn[0]) == 5 and drawn[0] == drawn[1]


def test_every_function_that_draws_has_the_default_style() -> None:
    drawing = 0
    for path in project_path("").rglob("*.py"):
        if {".venv", "tests"} & set(path.relative_to(project_path("")).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "matplotlib.figure" in {
                one.module for one in node.body if isinstance(one, ast.ImportFrom)
            }:
                drawing += 1
                assert "default_style()" in map(ast.unparse, node.decorator_list), f"{path}: {node.name}"
    assert drawing == 10
