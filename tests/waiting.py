"""How tests wait for another process: for what it does, never for a time that a slow machine needs more of."""

import subprocess
import time
from collections.abc import Callable

HANG = 3600.0
"""Seconds after which a process that has not ended hangs: the limit of every wait, which no slow machine reaches."""


def wait_until(condition: Callable[[], object], what: str, process: subprocess.Popen | None = None) -> None:
    """Wait for a condition. Raises RuntimeError where the process that is to bring it about has ended before.

    what: the condition, for errors. Raises TimeoutError after HANG seconds.
    """
    started = time.monotonic()
    while True:
        has_ended = process is not None and process.poll() is not None
        if condition():  # looked at after the process, which may bring it about and end
            return
        if has_ended:
            raise RuntimeError(f"the process ended before {what}")
        if time.monotonic() - started > HANG:
            raise TimeoutError(f"not within {HANG:g} s: {what}")
        time.sleep(0.05)
