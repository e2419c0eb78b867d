"""Records the arguments of a model that is built in Python, in the format in which commands save them."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
from torch.optim import Optimizer

from w2vlab.modules.checkpoints.allowed import Schedule, is_allowed
from w2vlab.modules.checkpoints.constructors import REQUIRED, constructor_arguments, slots
from w2vlab.registry import import_path


@dataclasses.dataclass
class Record:
    """The class and the arguments of a model.

    Attributes:
        config: Configuration in the format of `w2vlab fit`: `class_path` and `init_args`, with all defaults.
        missing: Arguments that cannot be saved, such as a lambda; `config` has only their names.
    """

    config: dict[str, Any]
    missing: list[str]


def record(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Record | None:
    """Records the call of a constructor.

    A class, and a `functools.partial` of a class, are saved as `class_path` and `init_args`. Optimizer and schedule are
    never reported as missing, because a model is rebuilt without them.

    Args:
        cls: The class.
        args: Positional arguments of the call.
        kwargs: Named arguments of the call.

    Returns:
        The record; None if the arguments do not match the constructor.
    """
    try:
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        bound = signature.bind_partial(None, *args, **kwargs).arguments
    except (TypeError, ValueError):
        return None
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound |= bound.pop(parameter.name, {})
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL and bound.pop(parameter.name, ()):
            return None
    bound.pop(next(iter(signature.parameters)))
    recorder = _Recorder()
    try:
        config = recorder.node(cls, bound, "")
    except RecursionError:  # a list that contains itself
        return None
    training_only = {
        name
        for name, argument in constructor_arguments(cls).items()
        if any(issubclass(slot.base, (Optimizer, *Schedule)) for slot in slots(argument.hint))
    }
    return Record(config, [place for place in recorder.missing if place.split(".")[0] not in training_only])


def plain_default(value: Any, owner: type) -> Any:
    """Converts the default of an argument of `owner` to plain data.

    Raises:
        ValueError: It is not plain data.
    """
    recorder = _Recorder(owner)
    plain = recorder.plain(value, "")
    if recorder.missing:
        raise ValueError
    return plain


class _Recorder:
    def __init__(self, owner: type = object) -> None:
        self.missing: list[str] = []
        self._owners = [owner]

    def node(self, cls: type, bound: dict[str, Any], place: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for name, argument in constructor_arguments(cls).items():
            if name not in bound and argument.default is not REQUIRED:
                try:
                    arguments[name] = plain_default(argument.default, cls)
                except ValueError:  # such as a lambda; the constructor sets it again
                    continue
        self._owners.append(cls)
        for name, value in bound.items():
            arguments[name] = self.plain(value, f"{place}.{name}".lstrip("."))
        self._owners.pop()
        return {"class_path": import_path(cls), "init_args": arguments}

    def plain(self, value: Any, place: str) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, type) and is_allowed(value, self._owners[-1]):
            return self.node(value, {}, place)
        target = _class_of(value) if isinstance(value, partial) else None
        if isinstance(target, type) and is_allowed(target, self._owners[-1]):
            return self.node(target, dict(value.keywords), place)
        if isinstance(value, enum.Enum):
            return value.name
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, PurePath):
            return str(value)
        if isinstance(value, bool | int | float | str):  # a subclass with its own checks
            return next(basic(value) for basic in (bool, int, float, str) if isinstance(value, basic))
        if isinstance(value, list | tuple | set | frozenset):
            return [self.plain(inner, f"{place}.{number}") for number, inner in enumerate(value)]
        if isinstance(value, dict) and all(type(name) is str for name in value) and "class_path" not in value:
            return {name: self.plain(inner, f"{place}.{name}") for name, inner in value.items()}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
            return {name: self.plain(inner, f"{place}.{name}") for name, inner in fields.items()}
        self.missing.append(place)
        inner = value.func if isinstance(value, partial) else value
        named = inner if hasattr(inner, "__qualname__") else type(inner)
        return {"class_path": f"{named.__module__}.{named.__qualname__}"}


def _class_of(factory: partial[Any]) -> Any:
    """Returns what a factory calls, also one of jsonargparse, which calls the class by a function of its own."""
    if str(getattr(factory.func, "__module__", None)).partition(".")[0] == "jsonargparse":
        classes = [argument for argument in factory.args if isinstance(argument, type)]
        return classes[0] if len(classes) == 1 else None
    return None if factory.args else factory.func
