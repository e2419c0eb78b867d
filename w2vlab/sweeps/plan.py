"""What a trial is run with, and in what that is not what it was run with before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2vlab.comparable import differing, is_incidental
from w2vlab.plain_data import read_text
from w2vlab.wording import one_line

_MOST_TOLD = 6
_LONGEST_VALUE = 60

_RECIPES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Plan:
    """The command of a trial and all that it comes to.

    Attributes:
        command: As an agent of Weights & Biases would run it, without what the sweep adds.
        options: Every option by its flat name, with what files and defaults say. A file behind the same command may be
            edited, so the command alone is not what a trial was run with.
    """

    command: tuple[str, ...]
    options: Mapping[str, Any]

    @staticmethod
    def of_run(command: list[str], options: Mapping[str, Any]) -> Plan:
        """Returns the plan of a `w2vlab fit` whose options have been parsed."""
        return Plan(tuple(command), {name: value for name, value in options.items() if not is_incidental(name)})

    @staticmethod
    def of_command(command: list[str]) -> Plan:
        """Returns the plan of another program: its words, and the contents of the recipes among them."""
        options: dict[str, Any] = {}
        for number, word in enumerate(command):
            name, equals, value = word.partition("=")
            named = bool(equals) and name.startswith("-")
            options[name.lstrip("-") if named else f"word {number}"] = value if named else word
            if (content := _content(value if named else word)) is not None:
                options[f"content of {value if named else word}"] = content
        return Plan(tuple(command), options)

    def as_dict(self) -> dict[str, Any]:
        """Returns what the record of a sweep keeps."""
        return {"command": list(self.command), "options": dict(self.options)}

    @staticmethod
    def from_dict(content: Any) -> Plan | None:
        """Returns the plan that `as_dict` described; None where a record of an earlier version has none.

        Raises:
            ValueError: It describes none.
        """
        if content is None:
            return None
        if not isinstance(content, dict) or not isinstance(content.get("options"), dict):
            raise ValueError("`ran` must have `command` and `options`")
        return Plan(tuple(map(str, content.get("command", ()))), content["options"])


def changes(before: Plan | None, now: Plan | None) -> list[str]:
    """Returns in what a trial would be run otherwise than before, a text an option; nothing where that is unknown.

    Options that say only where a run logs and what it shows do not count.
    """
    if before is None or now is None:
        return []
    names = differing([before.options, now.options])
    told = [f"{name} {_text(before.options, name)} -> {_text(now.options, name)}" for name in names]
    return told if len(told) <= _MOST_TOLD else [*told[:_MOST_TOLD], f"and {len(told) - _MOST_TOLD} more"]


def _text(options: Mapping[str, Any], name: str) -> str:
    value = options.get(name)
    return one_line(value if isinstance(value, str) else json.dumps(value, default=str), _LONGEST_VALUE)


def _content(word: str) -> str | None:
    """Returns digits that stand for the content of a recipe; None of a word that names none."""
    if not word.endswith(_RECIPES):
        return None
    try:
        return hashlib.sha256(read_text(Path(word)).encode()).hexdigest()[:12]
    except (OSError, ValueError):
        return None
