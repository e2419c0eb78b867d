"""The units of a corpus, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from w2vlab.frame_grid import FrameGrid
from w2vlab.types import SAMPLE_RATE, RunError

Codes = npt.NDArray[np.integer[Any]]

FRAMES_OFF = 2
"""Frames by which the length of an utterance may differ from that of its audio: padding and rounding of other tools."""


@dataclass(kw_only=True)
class UnitTable:
    """Units of all utterances of a corpus, one array with the first frame of each utterance.

    Attributes:
        name: What they were read from, for messages.
        ids: Ids of the utterances, N strings.
        offsets: First row of each utterance in `frames`, and the end of the last one, shape `(N + 1,)`.
        frames: Codes of all utterances, of any integer type, shape `(sum of T, G)`.
        grid: Where the frames are in time.
        codebook_size: Entries V of each codebook.
        num_samples: Samples of each utterance at 16 kHz, shape `(N,)`; None if the file does not say.
        provenance: What the units were computed from, as `encode` writes it; empty if the file does not say.
    """

    name: str
    ids: Sequence[str]
    offsets: npt.NDArray[np.int64]
    frames: Codes
    grid: FrameGrid
    codebook_size: int
    num_samples: npt.NDArray[np.int64] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rows = {name: row for row, name in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, utterance: object) -> bool:
        return utterance in self._rows

    @property
    def num_codebooks(self) -> int:
        """Codebooks G."""
        return int(self.frames.shape[1])

    def codes(self, utterance: str) -> Codes:
        """Returns the codes `(T, G)` of an utterance.

        Raises:
            RunError: The file does not have it.
        """
        row = self._row(utterance)
        return self.frames[self.offsets[row] : self.offsets[row + 1]]

    def check(self, utterance: str, num_samples: int) -> None:
        """Checks that an utterance is in the file, with as many frames as its audio has.

        Args:
            utterance: Its id.
            num_samples: Its samples at 16 kHz.

        Raises:
            RunError: It is not.
        """
        row = self._row(utterance)
        found = int(self.offsets[row + 1] - self.offsets[row])
        expected = self.grid.num_frames(num_samples)
        if abs(found - expected) > FRAMES_OFF:
            step = f"{1000 * self.grid.stride / SAMPLE_RATE:g} ms"
            raise RunError(
                f"The units of {utterance} must be {expected} frames of {step} ({num_samples / SAMPLE_RATE:.2f} s), "
                f"but {self.name} has {found} ({found * self.grid.stride / SAMPLE_RATE:.2f} s). They are of another "
                "stride or of another corpus: encode this corpus again."
            )

    def at(self, utterance: str, grid: FrameGrid, first_sample: int, num_frames: int) -> Codes:
        """Returns the code of the frame nearest in time to each frame of a window.

        Args:
            utterance: Id of the utterance.
            grid: Where the frames of the window are in time.
            first_sample: First sample of the window in the utterance, at 16 kHz.
            num_frames: Frames of the window.

        Returns:
            Codes, shape `(num_frames, G)`.

        Raises:
            RunError: The file does not have the utterance, or its units end before the window.
        """
        codes = self.codes(utterance)
        nearest = self.grid.aligned(grid, first_sample, num_frames)
        if not len(codes) or (num_frames and nearest[-1] - (len(codes) - 1) > FRAMES_OFF):
            end = (first_sample + (num_frames - 1) * grid.stride + grid.receptive_field) / SAMPLE_RATE
            raise RunError(
                f"The units of {utterance} must reach {end:.2f} s, but those in {self.name} end at "
                f"{len(codes) * self.grid.stride / SAMPLE_RATE:.2f} s. They are of another stride or of another "
                "corpus: encode this corpus again."
            )
        aligned: Codes = codes[np.clip(nearest, 0, len(codes) - 1)]
        return aligned

    def _row(self, utterance: str) -> int:
        row = self._rows.get(utterance)
        if row is None:
            known = f", such as {self.ids[0]}" if len(self.ids) else ""
            raise RunError(
                f"{self.name} must have the units of {utterance}, but has {len(self):,} other utterances{known}. "
                "Encode the corpus of the training, with the same ids."
            )
        return row
