"""Where speech is: the probabilities of a voice activity detector, and the segments and pieces that follow."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from w2vlab.types import SAMPLE_RATE, Seconds

Audio = npt.NDArray[np.float32]
Segment = tuple[Seconds, Seconds]

FRAME = 512
"""Samples of a frame at 16 kHz: those that Silero's detector takes."""

STEP: Seconds = FRAME / SAMPLE_RATE

BEGINS, ENDS = 0.5, 0.35
"""Speech begins at a frame of at least the first probability, and ends at one below the second."""

MIN_PAUSE: Seconds = 0.3
"""A shorter pause does not end a segment of speech."""

MIN_SPEECH: Seconds = 0.25
"""A shorter segment is no speech."""

MARGIN: Seconds = 0.15
"""Audio that is kept on both sides of a segment."""

MAX_PAUSE: Seconds = 1.0
"""A longer pause between two segments is dropped; a shorter one may be within a piece."""


def detector_name() -> str:
    """Returns name and version of the detector.

    Raises:
        ValueError: It is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"silero-vad {version('silero-vad')}"
    except PackageNotFoundError:
        raise ValueError(
            "`split` vad needs the package silero-vad, which is not installed: pip install 'w2vlab[vad]'. "
            "--split=even needs none."
        ) from None


@lru_cache(maxsize=1)
def _load() -> Any:
    import torch

    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of TorchScript
        from silero_vad import load_silero_vad

        model = load_silero_vad()  # type: ignore[no-untyped-call]
    torch.set_num_threads(threads)  # the package sets one thread for the whole process
    return model


def speech_probabilities(blocks: Iterable[Audio]) -> npt.NDArray[np.float32]:
    """Returns the probability of speech of each frame of 32 ms.

    Args:
        blocks: The audio at 16 kHz, in any number of parts.

    Returns:
        Shape `(frames,)`; the last frame may be filled up with silence.
    """
    import torch

    model = _load()
    model.reset_states()
    with torch.inference_mode():
        return np.array(
            [float(model(torch.from_numpy(frame), SAMPLE_RATE)) for frame in _frames(blocks)], dtype=np.float32
        )


def _frames(blocks: Iterable[Audio]) -> Iterator[Audio]:
    rest = np.zeros(0, np.float32)
    for block in blocks:
        audio = np.concatenate([rest, block])
        whole = len(audio) // FRAME * FRAME
        yield from audio[:whole].reshape(-1, FRAME)
        rest = audio[whole:]
    if len(rest):
        yield np.pad(rest, (0, FRAME - len(rest)))


def speech_segments(probabilities: npt.NDArray[np.float32], duration: Seconds) -> list[Segment]:
    """Returns where speech begins and ends, with a margin.

    Args:
        probabilities: Of each frame of 32 ms.
        duration: Length of the audio in seconds.
    """
    found: list[list[Seconds]] = []
    speaking = False
    for number, probability in enumerate(probabilities.tolist()):
        time = number * STEP
        if not speaking and probability >= BEGINS:
            if found and time - found[-1][1] < MIN_PAUSE:
                speaking = True  # the same segment
            else:
                found.append([time, time])
                speaking = True
        elif speaking and probability < ENDS:
            found[-1][1] = time
            speaking = False
    if speaking:
        found[-1][1] = duration
    joined: list[Segment] = []
    for start, end in found:
        if end - start < MIN_SPEECH:
            continue
        start, end = max(0.0, start - MARGIN), min(duration, end + MARGIN)
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def pieces_of_speech(
    segments: list[Segment], probabilities: npt.NDArray[np.float32], max_seconds: Seconds
) -> list[Segment]:
    """Joins segments of speech to pieces, and cuts those that are too long where speech is least probable.

    Args:
        segments: Where speech is.
        probabilities: Of each frame of 32 ms.
        max_seconds: Longest piece.
    """
    pieces: list[Segment] = []
    for segment in segments:
        for start, end in _cut(segment, probabilities, max_seconds):
            if pieces and start - pieces[-1][1] <= MAX_PAUSE and end - pieces[-1][0] <= max_seconds:
                pieces[-1] = (pieces[-1][0], end)
            else:
                pieces.append((start, end))
    return pieces


def _cut(segment: Segment, probabilities: npt.NDArray[np.float32], max_seconds: Seconds) -> Iterator[Segment]:
    start, end = segment
    while end - start > max_seconds:
        first = int((start + max_seconds / 2) / STEP) + 1
        last = int((start + max_seconds) / STEP)  # the frame begins within the piece
        quietest = first + int(np.argmin(probabilities[first : last + 1])) if last >= first else last
        middle = min((quietest + 0.5) * STEP, start + max_seconds)
        yield start, middle
        start = middle
    yield start, end
