"""Puts utterances of different lengths into one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch


def padded(utterances: Sequence[npt.NDArray[np.float32]], size: int) -> torch.Tensor:
    """Returns utterances as the rows of a tensor, `(B, size)`, with zeros after the end of each.

    Args:
        utterances: Samples of each, shape `(S,)`.
        size: Length of a row, at least that of the longest.
    """
    waveform = torch.empty(len(utterances), size)  # (B, S)
    for row, audio in zip(waveform, utterances, strict=True):
        row[: len(audio)] = torch.from_numpy(audio)
        row[len(audio) :] = 0
    return waveform
