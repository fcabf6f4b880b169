"""What the backend reads when it is imported, in whatever order a user imports it: each case a fresh process."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.provenance import project_path

SAY = "import keras, runtime; print(keras.backend.backend(), runtime.onednn_in_force())"


def fresh_process(code: str, **environment: str) -> tuple[str, str]:
    """Standard output and error of Python on some code, none of the backend's variables set but those given."""
    left_out = ("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS", "PYTHONWARNINGS")
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    command = [sys.executable, "-c", f"{code}; {SAY}"]
    done = subprocess.run(
        command, cwd=project_path(""), env=inherited | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), done.stderr


def test_the_project_first_has_onednn_on_and_says_nothing() -> None:
    assert fresh_process("import runtime") == ("tensorflow True", "")


def test_keras_first_has_it_too_or_warns() -> None:
    said, warned = fresh_process("import keras", TF_CPP_MIN_LOG_LEVEL="3")
    assert said == "tensorflow True" or ("oneDNN off" in warned and said == "tensorflow False")


def test_keras_first_with_onednn_off_warns_and_names_the_mend() -> None:
    off = "import os; os.environ['TF_ENABLE_ONEDNN_OPTS'] = '0'; import keras; del os.environ['TF_ENABLE_ONEDNN_OPTS']"
    said, warned = fresh_process(off, TF_CPP_MIN_LOG_LEVEL="3")
    assert said == "tensorflow False"
    assert "imported before this project with oneDNN off" in warned and "TF_ENABLE_ONEDNN_OPTS=1" in warned


def test_who_switches_it_off_is_left_alone() -> None:
    assert fresh_process("import keras", TF_ENABLE_ONEDNN_OPTS="0", TF_CPP_MIN_LOG_LEVEL="3")[0] == "tensorflow False"
    said, warned = fresh_process("import runtime", TF_ENABLE_ONEDNN_OPTS="0")
    assert said == "tensorflow False" and "oneDNN" not in warned


def test_another_backend_that_was_loaded_before_is_named() -> None:
    code = "import os; os.environ['KERAS_BACKEND'] = 'tensorflow'; import keras; os.environ['KERAS_BACKEND'] = 'jax'"
    said, warned = fresh_process(code, TF_CPP_MIN_LOG_LEVEL="3")
    assert said.startswith("tensorflow") and "with the backend tensorflow, not jax" in warned


def scripts() -> list[Path]:
    """Every file that is run by its name."""
    root = project_path("")
    files = [path for path in root.rglob("*.py") if not {".venv", "tests"} & set(path.relative_to(root).parts)]
    return [path for path in files if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", scripts(), ids=lambda path: str(path.relative_to(project_path(""))))
def test_scripts_import_the_project_before_keras(path: Path) -> None:
    """A file that is run by its name does not run the __init__ of its folder."""
    own = {one.name for one in project_path("").iterdir() if (one / "__init__.py").is_file()}
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names += [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(str(node.module).partition(".")[0])
    first_own = next(place for place, name in enumerate(names) if name in own)
    assert not {"keras", "tensorflow", "jax"} & set(names[:first_own])
