"""Positions of the frames of a representation in time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2vlab.batch import SAMPLE_RATE, Seconds


@dataclass(frozen=True)
class FrameGrid:
    """A regular grid of frames; frame t is computed from `receptive_field` samples from `t * stride` on.

    The time of a frame is the middle of these samples.

    Attributes:
        stride: Samples from one frame to the next, at 16 kHz.
        receptive_field: Samples that a frame depends on; 0 if frame t is centred on sample `t * stride`.
    """

    stride: int
    receptive_field: int

    @property
    def frames_per_second(self) -> float:
        """Frame rate in Hz."""
        return SAMPLE_RATE / self.stride

    def num_frames(self, num_samples: int) -> int:
        """Returns how many frames `num_samples` samples give; 0 for less than the receptive field."""
        return max(0, (num_samples - self.receptive_field) // self.stride + 1)

    def centres(self, num_frames: int) -> npt.NDArray[np.float64]:
        """Returns the time of each frame, in seconds."""
        samples = np.arange(num_frames, dtype=np.float64) * self.stride + self.receptive_field / 2
        return samples / SAMPLE_RATE

    def nearest(self, times: npt.ArrayLike, num_frames: int) -> npt.NDArray[np.int64]:
        """Returns the index of the frame that is nearest to each of `times` (seconds)."""
        positions = (np.asarray(times) * SAMPLE_RATE - self.receptive_field / 2) / self.stride
        return np.clip(np.rint(positions), 0, num_frames - 1).astype(np.int64)

    def aligned(self, other: FrameGrid, first_sample: int, num_frames: int) -> npt.NDArray[np.int64]:
        """Returns the index of the frame of this grid that is nearest to each frame of a window on another grid.

        It may be negative, or after the last frame of the utterance. Of two frames that are equally near, the earlier
        one is taken, so that all frames of a window are shifted alike.

        Args:
            other: The grid of the frames in the window.
            first_sample: First sample of the window in the utterance, at 16 kHz.
            num_frames: Frames of the window.
        """
        # Twice the position in samples, so that it is an integer.
        twice = 2 * (first_sample + np.arange(num_frames, dtype=np.int64) * other.stride)
        twice += other.receptive_field - self.receptive_field
        return (twice + self.stride - 1) // (2 * self.stride)

    def between(self, start: Seconds, end: Seconds, num_frames: int) -> slice:
        """Returns the frames in `[start, end)` seconds, or the frame nearest to its middle if there are none."""
        positions = [(time * SAMPLE_RATE - self.receptive_field / 2) / self.stride for time in (start, end)]
        # Tolerance for rounding, so that a time of 0.3 s is not after sample 4800.
        first, stop = (min(max(0, math.ceil(position - 1e-6)), num_frames) for position in positions)
        if first >= stop:
            first = int(self.nearest((start + end) / 2, num_frames))
            stop = first + 1
        return slice(first, stop)
