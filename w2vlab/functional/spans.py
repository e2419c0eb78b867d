"""Drawing spans of frames: how long they are, where they begin and what they cover."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

LengthDistribution = Literal["static", "uniform", "normal", "poisson"]
"""How the lengths of spans vary, by fairseq's names."""

Frames = NDArray[np.int64]
"""Indices of frames of one utterance, ascending, each once."""


def draw_span_lengths(
    num_spans: int, distribution: LengthDistribution, length: int, spread: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draws the lengths of spans, each at least 1.

    Args:
        num_spans: How many.
        distribution: `static`: all `length`. `uniform`: integers from `spread` to `2 * length`, both included.
            `normal`: of mean `length` and standard deviation `spread`, rounded. `poisson`: of mean `length`.
        length: Mean length; for `uniform`, half the greatest.
        spread: See `distribution`.
        generator: Source of randomness.

    Returns:
        The lengths, `num_spans` of them.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, released code. That lets `poisson` give 0; here nothing hides nothing.
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
    """Draws where spans that may overlap begin.

    Starts come from `[0, num_frames - length)`, so spans of one length leave the last frame visible. Where lengths
    differ, `length` is that of the shortest, and longer spans are cut off at the end of the utterance.

    Args:
        lengths: Length of each span.
        num_frames: Frames T of the utterance, more than there are spans.
        generator: Source of randomness.
        replacement: Let spans begin at the same frame.
        last_start: Let a span also begin where it ends with the utterance.

    Returns:
        The starts, one a span.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 3.1; bounds as in the released code.
    """
    shortest = int(lengths.min(initial=num_frames))
    # Where all spans drawn are nearly as long as the utterance, there must still be a place for each, or one for all.
    num_places = max(num_frames - shortest + last_start, 1 if replacement else len(lengths))
    if replacement:
        return generator.integers(num_places, size=len(lengths))
    return generator.choice(num_places, size=len(lengths), replace=False, shuffle=False).astype(np.int64)


def arrange_spans(
    lengths: NDArray[np.int64],
    num_frames: int,
    min_space: int,
    generator: np.random.Generator,
    *,
    last_start: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lays spans out so that none overlap, the longest first.

    Each span goes into one of the free parts that are long enough, chosen in proportion to its room, and splits it. The
    first span that fits nowhere ends it: that one and all shorter ones are left out, as in the released code.

    Args:
        lengths: Length of each span.
        num_frames: Frames T of the utterance.
        min_space: Visible frames between two spans.
        generator: Source of randomness.
        last_start: Let a span end with the utterance; the last frame stays visible otherwise.

    Returns:
        The starts and the lengths of the spans that found a place, the longest first.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, ablation of masking without overlap; the released code, which does not
        run with NumPy 1.24 or later. That passes over parts that are just long enough where `min_space` is not 1.
    """
    placed: list[tuple[int, int]] = []
    parts = [(0, num_frames if last_start else num_frames - 1)]  # a span may lie anywhere in [first, behind)
    for length in np.sort(lengths)[::-1].tolist():
        # The visible frame behind a part counts as its room, too.
        room = np.array([behind - first + 1 if behind - first >= length else 0 for first, behind in parts])
        if not room.any():
            break
        first, behind = parts.pop(generator.choice(len(parts), p=room / room.sum()))
        start = int(generator.integers(first, behind - length, endpoint=True))
        placed.append((start, length))
        parts += [(first, start - min_space), (start + length + min_space, behind)]
    starts, placed_lengths = np.array(placed, dtype=np.int64).reshape(-1, 2).T
    return starts, placed_lengths


def spans_to_frames(starts: NDArray[np.int64], lengths: int | NDArray[np.int64], num_frames: int) -> Frames:
    """Returns the frames below `num_frames` that spans of `lengths` frames from `starts` cover, sorted, each once."""
    depth = np.zeros(num_frames + 1, dtype=np.int64)
    np.add.at(depth, starts, 1)
    np.add.at(depth, np.minimum(starts + lengths, num_frames), -1)
    return np.flatnonzero(np.cumsum(depth)[:num_frames])
