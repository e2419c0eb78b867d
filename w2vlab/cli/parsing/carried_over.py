"""Options of a replaced class that now apply to the class that replaces it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonargparse import Namespace

from w2vlab.cli.parsing.recipe_arguments import is_file
from w2vlab.recipes import ENDING


def carried_over(args: Sequence[str], config: Namespace) -> list[str]:
    """Returns a line for each swapped class with the options that were set for the one and now apply to the other.

    Options of the same name are kept, so that a swap by one flag keeps the size of a codebook. Whether such an option
    means the same, only the reader can know: weight decay, for example, differs between Adam and AdamW.

    Args:
        args: The command line, with the paths of files.
        config: The parsed options of the command.
    """
    classes: dict[str, str] = {}  # the last class of each slot
    typed: dict[str, dict[str, Any]] = {}  # options that were set for that class
    kept: dict[str, tuple[str, dict[str, Any]]] = {}  # the class before, and the options that were set for it
    for key, value in _settings(args):
        slot, _, option = key.rpartition(".")
        if option == "class_path":
            name = str(value).rpartition(".")[2]
            if classes.setdefault(slot, name) != name:
                kept[slot] = classes[slot], {**kept.get(slot, ("", {}))[1], **typed.pop(slot, {})}
                classes[slot] = name
        else:
            typed.setdefault(slot, {})[option] = value
    lines = []
    for slot, (before, options) in kept.items():
        now = _options_of(config, slot)
        left = [f"{name} {now[name]}" for name in options if name in now and name not in typed.get(slot, {})]
        if left:
            lines.append(f"`{slot}` is {classes[slot]} now, and keeps the options set for {before}: {', '.join(left)}.")
    return lines


def _options_of(config: Namespace, slot: str) -> Mapping[str, Any]:
    """Returns the options of the part in a slot."""
    found: Any = config
    for name in slot.split("."):
        inner = found.get("init_args") or found
        found = inner.get(name) if name in inner else None
        if not isinstance(found, dict | Namespace):
            return {}
    options = found.get("init_args")
    return {} if options is None else vars(options) if isinstance(options, Namespace) else options


def _settings(args: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yields every option of model and trainer that is set by files and flags, in their order.

    The class of a slot is its option `class_path`.
    """
    for word, following in pairwise([*args, ""]):
        flag, equals, value = word.partition("=")
        value, key = value if equals else following, flag.lstrip("-")
        if not flag.startswith("-") or key.endswith(("+", "help")):
            continue
        if key in ("c", "config"):
            content = _content(value) or {}
            for name in ("model", "trainer"):
                yield from _leaves(name, content.get(name, {}))
        elif key.partition(".")[0] in ("model", "trainer"):
            yield from _leaves(key.replace(".init_args", ""), yaml.safe_load(value))


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the leaves of a mapping, without the `init_args` between a slot and its options."""
    if isinstance(value, str) and value.endswith((ENDING, ".yml")):
        value = _content(value)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(key if name == "init_args" else f"{key}.{name}", inner)
    elif isinstance(value, str) and value.rpartition(".")[2][:1].isupper() and not key.endswith(".class_path"):
        yield f"{key}.class_path", value
    else:
        yield key, value


def _content(path: str) -> Any:
    return yaml.safe_load(Path(path).read_text(encoding="utf-8")) if is_file(path) else None
