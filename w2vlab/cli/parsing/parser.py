"""The parser of `w2vlab fit` and `validate`: Lightning's, with error messages of one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from copy import deepcopy
from itertools import pairwise
from typing import Any, NoReturn

from jsonargparse import Namespace, dict_to_namespace
from lightning.pytorch.cli import LightningArgumentParser

from w2vlab.cli.errors.other_names import hint
from w2vlab.cli.errors.parser_messages import explain, known_options
from w2vlab.cli.parsing.null_parts import null_part
from w2vlab.cli.parsing.recipe_arguments import PARSER_MODE, is_file, missing_file, read_config

_typed: ContextVar[tuple[str, ...]] = ContextVar("_typed", default=())
"""The command line that the outermost parser parses."""


class RunParser(LightningArgumentParser):
    """Lightning's parser with short error messages.

    jsonargparse makes a further parser of this class for every part. Such a nested parser raises, and the ones around
    it put their keys before its message; only the outermost one prints.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "parser_mode": PARSER_MODE})
        self.allow_abbrev = False  # otherwise a part of a name would silently set an option that begins with it

    def get_defaults(self, *args: Any, **kwargs: Any) -> Namespace:
        """Returns the defaults, without the options of the classes among them.

        jsonargparse fills those in at the end, for the final classes. If they were there from the start, a class that
        replaces a default one would inherit its default values for options of the same name: Adam the weight decay of
        AdamW.
        """
        defaults: Namespace = super().get_defaults(*args, **kwargs)
        for action in self._actions:
            if isinstance(action.default, dict | Namespace) and "class_path" in action.default:
                defaults[action.dest] = dict_to_namespace(deepcopy(action.default))
        return defaults

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the error and exits with status 2, or raises in a nested parser."""
        if not self.exit_on_error:
            # The options of the part are known only here.
            if refused := re.fullmatch(
                r"Option '([\w.]+)' is not accepted|unrecognized arguments: --(.+?)=.*", message
            ):
                name = refused[1] or _refused(refused[2], [action.dest for action in self._actions])
                message = f"Option '{name}' is not accepted [{known_options(self._actions, name)}]"
            super().error(message, ex)
        unknown = re.match(
            r"unrecognized arguments: ([^\s=]+)|(?:Group '([\w.]+)'|.*) does not accept option '([\w.]+)'", message
        )
        if unknown:
            name = unknown[1] or f"--{'.'.join(filter(None, unknown.groups()))}"
            parser = getattr(ex, "subcommand_parser", None) or self
            message = f"Unknown argument {name}. {hint(name) or known_options(parser._actions, name.lstrip('-'))}"
        sys.stderr.write(f"error: {explain(message)}\n")
        self.exit(2)

    def parse_args(  # type: ignore[override]  # jsonargparse itself takes more than argparse
        self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any
    ) -> Namespace:
        """Parses, and keeps the command line for the parsers of the parts."""
        before = _typed.set(_typed.get() or tuple(args or ()))
        try:
            parsed: Namespace = super().parse_args(args, *rest, **kwargs)
        finally:
            _typed.reset(before)
        if self.exit_on_error and "subcommand" in parsed and (problem := null_part(parsed[parsed.subcommand])):
            self.error(problem)
        return parsed

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Returns the help; that of a part shows its options with their full names.

        The parser of a part knows only the name of the slot (`quantizer`), not its path (`model.quantizer`).
        """
        slot = re.match(r"Help for --([\w.]+)\.help=", self.description or "")
        options = [word.partition("=")[0] for word in _typed.get()]
        whole = [option for option in options if slot and option.endswith(f".{slot[1]}.help")]
        if slot and whole:
            old, new = f"--{slot[1]}.", whole[-1].removesuffix("help")
            self.description = f"Help for {new}help={str(self.description).partition('=')[2]}"
            for action in self._actions:
                action.option_strings = [
                    new + option.removeprefix(old) if option.startswith(old) else option
                    for option in action.option_strings
                ]
        text: str = super().format_help(*args, **kwargs)
        return text


def _refused(name: str, options: Sequence[str]) -> str:
    """Returns the first part of a name with dots if it is no option: `teacher` of `teacher.layers`."""
    outer = name.partition(".")[0]
    return name if outer in options else outer


_SEED = "`model.seed` must not be given: it follows `seed_everything`."


def command_line_problem(args: list[str]) -> str | None:
    """Returns an error that jsonargparse would not report well: an invalid file, or a seed without effect."""
    flags = [arg.partition("=")[::2] for arg in args]
    flags += [(name, value) for name, value in pairwise(args) if name.startswith("-") and "=" not in name]
    for name, value in flags:
        if name in ("--model.seed", "--model.init_args.seed"):
            return _SEED
        # jsonargparse would interpret the path as a class, and list the known ones.
        if missing := missing_file(name, value):
            return missing
        if name not in ("-c", "--config") or not is_file(value):
            continue
        try:
            model = read_config(value).get("model")
        except ValueError as problem:
            return str(problem)
        if isinstance(model, dict) and "seed" in (model.get("init_args") or {}):
            return _SEED
    return None
