"""A script answers --help and refuses bad input before it imports any large library."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.tables.plan import Plan
from runtime.provenance import project_path
from tests.test_import_rules import FILES, ROOT

LARGE = ("keras", "matplotlib", "pandas", "PIL", "scipy", "sklearn", "statsmodels", "tensorboard", "tensorflow", "jax")
MANY = f"""
import contextlib, io, json, runpy, sys
import runtime
told = []
for script, *words in json.loads(sys.argv[1]):
    sys.argv, output, status = [script, *words], io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as left:
        status = left.code
    told.append([script, status, output.getvalue(), sorted(set({LARGE}) & set(sys.modules))])
print(json.dumps(told))
"""


def scripts() -> list[Path]:
    """Every file of the project that is run by its name."""
    return [path for path in FILES if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]


def run_in_one_process(*calls: list[str]) -> list[tuple[str, int, str, list[str]]]:
    """Run scripts after each other; of each its path, exit status, output, and the large libraries then imported."""
    command = [sys.executable, "-c", MANY, json.dumps(calls)]
    done = subprocess.run(command, cwd=project_path(""), stdout=subprocess.PIPE, text=True, check=True)
    return [tuple(row) for row in json.loads(done.stdout)]


def test_help_imports_no_large_library() -> None:
    for script, status, output, imported in run_in_one_process(*[[str(path), "--help"] for path in scripts()]):
        assert (status, imported) == (0, []) and "--help" in output, (script, output)


def test_refusals_import_no_large_library(tmp_path: Path) -> None:
    attack = "attack_generation/macer/DIGITS/poison_radius_macer.py"
    victim = "evaluation/DIGITS/macer_training.py"
    certify = "randomized_smoothing_certification/certify_digits.py"
    nowhere = str(tmp_path / "nowhere")
    calls = [
        [attack, "--no-such-flag"],
        [attack, "--sigma", "-1"],
        [attack, "--data-dir", nowhere],
        [victim, "--epochs", "0"],
        [victim, "--data-dir", nowhere],
        [certify, "--sigma", "0"],
        [certify, "--model", f"{nowhere}.keras"],
        ["label_flipping/digits.py", "--data-dir", nowhere],
        ["evaluation/tables/run_plan.py", "--plan", f"{nowhere}.yaml"],
        ["data/prepare_mnist.py", "--source", nowhere],
    ]
    for script, status, output, imported in run_in_one_process(*calls):
        assert (status, imported) == (2, []) and output.startswith("error: "), (script, output)


def test_help_shows_the_scripts_own_settings_first_and_the_values_in_force() -> None:
    attack, victim = (
        run_in_one_process([script, "--help"])[0][2]
        for script in (
            "attack_generation/macer/DIGITS/poison_radius_macer.py", "evaluation/DIGITS/macer_training.py",
        )
    )  # fmt: skip
    for shown in (attack, victim):
        lines = [line.strip(" │|") for line in shown.splitlines()]
        flags = [line.partition(" ")[0].strip(",") for line in lines if line.startswith("--")]
        assert flags.index("--target-class") < flags.index("--seed") < flags.index("--augment")
        assert flags.index("--augment") < flags.index("--max-minutes")
    assert "constant: 100 epochs, batches of 200, learning rate 0.001" in " ".join(victim.split())
    labels = run_in_one_process(["label_flipping/digits.py", "--help"])[0][2]
    flags = [line.strip(" │|").partition(" ")[0] for line in labels.splitlines()]
    assert flags.index("--q") < flags.index("--at") < flags.index("--data-dir") < flags.index("--features")
    plans = run_in_one_process(["evaluation/tables/run_plan.py", "--help"])[0][2]
    shown = {line.partition(":")[0].strip(" *"): line for line in plans.splitlines() if line.startswith("    ")}
    assert all(shown[name].partition(":")[2].strip() for name in Plan.__struct_fields__)
    assert shown["runs"] == "    runs: Victims per entry. Their seeds are seed, seed + 1, ... Default: 3."
    assert shown["table"].startswith("    table*: ")


def test_a_docstring_of_several_lines_is_one_paragraph_of_help() -> None:
    code = (
        "import runtime.command_line; from tyro._docstrings import get_field_docstring as help_of\n"
        "from robust_training.training import TrainingConfig\n"
        "assert 'By default the poison in data_dir made' in help_of(TrainingConfig, 'poison', ())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_flag_of_several_values_needs_one() -> None:
    certify = "randomized_smoothing_certification/certify_digits.py"
    for words in (["--radii"], ["--radii", "--n", "100"]):
        row = run_in_one_process([certify, "--model", "a.keras", "--out", "a.tsv", *words])[0]
        assert row[1] == 2 and row[2] == "error: --radii has no value; give at least one value, or leave the flag out\n"


def test_a_flag_without_values_takes_those_of_the_script_away() -> None:
    row = run_in_one_process(["label_flipping/digits.py", "--network-shares", "--data-dir", "nowhere"])[0]
    assert row[1] == 2 and "nowhere/X_train.npy: no such file" in row[2]


@pytest.mark.parametrize("name", ["keras", "keras.ops", "scipy.stats", "pandas"])
def test_a_lazy_module_is_the_module(name: str) -> None:
    import runtime.lazy

    module = getattr(runtime.lazy, name.rpartition(".")[2])
    public = next(one for one in dir(__import__(name, fromlist=["_"])) if not one.startswith("_"))
    assert getattr(module, public) is getattr(sys.modules[name], public)
    with pytest.raises(AttributeError, match="no_such"):
        module.no_such  # noqa: B018


def test_only_lazy_imports_large_libraries_at_the_top_of_a_file() -> None:
    for path in FILES:
        if path == ROOT / "runtime/lazy.py":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & set(LARGE), path
