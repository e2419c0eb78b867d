"""Masking spans of frames."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from w2vlab.functional.choices import check_choice
from w2vlab.functional.frame_sets import extend_frames, make_mask, near_visible, subsample_frames
from w2vlab.functional.spans import (
    FrameIndices,
    LengthDistribution,
    arrange_spans,
    draw_span_lengths,
    draw_span_starts,
    spans_to_frames,
)
from w2vlab.interfaces import Masking
from w2vlab.types import Mask
from w2vlab.utils.messages import W2VLabWarning

Equalize = Literal["fewest", "most", "exact", "none"]
Rounding = Literal["utterance", "batch", "down"]
CountFrom = Literal["utterance", "shortest"]

_LARGEST_DRAW = 1 - 1e-9
"""The largest random number in [0, 1), which rounds the number of spans up."""


class SpanMasking(Masking):
    """Masks random spans of frames; the masked frames are predicted.

    The defaults follow fairseq's definition of a probability and a length. Other implementations define the same names
    differently: each option says which implementation it follows, and `configs/masking/` has the masking of fairseq,
    Hugging Face, fairseq2 and SpeechBrain. At least one frame of an utterance always stays visible.

    Args:
        probability: Number of spans times `length`, divided by the number of frames; fairseq's `mask_prob`. 0.65 masks
            49 % of an utterance of 781 frames, because spans overlap; it may be above 1.
        length: Frames of a span, or their mean; see `length_distribution`.
        min_spans: The fewest spans of an utterance. Utterances that are too short for them raise an error; Hugging Face
            masks fewer spans there, and fairseq2 raises if the drawn number is lower.
        equalize: How all utterances of a batch get the same number of masked frames. `fewest`: frames are unmasked at
            random down to the smallest number (fairseq, fairseq2), so that larger batches have a smaller masked share.
            `most`: single frames are masked up to the greatest number, if the utterance is long enough (fairseq's
            `add_masks`). `exact`: single frames are masked until their number is the sum of the spans' lengths, which
            compensates for overlaps (SpeechBrain); equal if the numbers of spans are. `none`: no equal numbers
            (Hugging Face).
        rounding: How the number of spans is rounded. `utterance`: up or down at random, one draw an utterance, so that
            the expectation is exact (fairseq). `batch`: the same with one draw for the batch (Hugging Face,
            SpeechBrain). `down`: down, over one frame less, without a draw (fairseq2).
        count_from: Frames that the number of spans is computed from: those of each `utterance` (fairseq, Hugging Face),
            or those of the `shortest` utterance of the batch for all of them (fairseq2, SpeechBrain).
        extra_spans: Spans added after rounding; 1 in SpeechBrain.
        length_distribution: How lengths vary, fairseq's `mask_selection`. `static`: constant. `uniform`: integers from
            `length_spread` to `2 * length`. `normal`: of mean `length` and standard deviation `length_spread`, rounded.
            `poisson`: of mean `length`. Lengths are at least 1. The paper's uniform(1,31) and uniform(10,30) are both
            `length` 15, with a spread of 1 and 10: in the released code 31 is exclusive.
            Other implementations have `static` only.
        length_spread: fairseq's `mask_other`; see `length_distribution`.
        overlap: Whether spans may overlap; fairseq's `no_mask_overlap`, inverted. Without overlap the longest spans are
            placed first, and spans that do not fit are dropped, except for `min_spans` of them.
        min_space: Visible frames between two spans that do not overlap (fairseq).
        replacement: Whether several spans may start at the same frame (fairseq2).
        last_start: Whether a span may end with the utterance's last frame (Hugging Face, fairseq2). The spans of
            fairseq and SpeechBrain never reach the last frame, unless their lengths vary.
        frame_dropout: Share of the masked frames that is unmasked at random, after `equalize`; fairseq's
            `mask_dropout`.
        edge_frames: Predict only masked frames at most this far from a visible one; None predicts all masked frames.
            Targets are then dropped at random to the smallest number of the batch, unless `equalize` is `none`.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 3.1 (p = 0.065 there is `probability / length` here); the options
        `length_distribution`, `length_spread`, `overlap`, `min_space` and `edge_frames` are those of its ablations.
    """

    def __init__(
        self,
        probability: float = 0.65,
        length: int = 10,
        min_spans: int = 2,
        equalize: Equalize = "fewest",
        rounding: Rounding = "utterance",
        count_from: CountFrom = "utterance",
        extra_spans: int = 0,
        length_distribution: LengthDistribution = "static",
        length_spread: float = 0.0,
        overlap: bool = True,
        min_space: int = 1,
        replacement: bool = False,
        last_start: bool = False,
        frame_dropout: float = 0.0,
        edge_frames: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("equalize", equalize, Equalize)
        check_choice("rounding", rounding, Rounding)
        check_choice("count_from", count_from, CountFrom)
        check_choice("length_distribution", length_distribution, LengthDistribution)
        if length < 1:
            raise ValueError(f"`length` must be at least 1, but is {length}.")
        if not 0 < probability < length:  # else every frame would start a span
            raise ValueError(f"`probability` must be above 0 and below `length` ({length}), but is {probability}.")
        if min_spans < 1:
            raise ValueError(f"`min_spans` must be at least 1, but is {min_spans}.")
        if extra_spans < 0:
            raise ValueError(f"`extra_spans` must not be negative, but is {extra_spans}.")
        if min_space < 0:
            raise ValueError(f"`min_space` must not be negative, but is {min_space}.")
        if not 0 <= frame_dropout < 1:
            raise ValueError(f"`frame_dropout` must be at least 0 and below 1, but is {frame_dropout}.")
        if edge_frames is not None and edge_frames < 1:
            raise ValueError(f"`edge_frames` must be at least 1, but is {edge_frames}.")
        _check_lengths(length_distribution, length, length_spread)
        if overlap and min_space != 1:
            warnings.warn("`min_space` has no effect: `overlap` is true.", category=W2VLabWarning, stacklevel=2)
        if replacement and not overlap:
            warnings.warn("`replacement` has no effect: `overlap` is false.", category=W2VLabWarning, stacklevel=2)
        self.probability = probability
        self.length = length
        self.min_spans = min_spans
        self.equalize = equalize
        self.rounding = rounding
        self.count_from = count_from
        self.extra_spans = extra_spans
        self.length_distribution = length_distribution
        self.length_spread = length_spread
        self.overlap = overlap
        self.min_space = min_space
        self.replacement = replacement
        self.last_start = last_start
        self.frame_dropout = frame_dropout
        self.edge_frames = edge_frames

    @property
    def min_frames(self) -> int:
        """The fewest frames in which every number of spans that can be drawn fits."""
        frames = self._frames_for(self.min_spans)
        while frames < self._frames_for(self._num_spans(frames, _LARGEST_DRAW)):
            frames += 1
        return frames

    def forward(self, num_frames: Sequence[int], generators: Sequence[np.random.Generator], num_channels: int) -> Mask:
        """Draws the masks of utterances of `num_frames` frames.

        Raises:
            ValueError: An utterance has too few frames for its spans.
        """
        # Draw the number of spans of each utterance, their lengths, and their starts.
        rows, sizes = [], []  # the masked frames of each utterance; the sum of its spans' lengths
        for frames, count, generator in zip(
            num_frames, self._draw_num_spans(num_frames, generators), generators, strict=True
        ):
            lengths = self._draw_lengths(count, frames, generator)
            rows.append(self._hide(lengths, frames, generator))
            sizes.append(int(lengths.sum()))
        # Mask equally many frames in all utterances, and predict all of them unless an option limits that.
        rows = self._equalized(rows, sizes, num_frames, generators)
        if self.frame_dropout:
            rows = [self._drop(row, generator) for row, generator in zip(rows, generators, strict=True)]
        if self.edge_frames is None:
            return make_mask(rows, rows, num_frames)
        targets = [near_visible(row, frames, self.edge_frames) for row, frames in zip(rows, num_frames, strict=True)]
        if self.equalize != "none":
            fewest = min(len(row) for row in targets)
            targets = [
                subsample_frames(row, fewest, generator) for row, generator in zip(targets, generators, strict=True)
            ]
        return make_mask(rows, targets, num_frames)

    def _draw_num_spans(self, num_frames: Sequence[int], generators: Sequence[np.random.Generator]) -> list[int]:
        counted = [min(num_frames)] * len(num_frames) if self.count_from == "shortest" else num_frames
        if self.rounding == "utterance":
            draws = [generator.random() for generator in generators]
        else:
            draws = [generators[0].random() if self.rounding == "batch" else 0.0] * len(num_frames)
        return [self._num_spans(frames, draw) for frames, draw in zip(counted, draws, strict=True)]

    def _num_spans(self, num_frames: int, draw: float) -> int:
        if self.rounding == "down":
            num_frames, draw = num_frames - 1, 0.0
        return max(self.min_spans, int(self.probability * num_frames / self.length + draw) + self.extra_spans)

    def _frames_for(self, num_spans: int) -> int:
        """Returns the fewest frames in which `num_spans` spans of `length` fit for all draws."""
        num_places = 1 if self.replacement else num_spans
        if not self.overlap:
            # A span at the worst position leaves this many starts fewer for the next one. Spans beyond `min_spans` may
            # be dropped.
            num_places = 1 + (self.min_spans - 1) * (2 * (self.length + self.min_space) - 1)
        # At least one frame more than one span, so that a frame stays visible; `last_start` saves the last frame.
        return self.length + max(num_places - int(self.last_start), 1)

    def _draw_lengths(self, num_spans: int, num_frames: int, generator: np.random.Generator) -> NDArray[np.int64]:
        needed = self._frames_for(num_spans)
        if num_frames < needed:
            raise ValueError(
                f"An utterance must have at least {needed} frames to mask {num_spans} spans of `length` {self.length}, "
                f"but has {num_frames}. Raise `data.min_seconds`, or lower `masking.length`."
            )
        lengths = draw_span_lengths(num_spans, self.length_distribution, self.length, self.length_spread, generator)
        if not self.overlap:
            # The greatest length of which `min_spans` fit for all draws: `_frames_for` solved for the length.
            others = self.min_spans - 1
            longest = (num_frames - 1 + int(self.last_start) - others * (2 * self.min_space - 1)) // (2 * others + 1)
            lengths = np.minimum(lengths, min(longest, num_frames - 1))
        return lengths

    def _hide(self, lengths: NDArray[np.int64], num_frames: int, generator: np.random.Generator) -> FrameIndices:
        if self.overlap:
            starts = draw_span_starts(
                lengths, num_frames, generator, replacement=self.replacement, last_start=self.last_start
            )
        else:
            starts, lengths = arrange_spans(lengths, num_frames, self.min_space, generator, last_start=self.last_start)
        masked = spans_to_frames(starts, lengths, num_frames)
        return subsample_frames(masked, num_frames - 1, generator)  # at least one frame stays visible

    def _equalized(
        self,
        rows: list[FrameIndices],
        sizes: list[int],
        num_frames: Sequence[int],
        generators: Sequence[np.random.Generator],
    ) -> list[FrameIndices]:
        """Gives all utterances the same number of masked frames; `sizes` are the sums of the spans' lengths."""
        counts = [len(row) for row in rows]
        if self.equalize == "fewest":
            return [
                subsample_frames(row, min(counts), generator) for row, generator in zip(rows, generators, strict=True)
            ]
        if self.equalize == "none":
            return rows
        if self.equalize == "most":
            sizes = [max(counts)] * len(rows)
        return [extend_frames(*arguments) for arguments in zip(rows, sizes, num_frames, generators, strict=True)]

    def _drop(self, row: FrameIndices, generator: np.random.Generator) -> FrameIndices:
        """Unmasks frames at random, but never all of them."""
        return subsample_frames(row, max(len(row) - round(self.frame_dropout * len(row)), 1), generator)


def _check_lengths(distribution: LengthDistribution, length: int, spread: float) -> None:
    if distribution == "uniform" and not (1 <= spread <= 2 * length and spread == int(spread)):
        raise ValueError(
            "`length_spread` must be the shortest length, an integer from 1 to twice `length`, if "
            f"`length_distribution` is uniform, but is {spread}."
        )
    if distribution == "normal" and spread <= 0:
        raise ValueError(f"`length_spread` must be above 0 if `length_distribution` is normal, but is {spread}.")
    if distribution in ("static", "poisson") and spread != 0:
        warnings.warn(
            f"`length_spread` has no effect: `length_distribution` is {distribution}.",
            category=W2VLabWarning,
            stacklevel=3,
        )
