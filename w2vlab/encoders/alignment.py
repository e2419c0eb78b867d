"""Targets that another encoder computes than that of the inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from w2vlab.functional.lengths import gather_frames
from w2vlab.interfaces import FeatureEncoder, Quantizer, UtteranceTargets


def check_target_encoder(target_encoder: FeatureEncoder | None, quantizer: Quantizer, target_gradient: bool) -> None:
    """Checks that a target encoder is of use, and that every parameter of it has a gradient.

    Args:
        target_encoder: The encoder of the targets; None if they are those of the inputs.
        quantizer: The quantizer of the targets.
        target_gradient: Whether the gradient of the targets reaches the encoder.

    Raises:
        ValueError: The targets are codes of a file; or the encoder has parameters, and their gradient is stopped.
    """
    if target_encoder is None:
        return
    if isinstance(quantizer, UtteranceTargets):
        raise ValueError(f"`target_encoder` must be None for {type(quantizer).__name__}, which reads a file.")
    if not target_gradient and any(True for _ in target_encoder.parameters()):
        raise ValueError(
            "`target_gradient` must be true for a `target_encoder` with parameters, which has no other gradient, but "
            "is false. Use one without parameters (LogMelEncoder)."
        )


def nearest_frames(encoder: FeatureEncoder, other: FeatureEncoder, num_samples: Sequence[int]) -> Tensor | None:
    """Returns which frame of another encoder is nearest in time to each frame of an encoder.

    Args:
        encoder: The encoder whose frames are looked for.
        other: The encoder whose frames are found.
        num_samples: Samples of each utterance, B integers.

    Returns:
        Indices `(B, T)` on the host; None if the encoders have the same frames. Of two frames that are equally near,
        the earlier one.
    """
    if encoder.grid == other.grid:
        return None
    num_frames = max(encoder.num_frames(samples) for samples in num_samples)
    nearest = other.grid.aligned(encoder.grid, 0, num_frames)  # (T,)
    last = np.array([max(0, other.num_frames(samples) - 1) for samples in num_samples])[:, None]
    return torch.from_numpy(np.clip(nearest, 0, last))


def align_frames(frames: Tensor, encoder: FeatureEncoder, other: FeatureEncoder, num_samples: Sequence[int]) -> Tensor:
    """Returns the frames `(B, T', C)` of another encoder at the times of those of an encoder, `(B, T, C)`."""
    nearest = nearest_frames(encoder, other, num_samples)
    return frames if nearest is None else gather_frames(frames, nearest.to(frames.device, non_blocking=True))
