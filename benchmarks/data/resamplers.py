"""Who resamples to 16 kHz, and how well."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch
import torchaudio
from lhotse.augmentation.resample import Resample

from w2vlab.data.audio.resampling import get_resampler
from w2vlab.types import SAMPLE_RATE, Hertz

Audio = npt.NDArray[np.float32]
Resampling = Callable[[Audio], Audio]

OURS, TORCHAUDIO = "w2vlab", "torchaudio.functional.resample"


def resamplings(rate: Hertz) -> dict[str, Resampling]:
    """Returns what is compared; python-soxr only if it is installed."""
    own = get_resampler(rate)
    transform = torchaudio.transforms.Resample(rate, SAMPLE_RATE)
    lhotse = Resample(rate, SAMPLE_RATE)
    found: dict[str, Resampling] = {
        OURS: lambda audio: own(audio, 0, 0, len(audio) * SAMPLE_RATE // rate),
        TORCHAUDIO: lambda audio: torchaudio.functional.resample(torch.from_numpy(audio), rate, SAMPLE_RATE).numpy(),
        "torchaudio.transforms.Resample": lambda audio: transform(torch.from_numpy(audio)).numpy(),
        "lhotse": lambda audio: lhotse(torch.from_numpy(audio)).numpy(),
    }
    if find_spec("soxr") is not None:
        import soxr

        found["soxr HQ"] = lambda audio: soxr.resample(audio, rate, SAMPLE_RATE, quality="HQ")
        found["soxr MQ"] = lambda audio: soxr.resample(audio, rate, SAMPLE_RATE, quality="MQ")
    return found


def ripple(resample: Resampling, rate: Hertz) -> float:
    """Returns by how much tones up to 6 kHz are changed at most, in dB."""
    top = min(6000, 0.75 * rate / 2)
    return max(abs(_gain(resample, rate, frequency)) for frequency in np.linspace(100, top, 25))


def rejection(resample: Resampling, rate: Hertz) -> float:
    """Returns the level of the loudest alias of tones from 10 kHz on, in dB; minus infinity at rates without such."""
    frequencies = np.linspace(10_000, rate / 2 - 200, 40) if rate > 2 * 10_200 else []
    return max((_gain(resample, rate, frequency) for frequency in frequencies), default=-np.inf)


def _gain(resample: Resampling, rate: Hertz, frequency: float) -> float:
    tone = np.sin(2 * np.pi * frequency * np.arange(rate // 2) / rate).astype(np.float32)
    found = resample(tone)[1000:-1000].astype(np.float64)
    return float(10 * np.log10(max(1e-20, 2 * np.mean(found**2))))
