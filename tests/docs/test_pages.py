"""README and docs/: length, links, and that every command, plan and Python line on them can be used as it stands."""

import re
import shlex
import textwrap
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tyro.extras
import yaml

import data
from evaluation.tables.plan import plan_of

ROOT = Path(data.__file__).parents[1]
README, DOCS = ROOT / "README.md", sorted((ROOT / "docs").glob("*.md"))
HAND = [README, *DOCS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES = [page for page in [*HAND, *ROOT.glob("results/**/*.md"), ROOT / "benchmarks/README.md"] if page.is_file()]
SNIPPETS = sorted((ROOT / "tests").rglob("test_from_python.py"))


def names(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language. The formatter puts two blank lines before a class, in a function one."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [re.sub(r"\n{3,}", "\n\n", block) for block in found]


def commands(page: Path) -> list[list[str]]:
    """The words of every command that stands on lines indented by four or more, or between backticks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE).replace("\\\n", " ")
    found = []
    for line in re.findall(r"^ {4,}(.*)$", text, flags=re.MULTILINE) + re.findall(r"`([^`]+)`", text):
        if re.match(r"(KERAS_BACKEND=jax )?(python|make|snakemake) ", line):
            found.append(shlex.split(" ".join(line.removeprefix("KERAS_BACKEND=jax ").split()), comments=True))
    return found


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pages_are_short() -> None:
    assert len(README.read_text().splitlines()) <= 150
    assert len(DOCS) >= 7
    for page in DOCS:
        assert len(page.read_text().splitlines()) <= 120, page
        assert page.read_text().splitlines()[2].startswith("After this page you can "), page


def test_every_page_of_docs_is_linked_in_readme() -> None:
    for page in DOCS:
        assert f"({names(page)})" in README.read_text(), page


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            other = (page.parent / path).resolve() if path else page
            assert other.exists(), target
            assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", [page for page in HAND if page.name != "CHANGELOG.md"], ids=names)
def test_files_that_are_named_exist(page: Path) -> None:
    """Names between backticks that have a folder of the project and an ending."""
    for name in re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|yaml|md))`", page.read_text()):
        made = name.startswith(("runs/", "config/my_table"))
        assert made or (ROOT / name).is_file(), name


def test_names_of_the_page_on_the_code_are_in_its_files() -> None:
    named = re.findall(r"`(\w+)` \| `([\w/]+\.py)` \|$", (ROOT / "docs/code.md").read_text(), flags=re.MULTILINE)
    assert len(named) > 25
    for name, file in named:
        assert re.search(rf"^ *(def|class) {name}\b|^{name}\b", (ROOT / file).read_text(), flags=re.MULTILINE), name


@cache
def config_type(script: str) -> Any:
    """The class whose fields are the flags of a script."""
    return import_module(script.removesuffix(".py").replace("/", ".")).Config


@cache
def flags(script: str) -> frozenset[str]:
    parser = tyro.extras.get_parser(config_type(script))
    return frozenset(option for action in parser._actions for option in action.option_strings)


@pytest.mark.parametrize("page", HAND, ids=names)
def test_commands_can_be_typed(page: Path) -> None:
    """Scripts and plans exist, and they have the flags; make has the targets."""
    makefile = (ROOT / "Makefile").read_text()
    for program, *words in commands(page):
        if program == "python" and words[0].endswith(".py"):
            if "<D>" in words[0]:
                continue
            given = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
            assert given <= {*flags(words[0]), "--help"}, (words, given - flags(words[0]))
        if program == "make":
            targets = [word for word in words if "=" not in word]
            assert targets and all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets), words
        for path in re.findall(r"(?:config|results|profiles)/[\w/]+(?:\.yaml)?", " ".join(words)):
            assert (ROOT / path).exists(), words
        for table in re.findall(r"TABLE=(\w+)", " ".join(words)):
            assert table == "my_table" or (ROOT / f"config/{table}.yaml").is_file(), words


def snippets_of(test: Path) -> list[str]:
    """The lines of a test between '# snippet: name' and '# end of snippet'."""
    marked = re.findall(r"^ *# snippet: .*?\n(.*?)^ *# end of snippet", test.read_text(), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(snippet).rstrip() + "\n" for snippet in marked]


@pytest.mark.parametrize("page", HAND, ids=names)
def test_python_on_a_page_is_what_a_test_runs(page: Path) -> None:
    tested = [snippet for test in SNIPPETS for snippet in snippets_of(test)]
    for block in blocks(page, "python"):
        assert block in tested, block


def test_the_snippets_tested_here_are_on_a_page() -> None:
    shown = [block for page in HAND for block in blocks(page, "python")]
    assert set(snippets_of(Path(__file__).with_name("test_from_python.py"))) <= set(shown)


@pytest.mark.parametrize("page", HAND, ids=names)
def test_plans_on_a_page_are_plans(page: Path) -> None:
    whole = {"table": "a", "title": "a", "dataset": "MNIST", "architecture": "mnist_cnn", "methods": {"macer": [0.5]}}
    for block in blocks(page, "yaml"):
        values = yaml.safe_load(block)
        assert plan_of(values if "table" in values else {**whole, **values}).cells()
