"""A short part of make fuzz: the stages that take well under a second."""

import pytest

from tests.faults.stages import World
from tests.fuzz.run_fuzz import BAD, described, fuzz, table

CASES, SEED = 60, 0


def test_no_malformed_command_or_file_is_accepted_or_ends_in_a_traceback(world: World) -> None:
    results = list(fuzz(range(CASES), SEED, world, ("merge", "certificate", "control", "mnist")))
    if bad := [described(result, SEED) for result in results if result.kind in BAD]:
        pytest.fail("\n".join([*bad, table(results)]), pytrace=False)
