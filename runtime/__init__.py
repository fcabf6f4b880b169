"""Tools of every long run: files, noise, stop, checkpoints, provenance, command line, figures.

Importing this package imports no backend. It sets the environment variables that a backend reads at its first import.
When any code first imports Keras, it gives Keras this project's settings in place of ~/.keras/keras.json. Every other
package of the project therefore imports this one first. A warning tells where a user's code imported Keras or
TensorFlow earlier with other settings. Where Keras or the backend is missing, a script of the project ends in one line.
Other code gets an ImportError.
"""

import gc
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

_KERAS_BEFORE = sys.modules.get("keras") is not None

_INSTALL = {"tensorflow": "pip install -r requirements.txt", "jax": "pip install -e '.[jax]'"}

# TensorFlow is the default backend (Keras's own default may be overridden by ~/.keras/keras.json).
os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"
# This project does not use Flax NNX, Keras's second way to keep JAX's variables.
os.environ["KERAS_NNX_ENABLED"] = "0"
# GPU memory is taken as needed, not all at once.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

_DEFAULTS = {
    # TensorFlow switches oneDNN's convolutions on only for some Intel processors. On other processors they are
    # about twice as fast as TensorFlow's fallback.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    # The same seeds give the same bits on the same machine.
    "TF_DETERMINISTIC_OPS": "1",
    "XLA_FLAGS": "--xla_gpu_deterministic_ops=true",
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)

# These variables change JAX's dtypes and random numbers. They get JAX's own defaults, unless JAX has read them.
_JAX = {
    "JAX_ENABLE_X64": "0", "JAX_DEFAULT_DTYPE_BITS": "64", "JAX_DEFAULT_PRNG_IMPL": "threefry2x32",
    "JAX_THREEFRY_PARTITIONABLE": "1", "JAX_RANDOM_SEED_OFFSET": "0",
}  # fmt: skip
if "jax" not in sys.modules:
    os.environ.update(_JAX)
    os.environ.pop("JAX_EXPLICIT_X64_DTYPES", None)  # its default differs between versions

# A user may set these variables. They change the arithmetic, so records name them: see ``changed_environment``.
_LEFT_TO_THE_USER = (
    "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA", "JAX_DEFAULT_MATMUL_PRECISION", "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "TF_ENABLE_AUTO_MIXED_PRECISION", "TF_SET_ONEDNN_FPMATH_MODE",
    "TF_XLA_FLAGS",
)  # fmt: skip
_THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS")  # a run may continue with others


def environment() -> dict[str, str]:
    """The environment variables that are set and change a backend's arithmetic or random numbers."""
    names = (*_DEFAULTS, *_LEFT_TO_THE_USER, *_THREADS)
    return {name: os.environ[name] for name in names if os.environ.get(name)} | changed_environment()


def changed_environment() -> dict[str, str]:
    """The variables of ``environment`` that a user has set to other values than this project's."""
    defaults = {**_DEFAULTS, **dict.fromkeys(_LEFT_TO_THE_USER, ""), **_JAX}
    return {name: os.environ[name] for name, value in defaults.items() if os.environ.get(name, value) != value}


def _cannot_run(line: str, error: Exception | None = None) -> NoReturn:
    """End a script of the project with a line and exit status 2. In other code raise ImportError with that line."""
    script = Path(getattr(sys.modules.get("__main__"), "__file__", None) or "-").resolve()
    root = Path(__file__).resolve().parents[1]
    if script.is_relative_to(root) and (root / script.relative_to(root).parts[0] / "__init__.py").is_file():
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(line) from error


def _require_backend(name: str, source: str) -> None:
    if name not in _INSTALL:
        _cannot_run(f"{source}{name!r}: this project runs on {' and '.join(_INSTALL)}; choose one of them")


def _load_matplotlib(load: Callable[[], None]) -> None:
    """Import Matplotlib even where MPLBACKEND names a missing backend, as a notebook may. Otherwise the import fails.

    A backend that Matplotlib accepts is kept, so that a notebook's plots stay inline.
    """
    name = os.environ.pop("MPLBACKEND", "")  # Matplotlib cannot be imported again after a failed import
    try:
        load()
    except Exception as error:  # an error in the user's matplotlibrc
        _cannot_run(f"matplotlib cannot be imported ({_first_line(error)}): mend your matplotlibrc", error)
    if name:
        with suppress(ImportError, ValueError):  # there is no such backend
            sys.modules["matplotlib"].rcParams["backend"] = name
            os.environ["MPLBACKEND"] = name


_IS_QUIET = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3"


