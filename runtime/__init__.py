"""What every long run needs, whatever it computes: files, noise, stop, checkpoints, provenance, command line.

Importing this package fixes the process environment that the tensor backend reads when it is first
imported; every other package that uses Keras imports this one first for that reason.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

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
