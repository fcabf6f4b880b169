"""The commit that a record names: the project's own and clean, or why it is not; each case a fresh process."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.provenance import is_clean_commit, project_path

CLEAN = re.compile("[0-9a-f]{12}")


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@b"]
    command = ["git", *who, *arguments]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=True).stdout.strip()


def repository(folder: Path) -> str:
    """Commit everything in the folder; the commit."""
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "all", "--allow-empty")
    return git(folder, "rev-parse", "--short=12", "HEAD")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The part of the project's sources that finds the commit, in a folder of another name."""
    folder = tmp_path / "outer/project"
    shutil.copytree(project_path("runtime"), folder / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("results/README.md", "evaluation/__init__.py", "evaluation/MNIST/train.py", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / ".gitignore").write_text("__pycache__/\nignored.py\n")
    return folder


def commits_of(project: Path, *variables: dict[str, str]) -> list[str]:
    """What a fresh process says of the project, under each of these sets of variables."""
    code = "import json, os, sys; from runtime.provenance import git_commit; found = []"
    code += "\nfor variables in json.loads(sys.argv[1]):\n before = dict(os.environ); os.environ.update(variables)"
    code += "\n found.append(git_commit()); os.environ.clear(); os.environ.update(before)\nprint(json.dumps(found))"
    environment = os.environ | {"PYTHONPATH": str(project)}
    command = [sys.executable, "-c", code, json.dumps(variables or [{}])]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_checkout_has_its_commit(project: Path) -> None:
    commit = repository(project)
    assert CLEAN.fullmatch(commit)
    for name in ("results/README.md", "results/new.py", "notes_of_mine.py", "evaluation/notes.txt", "mine/new.py"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("changed")
    (link := project.parent / "link").symlink_to(project)
    assert commits_of(link) == commits_of(project) == [commit]


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "evaluation/MNIST/train.py", "evaluation/new.py", "evaluation/new/deep.py", "runtime/ignored.py"],
)
def test_what_may_have_run_and_is_in_no_commit_is_dirty(project: Path, name: str) -> None:
    commit = repository(project)
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text("changed = 1\n")
    hidden = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.excludesFile", "GIT_CONFIG_VALUE_0": "/dev/stdin"}
    assert commits_of(project, {}, hidden) == 2 * [f"{commit}-dirty"]


def test_sources_inside_another_repository_have_not_its_commit(project: Path) -> None:
    repository(project.parent)
    said = f"unknown (the repository is {project.parent}, not the project's own)"
    assert commits_of(project) == [said]


def test_gits_own_variables_lead_nowhere_else(project: Path, tmp_path: Path) -> None:
    commit = repository(project)
    (tmp_path / "other").mkdir()
    assert repository(tmp_path / "other") != commit
    other = str(tmp_path / "other")
    elsewhere = (
        {"GIT_DIR": f"{other}/.git", "GIT_WORK_TREE": other},
        {"GIT_DIR": f"{other}/.git"},
        {"GIT_WORK_TREE": str(project), "GIT_DIR": f"{other}/.git"},
        {"GIT_INDEX_FILE": f"{other}/.git/index"},
        {"GIT_OBJECT_DIRECTORY": f"{other}/.git/objects"},
        {"GIT_NAMESPACE": "other", "GIT_CEILING_DIRECTORIES": str(project.parent)},
    )
    assert commits_of(project, *elsewhere) == len(elsewhere) * [commit]
    shutil.rmtree(project / ".git")
    (said,) = commits_of(project, {"GIT_DIR": f"{other}/.git", "GIT_WORK_TREE": str(project)})
    assert said.startswith("unknown (fatal: not a git repository")


def given_to_another(project: Path, home: Path) -> dict[str, str]:
    repository(project)
    home.mkdir()
    for path in (project, *project.rglob("*")):
        os.chown(path, 12345, 12345)
    return {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "SUDO_UID": ""}


WHY: dict[str, tuple[str, Callable[[Path, Path], dict[str, str] | None]]] = {
    "no repository": ("fatal: not a git repository", lambda project, home: None),
    "no commit yet": ("fatal: ", lambda project, home: git(project, "init", "-q") and None),
    "no git": ("git: No such file or directory", lambda project, home: repository(project) and {"PATH": str(home)}),
    "another owner": ("fatal: detected dubious ownership in repository", given_to_another),
}


@pytest.mark.parametrize("case", WHY)
def test_where_git_has_no_commit_its_reason_is_told(case: str, project: Path, tmp_path: Path) -> None:
    if case == "another owner" and os.getuid():
        pytest.skip("only root gives files away")
    why, arrange = WHY[case]
    (said,) = commits_of(project, arrange(project, tmp_path / "home") or {})
    assert said.startswith(f"unknown ({why}") and said.endswith(")") and "\n" not in said


def test_a_clean_commit_is_seven_or_more_hexadecimal_digits() -> None:
    for name in ("0123abc", "0123456789ab", 40 * "a"):
        assert is_clean_commit(name)
    for name in (
        "",
        "0123ab",
        "unknown",
        "unknown (fatal: abcdef0)",
        "0123456789ab-dirty",
        "0123456789ab\n",
        "HEAD123",
    ):
        assert not is_clean_commit(name)
