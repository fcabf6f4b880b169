"""The rules of the house: who may import whom, and what no file may do."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import HANG

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "attack_generation",
    "benchmarks",
    "bilevel_optimizer",
    "data",
    "evaluation",
    "models",
    "randomized_smoothing_certification",
    "robust_training",
    "runtime",
)
BACKENDS = {"jax", "tensorflow", "torch"}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def parsed(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def imported(path: Path) -> Iterator[str]:
    """Top-level names of every import, wherever in the file it stands."""
    for node in parsed(path):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (ast.unparse(argument).strip("'\"").split(".")[0] for argument in node.args[:1])


def test_all_packages_are_looked_at() -> None:
    assert len(FILES) > 30
    assert all(any(package in path.parts for path in FILES) for package in PACKAGES)


def test_lower_rooms_never_import_higher_ones() -> None:
    command = shutil.which("lint-imports", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        pytest.skip("import-linter is not installed (pip install -e .[dev])")
    done = subprocess.run(
        [command, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@each_file
def test_only_autodiff_names_a_backend(path: Path) -> None:
    found = BACKENDS & set(imported(path))
    assert found == ({"jax", "tensorflow"} if path == ROOT / "bilevel_optimizer" / "autodiff.py" else set())


@each_file
def test_no_script_imports_keras_before_the_environment_is_set(path: Path) -> None:
    """A package imports runtime first; a script is in no package."""
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
        first = [name for name in imported(path) if name in ("keras", "runtime")]
        assert first[:1] != ["keras"]


@each_file
def test_nothing_edits_the_import_path(path: Path) -> None:
    assert not [node for node in parsed(path) if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"]
    assert "PYTHONPATH" not in path.read_text(encoding="utf-8")


@each_file
def test_reading_a_file_runs_no_code(path: Path) -> None:
    assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} & set(imported(path))
    for node in parsed(path):
        if not isinstance(node, ast.Call):
            continue
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert options.get("allow_pickle", "False") == "False", f"line {node.lineno}"
        assert options.get("safe_mode", "True") == "True", f"line {node.lineno}"
        assert ast.unparse(node.func) not in ("eval", "exec"), f"line {node.lineno}"
        if ast.unparse(node.func) == "np.load":
            assert options.get("allow_pickle") == "False", f"line {node.lineno}"
