"""Operations on sets of masked frames, and their collation into a mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from w2vlab.functional.spans import FrameIndices
from w2vlab.types import Mask


def subsample_frames(frames: FrameIndices, size: int, generator: np.random.Generator) -> FrameIndices:
    """Returns a random subset of `size` of `frames`, in order; all frames, without using the generator, if fewer."""
    return np.sort(generator.choice(frames, size=size, replace=False)) if len(frames) > size else frames


def extend_frames(frames: FrameIndices, size: int, num_frames: int, generator: np.random.Generator) -> FrameIndices:
    """Adds random other frames of the utterance up to `size` frames, but leaves at least one frame visible."""
    missing = min(size, num_frames - 1) - len(frames)
    if missing <= 0:
        return frames
    others = np.setdiff1d(np.arange(num_frames), frames, assume_unique=True)
    return np.sort(np.concatenate([frames, generator.choice(others, size=missing, replace=False)]))


def near_visible(frames: FrameIndices, num_frames: int, reach: int) -> FrameIndices:
    """Returns the masked `frames` that are at most `reach` frames away from a visible frame.

    The ends of the utterance do not count as visible frames.
    """
    visible = np.setdiff1d(np.arange(num_frames), frames, assume_unique=True)
    # Sentinels beyond the reach, so that each masked frame has a visible one on both sides.
    visible = np.concatenate([[-num_frames], visible, [2 * num_frames]])
    following = np.searchsorted(visible, frames)
    distance = np.minimum(frames - visible[following - 1], visible[following] - frames)
    near: FrameIndices = frames[distance <= reach]
    return near


def make_mask(hidden: Sequence[FrameIndices], targets: Sequence[FrameIndices], num_frames: Sequence[int]) -> Mask:
    """Collates the masked frames and the frames to predict of all utterances into a mask."""
    num_targets = tuple(len(row) for row in targets)
    indices = torch.zeros(len(targets), max(num_targets), dtype=torch.int64)  # (B, M)
    frames = torch.zeros(len(hidden), max(num_frames), dtype=torch.bool)  # (B, T)
    for row, (to_hide, to_predict) in enumerate(zip(hidden, targets, strict=True)):
        indices[row, : len(to_predict)] = torch.from_numpy(to_predict)
        frames[row, torch.from_numpy(to_hide)] = True
    return Mask(frames=frames, targets=indices, num_targets=num_targets)
