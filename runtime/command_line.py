"""Scripts: from the command line to a config, and from an error to one line and an exit status."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import tyro

from runtime.files import InputError
from runtime.stop import STOPPED_EARLY, StoppedEarly

Config = TypeVar("Config")


def run_script(main: Callable[[Config], Any], config_type: type[Config], description: str | None) -> None:
    """Parse the command line into ``config_type``, whose defaults are the script's constants, and run.

    Bad input ends in one line on stderr and status 2; a stop on request in status 75.
    """
    config = tyro.cli(config_type, description=description)
    try:
        main(config)
    except InputError as error:
        _leave(f"error: {error}", 2)
    except FloatingPointError as error:
        _leave(f"error: {error}", 1)
    except StoppedEarly as stop:
        _leave(f"stopped: {stop}; run the same command again to continue", STOPPED_EARLY)


def _leave(message: str, status: int) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(status)
