"""Louder and softer utterances."""

from __future__ import annotations

import numpy as np
from lhotse.augmentation import Volume

from w2vlab.functional.augmentation import Range, check_probability, check_range, decibels_to_factor
from w2vlab.interfaces import UtteranceAugmentation
from w2vlab.interfaces.augmentations import Audio
from w2vlab.types import SAMPLE_RATE


class Gain(UtteranceAugmentation):
    """Multiplies the samples of an utterance by a random factor.

    They are not clipped: a loud utterance may have samples above 1.

    Args:
        decibels: Lowest and highest gain, in dB, drawn uniformly.
        probability: Share of the utterances that are changed.

    Reference:
        lhotse's `Volume`, which is sox's `vol` without its limiter.
    """

    def __init__(self, decibels: Range = (-12.0, 6.0), probability: float = 0.5) -> None:
        check_range(decibels=decibels)
        check_probability(probability=probability)
        self.decibels = decibels
        self.probability = probability

    def augment_utterance(self, audio: Audio, generator: np.random.Generator) -> Audio:
        """Changes the level of an utterance, or returns it as it is."""
        if generator.random() >= self.probability:
            return audio
        factor = decibels_to_factor(generator.uniform(*self.decibels))
        louder: Audio = Volume(factor=factor)(audio, SAMPLE_RATE)
        return louder
