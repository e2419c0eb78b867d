"""What is written of an utterance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from w2vlab.types import Seconds

Frames = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class EncodedUtterance:
    """The frames of an utterance.

    Attributes:
        id: Its id in the corpus.
        path: Path of its audio; None if it is not one file.
        num_samples: Its samples at 16 kHz.
        frames: Frames by name of the stream, all of the same number T: vectors `(T, D)` float32, codes `(T, G)` of the
            smallest signed type that holds them (`code_type`). C-contiguous.
        start: Where it begins in that file, in seconds.
        is_whole_file: Whether it is all of that file.
    """

    id: str
    path: str | None
    num_samples: int
    frames: Mapping[str, Frames]
    start: Seconds = 0.0
    is_whole_file: bool = True

    @property
    def num_frames(self) -> int:
        """Frames T."""
        return len(next(iter(self.frames.values())))


def code_type(codebook_size: int) -> np.dtype[np.signedinteger[Any]]:
    """Returns the smallest of int16 and int32 that holds the entries of a codebook; torch has no other unsigned."""
    return np.dtype(np.int16 if codebook_size <= 2**15 else np.int32)
