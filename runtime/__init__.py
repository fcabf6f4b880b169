"""What every long run needs, whatever it computes: files, noise, stop, checkpoints, provenance, command line.

Importing this package fixes the process environment that the tensor backend reads when it is first
imported; every other package that uses Keras imports this one first for that reason. Where a user's code has imported
the backend before, with other settings, a warning says so.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOADED_BEFORE = "keras" in sys.modules or "tensorflow" in sys.modules

# TensorFlow is the default backend (Keras's own default may be overridden by ~/.keras/keras.json).
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# TensorFlow switches oneDNN's convolutions on by itself only for some Intel processors; on the others
# they are about twice as fast as the fallback.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# GPU memory is taken as needed, not all at once.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# The same seeds give the same bits on the same machine.
os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")


_IS_QUIET = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3"


@contextmanager
def backend_lines_hidden() -> Iterator[None]:
    """Hide what a backend's libraries write about themselves, past Python's stderr, when they are first imported.

    The lines are shown where an import fails, and where the user has set TF_CPP_MIN_LOG_LEVEL to see them.
    """
    if not _IS_QUIET:
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


if "keras" not in sys.modules:
    with backend_lines_hidden():
        import keras  # noqa: F401


def onednn_in_force() -> bool | None:
    """Whether TensorFlow's convolutions are oneDNN's, as it read when it was imported; None where that is not known."""
    port = sys.modules.get("tensorflow.python.util._pywrap_util_port")  # there is no public way to ask
    return bool(port.IsMklEnabled()) if port else None


def _warn_where_loaded_otherwise() -> None:
    """The variables here change nothing that the backend has read already."""
    import keras

    again = "set it before Python starts, or import this project before keras and tensorflow"
    if (backend := keras.backend.backend()) != (wanted := os.environ["KERAS_BACKEND"]):
        warnings.warn(f"Keras was imported before this project with the backend {backend}, not {wanted}: for "
                      f"KERAS_BACKEND={wanted} {again}", RuntimeWarning, stacklevel=3)  # fmt: skip
    wish = os.environ["TF_ENABLE_ONEDNN_OPTS"]
    if backend == "tensorflow" and wish == "1" and onednn_in_force() is False:
        warnings.warn("TensorFlow was imported before this project with oneDNN off, which doubles the time of "
                      f"convolutions: for TF_ENABLE_ONEDNN_OPTS=1 {again}", RuntimeWarning, stacklevel=3)  # fmt: skip


if _LOADED_BEFORE:
    _warn_where_loaded_otherwise()
