"""How an artifact came about: resolved settings, command, commit, versions, machine."""

import contextlib
import dataclasses
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime import backend_name, environment
from runtime.files import InputError
from runtime.lazy import keras

ROOT = Path(__file__).resolve().parent.parent
"""Folder of the code, of scripts and of the poisons that the project ships."""
IS_CHECKOUT = (ROOT / "pyproject.toml").is_file()
"""Whether the project runs from its repository. False: pip has copied it among the installed packages."""


def project_path(relative: str) -> Path:
    """A path of data or results: in the checkout, or in the working folder where the project is an installed copy.

    relative: such as "data/MNIST".
    """
    return (ROOT if IS_CHECKOUT else Path.cwd()) / relative


def printed_path(path: Path) -> str:
    """The path relative to the working folder, where the user's next command runs. Absolute where it lies elsewhere."""
    return _inside(None, path) or str(Path(path).absolute())


def shown_path(path: Path) -> str:
    """The path as records show it: relative to the project where it lies inside, else as the user gave it."""
    return _inside(project_path(""), path) or str(path)


def _inside(folder: Path | None, path: Path) -> str | None:
    """The path relative to a folder (None: the working folder), None where it lies elsewhere."""
    try:
        return str(Path(path).resolve().relative_to(folder or Path.cwd()))
    except (ValueError, RuntimeError, OSError):  # elsewhere, or a link to itself
        return None


def settings(config: Any) -> dict[str, Any]:
    """A config dataclass (or mapping) as plain JSON values, so that a restarted run can compare its settings.

    A config may have a method ``recorded`` that returns the mapping to be recorded in its place.
    """
    if hasattr(config, "recorded"):
        config = config.recorded()
    value = config if isinstance(config, Mapping) else dataclasses.asdict(config)

    def plain(it: Any) -> Any:
        if isinstance(it, np.generic):
            return it.item()
        return shown_path(it) if isinstance(it, Path) else str(it)

    return json.loads(json.dumps(value, default=plain))


def git_commit() -> str:
    """The project's commit, or 'unknown (reason)' where git gives no commit of the project's own folder.

    '-dirty' is added where a tracked file outside results/ is changed, and where a package of the project has an
    untracked .py file, which may have run.
    """
    # Git's environment variables, for example in a hook, may name another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]  # a run that is killed leaves no lock of git's
        done = subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, errors="backslashreplace", check=True
        )
        return done.stdout.strip()

    try:
        top = git("rev-parse", "--show-toplevel")
        if Path(top).resolve() != ROOT:
            return f"unknown (the repository is {top}, not the project's own)"
        commit = git("rev-parse", "--short=12", "HEAD")
        packages = [f"{path.parent.name}/*.py" for path in ROOT.glob("*/__init__.py")]
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
        return commit + ("-dirty" if changed or git("ls-files", "--others", "--", *packages) else "")
    except OSError as error:
        return f"unknown (git: {error.strerror})"
    except subprocess.CalledProcessError as error:
        return f"unknown ({next(iter(error.stderr.strip().splitlines()), 'git failed')})"


def is_clean_commit(name: str) -> bool:
    """Whether a name from git_commit is a commit that others can check out."""
    return re.fullmatch("[0-9a-f]{7,}", name) is not None


def commits(records: Any) -> list[str]:
    """The commits named anywhere in a run's records, each once."""
    if not isinstance(records, dict):
        return []
    own = [str(records["commit"])] if "commit" in records else []
    return list(dict.fromkeys(own + [one for value in records.values() for one in commits(value)]))


def is_in_results(folder: Path) -> bool:
    """Whether a folder lies in the project's results/."""
    return folder.resolve().is_relative_to(project_path("results").resolve())


def require_clean_commits(where: str | Path, records: dict[str, Any]) -> None:
    """Raise InputError for a measurement without a clean commit. Other programs' certificates need no commit."""
    named = commits(records)
    again = "measure it again before it goes into results/"
    if "certificate" in records and not named:
        raise InputError(f"{where}: its records name no commit; {again}")
    for one in named:
        if not is_clean_commit(one):
            found = f"measured at {one}, which is no commit that others can check out"
            raise InputError(f"{where}: {found}; commit, and {again}")


def device_kind() -> str:
    """'cpu', or the kind of the first other device of a loaded backend, such as 'gpu'."""
    devices = map(str, keras.distribution.list_devices()) if "keras" in sys.modules else ()
    return next((name.partition(":")[0] for name in devices if "cpu" not in name), "cpu")


def has_bfloat16_units() -> bool | None:
    """Whether bfloat16 is fast: a loaded backend has a GPU, or the processor lists bfloat16 units. None: not known."""
    if device_kind() != "cpu":
        return True
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return None
    flags = next((line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("flags")), "")
    return bool({"avx512_bf16", "amx_bf16", "avx_ne_convert"} & set(flags.split()))


def continued(now: dict[str, Any], before: Any) -> dict[str, Any]:
    """The provenance of a continued run: ``before`` in the same session, else ``now`` with ``before`` as 'begun'.

    now: from ``session`` or ``provenance``. before: the provenance in the record of the run so far.
    """
    same = isinstance(before, dict) and all(before.get(name) == now[name] for name in session())
    return before if same else {**now, "begun": before}


def session() -> dict[str, Any]:
    """What computes here and now: commit, backend, versions, machine."""
    import importlib.metadata

    backend = backend_name()
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    for name in ("keras", backend, f"{backend}-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "commit": git_commit(),
        "backend": backend,
        "versions": versions,
        "machine": f"{platform.machine()} {platform.system()}",
        "environment": environment(),
        "device": device_kind(),
        "bfloat16_units": has_bfloat16_units(),
    }


def provenance(config: Any) -> dict[str, Any]:
    """The record saved beside every artifact: resolved config, command, session, time."""
    command = shlex.join(["python", shown_path(Path(sys.argv[0])), *sys.argv[1:]])
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"config": settings(config), "command": command, **session(), "written": written}
