"""A masking strategy from outside w2vlab: one part, one file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from w2vlab.functional.frame_sets import make_mask
from w2vlab.interfaces import Masking
from w2vlab.types import Mask


class PeriodicMasking(Masking):
    """Masks one span in each period of an utterance, with a random offset.

    Unlike random spans, it masks the same share of every utterance, and spans never touch.

    Args:
        length: Frames of a span.
        period: Frames from the start of a span to that of the next; `length / period` is the masked share.

    Reference:
        None: an example.
    """

    def __init__(self, length: int = 10, period: int = 20) -> None:
        super().__init__()
        if not 1 <= length < period:
            raise ValueError(f"`length` must be at least 1 and below `period` ({period}), but is {length}.")
        self.length = length
        self.period = period

    @property
    def min_frames(self) -> int:
        """A whole period, which has a masked and a visible frame at any offset."""
        return self.period

    def forward(self, num_frames: Sequence[int], generators: Sequence[np.random.Generator], num_channels: int) -> Mask:
        """Draws a mask on the host.

        Args:
            num_frames: Frames of each utterance, B integers.
            generators: One random generator per utterance.
            num_channels: Not used: no channel is masked.

        Raises:
            ValueError: An utterance is shorter than a period.
        """
        hidden = []
        for frames, generator in zip(num_frames, generators, strict=True):
            if frames < self.min_frames:
                raise ValueError(f"An utterance must have at least {self.min_frames} frames, but has {frames}.")
            first = generator.integers(self.period)
            hidden.append(np.flatnonzero((np.arange(frames) - first) % self.period < self.length))
        return make_mask(hidden, hidden, num_frames)  # all masked frames are predicted
