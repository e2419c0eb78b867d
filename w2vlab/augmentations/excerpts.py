"""Random excerpts of sounds."""

from __future__ import annotations

import numpy as np

from w2vlab.interfaces.augmentations import Audio, Sounds

_TRIES = 3
"""Sounds that are drawn for an utterance, if files are damaged."""


def draw_excerpt(sounds: Sounds, length: int, generator: np.random.Generator) -> Audio | None:
    """Returns an excerpt of a random sound, which is repeated if it is too short.

    Args:
        sounds: The sounds; each file is equally likely.
        length: Samples of the excerpt.
        generator: The source of randomness.

    Returns:
        Samples, shape `(length,)`; None if several files in a row are damaged.
    """
    for _ in range(_TRIES):
        index = int(generator.integers(len(sounds)))
        available = sounds.num_samples(index)
        start = int(generator.integers(max(available - length + 1, 1) if available >= length else available))
        if available >= length:
            audio = sounds.read(index, start, length)
        else:
            audio = sounds.read(index, 0, available)
            audio = None if audio is None else np.resize(np.roll(audio, -start), length)
        if audio is not None:
            return audio
    return None
