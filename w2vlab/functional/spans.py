"""Draws the lengths and starts of masked spans."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

LengthDistribution = Literal["static", "uniform", "normal", "poisson"]
"""Distributions of the lengths of spans, with fairseq's names."""

FrameIndices = NDArray[np.int64]
"""Indices of frames of one utterance, ascending and unique."""


def draw_span_lengths(
    num_spans: int, distribution: LengthDistribution, length: int, spread: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draws the lengths of spans, each at least 1.

    Args:
        num_spans: Number of spans.
        distribution: `static`: all `length`. `uniform`: integers from `spread` to `2 * length`, both included.
            `normal`: mean `length` and standard deviation `spread`, rounded. `poisson`: mean `length`.
        length: Mean length in frames; for `uniform`, half the maximum.
        spread: See `distribution`.
        generator: Random generator.

    Returns:
        The lengths, shape `(num_spans,)`.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, released code. There `poisson` can give spans of length 0, here not.
    """
    if distribution == "uniform":
        lengths = generator.integers(int(spread), 2 * length, size=num_spans, endpoint=True)
    elif distribution == "normal":
        lengths = np.rint(generator.normal(length, spread, size=num_spans)).astype(np.int64)
    elif distribution == "poisson":
        lengths = generator.poisson(length, size=num_spans)
    else:
        lengths = np.full(num_spans, length)
    return np.maximum(lengths, 1)


def draw_span_starts(
    lengths: NDArray[np.int64],
    num_frames: int,
    generator: np.random.Generator,
    *,
    replacement: bool = False,
    last_start: bool = False,
) -> NDArray[np.int64]:
    """Draws the starts of spans that may overlap.

    Starts are uniform in `[0, num_frames - length)`, so spans of equal length leave the last frame visible. If lengths
    differ, `length` is the shortest, and longer spans are cut off at the end of the utterance.

    Args:
        lengths: Length of each span.
        num_frames: Frames T of the utterance, more than the number of spans.
        generator: Random generator.
        replacement: Draw starts with replacement.
        last_start: Include the start `num_frames - length`, so that a span can end with the utterance.

    Returns:
        The start of each span.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 3.1; bounds as in the released code.
    """
    shortest = int(lengths.min(initial=num_frames))
    # Spans may be nearly as long as the utterance: there must be enough starts to draw from in any case.
    num_starts = max(num_frames - shortest + last_start, 1 if replacement else len(lengths))
    if replacement:
        return generator.integers(num_starts, size=len(lengths))
    return generator.choice(num_starts, size=len(lengths), replace=False, shuffle=False).astype(np.int64)


def arrange_spans(
    lengths: NDArray[np.int64],
    num_frames: int,
    min_space: int,
    generator: np.random.Generator,
    *,
    last_start: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws the starts of spans that do not overlap, the longest spans first.

    Each span is placed in one of the free segments that are long enough, drawn in proportion to their lengths, and
    splits it. If a span fits into no segment, it and all shorter ones are left out, as in the released code.

    Args:
        lengths: Length of each span.
        num_frames: Frames T of the utterance.
        min_space: Minimum number of visible frames between two spans.
        generator: Random generator.
        last_start: Let a span end with the utterance; otherwise the last frame is visible.

    Returns:
        The starts and lengths of the spans that were placed, the longest first.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, ablation of masking without overlap; the released code, which does not
        run with NumPy 1.24 or later, and does not use segments of exactly the needed length if `min_space` is not 1.
    """
    placed: list[tuple[int, int]] = []
    segments = [(0, num_frames if last_start else num_frames - 1)]  # free frames [first, stop)
    for length in np.sort(lengths)[::-1].tolist():
        # The weight of a segment includes the visible frame after it.
        weights = np.array([stop - first + 1 if stop - first >= length else 0 for first, stop in segments])
        if not weights.any():
            break
        first, stop = segments.pop(generator.choice(len(segments), p=weights / weights.sum()))
        start = int(generator.integers(first, stop - length, endpoint=True))
        placed.append((start, length))
        segments += [(first, start - min_space), (start + length + min_space, stop)]
    starts, placed_lengths = np.array(placed, dtype=np.int64).reshape(-1, 2).T
    return starts, placed_lengths


def spans_to_frames(starts: NDArray[np.int64], lengths: int | NDArray[np.int64], num_frames: int) -> FrameIndices:
    """Returns the frames below `num_frames` that are covered by spans, sorted and unique.

    Args:
        starts: First frame of each span.
        lengths: Length of each span in frames, or of all spans.
        num_frames: Frames T of the utterance.
    """
    depth = np.zeros(num_frames + 1, dtype=np.int64)
    np.add.at(depth, starts, 1)
    np.add.at(depth, np.minimum(starts + lengths, num_frames), -1)
    return np.flatnonzero(np.cumsum(depth)[:num_frames])
