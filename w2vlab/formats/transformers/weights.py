"""The weights of a folder: safetensors or pickles, in one file or in several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from w2vlab.formats.files.pickles import read_pickle
from w2vlab.formats.files.shards import open_shards
from w2vlab.formats.files.tensors import open_safetensors

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
    if found.name == PICKLE:
        return _open_pickle(found, name)
    return open_shards(found, lambda file: _open_pickle(file, name), "files", name)


def _open_pickle(path: Path, name: str) -> Mapping[str, Tensor]:
    content = read_pickle(path, name)
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"`{name}` must have tensors by name, but {path} has something else.")
    return content
