"""Which runs are the same but for their seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from w2vlab.registry import did_you_mean
from w2vlab.reports.run import SEED, Found, RunData

ABSENT = "–"  # noqa: RUF001
"""What an option says that a run does not have."""

_IGNORED = (
    "ckpt_path",
    "new_run",
    "trainer.default_root_dir",
    "data.cache_dir",
    "data.num_workers",
    "config",
    "validate_first",
)
_IGNORED_BELOW = ("trainer.logger", "checkpoint.", "progress.", "report.", "throughput.")


@dataclass
class Group:
    """Runs that are the same but for their seed.

    Attributes:
        labels: What they have in common, a text for each key that runs are grouped by.
        runs: Those that count.
        parameters: Of the first trial, where the runs are trials of a sweep.
    """

    labels: tuple[str, ...]
    runs: list[RunData] = field(default_factory=list)
    parameters: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """All labels in one."""
        return ", ".join(self.labels) or "all runs"


@dataclass
class Grouping:
    """All groups.

    Attributes:
        keys: What runs are grouped by, as they are typed.
        groups: In the order of their first run.
        also: Options in which groups differ beside the keys, because those say the same.
    """

    keys: list[str]
    groups: list[Group]
    also: list[str] = field(default_factory=list)


def group(found: Found, by: Sequence[str] | None) -> Grouping:
    """Puts runs together that are the same but for their seed.

    Args:
        found: The runs, and the trials that have come to nothing.
        by: Keys of options or of parameters of sweeps; by default a sweep's own parameters, where all runs belong to
            one, and else the fewest options that tell all runs apart that differ in more than the seed.

    Raises:
        ValueError: A key is not one of any run.
    """
    also: list[str] = []
    swept = bool(found.sweeps) and all(run.parameters is not None for run in found.runs)
    if by is not None:
        keys = [_known(key, found) for key in by]
    elif swept:
        keys = list(dict.fromkeys(key for sweep in found.sweeps for key in sweep.parameters if key != SEED))
    else:
        keys, also = _differing([run.options for run in found.runs])
    groups: dict[str, Group] = {}

    def of(values: Sequence[Any]) -> Group:
        made = Group(tuple(map(label, values)))
        return groups.setdefault(json.dumps(values, sort_keys=True, default=str), made)

    for run in found.runs:
        place = of([_value(key, run.parameters, run.options, swept and by is None) for key in keys])
        place.runs.append(run)
        place.parameters = place.parameters or run.parameters
    for _, parameters, _ in found.missing if swept and by is None else ():
        place = of([parameters.get(key, ABSENT) for key in keys])
        place.parameters = place.parameters or parameters
    _tell_apart(groups.values())
    return Grouping(keys, list(groups.values()), also)


def _value(key: str, parameters: Mapping[str, Any] | None, options: Mapping[str, Any], swept: bool) -> Any:
    first, second = (parameters or {}, options) if swept else (options, parameters or {})
    return first.get(key, second.get(key, ABSENT))


def _known(key: str, found: Found) -> str:
    """Returns a key as configs have it flattened, which may be typed with `class_path` and `init_args` in it.

    Raises:
        ValueError: No run has it.
    """
    plain = ".".join(piece for piece in key.split(".") if piece not in ("class_path", "init_args"))
    known = {name for run in found.runs for name in (*run.options, *(run.parameters or ()))}
    if plain not in known:
        inner = sorted(name for name in known if name.startswith(plain + "."))
        hint = f" Options below it: {', '.join(inner[:8])}." if inner else did_you_mean(plain, known)
        raise ValueError(f"`by` must be an option of the runs, but is {key}.{hint}")
    return plain


def _differing(options: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Returns the fewest options that tell apart what differs, and the other ones that differ with them."""
    names = dict.fromkeys(name for some in options for name in some if not _is_ignored(name))
    texts = {
        name: [json.dumps(some.get(name, ABSENT), sort_keys=True, default=str) for some in options] for name in names
    }
    differing = [name for name in names if len(set(texts[name])) > 1]
    keys: list[str] = []
    also: list[str] = []
    # Outer options first: what follows from the class of a part is not told again.
    for name in sorted(differing, key=lambda name: name.count(".")):
        before = {tuple(texts[key][i] for key in keys) for i in range(len(options))}
        after = {tuple(texts[key][i] for key in (*keys, name)) for i in range(len(options))}
        if len(after) > len(before):
            keys.append(name)
        elif not any(name.startswith(key + ".") for key in keys):
            also.append(name)
    return keys, also


def _is_ignored(name: str) -> bool:
    seed = name.rpartition(".")[2] in (SEED, "seed")
    return seed or name in _IGNORED or name.startswith(_IGNORED_BELOW)


def label(value: Any) -> str:
    """Returns a value as a table shows it: the name of a class or a file without where it is."""
    if isinstance(value, list | tuple):
        return " + ".join(map(label, value)) or "none"
    if isinstance(value, dict):
        inner = ", ".join(f"{key}={label(entry)}" for key, entry in value.get("init_args", {}).items())
        if "class_path" in value:
            return label(value["class_path"]) + (f"({inner})" if inner else "")
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


def _tell_apart(groups: Iterable[Group]) -> None:
    """Numbers groups whose labels read alike."""
    seen: dict[tuple[str, ...], int] = {}
    for place in groups:
        count = seen[place.labels] = seen.get(place.labels, 0) + 1
        if count > 1 and place.labels:
            place.labels = (*place.labels[:-1], f"{place.labels[-1]} ({count})")


def short_keys(keys: Sequence[str]) -> list[str]:
    """Returns the shortest ends of keys that tell them apart."""
    short = []
    for key in keys:
        pieces = key.split(".")
        ends = (".".join(pieces[-depth:]) for depth in range(1, len(pieces) + 1))
        others = [other for other in keys if other != key]
        short.append(next((end for end in ends if not any(f".{o}".endswith(f".{end}") for o in others)), key))
    return short
