"""The count of what was tried, which is printed at the end."""

from collections import Counter

import pytest

_TALLY = pytest.StashKey[Counter]()


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Counter:
    """How many faults of a kind there were, and how many ended as they should: (kind, 'tried' or 'well')."""
    return pytestconfig.stash.setdefault(_TALLY, Counter())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line for all kinds."""
    if tally := config.stash.get(_TALLY, None):
        kinds = dict.fromkeys(kind for kind, _ in tally)
        parts = (f"{tally[kind, 'tried']} {kind}: {tally[kind, 'well']} well" for kind in kinds)
        terminalreporter.write_line("; ".join(parts))
