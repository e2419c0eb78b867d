"""Where the frames of a representation lie in time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2vlab.types import SAMPLE_RATE, Seconds


@dataclass(frozen=True)
class FrameGrid:
    """Frame t is made of the samples from `t * stride` on; what is spoken in their middle is what it is about.

    Attributes:
        stride: Samples from one frame to the next.
        receptive_field: Samples that a frame is made of; 0 where frame t lies around sample `t * stride`.
    """

    stride: int
    receptive_field: int

    @property
    def frames_per_second(self) -> float:
        """How many there are."""
        return SAMPLE_RATE / self.stride

    def centres(self, num_frames: int) -> npt.NDArray[np.float64]:
        """Returns the middle of each frame, in seconds."""
        samples = np.arange(num_frames, dtype=np.float64) * self.stride + self.receptive_field / 2
        return samples / SAMPLE_RATE

    def nearest(self, times: npt.ArrayLike, num_frames: int) -> npt.NDArray[np.int64]:
        """Returns the frame whose middle is nearest to each of `times` (seconds)."""
        places = (np.asarray(times) * SAMPLE_RATE - self.receptive_field / 2) / self.stride
        return np.clip(np.rint(places), 0, num_frames - 1).astype(np.int64)

    def between(self, start: Seconds, end: Seconds, num_frames: int) -> slice:
        """Returns the frames whose middles are in `[start, end)`; the nearest to it where there is none."""
        places = [(time * SAMPLE_RATE - self.receptive_field / 2) / self.stride for time in (start, end)]
        # Times in label files are rounded: 0.3 s is no later than sample 4800.
        first, stop = (min(max(0, math.ceil(place - 1e-6)), num_frames) for place in places)
        if first >= stop:
            first = int(self.nearest((start + end) / 2, num_frames))
            stop = first + 1
        return slice(first, stop)
