"""Resamples segments of audio such that they equal the same segments of the resampled full audio."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from lhotse.augmentation.resample import Resample

from w2vlab.types import SAMPLE_RATE, Hertz

Audio = npt.NDArray[np.float32]

_MAX_FILTER_BANK = 1 << 20
"""Maximum size of lhotse's filter bank, in float32 values (4 MB); it has 76,000 at 44.1 kHz."""

_CHUNK = 1 << 14
_ZERO_CROSSINGS = 6
_ROLL_OFF = 0.99


class Resampler:
    """Resamples audio to 16 kHz by band-limited interpolation, as torchaudio and lhotse do.

    With `a` and `b` the input and output rates divided by their greatest common divisor, output j is at input position
    `j a / b`, and depends on a few inputs on both sides.

    Args:
        rate: Sampling rate of the input.

    Reference:
        Smith, Digital Audio Resampling, https://ccrma.stanford.edu/~jos/resample/.
    """

    def __init__(self, rate: Hertz) -> None:
        common = math.gcd(rate, SAMPLE_RATE)
        self._old, self._new = rate // common, SAMPLE_RATE // common
        # Half the width of the low-pass filter, whose cutoff is below the lower of the two Nyquist frequencies.
        self._width = math.ceil(_ZERO_CROSSINGS * self._old / (min(self._old, self._new) * _ROLL_OFF))

    def input_range(self, start: int, length: int, available: int) -> tuple[int, int]:
        """Returns the range `[first, stop)` of inputs that the outputs `[start, start + length)` depend on.

        Args:
            start: First output.
            length: Number of outputs.
            available: Number of inputs; there is silence before and after them.
        """
        first = start * self._old // self._new - self._width
        last = (start + length - 1) * self._old // self._new + self._width + 2
        return max(0, first), min(available, last)

    def __call__(self, audio: Audio, first: int, start: int, length: int) -> Audio:
        """Returns the outputs `[start, start + length)`.

        Args:
            audio: The inputs in the range that `input_range` returned, one dimension.
            first: Index of the first of them.
            start: First output.
            length: Number of outputs.
        """
        raise NotImplementedError


class _Identity(Resampler):
    """Leaves audio at 16 kHz unchanged."""

    def input_range(self, start: int, length: int, available: int) -> tuple[int, int]:
        return start, min(available, start + length)

    def __call__(self, audio: Audio, first: int, start: int, length: int) -> Audio:
        return audio


class _LhotseResampler(Resampler):
    """Uses lhotse's resampler, whose filter bank has about `b` times `a` values: fast if both are small."""

    def __init__(self, rate: Hertz) -> None:
        super().__init__(rate)
        self._resample = Resample(rate, SAMPLE_RATE)

    def input_range(self, start: int, length: int, available: int) -> tuple[int, int]:
        # Blocks of `b` outputs are computed from blocks of `a` inputs, so the range begins with a block.
        first, _ = super().input_range(start, length, available)
        blocks = -(-(start + length) // self._new)
        return first // self._old * self._old, min(available, blocks * self._old + self._width)

    def __call__(self, audio: Audio, first: int, start: int, length: int) -> Audio:
        resampled: Audio = self._resample(torch.from_numpy(audio)).numpy()
        offset = start - first // self._old * self._new
        return resampled[offset : offset + length]


class _SparseResampler(Resampler):
    """Uses the same filters without their zeros, for rates with a small common divisor, such as 22,254 Hz."""

    def __init__(self, rate: Hertz) -> None:
        super().__init__(rate)
        cutoff = min(self._old, self._new) * _ROLL_OFF / self._old  # in zero crossings per sample
        phases = np.arange(self._new)[:, None] / self._new
        times = (np.arange(-self._width, self._width + 2) - phases) * cutoff
        times = times.clip(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
        window = np.cos(times * (np.pi / 2 / _ZERO_CROSSINGS)) ** 2
        self._filters = (np.sinc(times) * window * cutoff).astype(np.float32)  # (b, taps)

    def __call__(self, audio: Audio, first: int, start: int, length: int) -> Audio:
        outputs = np.arange(start, start + length)
        positions, phases = np.divmod(outputs * self._old, self._new)
        taps = self._filters.shape[1]
        lowest = int(positions[0]) - self._width
        padded = np.zeros(int(positions[-1]) - self._width + taps - lowest, np.float32)
        padded[first - lowest : first - lowest + len(audio)] = audio
        windows = np.lib.stride_tricks.sliding_window_view(padded, taps)
        resampled = np.empty(length, np.float32)
        for chunk in (slice(begin, begin + _CHUNK) for begin in range(0, length, _CHUNK)):
            rows = positions[chunk] - self._width - lowest
            np.einsum("jt,jt->j", windows[rows], self._filters[phases[chunk]], out=resampled[chunk])
        return resampled


@lru_cache(maxsize=8)
def get_resampler(rate: Hertz) -> Resampler:
    """Returns a cached resampler from `rate` to 16 kHz."""
    if rate == SAMPLE_RATE:
        return _Identity(rate)
    filters = Resampler(rate)
    size = filters._new * (filters._old + 2 * filters._width)
    return _LhotseResampler(rate) if size <= _MAX_FILTER_BANK else _SparseResampler(rate)
