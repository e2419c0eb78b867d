"""Options of a run by the names that are typed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the leaves of a nested config with keys as they are typed: `model.quantizer.codebook_size`.

    Args:
        key: The key of `value` in the config; empty for the whole config.
        value: A part of the config as plain data. Lists and empty mappings are leaves: an empty mapping of penalties
            differs from the default.
    """
    if not isinstance(value, dict) or (key and not value):
        yield key, value
        return
    for name, inner in value.items():
        if name == "class_path":
            yield key, inner
        elif name == "init_args" and inner == {}:
            continue  # the class is all of it
        else:
            yield from flat(key if name == "init_args" else f"{key}.{name}" if key else str(name), inner)


def without_options(args: Iterable[str], *names: str) -> list[str]:
    """Returns a command line without the options of these names and their values."""
    flags = [f"--{name}" for name in names]
    kept = []
    words = iter(args)
    for word in words:
        if word in flags:
            next(words, None)
        elif word.partition("=")[0] not in flags:
            kept.append(word)
    return kept


def without_checkpoint(args: Iterable[str]) -> list[str]:
    """Returns a command line without the checkpoint that it resumes from."""
    return without_options(args, "ckpt_path", "new_run")
