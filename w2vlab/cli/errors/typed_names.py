"""Messages of constructors with the names of options as they are typed: `model.context.model_dim`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningCLI

Slot = tuple[str, Mapping[str, Any]]
"""A slot as it is typed, and the options of the part in it."""


def typed_message(problems: Sequence[BaseException]) -> str:
    """Returns the message of an error with the names of options as they are typed.

    A constructor knows only the last part of the name of an option, or those of the parts beside it, such as
    `context.num_layers`. Its part, and the options of the command, are found in the call stack of the error; if they
    are not there, the message is left unchanged.

    Args:
        problems: The error as the last one, after the errors that were raised from it.
    """
    message = str(problems[-1])
    if not re.search(r"`\w+[`.]", message):
        return message
    calls = [call for problem in problems for call in _calls(problem)]
    config = next(filter(None, (_config_of(value) for call in calls for value in call.values())), None)
    if config is None:
        return message
    found = ""  # then the parts around it, because a message can name their options, too
    for call in reversed([call for call in calls if "self" in call]):  # from the inside out
        # If several slots have parts of one class, take the one with the arguments of the constructor.
        slots = sorted(_slots_of(type(call["self"]), config), key=lambda slot: -_num_equal(slot[1], call))
        for slot, options in slots:
            if not found or found.startswith(f"{slot}."):
                typed = re.sub(r"`(\w+)(?=[`.])", partial(_with_slot, slot, options), message)
                found = slot if typed != message else found
                message = typed
    return message


def _with_slot(slot: str, options: Mapping[str, Any], name: re.Match[str]) -> str:
    return f"`{slot}.{name[1]}" if name[1] in options else name[0]


def _calls(problem: BaseException) -> Iterator[dict[str, Any]]:
    """Yields the local variables of the functions on the call stack, outermost first."""
    frame = problem.__traceback__
    while frame is not None:
        yield frame.tb_frame.f_locals
        frame = frame.tb_next


def _num_equal(options: Mapping[str, Any], call: Mapping[str, Any]) -> int:
    plain = {name: value for name, value in options.items() if isinstance(value, bool | int | float | str)}
    return sum(type(call.get(name)) is type(value) and call[name] == value for name, value in plain.items())


def _config_of(value: object) -> Namespace | None:
    """Returns the options of the command if `value` is a parsed command line."""
    config = vars(value).get("config") if isinstance(value, LightningCLI) else None
    subcommand = config.get("subcommand") if isinstance(config, Namespace) else None
    found = config.get(subcommand) if isinstance(config, Namespace) and subcommand else None
    return found if isinstance(found, Namespace) else None


def _slots_of(cls: type, config: Namespace) -> Iterator[Slot]:
    """Yields the slots that hold an instance of a class."""
    try:
        parameters = set(inspect.signature(cls).parameters)
    except (ValueError, TypeError):  # a class that is not written in Python
        return
    for slot, name, options in _slots("", config):
        if name == cls.__name__ or (name is None and set(options) <= parameters):
            yield slot, options


def _slots(key: str, value: Any) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    """Yields key, class name and options of every part; the class name is None for a group of a fixed class."""
    for element in value if isinstance(value, list) else ():
        yield from _slots(key, element)  # `--trainer.callbacks.every` is an option of the last callback
    if not isinstance(value, dict | Namespace):
        return
    children = vars(value) if isinstance(value, Namespace) else value
    if "class_path" in children:
        inner = children.get("init_args") or {}
        children = vars(inner) if isinstance(inner, Namespace) else inner
        yield key, str(value["class_path"]).rpartition(".")[2], children
    elif key and children:
        yield key, None, children
    for name, child in children.items():
        yield from _slots(f"{key}.{name}" if key else name, child)
