"""The parser of the commands beside `fit` and `validate`: a dataclass gives options, types, defaults and help.

It is jsonargparse, as for `fit`: `--config FILE` and `--print_config` work, and messages have the same form. It imports
neither PyTorch nor Lightning, so that help and wrong options do not wait for them.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from dataclasses import Field, fields
from typing import Any, Generic, NoReturn, TypeVar

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from w2vlab.cli.errors.parser_messages import explain, known_options
from w2vlab.cli.parsing.recipe_arguments import PARSER_MODE, read_config

Options = TypeVar("Options")

WITHOUT_VALUE = "without_value"
"""Key in the metadata of a field: the value of its option if it is given without one."""

_CONFIG_HELP = "YAML file with any of these options, as --print_config prints it."


class CommandParser(Generic[Options]):
    """Reads the options of a command.

    Args:
        options: Dataclass of the options. Its docstring is the description, and that of each attribute its help.
        command: Name of the command.
        positional: Fields that words without an option are values of, in order; a single one may be a list, which takes
            any number of words. They have options of their names, too, because a config file needs them.
        with_config: Whether to add --config and --print_config.
    """

    def __init__(
        self,
        options: type[Options],
        command: str,
        positional: str | tuple[str, ...] | None = None,
        with_config: bool = True,
    ) -> None:
        self._options = options
        self._fields: dict[str, Field[Any]] = {field.name: field for field in fields(options)}  # type: ignore[arg-type]
        names = (positional,) if isinstance(positional, str) else positional or ()
        self._positional = [self._fields[name] for name in names]
        words = "".join(f"{field.name.upper()}{' …' if _is_list(field) else ''} " for field in self._positional)
        self.parser = _Parser(
            prog=f"w2vlab {command}",
            usage=f"w2vlab {command} {words}[options]",
            description=_description(options),
            formatter_class=_HelpFormatter,
            parser_mode=PARSER_MODE,
        )
        self.parser.allow_abbrev = False  # as for `fit`
        if with_config:
            self.parser.add_argument("-c", "--config", action="config", help=_CONFIG_HELP)
        self.parser.add_class_arguments(options, as_group=False)
        first = ("help", "config", "print_config", *names)
        for group in self.parser._action_groups:
            group._group_actions.sort(key=lambda action: action.dest not in first)
        for action in self.parser._actions:
            if _value_alone(self._fields.get(action.dest)) is not None:
                action.nargs = "?"  # shown in the help; `_as_flags` adds the value

    def parse(self, words: Sequence[str]) -> Options:
        """Returns the options of a command line; exits with status 2 if one of them is wrong.

        Args:
            words: What follows the command.
        """
        parsed = self.parser.parse_args(self._as_flags(words))
        try:
            return self._options(**{name: parsed[name] for name in self._fields})
        except ValueError as problem:
            self.parser.fail(str(problem))

    def split(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Divides a command line into these options with their values, and everything else.

        `--config`, `--print_config` and words without an option are among everything else.
        """
        own: list[str] = []
        others: list[str] = []
        remaining = list(words)
        while remaining:
            word = remaining.pop(0)
            name, equals, _ = word.partition("=")
            field = self._fields.get(name[2:].replace("-", "_")) if name.startswith("--") else None
            if field is None:
                others.append(word)
                continue
            own.append(word)
            if not equals and _takes_next(_value_alone(field), remaining):
                own.append(remaining.pop(0))
        return own, others

    def _as_flags(self, words: Iterable[str]) -> list[str]:
        """Returns a command line in which every option is written `--name=value`.

        Dashes within a name become underscores. An option without a value gets the one that it has if it is alone,
        and words without an option become values of the positional field.
        """
        flags: list[str] = []
        alone: list[str] = []
        remaining = list(words)
        while remaining:
            word = remaining.pop(0)
            if word == "--":
                alone += remaining
                break
            if not _is_option(word):
                alone.append(word)
                continue
            name, equals, value = word.partition("=")
            name, dot, key = name.partition(".")  # one entry of a mapping: --options.num_heads=12
            action = self.parser.option(name)
            if action is None or (dot and not _is_mapping(self._fields.get(action.dest))):
                self.parser.error(f"unrecognized arguments: {word}")
            if action.dest in ("help", "print_config"):
                flags.append(word)
                continue
            if not equals:
                without = _value_alone(self._fields.get(action.dest))
                if _takes_next(without, remaining):
                    value = remaining.pop(0)
                elif without is None:
                    self.parser.fail(f"`{action.dest}` needs a value.")
                else:
                    value = without
            if action.dest == "config":
                self._check_config(value)
            appends = "+" if name.endswith("+") else ""  # to a list
            flags.append(f"--{action.dest}{dot}{key}{appends}={value}")
        return flags + self._of_positional(alone)

    def _check_config(self, path: str) -> None:
        try:
            read_config(path)
        except ValueError as problem:
            self.parser.fail(str(problem))

    def _of_positional(self, words: list[str]) -> list[str]:
        if not words:
            return []
        names = [field.name for field in self._positional]
        if not names:
            self.parser.fail(f"`{self.parser.prog}` takes options only, but was given {' '.join(words)}.")
        if len(names) == 1 and _is_list(self._positional[0]):
            return [f"--{names[0]}={json.dumps(words, ensure_ascii=False)}"]
        if len(words) > len(names):
            wanted = " and ".join(f"one {name.upper()}" for name in names)
            self.parser.fail(f"`{self.parser.prog}` takes {wanted}, but was given {' '.join(words)}.")
        return [f"--{name}={word}" for name, word in zip(names, words, strict=False)]


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """jsonargparse's format, with the lines of the description as they are, and types by their names alone."""

    def _expand_help(self, action: Action) -> str:
        return re.sub(r"<class '([\w.]+)'>", r"\1", super()._expand_help(action))


