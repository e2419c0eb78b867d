"""Cepstra: what was known of speech before anything was learned from it, and the control of every measurement."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from w2vlab.evaluation.frames import FrameGrid
from w2vlab.types import SAMPLE_RATE, AudioBatch

WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
NEIGHBOUR_FRAMES = 2
"""Of 10 ms: a stacked frame has what lies 20 ms before and behind it beside it."""


class MfccFeatures:
    """Mel cepstra, 100 a second.

    `mfcc` has them as they are, for ABX, which looks at sequences. `mfcc_stacked` has them with their first
    differences, and each frame beside those 20 ms before and behind it, for a linear probe, which sees nothing else.

    Args:
        num_coefficients: Cepstra, the zeroth included.
    """

    grid = FrameGrid(HOP_SAMPLES, 0)  # windows are centred on their frame
    names: tuple[str, ...] = ("mfcc", "mfcc_stacked")

    def __init__(self, num_coefficients: int = 13) -> None:
        from torchaudio.functional import compute_deltas  # only who measures cepstra needs torchaudio
        from torchaudio.transforms import MFCC

        self._deltas = compute_deltas
        self._transform = MFCC(
            SAMPLE_RATE,
            num_coefficients,
            melkwargs={"n_fft": WINDOW_SAMPLES, "hop_length": HOP_SAMPLES, "n_mels": 40},
        )

    def __call__(self, batch: AudioBatch) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yields the id and the features `(T, D)` of each utterance."""
        for name, samples, waveform in zip(batch.ids, batch.num_samples, batch.waveform, strict=True):
            cepstra = self._transform(waveform[:samples])  # (D, T)
            with_differences = torch.cat([cepstra, self._deltas(cepstra)]).T  # (T, 2 D)
            yield name, {"mfcc": cepstra.T, "mfcc_stacked": _stacked(with_differences)}


def _stacked(features: Tensor) -> Tensor:
    places = torch.arange(len(features))
    shifted = (features[(places + by).clamp(0, len(features) - 1)] for by in (-NEIGHBOUR_FRAMES, 0, NEIGHBOUR_FRAMES))
    return torch.cat(list(shifted), dim=1)
