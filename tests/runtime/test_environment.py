"""What the backend reads when it is imported, in whatever order a user imports it: each case a fresh process."""

import json
import os
import site
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import pytest

from runtime.files import InputError
from runtime.long_run import RunOptions, identity
from runtime.provenance import project_path

SAY = "import keras, runtime; print(keras.backend.backend(), runtime.onednn_in_force())"


def fresh_process(code: str, **environment: str) -> tuple[str, str]:
    """Standard output and error of Python on some code, none of the backend's variables set but those given."""
    left_out = ("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS", "PYTHONWARNINGS")
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    command = [sys.executable, "-c", f"import gc; gc.disable(); {code}; {SAY}; gc.freeze()"]  # which only takes time
    done = subprocess.run(
        command, cwd=project_path(""), env=inherited | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), done.stderr


def test_the_project_first_has_onednn_on_and_says_nothing() -> None:
    assert fresh_process("import runtime") == ("tensorflow True", "")


def test_keras_first_with_onednn_off_and_another_backend_warns_and_names_the_mend() -> None:
    before = "import os; os.environ |= {'TF_ENABLE_ONEDNN_OPTS': '0', 'KERAS_BACKEND': 'tensorflow'}; import keras"
    after = "del os.environ['TF_ENABLE_ONEDNN_OPTS']; os.environ['KERAS_BACKEND'] = 'jax'"
    said, warned = fresh_process(f"{before}; {after}", TF_CPP_MIN_LOG_LEVEL="3")
    assert said == "tensorflow False"
    assert "imported before this project with oneDNN off" in warned and "TF_ENABLE_ONEDNN_OPTS=1" in warned
    assert "with the backend tensorflow, not jax" in warned


def test_who_switches_it_off_is_left_alone() -> None:
    said, warned = fresh_process("import keras", TF_ENABLE_ONEDNN_OPTS="0", TF_CPP_MIN_LOG_LEVEL="3")
    assert said == "tensorflow False" and "oneDNN" not in warned
    done = python("import os, runtime; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])", TF_ENABLE_ONEDNN_OPTS="0")
    assert done.stdout == "0\n" and done.stderr == ""


CHANGING = {"image_data_format": "channels_first", "floatx": "float64", "epsilon": 1e-3}
IDENTITY = """
import json, runtime, sys
from data.prepare_digits import Config
from runtime.long_run import RunOptions, identity
from runtime.provenance import project_path, provenance
options = RunOptions(data_dir=project_path("data"))
"""
NUMBERS = """
import keras
from models.registry import build_model
noise = keras.random.normal((3,), seed=0)
model = build_model("digits_cnn", (8, 8, 1), 10, seed=0)
print([str(noise.dtype), keras.ops.convert_to_numpy(noise).tolist(), model.count_params(), identity(options)])
"""


def home_with(folder: Path, keras_json: str) -> dict[str, str]:
    """A HOME with the settings of Keras that a user has left there."""
    (folder / ".keras").mkdir(parents=True)
    (folder / ".keras/keras.json").write_text(keras_json)
    return {"HOME": str(folder)}


