"""The rules of the house: who may import whom, and what no file may do."""

import ast
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.waiting import HANG

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (  # the highest first, as in pyproject.toml
    "benchmarks",
    "evaluation",
    "label_flipping",
    "attack_generation",
    "robust_training",
    "randomized_smoothing_certification",
    "bilevel_optimizer",
    "models",
    "data",
    "runtime",
)
PACKAGES = tuple(sorted(ROOMS))
LOADERS = ("import_module", "__import__", "LazyModule")
BACKENDS = {"jax", "tensorflow", "torch"}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def parsed(path: Path) -> tuple[ast.AST, ...]:
    """The imports, calls and attributes of a file; whatever else is in it has no rule."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return tuple(node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom | ast.Call | ast.Attribute))


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Top-level names of every import, wherever in the file it stands."""
    found: list[str] = []
    for node in parsed(path):
        if isinstance(node, ast.Import):
            found += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(LOADERS):
            found += [ast.unparse(argument).strip("'\"").split(".")[0] for argument in node.args[:1]]
    return tuple(found)


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
def test_a_script_imports_no_higher_room(path: Path) -> None:
    """import-linter does not see folders without __init__.py, in which most scripts lie."""
    room = ROOMS.index(path.relative_to(ROOT).parts[0])
    assert not set(ROOMS[:room]) & set(imported(path))


@each_file
def test_nothing_beside_a_script_hides_a_package(path: Path) -> None:
    """Python first looks for a module in the folder of the script that it runs."""
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
        assert not {one.stem for one in path.parent.iterdir()} & {*ROOMS, *sys.stdlib_module_names}


@each_file
def test_only_autodiff_names_a_backend(path: Path) -> None:
    found = BACKENDS & set(imported(path))
    assert found == ({"jax", "tensorflow"} if path == ROOT / "bilevel_optimizer" / "autodiff.py" else set())


@each_file
def test_nothing_edits_the_import_path(path: Path) -> None:
    assert not [node for node in parsed(path) if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"]
    assert "PYTHONPATH" not in path.read_text(encoding="utf-8")


@each_file
def test_reading_a_file_runs_no_code(path: Path) -> None:
    found = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} & set(imported(path))
    if path == ROOT / "models" / "imagenet.py":  # its unpickler refuses all names but those of arrays, see its tests
        used = {ast.unparse(node) for node in parsed(path) if isinstance(node, ast.Attribute)}
        assert {name for name in used if name.startswith("pickle.")} == {"pickle.Unpickler", "pickle.UnpicklingError"}
        found -= {"pickle"}
    assert not found
    for node in parsed(path):
        if not isinstance(node, ast.Call):
            continue
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert options.get("allow_pickle", "False") == "False", f"line {node.lineno}"
        assert options.get("safe_mode", "True") == "True", f"line {node.lineno}"
        assert ast.unparse(node.func) not in ("eval", "exec"), f"line {node.lineno}"
        if ast.unparse(node.func) == "np.load":
            assert options.get("allow_pickle") == "False", f"line {node.lineno}"
