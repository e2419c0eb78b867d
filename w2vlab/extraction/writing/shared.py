"""What the writers of several formats share: whole files, collapsed repeats, and checks of streams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from w2vlab.extraction.sources import Stream
from w2vlab.extraction.writing.utterance import Frames
from w2vlab.frame_grid import FrameGrid
from w2vlab.types import RunError
from w2vlab.units.description import UnitsDescription
from w2vlab.utils.files import replace_atomically


def whole_file(path: Path) -> AbstractContextManager[Path]:
    """Yields a temporary path to write to; at the end the file is synced to disk and renamed to `path`.

    Args:
        path: The file, which is complete or absent at any time.

    Raises:
        OSError: The file cannot be written; the temporary file is removed.
    """
    return replace_atomically(path, sync=True)


def runs_of(codes: Frames) -> tuple[Frames, npt.NDArray[np.int32]]:
    """Joins frames in a row whose codes agree in all codebooks.

    Args:
        codes: Shape `(T, G)`.

    Returns:
        The codes of each run, `(R, G)`, and its frames, `(R,)`.
    """
    if not len(codes):
        return codes, np.zeros(0, dtype=np.int32)
    firsts = np.flatnonzero(np.concatenate([[True], (codes[1:] != codes[:-1]).any(axis=1)]))
    return codes[firsts], np.diff(firsts, append=len(codes)).astype(np.int32)


def check_collapse(streams: Sequence[Stream]) -> None:
    """Checks that repeats can be joined.

    Raises:
        ValueError: There are vectors, or several streams, whose runs would differ.
    """
    if len(streams) != 1 or not streams[0].is_discrete:
        found = ", ".join(stream.name for stream in streams)
        raise ValueError(
            f"`collapse` must be false for {found}: only codes or units have repeats to join, and only one stream of "
            "them at a time. Remove --collapse."
        )


def check_text(names: Iterable[str]) -> None:
    """Checks that ids and paths are text, because the name of a file may be any bytes.

    Raises:
        RunError: One is not; it is named.
    """
    for text in names:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            name = text.encode("utf-8", "backslashreplace").decode()
            raise RunError(f"The name of {name} must be text in UTF-8, but is not: rename the file.") from None


def check_lines(names: Iterable[str]) -> None:
    """Checks that ids and paths fit in lists that have a line an utterance.

    Raises:
        RunError: One has a line break or a tab; it is named.
    """
    for text in names:
        if any(sign in text for sign in "\n\r\t"):
            raise RunError(
                f"Ids and paths must have no line break and no tab in formats with lists of utterances, but there is "
                f"{text!r}. Use --format parquet, or rename it."
            )


def describe(
    streams: Sequence[Stream], grid: FrameGrid, collapse: bool, provenance: Mapping[str, Any]
) -> UnitsDescription:
    """Returns what a file says about itself; of vectors, only where its frames are and what they come from."""
    codes = streams[0] if len(streams) == 1 and streams[0].is_discrete else None
    return UnitsDescription(
        grid=grid,
        codebook_size=None if codes is None else codes.codebook_size,
        num_codebooks=None if codes is None else codes.dim,
        collapsed=collapse,
        provenance=provenance,
    )


def joint_ids(codes: Frames, codebook_size: int) -> npt.NDArray[np.int64]:
    """Returns the tuple of codes of each frame as one integer: its digits in base V, that of the first codebook first.

    Args:
        codes: Shape `(T, G)`, with V^G at most 2^63.
        codebook_size: Entries V of each codebook.

    Returns:
        Shape `(T,)`.
    """
    joint = np.zeros(len(codes), dtype=np.int64)
    for group in range(codes.shape[1]):
        joint *= codebook_size
        joint += codes[:, group]
    return joint
