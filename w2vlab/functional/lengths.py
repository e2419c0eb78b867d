"""Padding masks, and operations that ignore padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from w2vlab.functional.precision import at_least_float32


def make_padding_mask(lengths: Sequence[int], size: int, device: torch.device) -> Tensor | None:
    """Returns a mask `(B, size)` that is True from `lengths[b]` on, or None if no row has padding.

    With None, parts skip masking without a device synchronisation.
    """
    if min(lengths) >= size:
        return None
    positions = torch.arange(size)
    mask = positions[None, :] >= torch.tensor(list(lengths))[:, None]  # (B, size)
    return mask.to(device, non_blocking=True)


def frames_with_target(num_frames: Sequence[int], ahead: int) -> tuple[int, ...]:
    """Returns the number of frames of each utterance that have a target `ahead` frames later.

    Raises:
        ValueError: No utterance has such a frame.
    """
    if max(num_frames) <= ahead:
        raise ValueError(
            f"An utterance must have more than {ahead} frames to predict one {ahead} frames ahead, but the longest "
            f"has {max(num_frames)}. Raise `data.min_seconds`."
        )
    return tuple(max(0, frames - ahead) for frames in num_frames)


def gather_frames(sequence: Tensor, indices: Tensor) -> Tensor:
    """Gathers frames `indices` `(B, M)` of `sequence` `(B, T, C)`: `(B, M, C)`."""
    return sequence.gather(1, indices[..., None].expand(-1, -1, sequence.shape[-1]))


def mean_per_utterance(values: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Averages `values` `(B, N)` over the frames of each utterance that are not padding: `(B,)`."""
    if padding_mask is None:
        return values.mean(dim=1)
    valid = ~padding_mask
    return (values * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)


def variance_share(frames: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Returns the variance over time of `frames` `(B, N, D)` as a share of their mean square, `(B,)`: from 0 to 1.

    It is 0 if all frames of an utterance are equal, also if they are 0, and 1 if only their mean is 0.

    Args:
        frames: Shape `(B, N, D)`.
        padding_mask: True on padding, shape `(B, N)`; None without padding.
    """
    with torch.autocast(frames.device.type, enabled=False):
        wide = at_least_float32(frames)
        square = mean_per_utterance(wide.square().mean(dim=-1), padding_mask)  # (B,)
        mean = mean_frame(wide, padding_mask)  # (B, D)
        share = (square - mean.square().mean(dim=-1)) / square.clamp(min=torch.finfo(wide.dtype).tiny)
        return share.clamp(min=0.0)  # from below by rounding, if all frames are equal


def mean_frame(frames: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Averages `frames` `(B, N, D)` over the time of each utterance, without padding: `(B, D)`."""
    if padding_mask is None:
        return frames.mean(dim=1)
    valid = ~padding_mask[..., None]
    return (frames * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)


def group_norm_over_time(
    frames: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    padding_mask: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Applies group normalisation over channels and time, in float32 or wider, without padding.

    Padding does not affect the statistics, so an utterance has the same output alone and in a padded batch; in the
    published implementations it does (fairseq#3118, pytorch/audio#2242).

    Args:
        frames: Shape `(B, T, C)`.
        num_groups: Number of groups of the C channels.
        weight: Scale of each channel, shape `(C,)`; None for no affine transform.
        bias: Offset of each channel, shape `(C,)`; None for no affine transform.
        padding_mask: True on padding, shape `(B, T)`, or None.
        eps: Added to the variance.

    Returns:
        The normalised frames in their own dtype, shape `(B, T, C)`.
    """
    with torch.autocast(frames.device.type, enabled=False):
        wide = at_least_float32(frames)
        grouped = wide.reshape(*wide.shape[:2], num_groups, -1)  # (B, T, groups, C / groups)
        if padding_mask is not None:
            valid = ~padding_mask[:, :, None, None]  # (B, T, 1, 1)
            count = valid.sum(dim=1, keepdim=True) * grouped.shape[3]  # (B, 1, 1, 1)
            mean = (grouped * valid).sum(dim=(1, 3), keepdim=True) / count
            variance = ((grouped - mean).square() * valid).sum(dim=(1, 3), keepdim=True) / count
            normalised = (grouped - mean) * torch.rsqrt(variance + eps)
        elif num_groups == 1:
            normalised = F.layer_norm(grouped, grouped.shape[1:], eps=eps)  # one kernel that saves only its input
        else:
            variance, mean = torch.var_mean(grouped, dim=(1, 3), correction=0, keepdim=True)
            normalised = (grouped - mean) * torch.rsqrt(variance + eps)
        normalised = normalised.flatten(2)  # (B, T, C)
        if weight is not None and bias is not None:
            normalised = torch.addcmul(at_least_float32(bias), normalised, at_least_float32(weight))
        result: Tensor = normalised.to(frames.dtype)
        return result
