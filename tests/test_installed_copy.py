"""A copy that pip installs has every file that it needs, and works outside the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.registry import build_model
from models.saving import save_model
from runtime.provenance import ROOT
from tests.test_import_rules import FILES, PACKAGES

MODULES = """
import runpy, sys
for line in sys.stdin.read().splitlines():
    module, *flags = line.split()
    sys.argv = [module, *flags]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, (line, end.code)
"""  # as python -m does, with one import of the backend for all


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of installed packages. pip builds in the sources' folder, so that it gets a copy of them."""
    pytest.importorskip("setuptools", "77", reason="not installed (pip install -e .[dev])")
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("installed")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("*.npy", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--target", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(sources)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return target


def test_it_has_every_module_and_every_poison_and_nothing_else(installed: Path) -> None:
    poisons = [path for path in (ROOT / "data/poisons").iterdir() if path.suffix in (".json", ".npz")]
    wanted = {str(path.relative_to(ROOT)) for path in (*FILES, *poisons)}
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert {str(path) for path in found if not path.parts[0].endswith(".dist-info")} == wanted


def test_its_modules_run_from_another_folder_and_write_there(installed: Path, tmp_path: Path) -> None:
    save_model(build_model("digits_cnn", (8, 8, 1), 10, seed=0), tmp_path / "model.keras")
    lines = (
        "attack_generation.gaussian_data_augmentation.MNIST.poison_radius_gaussianaug --help",
        "data.prepare_digits",
        "randomized_smoothing_certification.certify_digits --model model.keras --points 2 --n 20 --out a.tsv",
    )
    before = {path for path in installed.rglob("*") if path.suffix != ".pyc"}
    done = subprocess.run(
        [sys.executable, "-c", MODULES], input="\n".join(lines), cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "300"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "data/MNIST") in done.stdout and "installed copy" in done.stdout
    assert (tmp_path / "data/DIGITS/X_train.npy").is_file() and (tmp_path / "a.tsv").read_text().count("\n") > 2
    assert {path for path in installed.rglob("*") if path.suffix != ".pyc"} == before
