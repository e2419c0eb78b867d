"""The options in a file of fairseq: where they are, and fairseq's defaults for those that the file lacks."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from w2vlab.formats.fairseq.layers import parse_layers
from w2vlab.utils.messages import one_line

Layout = Literal["args", "cfg"]

_MISSING = "???"
"""How OmegaConf writes a value that was never set."""

_MAX_REFERENCES = 8
"""Longest chain of references such as `${task.normalize}`."""

_MAX_LITERAL = 200
"""Longest text of a tuple that an option holds as text, such as `(2, 0.5, 0.999995)`."""


@dataclass(kw_only=True)
class Stored:
    """The options of one model in a file.

    Attributes:
        layout: `args`, a flat namespace, or `cfg`, nested dictionaries.
        root: All options of the run, as they came.
        source: Path of the file, for errors.
        notes: What a user should know, one sentence each; readers append to it.
        training_notes: The same for who trains the model further.
    """

    layout: Layout
    root: Mapping[str, Any]
    source: object
    notes: list[str] = field(default_factory=list)
    training_notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the model, such as `wav2vec2`; empty if the file has none."""
        name = self.root.get("arch") if self.layout == "args" else self.group("model").get("_name")
        return name if isinstance(name, str) else ""

    def group(self, name: str) -> Mapping[str, Any]:
        """Returns the options of `model`, `task` or `criterion`; a namespace has all of them together."""
        if self.layout == "args":
            return self.root
        group = self.root.get(name)
        # The files of WavLM have the options of the model alone.
        return group if isinstance(group, Mapping) else self.root if name == "model" and group is None else {}

    def pretrained(self) -> Stored | None:
        """Returns the options of the pretrained model in those of its fine-tuning; None if there are none."""
        inner = self.group("model").get("w2v_args")
        if not isinstance(inner, Mapping):
            return None
        layout: Layout = "cfg" if isinstance(inner.get("model"), Mapping) else "args"
        return Stored(layout=layout, root=inner, source=self.source)

    def states(self, group: str, name: str) -> bool:
        """Returns whether the file has the option."""
        return self.group(group).get(name) not in (None, _MISSING)

    def resolve(self, value: Any) -> Any:
        """Follows references to other options; None for one that leads nowhere."""
        for _ in range(_MAX_REFERENCES):
            found = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
            if found is None:
                return None if isinstance(value, str) and value == _MISSING else value
            value = self.root
            for key in found[1].split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
        return None


class Options:
    """Options of one group by their names, checked, with fairseq's defaults.

    Args:
        stored: The options of the file.
        group: `model`, `task` or `criterion`.
        defaults: The default of each option; its type is that of the option.
    """

    def __init__(self, stored: Stored, group: str, defaults: Mapping[str, Any]) -> None:
        self.stored = stored
        self._values = stored.group(group)
        self._defaults = defaults

    def __getitem__(self, name: str) -> Any:
        default = self._defaults[name]
        value = self.stored.resolve(self._values.get(name))
        if value is None:
            return default
        if isinstance(default, tuple) and isinstance(value, str) and len(value) <= _MAX_LITERAL:
            try:
                value = ast.literal_eval(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                self.refuse(name, _rule(default))
        converted = _converted(value, default)
        if converted is None:
            self.refuse(name, _rule(default))
        return converted

    def layers(self, name: str) -> list[list[int]]:
        """Returns an option with convolutions as a list of width, kernel and stride."""
        try:
            return parse_layers(self[name])
        except ValueError as problem:
            self.refuse(name, "a sum of lists of (width, kernel, stride)", str(problem))

    def require(self, name: str, value: Any, why: str) -> None:
        """Refuses a file whose option has another value than the only one that w2vlab has."""
        if self[name] != value:
            self.refuse(name, _shown(value), why)

    def note_unless(self, name: str, value: Any, what: str) -> None:
        """Notes an option that changes training alone, and that w2vlab has in no other value."""
        if self[name] != value:
            self.stored.training_notes.append(f"`{name}` was {_shown(self[name])}: {what}.")

    def refuse(self, name: str, rule: str, why: str = "") -> NoReturn:
        """Raises the error for an option that cannot be expressed."""
        found = self.stored.resolve(self._values.get(name, self._defaults.get(name)))
        raise ValueError(
            f"`{name}` must be {rule}, but is {_shown(found)} in the options of {self.stored.source}"
            f"{': ' + why if why else ''}."
        )


def _converted(value: Any, default: Any) -> Any:
    """Returns a value in the type of its default; None if it has another."""
    if isinstance(default, bool):
        return value if isinstance(value, bool) else bool(value) if value in (0, 1) else None
    if isinstance(default, float):
        return float(value) if type(value) in (int, float) and abs(value) < 1e30 else None
    if isinstance(default, int):
        return int(value) if type(value) in (int, float) and abs(value) < 1e15 and int(value) == value else None
    if isinstance(default, tuple):
        plain = isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) == len(default)
        numbers = tuple(_converted(number, 0.0) for number in value) if plain else (None,)
        return None if None in numbers else numbers
    if isinstance(default, str):
        return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
    return value


def _rule(default: Any) -> str:
    if isinstance(default, tuple):
        return f"{len(default)} numbers"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    return names.get(type(default), "plain")


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else repr(value)
    return one_line(text or '""', 100)
