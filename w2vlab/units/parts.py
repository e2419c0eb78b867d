"""Pieces of a file of units, checked and joined to a table with one copy in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from w2vlab.types import RunError
from w2vlab.utils.messages import one_line

Integers = npt.NDArray[np.integer[Any]]

MAX_CODEBOOKS = 1024
"""Codebooks of a file that are read; published quantizers have at most 32."""

_NUM_SHOWN = 150
"""Characters of an id in a message."""

_SMALL = np.iinfo(np.int16).max


@dataclass(kw_only=True)
class Part:
    """Consecutive utterances of a file.

    Attributes:
        ids: Ids of the utterances, N strings.
        lengths: Rows of each utterance, shape `(N,)`: frames, or runs if repeats are collapsed.
        codes: Codes of all rows, of any integer type, shape `(sum of lengths, G)`.
        counts: Frames of each run, shape `(sum of lengths,)`; None if repeats are not collapsed.
        num_samples: Samples of each utterance at 16 kHz, shape `(N,)`; None if the file does not say.
    """

    ids: Sequence[str]
    lengths: Integers
    codes: Integers
    counts: Integers | None = None
    num_samples: Integers | None = None


@dataclass(kw_only=True)
class Joined:
    """All parts of a file.

    Attributes:
        ids: Ids of the utterances, N strings.
        offsets: First frame of each utterance, and the end of the last one, shape `(N + 1,)`.
        codes: int16 where the codebook fits and int32 otherwise, shape `(sum of T, G)`.
        num_samples: Samples of each utterance at 16 kHz, shape `(N,)`; None if the file does not say.
        codebook_size: Entries V of each codebook.
    """

    ids: list[str]
    offsets: npt.NDArray[np.int64]
    codes: Integers
    num_samples: npt.NDArray[np.int64] | None
    codebook_size: int


def join(
    parts: Iterable[Part], name: str, codebook_size: int | None = None, num_codebooks: int | None = None
) -> Joined:
    """Joins the parts of a file.

    Args:
        parts: The parts, which may be made while they are joined.
        name: The file, for messages.
        codebook_size: Entries V of each codebook; None for one more than the largest code.
        num_codebooks: Codebooks G; None for those of the codes.

    Raises:
        RunError: A code is negative or beyond the codebook, a count is below 1, an utterance is there twice, the
            parts have different numbers of codebooks, or the units do not fit into the memory of the machine.
    """
    ids: list[str] = []
    lengths: list[Integers] = []
    samples: list[Integers] | None = []
    codes: Integers | None = None
    for part in parts:
        _check_codes(part, name, codebook_size, num_codebooks)
        part = _expanded(part, name)
        ids.extend(part.ids)
        lengths.append(part.lengths)
        if part.num_samples is None:
            samples = None
        elif samples is not None:
            samples.append(part.num_samples)
        if not len(part.codes):  # they do not always say of how many codebooks they are
            continue
        if codes is not None and part.codes.shape[1] != codes.shape[1]:
            raise RunError(
                f"All utterances of {name} must have codes of {codes.shape[1]} codebooks, but that of "
                f"{shown(part.ids[0])} has {part.codes.shape[1]}."
            )
        codes = _appended(codes, part.codes, name)
    if not ids:
        raise RunError(f"{name} must have the units of at least one utterance, but has none.")
    check_unique(ids, name)
    offsets = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum(np.concatenate(lengths), dtype=np.int64, out=offsets[1:])
    if codes is None:
        codes = np.zeros((0, num_codebooks or 1), dtype=np.int16)
    return Joined(
        ids=ids,
        offsets=offsets,
        codes=codes,
        num_samples=None if samples is None else np.concatenate(samples).astype(np.int64),
        codebook_size=codebook_size or (int(codes.max()) + 1 if codes.size else 1),
    )


def shown(utterance: str) -> str:
    """Returns the id of an utterance for a message: in one line, and not too long."""
    return one_line(utterance, _NUM_SHOWN)


def check_memory(num_bytes: int, name: str) -> None:
    """Checks, before memory is taken, that what a file says it has fits into the machine.

    Raises:
        RunError: It does not.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > memory:
        raise RunError(
            f"The units of {name} must fit into the memory of this machine ({memory / 2**30:.1f} GiB), but take "
            f"{num_bytes / 2**30:.1f} GiB or more. Is the file damaged? Otherwise give a part of it."
        )


