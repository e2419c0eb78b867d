"""Drawing the distractors of a contrastive loss, on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def draw_negatives(
    num_candidates: Sequence[int], size: int, num_negatives: int, generators: Sequence[np.random.Generator]
) -> Tensor:
    """Draws, for each frame of each utterance, other frames of the same utterance.

    Uniform with replacement over the other `num_candidates[b] - 1` frames: a frame is never its own negative, on
    whatever axis the draws are laid out (fairseq's wav2vec 1.0 excludes one frame and uses the draw for another).

    Args:
        num_candidates: Frames of each utterance that take part, B integers.
        size: Frames N of the result's second axis; rows with fewer candidates are filled with zeros.
        num_negatives: Negatives K of each frame.
        generators: One source of randomness an utterance.

    Returns:
        Indices into each utterance's own frames, int64 of shape `(B, N, K)`.

    Raises:
        ValueError: An utterance has a single frame and so nothing to tell it from.
    """
    indices = np.zeros((len(num_candidates), size, num_negatives), dtype=np.int64)
    for row, (candidates, generator) in enumerate(zip(num_candidates, generators, strict=True)):
        if candidates < 2:
            raise ValueError(
                f"An utterance must have at least 2 frames to draw negatives from, but has {candidates}. "
                "Raise `data.min_seconds`, or mask more frames."
            )
        own = np.arange(candidates)[:, None]  # (N, 1)
        drawn = generator.integers(0, candidates - 1, size=(candidates, num_negatives))
        indices[row, :candidates] = drawn + (drawn >= own)
    return torch.from_numpy(indices)
