"""Units in NumPy's and safetensors' files, as `encode` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from w2vlab.types import RunError
from w2vlab.units.description import CODE_STREAMS, COUNTS, METADATA, UnitsDescription, read_record
from w2vlab.units.parts import Integers, Part, shown
from w2vlab.units.text_files import read_ids
from w2vlab.utils.messages import dimensions, one_line
from w2vlab.utils.plain_data import parse_json

NPY, LEN, COUNTS_NPY = ".npy", ".len", ".counts.npy"
"""Endings: all frames of a shard, the rows of each utterance, and the frames of each run if repeats are collapsed."""

SAFETENSORS = ".safetensors"

IDS_KEY, SAMPLES_KEY = "ids", "num_samples"
"""Keys of the description of a safetensors file: its utterances in order, and the samples of each."""


def describe_npy(path: Path) -> UnitsDescription:
    """Returns what `encode` recorded in the folder of a file; `.npy` has no room for text.

    Args:
        path: The file.
    """
    return read_record(path) or UnitsDescription()


def read_npy(path: Path) -> Iterator[Part]:
    """Yields the units of a file of all frames of a shard, with `.len` and `.ids` (or `.tsv`) beside it.

    Args:
        path: The file.

    Raises:
        RunError: It is damaged, has vectors, or does not fit the files beside it.
    """
    ids, num_samples = read_ids(path)
    codes = _array(path)
    lengths = _lengths(path.with_suffix(LEN))
    counts_path = path.with_suffix(COUNTS_NPY)
    counts = None
    if counts_path.is_file():
        counts = _array(counts_path)
        if counts.shape[1] != 1:
            raise RunError(f"{counts_path} must have a count for each row, but is of {dimensions(counts.shape)}.")
        counts = counts[:, 0]
    for found, what in ((len(codes), path.name), (len(codes) if counts is None else len(counts), counts_path.name)):
        if found != int(lengths.sum()):
            raise RunError(
                f"{path.with_suffix(LEN)} must add up to the {found:,} rows of {what}, but has {int(lengths.sum()):,}."
            )
    if len(ids) != len(lengths):
        raise RunError(
            f"{path.with_suffix(LEN)} must have a line for each of the {len(ids):,} utterances of the list of ids "
            f"beside it, but has {len(lengths):,}."
        )
    yield Part(ids=ids, lengths=lengths, codes=codes, counts=counts, num_samples=num_samples)


def _array(path: Path) -> Integers:
    try:
        # A map, so that a header that promises more than the file has is an error and takes no memory.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        reason = one_line(" ".join(str(error).split()), 200)
        raise RunError(f"{path} must be a whole file of NumPy, but cannot be read ({reason}).") from error
    if not isinstance(array, np.ndarray):  # several arrays in a zip archive
        raise RunError(f"{path} must have one array of codes, but is an archive.")
    if array.ndim not in (1, 2) or array.dtype.kind not in "iu":
        raise RunError(
            f"{path} must have integers of shape (frames, codebooks), but is {array.dtype} of "
            f"{dimensions(array.shape)}."
        )
    return array[:, None] if array.ndim == 1 else array


def _lengths(path: Path) -> Integers:
    if not path.is_file():
        raise RunError(f"{path} must have the number of frames of each utterance, a line each, but does not exist.")
    lines = path.read_bytes().split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    for number, line in enumerate(lines, start=1):
        if not line.strip().isdigit() or len(line) > 18:
            found = shown(line.decode("utf-8", "backslashreplace"))
            raise RunError(f"Line {number} of {path} must be a number of frames, but is {found!r}.")
    return np.array([int(line) for line in lines], dtype=np.int64)


def describe_safetensors(path: Path) -> UnitsDescription:
    """Reads what a file says about itself.

    Args:
        path: The file.

    Raises:
        RunError: It is not a whole safetensors file with a description by `encode`.
    """
    _, content = _open(path)
    try:
        return UnitsDescription.from_plain(content)
    except ValueError as error:
        raise RunError(f"{path} must have a description of its units, but {error}.") from None


def read_safetensors(path: Path) -> Iterator[Part]:
    """Yields the units of a file with a tensor `ID/units` or `ID/codes` an utterance.

    Args:
        path: The file.

    Raises:
        RunError: It is damaged, or a tensor is missing or not of integers.
    """
    file, content = _open(path)
    names = set(file.keys())
    ids, samples = content.get(IDS_KEY), content.get(SAMPLES_KEY)
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids) or not ids:
        raise RunError(f"{path} must have the ids of its utterances in its description, but has not.")
    if not isinstance(samples, list) or len(samples) != len(ids) or not all(map(_is_length, samples)):
        raise RunError(f"{path} must have the samples of each utterance in its description, but has not.")
    stream = next((stream for stream in CODE_STREAMS if f"{ids[0]}/{stream}" in names), CODE_STREAMS[0])
    collapsed = f"{ids[0]}/{COUNTS}" in names
    codes = [_tensor(file, f"{name}/{stream}", path) for name in ids]
    widths = {array.shape[1] for array in codes if array.ndim == 2}
    if len(widths) != 1 or any(array.ndim != 2 for array in codes):
        raise RunError(f"All tensors of {path} must be of shape (frames, codebooks), of as many codebooks.")
    lengths = np.array([len(array) for array in codes], dtype=np.int64)
    counts = None
    if collapsed:
        found = [_tensor(file, f"{name}/{COUNTS}", path) for name in ids]
        for name, array, length in zip(ids, found, lengths, strict=True):
            if array.shape != (length,):
                raise RunError(f"{path} must have a count for each of the {length} runs of {shown(name)}, but has not.")
        counts = np.concatenate(found)
    yield Part(
        ids=ids,
        lengths=lengths,
        codes=np.concatenate(codes),
        counts=counts,
        num_samples=np.array(samples, dtype=np.int64),
    )


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():  # opening a pipe would block until a process writes to it
        raise RunError(f"{path} must be a safetensors file, but is no file.")
    try:
        file: Any = safe_open(path, "numpy")
        text = (file.metadata() or {}).get(METADATA, "")
    except (SafetensorError, OSError) as error:
        reason = one_line(" ".join(str(error).split()), 200)
        raise RunError(f"{path} must be a whole safetensors file, but cannot be read ({reason}).") from error
    try:
        content = parse_json(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise RunError(f"{path} must have a description of its units (`{METADATA}` in its metadata), but has none.")
    return file, content


def _tensor(file: Any, name: str, path: Path) -> Integers:
    try:
        array = file.get_tensor(name)
    except Exception as error:  # the library has several kinds
        raise RunError(f"{path} must have a tensor {shown(name)}, but it is missing or damaged.") from error
    if array.dtype.kind not in "iu":
        raise RunError(f"The tensor {shown(name)} of {path} must have integers, but has {array.dtype}.")
    found: Integers = array
    return found
