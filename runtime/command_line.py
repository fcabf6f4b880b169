"""Scripts: from the command line to a config, and from an error to one line and an exit status."""

import errno
import importlib
import os
import re
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import MISSING, fields, make_dataclass
from functools import cache
from inspect import cleandoc
from io import StringIO, TextIOWrapper
from itertools import pairwise
from textwrap import dedent
from typing import Annotated, Any, Literal, NoReturn, TextIO, TypeVar, get_type_hints

import tyro
from tyro import _strings

from runtime.bounds import require_bounds
from runtime.checks import require_usable
from runtime.files import InputError
from runtime.provenance import IS_CHECKOUT, settings
from runtime.stop import STOPPED_EARLY, StoppedEarly

Config = TypeVar("Config")
INTERRUPTED = 130  # exit status after Ctrl-C, as in shells (128 + SIGINT)
READER_GONE = 141  # exit status when the reader of the output has gone, as in shells (128 + SIGPIPE)
# tyro keeps the break before a line that begins with no letter. Here a text is one line, and only indented lines stay.
_strings.remove_single_line_breaks = lambda helptext: re.sub(r"(?<=\S)\n(?=\S)", " ", cleandoc(helptext))
_LONGEST_LINE = 500  # characters of a parser error, which repeats the given values


def run_script(
    main: Callable[[Config], Any], config_type: type[Config], description: str | None, settings_of: Any = None
) -> None:
    """Parse the command line into ``config_type``, whose defaults are the script's constants, and run.

    Bad input ends in one line on stderr and exit status 2. A requested stop ends in exit status 75. Numbers and paths
    that no script can use are refused here, before ``main`` begins. Where the reader of the output goes away (script |
    head -1), a run ends silently with status 141, and --help with status 0. settings_of: a base class of config_type.
    A constant that is no setting of it is refused, because it would have no effect.
    """
    with _silent_where_nobody_reads():
        try:
            if settings_of:
                _require_known_constants(config_type, settings_of)
            config = parsed(config_type, description)
            require_usable(config)
            main(config)
        except InputError as error:
            _leave(f"error: {error}", 2)
        except PermissionError as error:  # in a folder that may not be searched
            if error.filename is None:
                raise
            _leave(f"error: {error.filename}: {error.strerror}; change its permissions, or choose another path", 2)
        except MemoryError as error:
            _leave(f"error: not enough memory ({error}); choose smaller batches or fewer points", 1)
        except FloatingPointError as error:
            _leave(f"error: {error}", 1)
        except KeyboardInterrupt:  # before a run takes the signal, or a second one
            _leave("stopped: interrupted at once; run the same command again to continue", INTERRUPTED)
        except StoppedEarly as stop:
            how = " without --overwrite to continue (older results that were not reached stay)"
            how = how if getattr(config, "overwrite", False) else " to continue"
            _leave(f"stopped: {stop}; run the same command again{how}", STOPPED_EARLY)


def _require_known_constants(config_type: Any, settings_of: Any) -> None:
    """Raise InputError for a script's constant that is no setting of the class ``settings_of``, or out of bounds."""
    known = {*dir(settings_of), *settings_of.__dataclass_fields__}
    for kind in (kind for kind in config_type.__mro__ if kind not in settings_of.__mro__):
        for name, value in sorted(vars(kind).items()):
            # A method has __get__. A loss has not, though it can be called, too.
            is_helper = name.startswith("_") or isinstance(value, type) or hasattr(value, "__get__")
            if not is_helper and name not in known:
                raise InputError(f"{name} is no setting of this script; mend the constant's name")
    require_bounds(_constants(config_type))


def parsed(config_type: type[Config], description: str | None = None, words: Sequence[str] | None = None) -> Config:
    """The config of a command line. words: None for this process's own. Raises InputError for invalid words.

    --help shows the text of a config's ``help_note``, then the script's own settings, and run options last.

    A config may have a ``choice``, ('optimiser', {name: class}). The flag --optimiser NAME then chooses the class of
    its nested settings ``optimiser``, whose own settings are flags as well.
    """
    said = StringIO()
    words = sys.argv[1:] if words is None else words
    declared = [name for base in config_type.__mro__ for name in vars(base).get("__annotations__", {})]
    _sort_fields(config_type, declared)  # its own, then those of each base class in turn
    if description is not None and (note := getattr(config_type, "help_note", None)):
        description += f"\n\n{note()}"
    if description is not None and not IS_CHECKOUT:
        description += "\n\nThis is an installed copy: data/, saved_models/ and runs/ are in the working folder."
    try:
        with redirect_stderr(said):
            read = _parsed_with_choice if hasattr(config_type, "choice") else tyro.cli
            config = read(config_type, description=description, args=words)
    except BrokenPipeError:  # nothing is printed but the text of --help
        raise SystemExit(0) from None
    except SystemExit as left:
        if not left.code:  # --help
            raise
        raise InputError(f"{parser_error(said.getvalue())}; see --help") from None
    for flag, value in pairwise([*words, "--"]):
        setting = flag.removeprefix("--").replace("-", "_")
        is_empty = flag.startswith("--") and value.startswith("--") and getattr(config, setting, None) == ()
        # Where the default has values, a flag without a value is meant: it takes them away.
        if is_empty and not getattr(config_type, setting, None):
            raise InputError(f"{flag} has no value; give at least one value, or leave the flag out")
    return config