@contextmanager
def backend_lines_hidden() -> Iterator[None]:
    """Hide the lines that a backend's libraries write to file descriptor 2 (stderr) at their first import.

    The lines are shown where an import fails, and where the user has set TF_CPP_MIN_LOG_LEVEL to see them.
    """
    if not _IS_QUIET or sys.stderr is None:  # closed when Python started
        yield
        return
    with tempfile.TemporaryFile() as lines:
        stderr = os.dup(2)
        os.dup2(lines.fileno(), 2)
        try:
            yield
        except ImportError:
            lines.seek(0)
            os.write(stderr, lines.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _load_keras(load: Callable[[], None]) -> None:
    backend, collects_garbage = os.environ["KERAS_BACKEND"], gc.isenabled()
    gc.disable()  # an import makes no garbage: a search takes 1 s of 4 s, and 1 s more when Python ends
    try:
        with backend_lines_hidden():
            load()
    except ImportError as error:
        _cannot_run(f"keras or {backend} cannot be imported ({_first_line(error)}): {_INSTALL[backend]}", error)
    except Exception as error:  # a mistake in ~/.keras/keras.json or in a variable that Keras reads
        mend = f"{os.environ.get('KERAS_HOME') or '~/.keras'}/keras.json or the environment variable"
        _cannot_run(f"keras cannot be imported ({type(error).__name__}: {_first_line(error)}); mend {mend}", error)
    finally:
        gc.freeze()
        if collects_garbage:
            gc.enable()
    _pin_keras_settings()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


_KERAS = {"image_data_format": "channels_last", "floatx": "float32", "epsilon": 1e-7, "dtype_policy": "float32"}


def changed_keras_settings() -> dict[str, tuple[Any, Any]]:
    """Keras's settings that differ from this project's: for each name, Keras's value and this project's value."""
    if "keras" not in sys.modules:
        return {}
    from keras import config

    found = {name: getattr(config, name)() for name in _KERAS}
    found["dtype_policy"] = found["dtype_policy"].name
    return {name: (value, _KERAS[name]) for name, value in found.items() if value != _KERAS[name]}


def _pin_keras_settings() -> None:
    """Give Keras this project's settings. ~/.keras/keras.json or a notebook may have set others."""
    from keras import config

    changed = changed_keras_settings()
    for name, value in _KERAS.items():
        getattr(config, f"set_{name}")(value)
    if changed and _KERAS_BEFORE:
        found = ", ".join(f"{name} {value}, which is {wanted} now" for name, (value, wanted) in changed.items())
        warnings.warn(f"Keras was imported before this project with {found}: numbers depend on it", RuntimeWarning,
                      stacklevel=3)  # fmt: skip


def onednn_in_force() -> bool | None:
    """Whether TensorFlow uses oneDNN's convolutions since its import. None: not known."""
    port = sys.modules.get("tensorflow.python.util._pywrap_util_port")  # there is no public way to ask
    return bool(port.IsMklEnabled()) if port else None


def backend_name() -> str:
    """The backend in force: tensorflow or jax. Imports nothing."""
    return sys.modules["keras"].backend.backend() if "keras" in sys.modules else os.environ["KERAS_BACKEND"]


def _warn_where_loaded_otherwise() -> None:
    """Warn where the backend was imported before this package with other variables: setting them now has no effect."""
    again = "set it before Python starts, or import this project before keras and tensorflow"
    _require_backend(backend := backend_name(), "Keras was imported before this project with the backend ")
    if backend != (wanted := os.environ["KERAS_BACKEND"]):
        warnings.warn(f"Keras was imported before this project with the backend {backend}, not {wanted}: for "
                      f"KERAS_BACKEND={wanted} {again}", RuntimeWarning, stacklevel=3)  # fmt: skip
    wish = os.environ["TF_ENABLE_ONEDNN_OPTS"]
    if backend == "tensorflow" and wish == "1" and onednn_in_force() is False:
        warnings.warn("TensorFlow was imported before this project with oneDNN off, which doubles the time of "
                      f"convolutions: for TF_ENABLE_ONEDNN_OPTS=1 {again}", RuntimeWarning, stacklevel=3)  # fmt: skip


_LOADERS = {"keras": _load_keras, "matplotlib": _load_matplotlib}


class _AtFirstImport:
    """A finder in sys.meta_path. It calls the function in ``_LOADERS`` when any code first imports that package."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in _LOADERS:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec), None)
        if spec and spec.loader:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _LOADERS[name](partial(execute, module))  # type: ignore
        return spec


_require_backend(os.environ["KERAS_BACKEND"], "KERAS_BACKEND=")
if _KERAS_BEFORE:
    _pin_keras_settings()
else:
    for _name in ("keras", os.environ["KERAS_BACKEND"]):
        if sys.modules.get(_name) is None and find_spec(_name) is None:
            _cannot_run(f"{_name} is not installed: {_INSTALL.get(_name, _INSTALL['tensorflow'])}")
if _KERAS_BEFORE or "tensorflow" in sys.modules:
    _warn_where_loaded_otherwise()
sys.meta_path.insert(0, _AtFirstImport())
