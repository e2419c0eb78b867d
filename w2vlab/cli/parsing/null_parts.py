"""Parts that a model needs and that are null, which the types of jsonargparse allow for every factory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any, get_origin, get_type_hints

from jsonargparse import Namespace


def null_part(config: Namespace) -> str | None:
    """Returns an error about the first part that must not be null and is; None if there is none.

    Args:
        config: The parsed options of the command.
    """
    return next(_problems("", config), None)


def _problems(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, dict | Namespace):
        return
    children = vars(value) if isinstance(value, Namespace) else value
    if isinstance(children.get("class_path"), str):
        options = children.get("init_args") or {}
        children = vars(options) if isinstance(options, Namespace) else options
        nulls = [name for name, child in children.items() if child is None]
        for name, default in _factories(value["class_path"]) if nulls else ():
            if name in nulls:
                advice = f" Leave it out for {default}." if default else ""
                yield f"`{key}.{name}` must be a class, but is null.{advice}"
    for name, child in children.items():
        yield from _problems(f"{key}.{name}" if key else name, child)


def _factories(class_path: str) -> Iterator[tuple[str, str]]:
    """Yields the options of a class that are factories and must be given, with the names of their defaults."""
    with suppress(NameError, ValueError, TypeError, ImportError, AttributeError):  # of a class of somebody else
        module, _, name = class_path.rpartition(".")
        cls = getattr(import_module(module), name)
        hints, parameters = get_type_hints(cls.__init__), inspect.signature(cls).parameters
        for name, parameter in parameters.items():
            if get_origin(hints.get(name)) is Callable and parameter.default is not None:
                yield name, getattr(parameter.default, "__name__", "")