def _constants(config_type: Any) -> Any:
    """The config of a script's own constants. Settings that have none, such as required flags, are None."""
    required = [it.name for it in fields(config_type) if it.default is MISSING and it.default_factory is MISSING]
    return config_type(**dict.fromkeys(required))


def _sort_fields(config_type: Any, names: Sequence[str]) -> None:
    """Put the fields of a keyword-only dataclass into the order of ``names``, in which --help shows them."""
    known = config_type.__dataclass_fields__
    known.update({name: known.pop(name) for name in dict.fromkeys(names) if name in known})


def _parsed_with_choice(config_type: Any, description: str | None, args: Sequence[str]) -> Any:
    """Call tyro.cli for a config with a ``choice`` and make the choice a flag, too. Here it is --optimiser.

    In --help the flag stands at the place of the chosen settings. Settings that all classes of a choice share keep the
    config's defaults. Raises InputError for a flag of a class that is not chosen.
    """
    choice, classes = config_type.choice
    settings_of = {name: {setting.name for setting in fields(kind)} for name, kind in classes.items()}
    default = getattr(_constants(config_type), choice)
    named = re.findall(rf"^--{choice}[=\n](.*)", "\n".join(args), re.MULTILINE)  # --optimiser f2sa, --optimiser=f2sa
    chosen = classes.get(named[-1]) if named else None
    if chosen and chosen is not type(default):
        shared = set.intersection(*settings_of.values())
        default = chosen(**{setting: getattr(default, setting) for setting in shared})
    for word in (word for word in args if word.startswith("--")):
        setting = word.partition("=")[0].removeprefix("--").replace("-", "_")
        owners = [name for name, settings in settings_of.items() if setting in settings]
        if owners and not hasattr(default, setting):
            lacking = f"has no setting {setting} (of {', '.join(owners)} only)"
            raise InputError(f"{choice} {default.name} {lacking}; leave it out")
    # tyro reads a subclass of the config: with the new default, and before it a field for the flag.
    names: Any = Literal[(*classes, default.name)]  # a script may have an optimiser of its own
    help_text = " ".join(f"{name!r}: {kind.__doc__.splitlines()[0]}" for name, kind in classes.items())
    flag = f"{choice}_name", Annotated[names, tyro.conf.arg(name=choice, help=help_text)], default.name
    nested = choice, get_type_hints(config_type, include_extras=True)[choice], default
    with_flag: Any = make_dataclass("CommandLine", [flag, nested], bases=(config_type,), frozen=True, kw_only=True)
    order = [field.name for field in fields(config_type)]
    _sort_fields(with_flag, [*order[: order.index(choice)], flag[0], *order])
    read = tyro.cli(with_flag, description=description, args=args)
    return config_type(**{name: getattr(read, name) for name in order})


def parser_error(box: str) -> str:
    """One line from tyro's error box of several lines: the errors and tyro's suggestions.

    tyro's versions differ in words and frame. This function relies only on the form of the box: a title, and parts
    between rules. Help texts are indented by eight columns. A box of another form is joined into one line.
    """
    body = box.translate(str.maketrans("─│╭╮╰╯", "-     ")).strip().partition("\n")[2]  # all below the title
    without_helps = re.sub(r"^ {8}.*", "", dedent(body), flags=re.MULTILINE)
    parts = re.split(r"^ *-{3,} *$", without_helps, flags=re.MULTILINE)
    lines = [" ".join(part.split()).partition(" Got errors:")[0] for part in parts]
    told = [line for line in lines if line and not line.startswith(("Argument helptext", "For full helptext"))]
    text = re.sub(r"^Missing from .*?:", "Missing:", "; ".join(told)).rstrip(".") or " ".join(box.split())
    return text if len(text) <= _LONGEST_LINE else text[:_LONGEST_LINE] + " ..."


def config_of(script: str, words: Sequence[str]) -> Any:
    """The config that a script parses from a command line."""
    return parsed(importlib.import_module(script.removesuffix(".py").replace("/", ".")).Config, words=words)


@cache
def settings_from(script: str, words: Sequence[str]) -> dict[str, Any]:
    """The settings that a script reads from a command line, as its records hold them."""
    config = config_of(script, words)
    return settings(config.in_force() if hasattr(config, "in_force") else config)


def _leave(message: str, status: int) -> NoReturn:
    print(" ".join(message.split()), file=sys.stderr)
    raise SystemExit(status)


@contextmanager
def _silent_where_nobody_reads() -> Iterator[None]:
    status: Any = READER_GONE
    sys.stdout = sys.stdout or StringIO()  # it was closed when Python started
    try:
        try:
            if isinstance(sys.stdout, TextIOWrapper) and not sys.stdout.closed:
                sys.stdout.reconfigure(errors="backslashreplace")  # its encoding may lack a letter, such as σ
            yield
        except SystemExit as left:
            status = left.code
            raise
        finally:
            if not sys.stdout.closed:
                sys.stdout.flush()  # now, because Python would print an error at its end
    except BrokenPipeError:
        unread = [stream for stream in (sys.stdout, sys.stderr) if stream and _is_unread(stream)]
        if not unread:  # it was another pipe
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in unread:
            os.dup2(nowhere, stream.fileno())
        raise SystemExit(status) from None
    except OSError as error:
        of_output = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
        if error.filename is not None or error.errno not in of_output:  # the error concerns something else
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(f"error: the output cannot be written ({error.strerror}); free some space or print elsewhere", 1)


def _is_unread(stream: TextIO) -> bool:
    """Whether this is a pipe whose reader has gone."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # no file, as in tests, or closed
        return False
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
