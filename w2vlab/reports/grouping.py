"""Grouping of runs that differ in their seed only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from w2vlab.registry import did_you_mean
from w2vlab.reports.outcomes import EVALUATION_SETTING
from w2vlab.reports.run import SEED, Found, RunData
from w2vlab.utils.comparable import canonical_text, differing_options, is_incidental, is_seed
from w2vlab.utils.messages import one_line

ABSENT = "–"  # noqa: RUF001
"""Displayed value of an option that a run does not have."""

_LONGEST_LABEL = 120

_MOST_LISTED = 8


@dataclass(kw_only=True)
class Group:
    """Runs that differ in their seed only.

    Attributes:
        labels: The displayed value of each key that runs are grouped by.
        runs: The runs of the group.
        parameters: The parameters of the first trial, if the runs are trials of a sweep.
        other_options: Options and values, as text, by which it differs from other groups with the same keys.
    """

    labels: tuple[str, ...]
    runs: list[RunData] = field(default_factory=list)
    parameters: dict[str, Any] | None = None
    other_options: str = ""

    @property
    def name(self) -> str:
        """All labels, joined by commas."""
        return ", ".join(self.labels) or "all runs"


@dataclass
class Grouping:
    """All groups.

    Attributes:
        keys: The options that runs are grouped by, as they are typed.
        groups: The groups, in the order of their first run.
        redundant_keys: Further options in which the groups differ, but which do not split them further.
    """

    keys: list[str]
    groups: list[Group]
    redundant_keys: list[str] = field(default_factory=list)


def group_runs(found: Found, by: Sequence[str] | None) -> Grouping:
    """Groups runs that differ in their seed only.

    Runs with the same keys that differ in any other option, for example because the file of a sweep was edited between
    two trials, become separate groups, because a mean over them would be meaningless.

    Args:
        found: The runs, and the trials without a result.
        by: Keys of options or of parameters of sweeps; by default the parameters of the sweep, if all runs belong to
            one, and otherwise the fewest options that distinguish all runs that differ in more than the seed.

    Raises:
        ValueError: No run has one of the keys.
    """
    redundant: list[str] = []
    swept = bool(found.sweeps) and all(run.parameters is not None for run in found.runs)
    if by is not None:
        keys = [_normalize_key(key, found) for key in by]
    elif swept:
        keys = list(dict.fromkeys(key for sweep in found.sweeps for key in sweep.parameters if key != SEED))
    else:
        keys, redundant = _find_keys([run.options for run in found.runs])
    groups: dict[str, Group] = {}

    def get_group(values: Sequence[Any]) -> Group:
        new = Group(labels=tuple(map(format_value, values)))
        return groups.setdefault(json.dumps(values, sort_keys=True, default=str), new)

    for run in found.runs:
        group = get_group([_value(key, run.parameters, run.options, swept and by is None) for key in keys])
        group.runs.append(run)
        group.parameters = group.parameters or run.parameters
    for _, parameters, _ in found.missing if swept and by is None else ():
        group = get_group([parameters.get(key, ABSENT) for key in keys])
        group.parameters = group.parameters or parameters
    uniform = [part for group in groups.values() for part in _split_by_other_options(group, keys)]
    _number_equal_labels(uniform)
    return Grouping(keys, uniform, redundant)


def _split_by_other_options(group: Group, keys: Sequence[str]) -> list[Group]:
    """Splits a group into groups of runs that differ in their seed only."""
    settings = [{**run.options, **run.measured_on} for run in group.runs]
    names = [name for name in differing_options(settings) if not _is_ignored(name) and name not in keys]
    # A run without an evaluation is not split off, because it counts for the other metrics.
    names = [
        name
        for name in names
        if not name.startswith(EVALUATION_SETTING)
        or len({canonical_text(some[name]) for some in settings if name in some}) > 1
    ]
    if not names:
        return [group]
    parts: dict[str, Group] = {}
    short = shorten_keys(names)
    for run, some in zip(group.runs, settings, strict=True):
        values = [some.get(name) for name in names]
        texts = [f"{name} {format_value(value)}" for name, value in zip(short, values, strict=True)]
        more = f" and {len(texts) - _MOST_LISTED} more" if len(texts) > _MOST_LISTED else ""
        first = f"{', '.join(texts[:2])}{', …' if texts[2:] else ''}"
        labels = (*group.labels[:-1], f"{group.labels[-1]} ({first})") if group.labels else (first,)
        part = Group(labels=labels, parameters=group.parameters, other_options=", ".join(texts[:_MOST_LISTED]) + more)
        parts.setdefault(canonical_text(values), part).runs.append(run)
    return list(parts.values())


def _value(key: str, parameters: Mapping[str, Any] | None, options: Mapping[str, Any], swept: bool) -> Any:
    first, second = (parameters or {}, options) if swept else (options, parameters or {})
    return first.get(key, second.get(key, ABSENT))


def _normalize_key(key: str, found: Found) -> str:
    """Returns a key in the flattened form of configs, without `class_path` and `init_args`.

    Raises:
        ValueError: No run has the key.
    """
    plain = ".".join(piece for piece in key.split(".") if piece not in ("class_path", "init_args"))
    known = {name for run in found.runs for name in (*run.options, *(run.parameters or ()))}
    if plain not in known:
        inner = sorted(name for name in known if name.startswith(plain + "."))
        hint = f" Options below it: {', '.join(inner[:8])}." if inner else did_you_mean(plain, known)
        raise ValueError(f"`by` must be an option of the runs, but is {key}.{hint}")
    return plain


def _find_keys(options: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Returns the fewest options that distinguish the runs, and the redundant ones that differ too."""
    names = dict.fromkeys(name for some in options for name in some if not _is_ignored(name))
    texts = {
        name: [json.dumps(some.get(name, ABSENT), sort_keys=True, default=str) for some in options] for name in names
    }
    varying = [name for name in names if len(set(texts[name])) > 1]
    keys: list[str] = []
    redundant: list[str] = []
    # Outer options first, so that options of a part do not become keys if its class is one.
    for name in sorted(varying, key=lambda name: name.count(".")):
        before = {tuple(texts[key][i] for key in keys) for i in range(len(options))}
        after = {tuple(texts[key][i] for key in (*keys, name)) for i in range(len(options))}
        if len(after) > len(before):
            keys.append(name)
        elif not any(name.startswith(key + ".") for key in keys):
            redundant.append(name)
    return keys, redundant


