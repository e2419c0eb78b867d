"""Changing which frames of an utterance are hidden, and putting utterances together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from w2vlab.functional.spans import Frames
from w2vlab.types import Mask


def subsample_frames(frames: Frames, size: int, generator: np.random.Generator) -> Frames:
    """Returns `size` of `frames` at random, in order; all of them, without a draw, if there are no more."""
    return np.sort(generator.choice(frames, size=size, replace=False)) if len(frames) > size else frames


def extend_frames(frames: Frames, size: int, num_frames: int, generator: np.random.Generator) -> Frames:
    """Adds others of the `num_frames` frames at random up to `size`, but leaves at least one out."""
    missing = min(size, num_frames - 1) - len(frames)
    if missing <= 0:
        return frames
    others = np.setdiff1d(np.arange(num_frames), frames, assume_unique=True)
    return np.sort(np.concatenate([frames, generator.choice(others, size=missing, replace=False)]))


def near_visible(frames: Frames, num_frames: int, reach: int) -> Frames:
    """Returns those of the hidden `frames` that are at most `reach` frames away from one that is not hidden.

    The ends of the utterance are no visible frames.
    """
    visible = np.setdiff1d(np.arange(num_frames), frames, assume_unique=True)
    # Farther away than any frame, so that every hidden frame has one on either side.
    visible = np.concatenate([[-num_frames], visible, [2 * num_frames]])
    behind = np.searchsorted(visible, frames)
    distance = np.minimum(frames - visible[behind - 1], visible[behind] - frames)
    near: Frames = frames[distance <= reach]
    return near


def make_mask(hidden: Sequence[Frames], targets: Sequence[Frames], num_frames: Sequence[int]) -> Mask:
    """Puts the frames to hide and the frames to predict of each utterance together."""
    num_targets = tuple(len(row) for row in targets)
    indices = torch.zeros(len(targets), max(num_targets), dtype=torch.int64)  # (B, M)
    frames = torch.zeros(len(hidden), max(num_frames), dtype=torch.bool)  # (B, T)
    for row, (to_hide, to_predict) in enumerate(zip(hidden, targets, strict=True)):
        indices[row, : len(to_predict)] = torch.from_numpy(to_predict)
        frames[row, torch.from_numpy(to_hide)] = True
    return Mask(frames, indices, num_targets)
