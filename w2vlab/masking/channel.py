"""Masking spans of channels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from w2vlab.functional.frame_sets import subsample_frames
from w2vlab.functional.spans import draw_span_starts, spans_to_frames
from w2vlab.interfaces import Masking, MaskingFactory
from w2vlab.masking.none import NoMasking
from w2vlab.masking.span import SpanMasking
from w2vlab.types import Mask
from w2vlab.utils.messages import W2VLabWarning


class ChannelMasking(Masking):
    """Zeroes random spans of channels in all frames of an utterance, in addition to a masking of frames.

    The masked and predicted frames are those that `frames` draws. With `NoMasking` there, only channels are masked.
    Published pretraining does not mask channels; the defaults are those of fine-tuning.

    Args:
        frames: The masking of frames.
        channel_probability: Number of spans times `channel_length` over the channels, fairseq's `mask_channel_prob`,
            rounded up or down at random for each utterance. Because spans may overlap, 0.5 masks 40 % of 768 channels,
            and 34 % in a batch of five with `equalize_channels`.
        channel_length: Channels of a span, fairseq's `mask_channel_length`.
        min_channel_spans: The fewest spans of an utterance.
        equalize_channels: Unmask channels at random until all utterances of a batch have the same number of masked
            channels, as fairseq does. Otherwise the mask of an utterance does not depend on its batch.
        before: Zero channels before masked frames are replaced, so that these keep their whole embedding; fairseq's
            `mask_channel_before`. Otherwise masked frames lose the channels as well.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, fine-tuning; 0.5 and 64 as in the released code's configurations.
    """

    def __init__(
        self,
        frames: MaskingFactory = SpanMasking,
        channel_probability: float = 0.5,
        channel_length: int = 64,
        min_channel_spans: int = 0,
        equalize_channels: bool = True,
        before: bool = False,
    ) -> None:
        super().__init__()
        if channel_length < 1:
            raise ValueError(f"`channel_length` must be at least 1, but is {channel_length}.")
        if not 0 < channel_probability < channel_length:
            raise ValueError(
                f"`channel_probability` must be above 0 and below `channel_length` ({channel_length}), "
                f"but is {channel_probability}."
            )
        if min_channel_spans < 0:
            raise ValueError(f"`min_channel_spans` must not be negative, but is {min_channel_spans}.")
        self.frames = frames()
        if isinstance(self.frames, ChannelMasking):
            raise ValueError("`frames` must be a masking of frames, but is a ChannelMasking.")
        if before and isinstance(self.frames, NoMasking):
            warnings.warn(
                "`before` has no effect: `frames` is NoMasking.",
                category=W2VLabWarning,
                stacklevel=2,
            )
        self.channel_probability = channel_probability
        self.channel_length = channel_length
        self.min_channel_spans = min_channel_spans
        self.equalize_channels = equalize_channels
        self.before = before

    @property
    def min_frames(self) -> int:
        """The fewest frames that the masking of frames needs."""
        return self.frames.min_frames

    def forward(self, num_frames: Sequence[int], generators: Sequence[np.random.Generator], num_channels: int) -> Mask:
        """Draws the masked frames, then the masked channels.

        Raises:
            ValueError: An utterance is too short, or there are too few channels for their spans.
        """
        mask: Mask = self.frames(
            num_frames, generators, num_channels
        )  # first, so that its draws are those without channels
        return replace(mask, channels=self._draw_channels(num_channels, generators), channels_first=self.before)

    def _draw_channels(self, num_channels: int, generators: Sequence[np.random.Generator]) -> Tensor:
        length, rows = self.channel_length, []
        for generator in generators:
            num_spans = int(self.channel_probability * num_channels / length + generator.random())
            num_spans = max(num_spans, self.min_channel_spans)
            if num_channels < length + num_spans:
                raise ValueError(
                    f"A frame must have at least {length + num_spans} channels to mask {num_spans} spans of "
                    f"`channel_length` {length}, but has {num_channels}. Lower `masking.channel_length`."
                )
            starts = draw_span_starts(np.full(num_spans, length), num_channels, generator)
            rows.append(spans_to_frames(starts, length, num_channels))
        if self.equalize_channels:
            fewest = min(len(row) for row in rows)
            rows = [subsample_frames(row, fewest, generator) for row, generator in zip(rows, generators, strict=True)]
        channels = torch.zeros(len(rows), num_channels, dtype=torch.bool)  # (B, D)
        for row, hidden in enumerate(rows):
            channels[row, torch.from_numpy(hidden)] = True
        return channels