def _is_ignored(name: str) -> bool:
    return is_seed(name) or is_incidental(name)


def format_value(value: Any) -> str:
    """Formats a value for a table: in one line, with class and file names without package and folder."""
    return one_line(_format_value(value), _LONGEST_LABEL)


def _format_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " + ".join(map(_format_value, value)) or "none"
    if isinstance(value, dict):
        options = value.get("init_args")
        inner = (
            ", ".join(f"{key}={_format_value(v)}" for key, v in options.items()) if isinstance(options, dict) else ""
        )
        if "class_path" in value:
            return _format_value(value["class_path"]) + (f"({inner})" if inner else "")
        return json.dumps(value, default=str)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if not isinstance(value, str):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if value.endswith((".yaml", ".yml")):
        return PurePath(value).stem
    pieces = value.split(".")
    is_class = len(pieces) > 1 and all(piece.isidentifier() for piece in pieces) and pieces[-1][:1].isupper()
    return pieces[-1] if is_class else value


def _number_equal_labels(groups: Iterable[Group]) -> None:
    """Appends numbers to groups with equal labels."""
    seen: dict[tuple[str, ...], int] = {}
    for group in groups:
        count = seen[group.labels] = seen.get(group.labels, 0) + 1
        if count > 1 and group.labels:
            group.labels = (*group.labels[:-1], f"{group.labels[-1]} ({count})")


def shorten_keys(keys: Sequence[str]) -> list[str]:
    """Returns the shortest unique suffix of each key."""
    short = []
    for key in keys:
        pieces = key.split(".")
        ends = (".".join(pieces[-depth:]) for depth in range(1, len(pieces) + 1))
        others = [other for other in keys if other != key]
        short.append(next((end for end in ends if not any(f".{o}".endswith(f".{end}") for o in others)), key))
    return short
