"""LICENSE, CITATION.cff, CHANGELOG.md and pyproject.toml agree."""

import re
from pathlib import Path

import yaml

import data

ROOT = Path(data.__file__).parents[1]


def test_the_citation_names_the_version_and_licence_of_the_package() -> None:
    package = (ROOT / "pyproject.toml").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert f'name = "{citation["title"]}"' in package
    assert f'version = "{citation["version"]}"' in package
    assert f'license = "{citation["license"]}"' in package
    assert (ROOT / "LICENSE").read_text().startswith(f"{citation['license']} License\n\nCopyright (c) 2026 the authors")
    assert f"## {citation['version']}," in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_has_the_three_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    numbers = [entry["identifiers"][0]["value"] for entry in citation["references"]]
    assert numbers == ["arXiv:2012.01274", "arXiv:1902.02918", "arXiv:2002.03018"]
    for entry in citation["references"]:
        assert entry["authors"] and re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", entry["url"])
