"""Segments of other utterances and of noises that are added to utterances: WavLM."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from w2vlab.augmentations.excerpts import draw_excerpt
from w2vlab.functional.augmentation import Range, check_probability, check_range, power
from w2vlab.interfaces import Augmentation
from w2vlab.interfaces.augmentations import Audio


class UtteranceMixing(Augmentation):
    """Adds a segment of another utterance of the batch, or of a noise, to some utterances; their targets stay clean.

    The segment has a random length up to half of the utterance, and a random place in it. The ratio of energies is that
    of the whole utterances, so that a segment with a pause is not made louder. Segments are those of utterances that
    are not mixed themselves, and never of the utterance itself, which the paper's algorithm may draw. Sums are not
    clipped. In a batch of one utterance, only noise is mixed in.

    The targets of a mixed utterance are those of its clean audio: those of a file by its id, and those of a quantizer
    from `AudioBatch.clean`, for which the encoder encodes the mixed utterances a second time without the mixing.
    It is applied after all other augmentations.

    Args:
        probability: Share of the utterances that are mixed.
        ratio: Lowest and highest energy of an utterance relative to the one that is mixed in, in dB, drawn uniformly.
        max_share: Length of the longest segment, as a share of the utterance that it is added to.
        noise: A folder or manifest of noises, as in `data.corpus`; None mixes utterances only.
        noise_probability: Share of the mixed utterances to which a noise is added instead of an utterance.
        noise_ratio: Lowest and highest energy of an utterance relative to the noise, in dB.

    Reference:
        Chen et al. 2022, arXiv:2110.13900, Section III-B, Algorithm 1. Ratios, longest segment and `probability` are
        also the defaults of `utterance_mixing_dataset.py` in microsoft/UniSpeech; `noise_probability`, which is
        quoted from the paper, is 0 there.
    """

    keeps_targets = True

    def __init__(
        self,
        probability: float = 0.2,
        ratio: Range = (-5.0, 5.0),
        max_share: float = 0.5,
        noise: str | None = None,
        noise_probability: float = 0.1,
        noise_ratio: Range = (-5.0, 20.0),
    ) -> None:
        check_probability(probability=probability, noise_probability=noise_probability)
        check_range(ratio=ratio, noise_ratio=noise_ratio)
        if not 0 < max_share <= 1:
            raise ValueError(f"`max_share` must be above 0 and at most 1, but is {max_share}.")
        self.probability = probability
        self.ratio = ratio
        self.max_share = max_share
        self.noise = noise
        self.noise_probability = noise_probability
        self.noise_ratio = noise_ratio

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpus of noises, if there is one."""
        return () if self.noise is None else (self.noise,)

    def augment(self, utterances: Sequence[Audio], generators: Sequence[np.random.Generator]) -> list[Audio]:
        """Mixes some of the utterances."""
        return [self._mix(row, utterances, generator) for row, generator in enumerate(generators)]

    def _mix(self, row: int, utterances: Sequence[Audio], generator: np.random.Generator) -> Audio:
        """Returns an utterance with a segment of another sound, or as it is."""
        primary = utterances[row]
        if generator.random() >= self.probability:
            return primary
        longest = max(1, int(self.max_share * len(primary)))
        secondary: Audio | None
        if self.noise is not None and generator.random() < self.noise_probability:
            decibels = generator.uniform(*self.noise_ratio)
            secondary = draw_excerpt(self.sounds[self.noise], len(primary), generator)
        elif len(utterances) > 1:
            decibels = generator.uniform(*self.ratio)
            secondary = utterances[(row + 1 + int(generator.integers(len(utterances) - 1))) % len(utterances)]
        else:
            return primary
        energy = 0.0 if secondary is None else power(secondary)
        if secondary is None or not energy or not power(primary):
            return primary
        length = 1 + int(generator.integers(min(longest, len(secondary))))
        start = int(generator.integers(len(primary) - length + 1))
        segment = int(generator.integers(len(secondary) - length + 1))
        scale = math.sqrt(power(primary) / (10 ** (decibels / 10) * energy))
        mixed = primary.copy()
        mixed[start : start + length] += np.float32(scale) * secondary[segment : segment + length]
        return mixed
