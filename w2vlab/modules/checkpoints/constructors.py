"""The arguments of constructors by their signatures: which are parts, and the types of the others."""

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
        hint: Type annotation; `UNTYPED` if there is none.
        default: Default value; `REQUIRED` if there is none.
    """

    hint: Any
    default: Any


class Slot(NamedTuple):
    """A class that an argument accepts besides plain data.

    Attributes:
        kind: How the argument receives it: as a `factory` that the constructor calls, as the `class` itself, or as an
            `instance`.
        base: Class that it must extend.
    """

    kind: Literal["factory", "class", "instance"]
    base: type


def constructor_arguments(cls: type) -> dict[str, Argument]:
    """Returns the named arguments of a constructor, including those of base classes that `**kwargs` passes on."""
    found: dict[str, Argument] = {}
    for owner in cls.__mro__:
        constructor = vars(owner).get("__init__")
        if owner in (object, nn.Module) or constructor is None:
            continue
        try:
            signature = inspect.signature(constructor)
        except (TypeError, ValueError):  # not written in Python
            break
        try:
            hints = get_type_hints(constructor)
        except Exception:  # an annotation of a third-party part that cannot be resolved
            hints = {}
        _, *parameters = signature.parameters.values()
        for parameter in parameters:
            if parameter.kind in _NAMED:
                hint = hints.get(parameter.name, UNTYPED)
                found.setdefault(parameter.name, Argument(hint, parameter.default))
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def accepts_any_keyword(cls: type) -> bool:
    """Returns whether a constructor accepts keyword arguments of any name."""
    parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def union_members(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union; for any other annotation, the annotation itself."""
    while get_origin(hint) is Annotated or isinstance(hint, NewType):
        hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint.__supertype__
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(inner for member in get_args(hint) for inner in union_members(member))
    return (hint,)


def slots(hint: Any) -> Iterator[Slot]:
    """Yields the classes that an annotation accepts besides plain data; no annotation and `Any` accept factories."""
    for member in union_members(hint):
        origin = get_origin(member)
        if any(member is bare for bare in (UNTYPED, Any, object, Callable, collections.abc.Callable, type)):
            yield Slot("factory", object)
        elif origin is collections.abc.Callable:
            for result in union_members(get_args(member)[-1]):
                yield Slot("factory", result if isinstance(result, type) else object)
        elif origin is type:
            for result in union_members(get_args(member)[0]):
                yield Slot("class", result if isinstance(result, type) else object)
        elif isinstance(member, type) and not _is_plain_type(member):
            yield Slot("instance", member)


def _is_plain_type(member: type) -> bool:
    plain = (*_SCALARS, *_SEQUENCES, *_MAPPINGS, type(None), bytes, complex, enum.Enum, Path)
    return member in plain or issubclass(member, (*_SCALARS, enum.Enum, Path)) or dataclasses.is_dataclass(member)


def element_hint(hint: Any, key: object = None) -> Any:
    """Returns the annotation of an element of a container, by its key or its index."""
    for member in union_members(hint):
        origin, inner = get_origin(member) or member, get_args(member)
        if isinstance(key, str):
            if origin in _MAPPINGS and len(inner) == 2:
                return inner[1]
            if dataclasses.is_dataclass(member) and isinstance(member, type):
                return get_type_hints(member).get(key, UNTYPED)
        elif isinstance(key, int) and origin in _SEQUENCES and inner:
            return inner[key] if origin is tuple and inner[-1] is not ... and key < len(inner) else inner[0]
    return UNTYPED


class TypeMismatchError(Exception):
    """A value cannot be converted to the type of an annotation."""


def convert(value: Any, hint: Any) -> Any:
    """Converts plain data to the type of an annotation, such as a list to a tuple or a string to a path.

    Args:
        value: Saved value; its elements are already converted.
        hint: The annotation.

    Returns:
        The converted value.

    Raises:
        TypeMismatchError: The value does not match the annotation.
    """
    for member in union_members(hint):
        try:
            return _convert(value, member)
        except TypeMismatchError:
            continue
    raise TypeMismatchError


def _convert(value: Any, hint: Any) -> Any:
    if hint in (UNTYPED, Any, object):
        return value
    origin = get_origin(hint) or hint
    if origin is Literal:
        return _require(value, any(value == choice and type(value) is type(choice) for choice in get_args(hint)))
    if hint in (None, type(None)):
        return _require(value, value is None)
    if origin in _SEQUENCES:
        _require(value, isinstance(value, list | tuple | set))
        return origin(value) if origin in (list, tuple, set, frozenset) else value
    if origin in _MAPPINGS:
        return _require(value, isinstance(value, dict))
    if origin in (collections.abc.Callable, Callable, type):
        raise TypeMismatchError  # plain data has neither functions nor classes
    if not isinstance(hint, type):
        return value  # any other annotation does not restrict plain data
    if hint in _SCALARS:
        if hint is float and type(value) is int:
            return float(value)
        return _require(value, type(value) is hint)
    if issubclass(hint, enum.Enum):
        return hint[_require(value, isinstance(value, str) and value in hint.__members__)]
    if issubclass(hint, Path):
        return Path(_require(value, isinstance(value, str)))
    if dataclasses.is_dataclass(hint):
        known = {field.name for field in dataclasses.fields(hint)}
        return hint(**_require(value, isinstance(value, dict) and value.keys() <= known))
    if issubclass(hint, _SCALARS):  # a subclass with its own checks
        try:
            return hint(value)
        except (TypeError, ValueError):
            raise TypeMismatchError from None
    raise TypeMismatchError


def _require(value: Any, condition: bool) -> Any:
    if not condition:
        raise TypeMismatchError
    return value


def type_rule(hint: Any) -> str:
    """Describes an annotation for error messages: `of type float or None`, `one of 'a', 'b'`."""
    choices = [choice for member in union_members(hint) if get_origin(member) is Literal for choice in get_args(member)]
    if choices:
        return f"one of {', '.join(map(repr, choices))}{' or None' if type(None) in union_members(hint) else ''}"
    return f"of type {' or '.join(map(_type_name, union_members(hint)))}"


def _type_name(hint: Any) -> str:
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else re.sub(r"\b(\w+\.)+", "", str(hint))
