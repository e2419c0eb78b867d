"""Resamples stretches of audio such that they are those of the whole, resampled."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from lhotse.augmentation.resample import Resample

from w2vlab.types import SAMPLE_RATE, Hertz

Audio = npt.NDArray[np.float32]

_MAX_KERNEL = 1 << 20
"""Numbers in lhotse's filter bank up to which it is taken: 4 MB; 76,000 at 44.1 kHz."""

_CHUNK = 1 << 14
_ZERO_CROSSINGS = 6
_ROLL_OFF = 0.99


class Resampler:
    """Brings audio of one rate to 16 kHz by band-limited interpolation, as torchaudio and lhotse do.

    With `a` and `b` the two rates without their common divisor, output j lies at input `j a / b`, and sees a few inputs
    on both sides.

    Args:
        rate: That of the audio.

    Reference:
        Smith, Digital Audio Resampling, https://ccrma.stanford.edu/~jos/resample/.
    """

    def __init__(self, rate: Hertz) -> None:
        common = math.gcd(rate, SAMPLE_RATE)
        self._old, self._new = rate // common, SAMPLE_RATE // common
        # Of a filter that stops what the lower of the rates cannot have.
        self._width = math.ceil(_ZERO_CROSSINGS * self._old / (min(self._old, self._new) * _ROLL_OFF))

    def inputs(self, start: int, length: int, available: int) -> tuple[int, int]:
        """Returns which inputs `length` outputs from `start` on depend on: the first, and the one behind the last.

        Args:
            start: The first output.
            length: Number of outputs.
            available: Inputs that there are; silence lies behind them, and in front of the first.
        """
        first = start * self._old // self._new - self._width
        last = (start + length - 1) * self._old // self._new + self._width + 2
        return max(0, first), min(available, last)

    def __call__(self, audio: Audio, first: int, start: int, length: int) -> Audio:
        """Returns `length` outputs from `start` on, from the inputs that `inputs` asked for.

        Args:
            audio: The inputs, one dimension.
            first: Which the first of them is.
            start: The first output.
            length: Number of outputs.
        """
        raise NotImplementedError


class _Same(Resampler):
    """Audio that has the rate."""

    def inputs(self, start: int, length: int, available: int) -> tuple[int, int]:
        return start, min(available, start + length)

    def __call__(self, audio: Audio, first: int, start: int, length: int) -> Audio:
        return audio


class _Library(Resampler):
    """lhotse's filters, which stand in a bank of `b` by `a` and some more: quick where both are small."""

    def __init__(self, rate: Hertz) -> None:
        super().__init__(rate)
        self._resample = Resample(rate, SAMPLE_RATE)

    def inputs(self, start: int, length: int, available: int) -> tuple[int, int]:
        # Outputs are computed in blocks of `b` from blocks of `a`, so what is read begins with a block.
        first, _ = super().inputs(start, length, available)
        blocks = -(-(start + length) // self._new)
        return first // self._old * self._old, min(available, blocks * self._old + self._width)

    def __call__(self, audio: Audio, first: int, start: int, length: int) -> Audio:
        resampled: Audio = self._resample(torch.from_numpy(audio)).numpy()
        behind = start - first // self._old * self._new
        return resampled[behind : behind + length]


class _Compact(Resampler):
    """The same filters without their zeros, for rates that have little in common, as 22,254 Hz has with 16 kHz."""

    def __init__(self, rate: Hertz) -> None:
        super().__init__(rate)
        cutoff = min(self._old, self._new) * _ROLL_OFF / self._old  # in zero crossings a sample
        phases = np.arange(self._new)[:, None] / self._new
        places = (np.arange(-self._width, self._width + 2) - phases) * cutoff
        places = places.clip(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
        window = np.cos(places * (np.pi / 2 / _ZERO_CROSSINGS)) ** 2
        self._filters = (np.sinc(places) * window * cutoff).astype(np.float32)  # (b, taps)

    def __call__(self, audio: Audio, first: int, start: int, length: int) -> Audio:
        outputs = np.arange(start, start + length)
        places, phases = np.divmod(outputs * self._old, self._new)
        taps = self._filters.shape[1]
        lowest = int(places[0]) - self._width
        seen = np.zeros(int(places[-1]) - self._width + taps - lowest, np.float32)
        seen[first - lowest : first - lowest + len(audio)] = audio
        windows = np.lib.stride_tricks.sliding_window_view(seen, taps)
        resampled = np.empty(length, np.float32)
        for chunk in (slice(at, at + _CHUNK) for at in range(0, length, _CHUNK)):
            rows = places[chunk] - self._width - lowest
            np.einsum("jt,jt->j", windows[rows], self._filters[phases[chunk]], out=resampled[chunk])
        return resampled


@lru_cache(maxsize=8)
def resampler(rate: Hertz) -> Resampler:
    """Returns what brings audio of `rate` to 16 kHz."""
    if rate == SAMPLE_RATE:
        return _Same(rate)
    filters = Resampler(rate)
    size = filters._new * (filters._old + 2 * filters._width)
    return _Library(rate) if size <= _MAX_KERNEL else _Compact(rate)
