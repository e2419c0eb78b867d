"""Resamples segments of audio such that they equal the same segments of the resampled full audio."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from lhotse.augmentation.resample import Resample
from torch import Tensor

from w2vlab.types import SAMPLE_RATE, Hertz

Audio = npt.NDArray[np.float32]

_MAX_FILTER_BANK = 1 << 20
"""Maximum size of lhotse's filter bank, in float32 values (4 MB); it has 76,000 at 44.1 kHz."""

_BLOCK = 128
"""Minimum number of outputs of a block: enough that consecutive blocks are further apart than a group has inputs."""

_GROUP = 16
"""Outputs of one matrix product: more have more zeros among their filters, and fewer are slower per multiplication."""

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


class _BankResampler(Resampler):
    """Multiplies blocks of inputs with lhotse's filter bank, as its resampler does, but without most of its zeros.

    Each of the `b` filters has about 12 zero crossings, and is padded with zeros to more than `a` values in the bank.
    Neighboring outputs depend on almost the same inputs, so `_GROUP` outputs are one matrix product: a row of the left
    matrix has the inputs of one group, and consecutive rows are one block apart, which is a view of the audio.
    """

    def __init__(self, rate: Hertz) -> None:
        super().__init__(rate)
        lhotse = Resample(rate, SAMPLE_RATE)
        self._width: int = lhotse.width
        bank = lhotse.get_buffer("kernel")[
            :, 0
        ]  # (b, a + 2 width): outputs of one block, inputs from `width` before the block on
        repeats = -(-_BLOCK // self._new)
        self._inputs, self._outputs = repeats * self._old, repeats * self._new  # of one block
        self._reach = self._inputs + 2 * self._width  # inputs that the outputs of one block depend on
        filters = torch.zeros(self._outputs, self._reach)
        for repeat in range(repeats):
            rows = filters[repeat * self._new : (repeat + 1) * self._new]
            rows[:, repeat * self._old :][:, : bank.shape[1]] = bank
        self._groups = [self._without_zeros(group) for group in torch.split(filters, _GROUP)]

    @staticmethod
    def _without_zeros(filters: Tensor) -> tuple[int, Tensor]:
        """Returns the first input with a filter value that is not zero, and the filters from there on, transposed."""
        used = filters.any(dim=0).nonzero()
        first, last = int(used[0]), int(used[-1])
        return first, filters[:, first : last + 1].T.contiguous()

    def input_range(self, start: int, length: int, available: int) -> tuple[int, int]:
        first, blocks = start // self._outputs, -(-(start + length) // self._outputs)
        return max(0, first * self._inputs - self._width), min(available, blocks * self._inputs + self._width)

    def __call__(self, audio: Audio, first: int, start: int, length: int) -> Audio:
        block = start // self._outputs
        blocks = -(-(start + length) // self._outputs) - block
        resampled = torch.empty(blocks, self._outputs)
        inputs = torch.from_numpy(np.ascontiguousarray(audio))
        before = max(0, first - (block * self._inputs - self._width))  # missing inputs of the first block: silence
        # Blocks that lie within the audio need no copy with silence around it.
        lower = min(blocks, -(-before // self._inputs))
        upper = max(lower, min(blocks, (len(audio) + before - self._reach) // self._inputs + 1))
        for begin, end in ((0, lower), (lower, upper), (upper, blocks)):
            if begin < end:
                part = _cut(inputs, begin * self._inputs - before, (end - begin - 1) * self._inputs + self._reach)
                self._multiply(part, resampled[begin:end])
        offset = start - block * self._outputs
        return resampled.view(-1)[offset : offset + length].numpy()

    def _multiply(self, inputs: Tensor, out: Tensor) -> None:
        for number, (first, filters) in enumerate(self._groups):
            rows = inputs.as_strided((len(out), len(filters)), (self._inputs, 1), inputs.storage_offset() + first)
            columns = out[:, number * _GROUP : (number + 1) * _GROUP]
            torch.mm(rows, filters, out=columns)


def _cut(audio: Tensor, start: int, length: int) -> Tensor:
    """Returns `audio[start : start + length]`, with silence where that is outside of `audio`."""
    if start >= 0 and start + length <= len(audio):
        return audio[start : start + length]
    padded = torch.zeros(length)
    found = audio[max(0, start) : max(0, start + length)]
    padded[max(0, -start) :][: len(found)] = found
    return padded


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
    return _BankResampler(rate) if size <= _MAX_FILTER_BANK else _SparseResampler(rate)
