"""A model that Python built as plain data, the same as a command saves."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
from torch.optim import Optimizer

from w2vlab.modules.checkpoints.allowed import Schedule, may_be_named
from w2vlab.modules.checkpoints.constructors import REQUIRED, arguments_of, slots
from w2vlab.registry import import_path


@dataclasses.dataclass
class Record:
    """How a model was built.

    Attributes:
        config: As `w2vlab fit` saves it: `class_path` and `init_args`, with every default.
        missing: The arguments that are not plain data, such as a lambda; only their names are in `config`.
    """

    config: dict[str, Any]
    missing: list[str]


def record(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Record | None:
    """Records a call of a constructor.

    Classes, and partials of them with whatever is in their arguments, are plain data. Optimiser and schedule are never
    missing, because a model is rebuilt without them.

    Args:
        cls: The class that is built.
        args: Its positional arguments.
        kwargs: Its named arguments.

    Returns:
        None if the arguments are not those of the constructor.
    """
    try:
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        given = signature.bind_partial(None, *args, **kwargs).arguments
    except (TypeError, ValueError):
        return None
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            given |= given.pop(parameter.name, {})
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL and given.pop(parameter.name, ()):
            return None
    given.pop(next(iter(signature.parameters)))
    recorder = _Recorder()
    try:
        config = recorder.node(cls, given, "")
    except RecursionError:  # a list that holds itself
        return None
    unneeded = {
        name
        for name, argument in arguments_of(cls).items()
        if any(issubclass(slot.base, (Optimizer, *Schedule)) for slot in slots(argument.hint))
    }
    return Record(config, [place for place in recorder.missing if place.split(".")[0] not in unneeded])


def default_of(value: Any, owner: type) -> Any:
    """Returns the default of an argument of `owner` as plain data; what is none raises `ValueError`."""
    recorder = _Recorder(owner)
    plain = recorder.plain(value, "")
    if recorder.missing:
        raise ValueError
    return plain


class _Recorder:
    def __init__(self, owner: type = object) -> None:
        self.missing: list[str] = []
        self._owners = [owner]

    def node(self, cls: type, given: dict[str, Any], place: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for name, argument in arguments_of(cls).items():
            if name not in given and argument.default is not REQUIRED:
                try:
                    arguments[name] = default_of(argument.default, cls)
                except ValueError:  # such as a lambda; the constructor has it
                    continue
        self._owners.append(cls)
        for name, value in given.items():
            arguments[name] = self.plain(value, f"{place}.{name}".lstrip("."))
        self._owners.pop()
        return {"class_path": import_path(cls), "init_args": arguments}

    def plain(self, value: Any, place: str) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, type) and may_be_named(value, self._owners[-1]):
            return self.node(value, {}, place)
        made = value.func if isinstance(value, partial) and not value.args else None
        if isinstance(made, type) and may_be_named(made, self._owners[-1]):
            return self.node(made, dict(value.keywords), place)
        if isinstance(value, enum.Enum):
            return value.name
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, PurePath):
            return str(value)
        if isinstance(value, bool | int | float | str):  # a subclass with its own rules
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
