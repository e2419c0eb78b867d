"""The command and options of a trial, and their changes since it was last run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2vlab.utils.comparable import describe_differences, is_incidental
from w2vlab.utils.plain_data import read_text

_RECIPES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Plan:
    """The command of a trial, and the options that it resolves to.

    Attributes:
        command: The command that a W&B agent would run, without the options that the sweep adds.
        options: All options by their flat names, including those from files and defaults, because a configuration file
            may be edited while the command stays the same.
    """

    command: tuple[str, ...]
    options: Mapping[str, Any]

    @staticmethod
    def of_run(command: list[str], options: Mapping[str, Any]) -> Plan:
        """Returns the plan of a `w2vlab fit` whose options have been parsed."""
        return Plan(tuple(command), {name: value for name, value in options.items() if not is_incidental(name)})

    @staticmethod
    def of_command(command: list[str]) -> Plan:
        """Returns the plan of another program: its arguments, and hashes of the configuration files among them."""
        options: dict[str, Any] = {}
        for number, word in enumerate(command):
            name, equals, value = word.partition("=")
            named = bool(equals) and name.startswith("-")
            options[name.lstrip("-") if named else f"word {number}"] = value if named else word
            if (content := _hash_file(value if named else word)) is not None:
                options[f"content of {value if named else word}"] = content
        return Plan(tuple(command), options)

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan as plain data for the record of a sweep."""
        return {"command": list(self.command), "options": dict(self.options)}

    @staticmethod
    def from_dict(content: Any) -> Plan | None:
        """Returns the plan from the data of `as_dict`; None if a record of an earlier version has none.

        Raises:
            ValueError: The data are invalid.
        """
        if content is None:
            return None
        if not isinstance(content, dict) or not isinstance(content.get("options"), dict):
            raise ValueError("`ran` must have `command` and `options`")
        return Plan(tuple(map(str, content.get("command", ()))), content["options"])


def describe_changes(old: Plan | None, new: Plan | None) -> list[str]:
    """Returns a text for each option that has changed between two plans; empty if a plan is unknown.

    Options that affect only logging and display are ignored.
    """
    if old is None or new is None:
        return []
    return describe_differences(old.options, new.options)


def _hash_file(word: str) -> str | None:
    """Returns a hash of the content of a configuration file; None if `word` is not the path of one."""
    if not word.endswith(_RECIPES):
        return None
    try:
        return hashlib.sha256(read_text(Path(word)).encode()).hexdigest()[:12]
    except (OSError, ValueError):
        return None