def python(code: str, *left_out: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python on some code, in a fresh process, with these variables and without those left out."""
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    environment = inherited | {"TF_CPP_MIN_LOG_LEVEL": "3"} | variables
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=project_path(""), env=environment, capture_output=True, text=True)


def test_a_users_keras_json_changes_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = python(IDENTITY + NUMBERS, **home_with(tmp_path, json.dumps(CHANGING | {"nnx_enabled": True})))
    exec(IDENTITY + NUMBERS, {})  # here nothing is changed
    assert done.stdout == capsys.readouterr().out and done.stderr == "", done


@pytest.mark.parametrize("text", ['{"floatx": "float31"}', "[]", '{"epsilon": 1}'])
def test_a_keras_json_that_keras_refuses_is_one_line(text: str, tmp_path: Path) -> None:
    settings = home_with(tmp_path, text)
    done = script("evaluation/boundary/two_dimensional.py", "--out-dir", str(tmp_path / "boundary"), **settings)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "/keras.json" in done.stderr, done.stderr


def test_keras_first_has_onednn_too_or_warns_and_settings_of_a_notebook_are_set_again_and_named() -> None:
    changes = {"floatx": "float16", "image_data_format": "channels_first", "dtype_policy": "mixed_float16"}
    before = "; ".join(f"keras.config.set_{name}({value!r})" for name, value in changes.items())
    say = "print(keras.config.floatx(), keras.config.image_data_format(), keras.config.dtype_policy().name)"
    printed, errors = fresh_process(f"import keras; {before}\n{IDENTITY}\n{say}", TF_CPP_MIN_LOG_LEVEL="3")
    settings, said = printed.splitlines()
    assert settings == "float32 channels_last float32"
    warned = [line for line in errors.splitlines() if "RuntimeWarning" in line]
    assert "floatx float16, which is float32 now" in warned[0]
    assert "channels_first" in warned[0] and "dtype_policy mixed_float16" in warned[0]
    assert (said, len(warned)) in (("tensorflow True", 1), ("tensorflow False", 2))
    assert len(warned) == 1 or "oneDNN off" in warned[1]


@pytest.mark.parametrize(
    ("name", "value"), [*CHANGING.items(), ("dtype_policy", "bfloat16"), ("dtype_policy", "mixed_bfloat16")]
)
def test_a_run_is_refused_where_its_process_has_changed_keras(name: str, value: Any) -> None:
    before = getattr(keras.config, name)()
    options = RunOptions(data_dir=Path("data"))
    try:
        getattr(keras.config, f"set_{name}")(value)
        with pytest.raises(InputError, match=rf"keras\.config\.set_{name}\(") as refused:
            identity(options)
        assert repr(value) in str(refused.value)
    finally:
        getattr(keras.config, f"set_{name}")(before)
    identity(options)


def test_what_jax_reads_is_its_default_and_other_arithmetic_is_recorded() -> None:
    say = f"{IDENTITY}\nimport os; found = [identity(options), provenance(Config()), dict(os.environ)]"
    say += "\nprint(json.dumps([*found, 'keras' in sys.modules]))"
    mine = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0"}
    mine |= {"JAX_DEFAULT_DTYPE_BITS": "32", "JAX_RANDOM_SEED_OFFSET": "7", "NVIDIA_TF32_OVERRIDE": ""}
    mine |= {"JAX_EXPLICIT_X64_DTYPES": ""}
    default, pinned = (json.loads(python(say, **variables).stdout) for variables in ({}, mine))
    assert pinned[0] == default[0] and "environment" not in default[0]
    assert default[3] is False  # a record does not load the backend, which takes seconds
    assert default[1]["environment"]["TF_DETERMINISTIC_OPS"] == "1"
    assert all(pinned[2][name] == default[2][name] != value for name, value in mine.items() if value)

    assert "JAX_EXPLICIT_X64_DTYPES" not in pinned[2]

    other = {"TF_ENABLE_ONEDNN_OPTS": "0", "NVIDIA_TF32_OVERRIDE": "1", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}
    other |= {"JAX_DEFAULT_MATMUL_PRECISION": "bfloat16", "TF_DETERMINISTIC_OPS": "0", "XLA_FLAGS": ""}
    threads = {"OMP_NUM_THREADS": "3", "TF_NUM_INTEROP_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
    changed = json.loads(python(say, **other, **threads).stdout)
    assert changed[0] == {**default[0], "environment": other}  # a run may continue with other numbers of threads
    assert changed[1]["environment"] == other | threads


def script(name: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A script of the project, run by its name from another folder."""
    environment = {**os.environ, "PYTHONPATH": str(project_path(""))} | variables
    command = [sys.executable, str(project_path(name)), *flags]
    return subprocess.run(command, cwd=project_path("").anchor, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("backend", ["torch", "openvino", "numpy", "nonsense", "TensorFlow", " "])
def test_a_backend_that_the_project_does_not_run_on_is_one_line(backend: str) -> None:
    done = script("data/prepare_digits.py", "--help", KERAS_BACKEND=backend)
    assert done.returncode == 2 and done.stdout == ""
    line = f"error: KERAS_BACKEND={backend!r}: this project runs on tensorflow and jax; choose one of them\n"
    assert done.stderr == line
    done = python("import models", KERAS_BACKEND=backend)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == f"ImportError: {line[7:-1]}"


def test_an_empty_backend_counts_as_not_set() -> None:
    done = python("import os, runtime; print(runtime.backend_name(), os.environ['KERAS_BACKEND'])", KERAS_BACKEND="")
    assert done.stdout == "tensorflow tensorflow\n"


MISSING = {
    "keras": ("", "keras is not installed: pip install -r requirements.txt"),
    "tensorflow": ("", "tensorflow is not installed: pip install -r requirements.txt"),
    "jax": ("jax", "jax is not installed: pip install -e '.[jax]'"),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_not_installed_is_one_line(name: str, tmp_path: Path) -> None:
    """All other packages are linked into a folder."""
    for packages in map(Path, site.getsitepackages()):
        for one in packages.iterdir() if packages.is_dir() else ():
            if one.name != name and one.suffix != ".pth" and not (tmp_path / one.name).exists():
                (tmp_path / one.name).symlink_to(one)
    backend, line = MISSING[name]
    path = os.pathsep.join([str(project_path("")), str(tmp_path)])
    environment = os.environ | {"PYTHONPATH": path, "KERAS_BACKEND": backend}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    for one in ("data/prepare_digits.py", "benchmarks/speed.py", "evaluation/tables/run_plan.py"):
        done = run(str(project_path(one)), "--help")
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {line}\n"), one
    done = run("-c", "import runtime")
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == f"ImportError: {line}", done.stderr


@pytest.mark.parametrize(
    "mplbackend", ["module://matplotlib_inline.backend_inline", "nonsense", "module://no.such", "tkagg"]
)
def test_an_mplbackend_that_is_not_there_does_not_matter(mplbackend: str, tmp_path: Path) -> None:
    done = script("data/prepare_digits.py", "--help", MPLBACKEND=mplbackend)
    assert done.returncode == 0 and done.stderr == "" and "--out-dir" in done.stdout
    draw = "from attack_generation.visibility import save_image_grids as save; import numpy as np"
    draw += "; from pathlib import Path"
    draw += f"; save(Path({str(tmp_path / 'a.png')!r}), {{'': (np.zeros((2, 8, 8, 1)), np.ones((2, 8, 8, 1)))}}, 0.1)"
    done = python(draw, MPLBACKEND=mplbackend)
    assert done.returncode == 0 and done.stderr == "" and (tmp_path / "a.png").is_file()


def test_a_backend_of_matplotlib_that_a_notebook_has_set_stays(tmp_path: Path) -> None:
    (tmp_path / "my_inline.py").write_text("from matplotlib.backends.backend_agg import *\n")
    path = os.pathsep.join([str(project_path("")), str(tmp_path)])
    say = "import matplotlib, os, matplotlib.pyplot; print(matplotlib.get_backend(), os.environ['MPLBACKEND'])"
    draw = "from attack_generation.visibility import save_image_grids as save; import numpy as np"
    draw += "; from pathlib import Path"
    draw += f"; save(Path({str(tmp_path / 'a.png')!r}), {{'': (np.zeros((2, 8, 8, 1)), np.ones((2, 8, 8, 1)))}}, 0.1)"
    for name in ("module://my_inline", "svg"):
        for code in (f"import runtime; {say}", f"{draw}; {say}", f"import matplotlib.pyplot; {draw}; {say}"):
            assert python(code, PYTHONPATH=path, MPLBACKEND=name).stdout == f"{name} {name}\n"