def check_unique(ids: Sequence[str], name: str) -> None:
    """Checks that no id is there twice.

    Raises:
        RunError: One is.
    """
    if len(set(ids)) == len(ids):
        return
    seen: set[str] = set()
    for utterance in ids:
        if utterance in seen:
            raise RunError(
                f"{name} must have the units of each utterance once, but has those of {shown(utterance)} twice."
            )
        seen.add(utterance)


def _check_codes(part: Part, name: str, codebook_size: int | None, num_codebooks: int | None) -> None:
    codes = part.codes
    if num_codebooks is not None and len(codes) and codes.shape[1] != num_codebooks:
        raise RunError(f"{name} must have codes of {num_codebooks} codebooks, but has {codes.shape[1]}.")
    if not 1 <= codes.shape[1] <= MAX_CODEBOOKS:
        raise RunError(f"{name} must have codes of 1 to {MAX_CODEBOOKS} codebooks, but has {codes.shape[1]}.")
    if int(part.lengths.sum()) != len(codes):  # such as lists of no codes
        raise RunError(f"All frames of {name} must have codes, but some of {shown(part.ids[0])} or others have none.")
    if not codes.size:
        return
    least, largest = int(codes.min()), int(codes.max())
    size = codebook_size or 2**31
    if least < 0 or largest >= size:
        row, group = (int(places[0]) for places in np.nonzero((codes < 0) | (codes >= size)))
        rule = f"from 0 to {size - 1}" if codebook_size else "0 or more, and below 2^31"
        raise RunError(
            f"The codes in {name} must be {rule}, but {_utterance_of(part, row)} has {int(codes[row, group])}. Are "
            "they of another codebook?"
        )


def _expanded(part: Part, name: str) -> Part:
    """Returns the part with a row for each frame."""
    if part.counts is None:
        return part
    counts = part.counts
    if len(counts) and int(counts.min()) < 1:
        row = int(np.flatnonzero(counts < 1)[0])
        raise RunError(
            f"The counts in {name} must be at least 1, but {_utterance_of(part, row)} has {int(counts[row])}."
        )
    if len(counts) and float(counts.sum(dtype=np.float64)) >= 2**62:  # a sum of int64 would overflow
        raise RunError(f"The counts in {name} must be frames of an utterance, but are up to {int(counts.max()):,}.")
    counts = counts.astype(np.int64)  # NumPy repeats by no other type that is as wide, such as uint64
    ends = np.concatenate([[0], np.cumsum(counts)])
    check_memory(int(ends[-1]) * part.codes.shape[1] * part.codes.itemsize, name)
    rows = np.concatenate([[0], np.cumsum(part.lengths, dtype=np.int64)])
    return Part(
        ids=part.ids,
        lengths=np.diff(ends[rows]),
        codes=np.repeat(part.codes, counts, axis=0),
        num_samples=part.num_samples,
    )


def _appended(codes: Integers | None, more: Integers, name: str) -> Integers:
    """Returns codes with further ones, in the same memory, which is extended without a copy where the system can."""
    if codes is None:
        codes = np.zeros((0, more.shape[1]), dtype=np.int16)
    if codes.dtype == np.int16 and int(more.max()) > _SMALL:
        codes = codes.astype(np.int32)
    first = len(codes)
    check_memory((first + len(more)) * more.shape[1] * codes.itemsize, name)
    codes.resize((first + len(more), more.shape[1]), refcheck=False)
    codes[first:] = more
    return codes


def _utterance_of(part: Part, row: int) -> str:
    """Returns the id of the utterance that a row belongs to."""
    index = int(np.searchsorted(np.cumsum(part.lengths), row, side="right"))
    return shown(part.ids[index])
