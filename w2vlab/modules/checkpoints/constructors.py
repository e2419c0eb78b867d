"""What constructors take, by their signatures: which arguments are parts, and which values fit the others."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, Union, get_args, get_origin, get_type_hints

from torch import nn

UNTYPED = inspect.Parameter.empty
REQUIRED = inspect.Parameter.empty

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_SCALARS = (bool, int, float, str)
_SEQUENCES = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Set)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Argument(NamedTuple):
    """An argument of a constructor.

    Attributes:
        hint: Its annotation; `UNTYPED` without one.
        default: `REQUIRED` without one.
    """

    hint: Any
    default: Any


class Slot(NamedTuple):
    """What an argument takes beside plain data.

    Attributes:
        kind: `factory` is called by whoever gets it, `class` is a class, `instance` an object of one.
        base: What it must extend.
    """

    kind: Literal["factory", "class", "instance"]
    base: type


def arguments_of(cls: type) -> dict[str, Argument]:
    """Returns the named arguments of a constructor, with those that it hands on to the one that it extends."""
    found: dict[str, Argument] = {}
    for owner in cls.__mro__:
        constructor = vars(owner).get("__init__")
        if owner in (object, nn.Module) or constructor is None:
            continue
        try:
            signature = inspect.signature(constructor)
        except (TypeError, ValueError):  # not of Python
            break
        try:
            hints = get_type_hints(constructor)
        except Exception:  # an annotation of a foreign part that names what is not there
            hints = {}
        _, *parameters = signature.parameters.values()
        for parameter in parameters:
            if parameter.kind in _NAMED:
                hint = hints.get(parameter.name, UNTYPED)
                found.setdefault(parameter.name, Argument(hint, parameter.default))
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def takes_any_name(cls: type) -> bool:
    """Tells whether a constructor takes arguments of any name."""
    parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def members(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the annotation itself."""
    while get_origin(hint) is Annotated or isinstance(hint, NewType):
        hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint.__supertype__
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(inner for member in get_args(hint) for inner in members(member))
    return (hint,)


def slots(hint: Any) -> Iterator[Slot]:
    """Yields what an annotation takes beside plain data; what has none, or `Any`, takes factories."""
    for member in members(hint):
        origin = get_origin(member)
        if any(member is bare for bare in (UNTYPED, Any, object, Callable, collections.abc.Callable, type)):
            yield Slot("factory", object)
        elif origin is collections.abc.Callable:
            for result in members(get_args(member)[-1]):
                yield Slot("factory", result if isinstance(result, type) else object)
        elif origin is type:
            for result in members(get_args(member)[0]):
                yield Slot("class", result if isinstance(result, type) else object)
        elif isinstance(member, type) and not _is_data(member):
            yield Slot("instance", member)


def _is_data(member: type) -> bool:
    plain = (*_SCALARS, *_SEQUENCES, *_MAPPINGS, type(None), bytes, complex, enum.Enum, Path)
    return member in plain or issubclass(member, (*_SCALARS, enum.Enum, Path)) or dataclasses.is_dataclass(member)


def element_hint(hint: Any, key: object = None) -> Any:
    """Returns the annotation of what is in a container: under a name, or at a place of a list."""
    for member in members(hint):
        origin, inner = get_origin(member) or member, get_args(member)
        if isinstance(key, str):
            if origin in _MAPPINGS and len(inner) == 2:
                return inner[1]
            if dataclasses.is_dataclass(member) and isinstance(member, type):
                return get_type_hints(member).get(key, UNTYPED)
        elif isinstance(key, int) and origin in _SEQUENCES and inner:
            return inner[key] if origin is tuple and inner[-1] is not ... and key < len(inner) else inner[0]
    return UNTYPED


class Misfit(Exception):
    """A value is of another type."""


def fitted(value: Any, hint: Any) -> Any:
    """Returns plain data as an annotation wants it: a tuple for a list, a path for a text.

    Args:
        value: As it was saved. What is in it fits already.
        hint: The annotation.

    Raises:
        Misfit: It does not fit.
    """
    for member in members(hint):
        try:
            return _fitted(value, member)
        except Misfit:
            continue
    raise Misfit


def _fitted(value: Any, hint: Any) -> Any:
    if hint in (UNTYPED, Any, object):
        return value
    origin = get_origin(hint) or hint
    if origin is Literal:
        return _checked(value, any(value == choice and type(value) is type(choice) for choice in get_args(hint)))
    if hint in (None, type(None)):
        return _checked(value, value is None)
    if origin in _SEQUENCES:
        _checked(value, isinstance(value, list | tuple | set))
        return origin(value) if origin in (list, tuple, set, frozenset) else value
    if origin in _MAPPINGS:
        return _checked(value, isinstance(value, dict))
    if origin in (collections.abc.Callable, Callable, type):
        raise Misfit  # which no plain data is
    if not isinstance(hint, type):
        return value  # an annotation that says nothing of plain data
    if hint in _SCALARS:
        if hint is float and type(value) is int:
            return float(value)
        return _checked(value, type(value) is hint)
    if issubclass(hint, enum.Enum):
        return hint[_checked(value, isinstance(value, str) and value in hint.__members__)]
    if issubclass(hint, Path):
        return Path(_checked(value, isinstance(value, str)))
    if dataclasses.is_dataclass(hint):
        known = {field.name for field in dataclasses.fields(hint)}
        return hint(**_checked(value, isinstance(value, dict) and value.keys() <= known))
    if issubclass(hint, _SCALARS):  # a subclass with its own rules
        try:
            return hint(value)
        except (TypeError, ValueError):
            raise Misfit from None
    raise Misfit


def _checked(value: Any, fits: bool) -> Any:
    if not fits:
        raise Misfit
    return value


def rule_of(hint: Any) -> str:
    """Returns what plain data must be to fit an annotation: `of type float or None`, `one of 'a', 'b'`."""
    choices = [choice for member in members(hint) if get_origin(member) is Literal for choice in get_args(member)]
    if choices:
        return f"one of {', '.join(map(repr, choices))}{' or None' if type(None) in members(hint) else ''}"
    return f"of type {' or '.join(map(_readable, members(hint)))}"


def _readable(hint: Any) -> str:
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else re.sub(r"\b(\w+\.)+", "", str(hint))
