"""How long the code may be: a reader has to get through it."""

from pathlib import Path

from runtime.provenance import ROOT
from tests.test_import_rules import FILES

ALL = 18_245  # lines of Python outside tests; to be lowered to 13,000
EVALUATION = 0.2534  # of them in evaluation/
LONGEST = 400
LINES = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}


def test_the_code_is_no_longer_than_a_reader_can_take() -> None:
    assert sum(LINES.values()) <= ALL, "more lines than a reader can take: free some, or raise ALL in a fork"
    evaluation = sum(lines for name, lines in LINES.items() if Path(name).parts[0] == "evaluation")
    assert evaluation <= EVALUATION * sum(LINES.values())


def test_no_file_is_long() -> None:
    too_long = {name: lines for name, lines in LINES.items() if lines > LONGEST}
    assert not too_long
