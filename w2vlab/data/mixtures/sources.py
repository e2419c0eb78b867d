"""Reads the options `data.corpus` and `data.validation`: one corpus, or several with names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any

from w2vlab.registry import did_you_mean


@dataclass(frozen=True)
class CorpusOptions:
    """Options of a corpus in a mixture.

    Attributes:
        path: What `data.corpus` takes for one corpus: a folder, a manifest, or the name of a sample corpus.
        weight: Factor of its share in the audio of an epoch, above 0.
        max_hours: It counts as a corpus of at most that many hours; None for no limit.
    """

    path: str
    weight: float = 1.0
    max_hours: float | None = None


Corpora = str | list[str] | dict[str, Any]
"""One corpus; several, whose names are those of their paths; or several by name: a path, or `CorpusOptions`."""


@dataclass(frozen=True)
class CorpusSource:
    """One corpus of a run.

    Attributes:
        name: Name in the mixture; None for a single corpus, whose ids have no prefix.
        options: Its path, weight and limit.
        given_by: The option that has the corpora, `data.corpus` or `data.validation`.
    """

    name: str | None
    options: CorpusOptions
    given_by: str = field(default="data.corpus", compare=False)

    @property
    def path(self) -> str:
        """A path, or the name of a sample corpus."""
        return self.options.path

    @property
    def option(self) -> str:
        """The option that gives the corpus."""
        return self.given_by.removeprefix("data.") if self.name is None else f"{self.given_by}.{self.name}"

    @property
    def label(self) -> str:
        """How messages name the corpus."""
        return self.path if self.name in (None, self.path) else f"{self.name} ({self.path})"

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Names the option in errors about the corpus: `data.corpus.NAME` or `validation` for `corpus`."""
        try:
            yield
        except ValueError as error:
            raise ValueError(str(error).replace("`corpus`", f"`{self.option}`")) from error


_OPTIONS = tuple(option.name for option in fields(CorpusOptions))

_FORMATS = (".gz", ".jsonl", ".tsv")


def read_sources(corpora: Any, option: str) -> tuple[CorpusSource, ...]:
    """Returns the corpora that an option names, in their order.

    Args:
        corpora: Value of the option, see `Corpora`; None for no corpus.
        option: Name of the option, for messages.

    Raises:
        ValueError: The value is invalid.
    """
    if corpora is None:
        return ()
    if isinstance(corpora, str):
        return (CorpusSource(None, CorpusOptions(corpora), option),)
    if isinstance(corpora, Mapping):
        nested = _nested(corpora)
        named = {_checked_name(name, option): value for name, value in nested.items()}
        if len(named) < len(nested):  # 1 and "1"
            raise ValueError(f"`{option}` must have different names, but has {', '.join(map(repr, nested))}.")
    elif isinstance(corpora, list | tuple):
        named = _named_by_path(corpora, option)
    else:
        raise ValueError(f"`{option}` must be a corpus, a list of them or a mapping from names, but is {corpora!r}.")
    if not named:
        raise ValueError(f"`{option}` must have at least one corpus, but is empty.")
    return tuple(CorpusSource(name, _read_options(value, f"{option}.{name}"), option) for name, value in named.items())


def paths_of(corpora: Any) -> list[str]:
    """Returns the paths of the corpora in a saved configuration, of which nothing is sure; empty if it is invalid."""
    try:
        return [source.path for source in read_sources(corpora, "data.corpus")]
    except ValueError:
        return []


def plain_corpora(corpora: Any) -> Any:
    """Returns the value of an option as plain data, as in YAML."""
    if isinstance(corpora, Mapping):
        return {name: asdict(value) if isinstance(value, CorpusOptions) else value for name, value in corpora.items()}
    return corpora


def _nested(corpora: Mapping[Any, Any]) -> dict[Any, Any]:
    """Returns a mapping with `{"it": {"weight": 2}}` for `{"it.weight": 2}`, as a command line has it."""
    nested: dict[Any, Any] = {}
    for name, value in corpora.items():
        outer, _, inner = name.rpartition(".") if isinstance(name, str) else ("", "", "")
        if outer and inner in _OPTIONS:
            before = nested.get(outer, {})
            nested[outer] = {**({"path": before} if isinstance(before, str) else before), inner: value}
        else:
            nested[name] = value
    return nested


def _checked_name(name: Any, option: str) -> str:
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    if not isinstance(name, str):
        raise ValueError(
            f"`{option}` must have names of text, but one is {name!r}. YAML takes words such as no, on and null for "
            "other values: put quotation marks around the name."
        )
    if not name or "/" in name or name != name.strip() or not name.isprintable():
        raise ValueError(
            f"`{option}` must have names without slashes and spaces around them, because the ids of utterances become "
            f"NAME/ID, but one is {name!r}."
        )
    return name


def _named_by_path(paths: Iterable[Any], option: str) -> dict[str, Any]:
    named: dict[str, str] = {}
    for path in paths:
        if not isinstance(path, str):
            raise ValueError(
                f"`{option}` must be a list of paths, but has {path!r}. For weights, give a mapping: "
                "{NAME: {path: PATH, weight: WEIGHT}}."
            )
        name = _name_of(path)
        if not name or name in named:
            why = f"{named[name]} and {path} have the same" if name else f"{path!r} has none"
            raise ValueError(
                f"`{option}` must be a list of paths with different names, but {why}. Give a mapping: {{NAME: PATH}}."
            )
        named[name] = path
    return named


def _name_of(path: str) -> str:
    name = PurePosixPath(path).name
    while name.endswith(_FORMATS):
        name = name[: name.rindex(".")]
    return name


def _read_options(value: Any, option: str) -> CorpusOptions:
    if isinstance(value, CorpusOptions):
        value = asdict(value)
    if isinstance(value, str):
        return CorpusOptions(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"`{option}` must be a path, or a mapping with `path`, but is {value!r}.")
    unknown = [name for name in value if name not in _OPTIONS]
    if unknown:
        advice = did_you_mean(str(unknown[0]), _OPTIONS) or f" It has {', '.join(_OPTIONS)}."
        raise ValueError(f"`{option}` has no option {str(unknown[0])!r}.{advice}")
    path = value.get("path")
    if not isinstance(path, str) or not path:
        raise ValueError(
            f"`{option}.path` must be a folder, a manifest or the name of a sample corpus, but is {path!r}."
        )
    weight = _positive(value.get("weight", 1.0), f"{option}.weight")
    limit = value.get("max_hours")
    return CorpusOptions(path, weight, None if limit is None else _positive(limit, f"{option}.max_hours"))


def _positive(value: Any, option: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"`{option}` must be a number above 0, but is {value!r}.")
    return number
