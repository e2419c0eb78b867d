"""Reverberation of rooms."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from lhotse.augmentation.rir import ReverbWithImpulseResponse
from lhotse.augmentation.utils import FastRandomRIRGenerator

from w2vlab.functional.augmentation import check_probability, power
from w2vlab.interfaces import UtteranceAugmentation
from w2vlab.interfaces.augmentations import Audio
from w2vlab.types import SAMPLE_RATE

_MAX_SAMPLES = 10 * SAMPLE_RATE
"""Samples that are read of an impulse response; rooms are silent long before."""


class Reverberation(UtteranceAugmentation):
    """Convolves an utterance with the impulse response of a room.

    The window keeps its length and its mean power, and the direct sound its place, so that frames stay aligned with
    targets of a file. What is before the window does not echo in it.

    Args:
        corpus: A folder or manifest of measured impulse responses, as in `data.corpus`; each file is equally likely.
            None generates them, from random reverberation times and distances.
        probability: Share of the utterances that are changed.

    Reference:
        Ko et al. 2017, https://doi.org/10.1109/ICASSP.2017.7953152; generated ones: Luo & Yu 2022, arXiv:2208.04101.
    """

    def __init__(self, corpus: str | None = None, probability: float = 0.5) -> None:
        check_probability(probability=probability)
        self.corpus = corpus
        self.probability = probability

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpus of impulse responses; none if they are generated."""
        return () if self.corpus is None else (self.corpus,)

    def augment_utterance(self, audio: Audio, generator: np.random.Generator) -> Audio:
        """Lets an utterance reverberate, or returns it as it is."""
        if generator.random() >= self.probability:
            return audio
        response = _generate(generator) if self.corpus is None else self._draw(generator)  # (R,)
        if response is None or not power(response) or not power(audio):
            return audio
        reverberate = ReverbWithImpulseResponse(rir_generator=lambda nsource: response[None])
        reverberant: Audio = reverberate(audio[None], SAMPLE_RATE)[0]
        return reverberant.astype(np.float32, copy=False)

    def _draw(self, generator: np.random.Generator) -> Audio | None:
        assert self.corpus is not None, "the responses are recorded"
        sounds = self.sounds[self.corpus]
        index = int(generator.integers(len(sounds)))
        return sounds.read(index, 0, min(sounds.num_samples(index), _MAX_SAMPLES))


def _generate(generator: np.random.Generator) -> Audio:
    """Generates an impulse response with lhotse, whose draws are in part from PyTorch's default generator."""
    room, source, noise = (int(seed) for seed in generator.integers(2**31, size=3))
    default: Any = torch.default_generator
    before = default.get_state()
    try:
        default.manual_seed(noise)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # lhotse's use of NumPy
            response: Audio = FastRandomRIRGenerator(sr=SAMPLE_RATE, room_seed=room, source_seed=source)()[0]
    finally:
        default.set_state(before)
    return response
