"""An utterance as FLAC, without clipping and without a loss that 24 bits can avoid."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import soundfile
from lhotse.cut import Cut

from w2vlab.data.batches.crops import Window
from w2vlab.data.batches.reading import read_usable
from w2vlab.data.corpora.utterances import num_samples
from w2vlab.types import SAMPLE_RATE

Audio = npt.NDArray[np.float32]

BLOCK = 1 << 22
"""Samples that are in memory at once: 4 min, 16 MiB. A longer utterance is read twice, first for its peak."""

_IN_MEMORY = 1 << 26


@dataclass(frozen=True)
class EncodedAudio:
    """An utterance as FLAC.

    Attributes:
        file: The bytes, from the beginning; to be closed.
        num_bytes: Their number.
        num_samples: Samples at 16 kHz.
        bits: Bits of a sample: 16 if all samples are multiples of 2^-15, which makes the file bit exact; otherwise 24.
        gain: A power of two by which decoded samples are multiplied to get those of the source; 1 unless samples are
            outside [-1, 1).
    """

    file: IO[bytes]
    num_bytes: int
    num_samples: int
    bits: int
    gain: float


def encode_flac(cut: Cut, folder: Path | None = None) -> EncodedAudio:
    """Encodes an utterance, resampled to 16 kHz, with its channels averaged.

    Args:
        cut: The utterance.
        folder: Where bytes that are too many for the memory are put until they are used.

    Raises:
        UnusableAudioError: The audio cannot be read or used, see `read_usable`.
        OSError: The disk is full.
    """
    length = num_samples(cut)
    blocks = [Window(start, min(BLOCK, length - start)) for start in range(0, length, BLOCK)]
    only = [read_usable(cut, blocks[0])] if len(blocks) == 1 else None

    def audio() -> Iterator[Audio]:
        return iter(only) if only is not None else (read_usable(cut, block) for block in blocks)

    lowest, highest, fits = 0.0, 0.0, True
    for samples in audio():
        lowest, highest = min(lowest, float(samples.min())), max(highest, float(samples.max()))
        fits = fits and _fits_16_bits(samples)
    bits = 16 if fits and lowest >= -1 and highest < 1 else 24
    gain = gain_of(lowest, highest)
    file: Any = SpooledTemporaryFile(max_size=_IN_MEMORY, dir=None if folder is None else str(folder))  # noqa: SIM115
    try:
        with soundfile.SoundFile(file, "w", SAMPLE_RATE, 1, f"PCM_{bits}", format="FLAC") as writer:
            for samples in audio():
                writer.write(_quantize(samples, bits, gain))
        file.seek(0, os.SEEK_END)
        size = file.tell()
        file.seek(0)
    except soundfile.SoundFileError as problem:
        file.close()
        raise OSError(f"The FLAC of {cut.id} cannot be written: {problem}") from problem
    except BaseException:
        file.close()
        raise
    return EncodedAudio(file, size, length, bits, gain)


def gain_of(lowest: float, highest: float) -> float:
    """Returns the least power of two, at least 1, by which samples must be divided so that 24 bits hold them.

    A power of two, because the division is then exact.
    """
    gain = 1.0
    while not -(2**23) <= round(lowest / gain * 2**23) <= round(highest / gain * 2**23) <= 2**23 - 1:
        gain *= 2
    return gain


def _fits_16_bits(samples: Audio) -> bool:
    scaled = samples * np.float32(2**15)
    return bool((scaled == np.rint(scaled)).all())


def _quantize(samples: Audio, bits: int, gain: float) -> npt.NDArray[np.int16] | npt.NDArray[np.int32]:
    if bits == 16:
        return (samples * np.float32(2**15)).astype(np.int16)
    # In float32 the product with a power of two is exact; libsndfile takes the upper 24 of 32 bits.
    steps: npt.NDArray[np.int32] = np.rint(samples * np.float32(2**23 / gain)).astype(np.int32)
    return steps << 8
