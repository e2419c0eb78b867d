"""Tensors in several files, by an index that says which file has each of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from w2vlab.formats.published import LazyWeights
from w2vlab.utils.messages import one_line
from w2vlab.utils.plain_data import read_json

_MAX_SHARDS = 1000

_NUM_SHOWN = 150
"""Characters of a name that an error shows."""

_PARTS = re.compile(r"[/\\\0]|^\.{0,2}$")
"""What a name with a folder in it has, and the names of folders themselves."""


def open_shards(
    path: Path, open_file: Callable[[Path], Mapping[str, Tensor]], kind: str, name: str = "source"
) -> LazyWeights:
    """Opens the files of an index (`….index.json`); each tensor is read when it is accessed.

    Args:
        path: The index.
        open_file: Opens a file.
        kind: What the files are, for errors.
        name: Option with the path, for errors.

    Raises:
        ValueError: The index is damaged, names files elsewhere, or does not match its files.
    """
    try:
        index = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"`{name}` must be an index of {kind}, but {path} cannot be read ({error}).") from error
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(map(_is_file_name, places.values())):
        raise ValueError(
            f"`{name}` must be an index of {kind} beside it, but `weight_map` of {path} is not a mapping of names of "
            "tensors to names of files beside it."
        )
    files = sorted(set(places.values()))
    if len(files) > _MAX_SHARDS:
        raise ValueError(f"`{name}` must have at most {_MAX_SHARDS:,} files, but {path} names {len(files):,}.")
    opened = {file: open_file(path.parent / file) for file in files}
    for tensor, file in places.items():
        if tensor not in opened[file]:
            raise ValueError(
                f"{path.parent / file} must have the tensors that {path.name} names, but "
                f"{one_line(tensor, _NUM_SHOWN)} is missing."
            )
    return LazyWeights({tensor: partial(opened[file].__getitem__, tensor) for tensor, file in places.items()})


def _is_file_name(value: Any) -> bool:
    """Returns whether a value of an index is the name of a file beside it, which may be shown and opened."""
    return isinstance(value, str) and value.isprintable() and len(value) < 200 and not _PARTS.search(value)
