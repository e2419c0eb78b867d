"""Files in the safetensors format: read one tensor at a time, and written atomically.

The format has no code: a header in JSON with names, types, shapes and offsets, then the numbers. The safetensors
library checks the length of the header and all offsets against the size of the file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2vlab.formats.files.shards import open_shards
from w2vlab.formats.published import LazyWeights
from w2vlab.utils.files import replace_atomically
from w2vlab.utils.messages import one_line

_MAX_HEADER_BYTES = 100_000_000
"""Length of a header that the library accepts."""

_NUM_SHOWN = 150
"""Characters of an error of the library that are kept."""


def is_safetensors(path: Path) -> bool:
    """Returns whether a file starts as one in the safetensors format, whatever its name."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_HEADER_BYTES


def open_safetensors(path: Path, name: str = "source") -> tuple[LazyWeights, dict[str, str]]:
    """Opens a file in the safetensors format, or the index of several (`….safetensors.index.json`).

    Args:
        path: The file. It must not change as long as the tensors are used.
        name: Option with the path, for errors.

    Returns:
        The tensors, each read when it is accessed, and the metadata.

    Raises:
        ValueError: The file is missing, truncated or not in this format, or the index does not match its files.
    """
    if path.name.endswith(".json"):
        metadata: dict[str, str] = {}

        def open_file(file: Path) -> LazyWeights:
            tensors, own = _open_file(file, name)
            metadata.update(own)
            return tensors

        return open_shards(path, open_file, "safetensors files", name), metadata
    return _open_file(path, name)


def other_dtypes(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, str]:
    """Returns the type of each tensor that is not float32, such as `float16`, for `Origin.dtypes`.

    Args:
        tensors: The tensors of a file.
        prefix: Start of the names of the tensors that count.
    """
    found = {tensor_name: tensors[tensor_name].dtype for tensor_name in tensors if tensor_name.startswith(prefix)}
    return {
        tensor_name: str(dtype).removeprefix("torch.") for tensor_name, dtype in found.items() if dtype != torch.float32
    }


def in_stored_type(tensor: Tensor, dtype: str | None) -> Tensor:
    """Returns a tensor in the float type that its file had (`Origin.dtypes`), if that changes no value."""
    stored = getattr(torch, dtype, None) if dtype is not None else None
    if not isinstance(stored, torch.dtype) or not stored.is_floating_point or tensor.dtype == stored:
        return tensor
    converted = tensor.to(stored)
    return converted if torch.equal(converted.to(tensor.dtype), tensor) else tensor


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a file in the safetensors format; readers see the old file until the new one is complete.

    The library stores metadata in a random order, so that only a single entry gives the same bytes each time.

    Args:
        tensors: The tensors by name, on any device and in any memory layout; two may share memory.
        path: The file.
        metadata: Text by name.

    Raises:
        OSError: The file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replace_atomically(path) as unfinished:
        unfinished.write_bytes(b"")
        mode = stat.S_IMODE(unfinished.stat().st_mode)
        try:
            save_file(_separate(tensors), unfinished, dict(metadata or {}))
        except SafetensorError as error:  # such as a full disk
            raise OSError(f"{path} cannot be written: {_reason(error)}") from error
        os.chmod(unfinished, mode)  # the library makes a file that only its owner can read


def _open_file(path: Path, name: str) -> tuple[LazyWeights, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():  # opening a pipe would block until a process writes to it
        raise ValueError(f"`{name}` must be an existing file, but is {path}.")
    try:
        file: Any = safe_open(path, "pt")
        names, metadata = list(file.keys()), dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"`{name}` must be a whole file in the safetensors format, but {path} cannot be read ({_reason(error)})."
        ) from error
    return LazyWeights({tensor: partial(_read, file, tensor, path) for tensor in names}), metadata


def _read(file: Any, tensor: str, path: Path) -> Tensor:
    try:
        read: Tensor = file.get_tensor(tensor)
    except Exception as error:  # a type that this version of PyTorch does not have raises several kinds
        raise ValueError(f"{one_line(tensor, _NUM_SHOWN)} of {path} cannot be read ({_reason(error)}).") from error
    return read


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns contiguous tensors that share no memory; those that are so already are not copied."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for tensor_name in tensors:
        tensor = tensors[tensor_name].detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        separate[tensor_name] = tensor
    return separate


def _reason(error: Exception) -> str:
    """Returns the message of an error of the library in one line."""
    text = one_line(" ".join(str(error).split()), _NUM_SHOWN)
    return text.removeprefix("Error while deserializing header: ") or type(error).__name__
