"""Masking spans of frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from w2vlab.functional.spans import draw_span_starts, spans_to_frames
from w2vlab.interfaces import Masking
from w2vlab.types import Mask


class SpanMasking(Masking):
    """Hides random spans of equal length, which may overlap; the hidden frames are the targets.

    Args:
        probability: Number of spans times their length over the frames, fairseq's `mask_prob`: 0.65 hides 49 % of an
            utterance of 781 frames, because spans overlap.
        length: Frames of a span.
        min_spans: The fewest spans of an utterance.
        equalize: Give every utterance of a batch the same number of masked frames by unmasking frames at random down to
            the smallest, as fairseq does. The masked share then falls with the size of the batch.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 3.1 (p = 0.065 there is `probability / length` here).
    """

    def __init__(self, probability: float = 0.65, length: int = 10, min_spans: int = 2, equalize: bool = True) -> None:
        super().__init__()
        if not 0 < probability <= 1:
            raise ValueError(f"`probability` must be above 0 and at most 1, but is {probability}.")
        if length < 1:
            raise ValueError(f"`length` must be at least 1, but is {length}.")
        if probability == length == 1:
            raise ValueError("`probability` must be below 1 where `length` is 1, but is 1: nothing would stay visible.")
        if min_spans < 1:
            raise ValueError(f"`min_spans` must be at least 1, but is {min_spans}.")
        self.probability = probability
        self.length = length
        self.min_spans = min_spans
        self.equalize = equalize

    @property
    def min_frames(self) -> int:
        """The fewest frames in which every number of spans that can be drawn finds its places."""
        frames = self.length + self.min_spans
        while frames - self.length < int(self.probability * frames / self.length + 1):
            frames += 1
        return frames

    def forward(self, num_frames: Sequence[int], generators: Sequence[np.random.Generator], num_channels: int) -> Mask:
        """Draws the masks of utterances of `num_frames` frames.

        Raises:
            ValueError: An utterance has too few frames for its spans.
        """
        rows = [
            spans_to_frames(
                draw_span_starts(frames, self.probability, self.length, self.min_spans, generator), self.length, frames
            )
            for frames, generator in zip(num_frames, generators, strict=True)
        ]
        if self.equalize:
            fewest = min(len(row) for row in rows)
            rows = [
                np.sort(generator.choice(row, size=fewest, replace=False)) if len(row) > fewest else row
                for row, generator in zip(rows, generators, strict=True)
            ]
        targets = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.int64)
        frames_mask = torch.zeros(len(rows), max(num_frames), dtype=torch.bool)
        for index, row in enumerate(rows):
            hidden = torch.from_numpy(row)
            targets[index, : len(row)] = hidden
            frames_mask[index, hidden] = True
        return Mask(frames_mask, targets, tuple(len(row) for row in rows))
