"""Noise that is added to utterances."""

from __future__ import annotations

import numpy as np
from lhotse.audio.mixer import AudioMixer

from w2vlab.augmentations.excerpts import draw_excerpt
from w2vlab.functional.augmentation import Range, check_probability, check_range, power
from w2vlab.interfaces import UtteranceAugmentation
from w2vlab.interfaces.augmentations import Audio
from w2vlab.types import SAMPLE_RATE


class AdditiveNoise(UtteranceAugmentation):
    """Adds an excerpt of a recorded noise to an utterance, at a random signal-to-noise ratio.

    Each file of noise is equally likely, and so is each place in it; a noise that is shorter than the utterance is
    repeated. The ratio is that of the mean powers over the whole window. Sums are not clipped: samples may be above 1.
    Silence stays as it is, because no noise is at any ratio to it.

    Args:
        corpus: A folder or manifest of noises, as in `data.corpus`, such as MUSAN.
        snr: Lowest and highest signal-to-noise ratio, in dB, drawn uniformly.
        probability: Share of the utterances that get noise.

    Reference:
        lhotse's `AudioMixer`; Snyder et al. 2015, arXiv:1510.08484, for MUSAN.
    """

    def __init__(self, corpus: str = "noise", snr: Range = (10.0, 20.0), probability: float = 0.5) -> None:
        check_range(snr=snr)
        check_probability(probability=probability)
        self.corpus = corpus
        self.snr = snr
        self.probability = probability

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpus of noises."""
        return (self.corpus,)

    def augment_utterance(self, audio: Audio, generator: np.random.Generator) -> Audio:
        """Adds noise to an utterance, or returns it as it is."""
        if generator.random() >= self.probability:
            return audio
        snr = generator.uniform(*self.snr)
        noise = draw_excerpt(self.sounds[self.corpus], len(audio), generator)
        if noise is None or not power(audio) or not power(noise):
            return audio
        mixer = AudioMixer(audio[None], SAMPLE_RATE)
        mixer.add_to_mix(noise[None], snr=snr)
        noisy: Audio = mixer.mixed_audio[0].astype(np.float32, copy=False)
        return noisy