class _Parser(ArgumentParser):
    """Reports errors in a line."""

    def option(self, name: str) -> Action | None:
        """Returns the option of a name, which may be written with dashes; None for an unknown one."""
        name = f"--{name[2:].replace('-', '_')}" if name.startswith("--") else name
        found: Action | None = self._option_string_actions.get(name)
        return found

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the error and exits with status 2."""
        unknown = re.match(r"unrecognized arguments: ([^\s=]+)|Option '([\w.]+)' is not accepted", message)
        if unknown:
            name = unknown[1] or f"--{unknown[2]}"
            self.fail(f"Unknown argument {name}. {known_options(self._actions, name.lstrip('-'))}")
        if missing := re.search(r"required: (.*)|\"(.+)\" is required", message):
            self.fail(f"`{missing[1] or missing[2]}` must be given. `{self.prog} --help` lists the options.")
        self.fail(explain(message))

    def fail(self, message: str) -> NoReturn:
        """Prints a message of ours and exits with status 2."""
        sys.stderr.write(f"error: {message}\n")
        self.exit(2)


def names(value: str | Iterable[str], option: str) -> list[str]:
    """Returns names that were typed with commas between them, or that are a list already.

    Raises:
        ValueError: One of them is empty.
    """
    found = [str(name).strip() for name in (value.split(",") if isinstance(value, str) else value)]
    if not all(found):
        raise ValueError(f"`{option}` must be names with commas between them, but is {value!r}.")
    return found


def _description(options: type) -> str:
    """Returns the docstring of a dataclass up to its attributes."""
    return inspect.cleandoc(options.__doc__ or "").partition("\n\nAttributes:")[0]


def _is_list(field: Field[Any]) -> bool:
    return str(field.type).startswith("list[")


def _is_mapping(field: Field[Any] | None) -> bool:
    return field is not None and str(field.type).startswith("dict[")


def _is_option(word: str) -> bool:
    """As in argparse, neither a negative number nor text with a space in it is an option."""
    return len(word) > 1 and word.startswith("-") and " " not in word.partition("=")[0] and not _is_number(word)


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-\d+|-\d*\.\d+", word) is not None


def _value_alone(field: Field[Any] | None) -> str | None:
    """Returns the value of an option that is given without one; None if it needs one."""
    if field is None:
        return None
    alone: str | None = field.metadata.get(WITHOUT_VALUE)
    return "true" if field.type in ("bool", bool) else alone


def _takes_next(without: str | None, remaining: Sequence[str]) -> bool:
    """Whether the next word is the value of an option that has the value `without` if it is alone."""
    if not remaining or _is_option(remaining[0]):
        return False
    return without != "true" or remaining[0] in ("true", "false")
