"""Write benchmarks/README.md from the records of measurements in benchmarks/records/.

    python benchmarks/speed.py --out benchmarks/records/speed.json       # memory.py, label_flipping.py likewise
    python benchmarks/write_readme.py

Records are of any name; what a person has to say about them is in benchmarks/records/NOTES.md.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from runtime.command_line import run_script
from runtime.files import read_json, write_text
from runtime.provenance import project_path, shown_path

HEAD = """# Speed and memory

Made by `python benchmarks/write_readme.py` from the records in `records/`. `make benchmark` prints the same for your
machine. Bars are what the project asks of itself; most are in gradients, for machines differ.
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the page."""

    folder: Path = project_path("benchmarks")
    """Folder of records/ and of the page."""


def main(config: Config) -> None:
    """Write the page. Raises InputError where a record is damaged."""
    write_text(config.folder / "README.md", readme(config.folder))
    print(f"{shown_path(config.folder / 'README.md')}: written")


def readme(folder: Path) -> str:
    """Content of the page: a section per record, with its command, commit, machine and rows."""
    sections = [HEAD]
    for path in sorted((folder / "records").glob("*.json")):
        record = read_json(path)
        about = "; ".join(f"{name}: {value}" for name, value in record["about"].items())
        rows = pd.json_normalize(record["rows"], sep=" ").to_string(
            index=False, na_rep="", float_format=lambda value: f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
        )
        indented = "".join(f"    {line}".rstrip() + "\n" for line in rows.splitlines())
        sections.append(f"## {path.stem}\n\n`{record['command']}`, commit {record['commit']}; {about}.\n\n{indented}")
    notes = folder / "records/NOTES.md"
    return "\n".join([*sections, *([notes.read_text(encoding="utf-8")] if notes.is_file() else [])])


if __name__ == "__main__":
    run_script(main, Config, __doc__)
