"""Drawing the spans of frames to mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw_span_starts(
    num_frames: int, probability: float, length: int, min_spans: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draws where the masked spans of one utterance start, in fairseq's meaning of `probability`.

    The number of spans is `probability * num_frames / length`, rounded up or down at random so that its expectation is
    exact; `probability` would be the masked share only if spans never overlapped. Starts are drawn without
    replacement from `[0, num_frames - length)`, so the last frame always stays visible.

    Args:
        num_frames: Frames T of the utterance.
        probability: Spans times their length over T, in (0, 1].
        length: Frames of a span.
        min_spans: The fewest spans.
        generator: Source of randomness.

    Returns:
        The starts, in no order.

    Raises:
        ValueError: There are fewer places for a start than spans.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 3.1; rounding and bounds as in the released code.
    """
    num_spans = max(min_spans, int(probability * num_frames / length + generator.random()))
    num_places = num_frames - length
    if num_places < num_spans:
        raise ValueError(
            f"An utterance must have at least {length + num_spans} frames to mask {num_spans} spans of `length` "
            f"{length}, but has {num_frames}. Raise `data.min_seconds`, or lower `masking.length`."
        )
    return generator.choice(num_places, size=num_spans, replace=False, shuffle=False).astype(np.int64)


def spans_to_frames(starts: NDArray[np.int64], length: int, num_frames: int) -> NDArray[np.int64]:
    """Returns the frames below `num_frames` that spans of `length` frames from `starts` cover, sorted, each once."""
    covered = np.unique(starts[:, None] + np.arange(length))
    return covered[covered < num_frames]
