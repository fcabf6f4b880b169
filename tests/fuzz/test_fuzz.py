"""A short part of make fuzz: the stages that take well under a second."""

from pathlib import Path

from tests.fuzz.run_fuzz import BAD, fuzz, report

CASES, SEED = 60, 0


def test_no_malformed_command_or_file_is_accepted_or_ends_in_a_traceback(tmp_path: Path) -> None:
    results = fuzz(range(CASES), SEED, tmp_path, ("merge", "certificate", "control", "mnist"))
    assert not [result for result in results if result.kind in BAD], report(results, SEED)
