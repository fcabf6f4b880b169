"""Bounds of settings, declared where a setting is declared: ``epochs: Annotated[int, POSITIVE] = 50``."""

import dataclasses
import math
import numbers
from collections.abc import Callable
from functools import cache
from inspect import isabstract
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from runtime.files import InputError


@dataclasses.dataclass(frozen=True)
class Bound:
    """A condition on a number or a text. ``must`` completes the sentence "epochs must ..." of the error line."""

    must: str
    holds: Callable[[Any], bool]
    of: Any = numbers.Real  # also NumPy's scalars. Other values are not checked


POSITIVE = Bound("be positive", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Bound("not be negative", lambda value: 0 <= value < math.inf)
Seed = Annotated[int, NOT_NEGATIVE]
"""Type of a run's seed."""
WHOLE = Bound("be a whole number", lambda value: isinstance(value, numbers.Integral), object)
_NUMBER = Bound("be a number", lambda value: isinstance(value, numbers.Real), object)
_SWITCH = Bound("be True or False", lambda value: value in (True, False), object)
_SEVERAL = Bound("be a tuple", lambda _: True, object)  # marks a field, and holds for each of its values
_TYPES: dict[Any, Bound] = {int: WHOLE, float: _NUMBER, bool: _SWITCH, tuple: _SEVERAL}
PROBABILITY = Bound("lie strictly between 0 and 1", lambda value: 0 < value < 1)


def at_least(least: float) -> Bound:
    """Numbers from ``least`` on."""
    return Bound(f"be at least {least:g}", lambda value: value >= least)


def at_most(most: float, why: str = "") -> Bound:
    """Numbers up to ``most``. why: the reason in the error line."""
    return Bound(f"be at most {most:g}{why and f' ({why})'}", lambda value: value <= most)


def between(least: float, most: float) -> Bound:
    """Numbers from ``least`` to ``most``, both included."""
    return Bound(f"lie between {least} and {most}", lambda value: least <= value <= most)


def require_bounds(config: Any, owner: str = "") -> None:
    """Raise InputError for the first field of a dataclass or a Struct that is outside its declared bounds.

    Numbers must be within bounds, whole where the field is an int, and texts must be values of a Literal. Numbers,
    texts, bools, paths and losses must have the declared type: a script's constant may be anything. None is always
    allowed. Several values stand only where a tuple is declared, and each is checked. owner: such as " of MACER".
    """
    for name, bounds in _declared(type(config)).items():  # type: ignore[arg-type]
        value = getattr(config, name)
        several, wanted = isinstance(value, list | tuple), _SEVERAL in bounds
        if several != wanted and value is not None:
            raise InputError(f"{name}{owner} must be {'a tuple, such as (1,)' if wanted else 'one value'}, got {value}")
        for one in value if several else (value,):
            require_within(name + owner, one, *bounds)


def require_recordable(kind: type) -> None:
    """Raise InputError for a class whose record would be that of its base class: no dataclass, or no ``name``."""
    if not vars(kind).keys() >= {"name", "__dataclass_fields__"}:
        mend = "give it @dataclass(frozen=True, kw_only=True) and a name: ClassVar[str] of its own"
        raise InputError(f"{kind.__name__}: records would show its base class; {mend}")


def require_within(name: str, value: Any, *bounds: Any) -> None:
    """Raise InputError where a value is outside a bound. None is always allowed.

    bounds: each a Bound, or a type that declares bounds, such as Seed.
    """
    for bound in (one for part in bounds for one in _bounds_in(part)):
        if value is not None and isinstance(value, bound.of) and not bound.holds(value):
            raise InputError(f"{name} must {bound.must}, got {repr(value) if isinstance(value, str) else value}")


@cache
def _declared(config_type: type) -> dict[str, tuple[Bound, ...]]:
    """Bounds of every field. A field that a script declares again keeps the bounds of its base class."""
    found: dict[str, tuple[Bound, ...]] = {}
    for owner in (one for one in reversed(config_type.__mro__) if vars(one).get("__annotations__")):
        for name, hint in get_type_hints(owner, include_extras=True).items():
            found[name] = tuple(dict.fromkeys((*found.get(name, ()), *_bounds_in(hint))))
    return {name: bounds for name, bounds in found.items() if bounds}


def _bounds_in(annotation: Any) -> list[Bound]:
    """The bounds in a type: those that it names, and one that checks the type itself (a bound of ``object``)."""
    if isinstance(annotation, Bound):
        return [annotation]
    if annotation in _TYPES:
        return [_TYPES[annotation]]
    if annotation in (Path, str) or isabstract(annotation):  # the latter: any loss or optimiser will do
        return [Bound(f"be a {annotation.__name__}", lambda value: isinstance(value, annotation), object)]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:  # in a union texts are checked, and other values may be of its other types
        return [Bound(f"be one of {', '.join(map(str, parts))}", parts.__contains__, of) for of in (str, object)]
    inner = [bound for part in parts for bound in _bounds_in(part)]
    if origin is tuple:
        return [_SEVERAL, *inner]
    if origin is Annotated or parts[1:] == (type(None),):  # the latter: a type or None, which is always allowed
        return inner
    return [bound for bound in inner if bound.of is not object]  # a union: a value may be of any of its types
