"""The weights of a folder: safetensors or pickles, in one file or in several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from w2vlab.formats.files.pickles import read_pickle
from w2vlab.formats.files.tensors import open_safetensors
from w2vlab.formats.published import LazyWeights
from w2vlab.utils.plain_data import read_json

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
WEIGHT_FILES = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLE, f"{PICKLE}.index.json")
"""Names of files with weights, or of the index of several, in the order of preference."""


def open_weights(folder: Path, name: str = "source") -> Mapping[str, Tensor]:
    """Opens the weights of a folder; each tensor is read when it is accessed.

    Args:
        folder: The folder.
        name: Option with the folder, for errors.

    Raises:
        ValueError: There are no weights, or a file is truncated or not in its format.
    """
    found = next((folder / file for file in WEIGHT_FILES if (folder / file).is_file()), None)
    if found is None:
        raise ValueError(f"`{name}` must have weights, but {folder} has none of {', '.join(WEIGHT_FILES)}.")
    if found.name.startswith(SAFETENSORS):
        return open_safetensors(found, name)[0]
    return _open_pickle(found, name) if found.name == PICKLE else _open_pickles(found, name)


def _open_pickle(path: Path, name: str) -> Mapping[str, Tensor]:
    content = read_pickle(path, name)
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"`{name}` must have tensors by name, but {path} has something else.")
    return content


def _open_pickles(path: Path, name: str) -> Mapping[str, Tensor]:
    try:
        index = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"`{name}` must be an index of files, but {path} cannot be read ({error}).") from error
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(map(_is_file_name, places.values())):
        raise ValueError(f"`{name}` must be an index of files beside it, but {path} is not.")
    opened = {file: _open_pickle(path.parent / file, name) for file in sorted(set(places.values()))}
    readers: dict[str, Callable[[], Tensor]] = {}
    for tensor, file in places.items():
        if tensor not in opened[file]:
            raise ValueError(
                f"{path.parent / file} must have the tensors that {path.name} names, but {tensor} is missing."
            )
        readers[tensor] = partial(opened[file].__getitem__, tensor)
    return LazyWeights(readers)


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & set("/\\\0")
