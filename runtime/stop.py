"""Stopping a long run cleanly: SIGTERM, Ctrl-C, a time limit."""

import signal
import time

STOPPED_EARLY = 75  # exit status of a clean stop, after which the same command continues (EX_TEMPFAIL)


class StoppedEarly(Exception):
    """A run was asked to stop. It has saved its state and stopped."""


class Stop:
    """Context manager that turns SIGTERM, Ctrl-C and a time limit into a request to stop cleanly.

    max_minutes: wall-clock limit in minutes. None: no limit.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._signal: str | None = None

    def __enter__(self) -> "Stop":
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)  # the Stop of a plan, if it ran this job in its own process
            if self._signal and isinstance(outer, Stop):
                outer._signal = self._signal

    def _request(self, number: int, _frame: object) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C stops at once
        self._signal = signal.Signals(number).name

    @property
    def minutes_left(self) -> float | None:
        """Minutes left to the limit, at least 0. None: there is no limit."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0) / 60

    @property
    def reason(self) -> str | None:
        """Why the run has to stop now. None: it may continue."""
        return self._signal or ("the limit of --max-minutes" if self.minutes_left == 0 else None)
