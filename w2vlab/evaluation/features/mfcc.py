"""MFCCs, the control of all measurements: features that are not learned."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from w2vlab.frame_grid import FrameGrid
from w2vlab.types import SAMPLE_RATE, AudioBatch

WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
NEIGHBOUR_FRAMES = 2
"""A stacked frame is concatenated with the frames this many frames (of 10 ms) before and after it."""


class MfccFeatures:
    """Mel-frequency cepstral coefficients at 100 Hz.

    `mfcc` has the coefficients alone, for ABX, which compares sequences. `mfcc_stacked` has the coefficients and their
    deltas, concatenated with those 20 ms before and after, for a linear probe, which has no other context.

    Args:
        num_coefficients: Number of coefficients, including the zeroth.
    """

    grid = FrameGrid(HOP_SAMPLES, 0)  # windows are centred on their frames
    names: tuple[str, ...] = ("mfcc", "mfcc_stacked")

    def __init__(self, num_coefficients: int = 13) -> None:
        from torchaudio.functional import compute_deltas  # imported here, because only MFCCs need torchaudio
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
            mfcc = self._transform(waveform[:samples])  # (D, T)
            with_deltas = torch.cat([mfcc, self._deltas(mfcc)]).T  # (T, 2 D)
            yield name, {"mfcc": mfcc.T, "mfcc_stacked": _stack_neighbours(with_deltas)}


def _stack_neighbours(features: Tensor) -> Tensor:
    frames = torch.arange(len(features))
    shifts = (-NEIGHBOUR_FRAMES, 0, NEIGHBOUR_FRAMES)
    return torch.cat([features[(frames + shift).clamp(0, len(features) - 1)] for shift in shifts], dim=1)
