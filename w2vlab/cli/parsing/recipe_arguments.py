"""Names of shipped files in place of paths: on the command line of a run, and within YAML files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonargparse import get_loader, set_loader

from w2vlab.recipes import ENDING, RUN_FOLDERS, find_recipe, missing_file_message, recipe_path
from w2vlab.registry import FAMILIES
from w2vlab.utils.plain_data import check_yaml, parse_yaml, read_text

PARSER_MODE = "w2vlab"
"""jsonargparse's name of our loader for YAML, in which names of shipped files are replaced by paths."""

_SLOTS = {
    *("callbacks", "logger", "model", "frames"),
    *(name for family in FAMILIES.values() for name in (family.name, family.plural)),
}
"""Options that take a part from a file. Others are text, in which `finetune/ctc` may be a folder."""


def with_recipe_paths(args: Sequence[str]) -> list[str]:
    """Returns the options of a run, with names of shipped files replaced by their paths.

    Raises:
        ValueError: A name is ambiguous.
    """
    found = []
    words = iter(args)
    for word in words:
        if not word.startswith("-"):
            found.append(word)
            continue
        option, equals, value = word.partition("=")
        if equals:
            # An agent of Weights & Biases writes null as None, and so do people.
            found.append(f"{option}={'null' if value == 'None' else _path_or_text(option, value)}")
            continue
        found.append(option)
        if _may_be_a_file(option) and (following := next(words, None)) is not None:
            found.append(following if following.startswith("-") else _path_or_text(option, following))
    return found


def missing_file(option: str, value: str) -> str | None:
    """Returns an error if an option names a file that is neither a path nor a recipe; None otherwise."""
    key = option.lstrip("-").rstrip("+")
    if not value or is_file(value):
        return None
    if key in ("c", "config"):
        # It may be the options themselves.
        is_name = value != "-" and not set(value) & set("{:\n")
        return missing_file_message(value, "`config`") if is_name else None
    in_run = key.partition(".")[0] in ("model", "trainer")
    names_file = value.endswith((ENDING, ".yml")) or ("/" in value and _is_slot(key))
    is_name = names_file and not set(value) & set("{[:\n ")
    return missing_file_message(value, f"`{key}`") if in_run and is_name else None


def read_config(path: str) -> dict[str, Any]:
    """Returns the content of a config file.

    Raises:
        ValueError: It is not a file, cannot be read, or is not a mapping in YAML.
    """
    if not is_file(path):
        raise ValueError(f"`config` must be a file that exists, but is {path}.")
    try:
        content = parse_yaml(read_text(Path(path)))
    except yaml.MarkedYAMLError as mistake:
        line = mistake.problem_mark.line + 1 if mistake.problem_mark else "?"
        raise ValueError(f"The config {path} must be valid YAML, but in line {line}: {mistake.problem}.") from None
    except (OSError, ValueError) as why:
        raise ValueError(f"The config {path} cannot be used: {why}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"The config {path} must be a mapping of keys to values, but is: {content}")
    return content


def _may_be_a_file(option: str) -> bool:
    key = option.lstrip("-").rstrip("+")
    return key in ("c", "config") or key.partition(".")[0] in ("model", "trainer")


def _path_or_text(option: str, value: str) -> str:
    key = option.lstrip("-").rstrip("+")
    if not _may_be_a_file(option) or is_file(value):
        return value
    if key in ("c", "config"):
        name = find_recipe(value, RUN_FOLDERS)
        return value if name is None else str(recipe_path(name))
    return _located(key, value)


def _located(key: str, value: str) -> str:
    """Returns the path of a shipped file for its name, and any other value unchanged."""
    if not (value.endswith(ENDING) or ("/" in value and _is_slot(key))) or is_file(value):
        return value
    name = find_recipe(value)
    return value if name is None else str(recipe_path(name))


def is_file(text: str) -> bool:
    """Whether there is a file at a path; it may also be options, which can be longer than the longest path."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _is_slot(key: str) -> bool:
    last = key.rpartition(".")[2]
    return last in _SLOTS or last.rpartition("_")[2] in _SLOTS


def _load(text: str) -> Any:
    """Loads YAML. jsonargparse calls this in the folder of the file, to which its paths are relative."""
    check_yaml(text)
    return _with_paths(get_loader("yaml")(text), "")


def _with_paths(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _with_paths(inner, key if name == "init_args" else str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_paths(inner, key) for inner in value]
    # Text without a key is a value of the command line, which is handled with its option.
    return _located(key, value) if key and isinstance(value, str) else value


set_loader(PARSER_MODE, _load, exceptions=(yaml.YAMLError,))
