"""Augmentations: how the audio of training utterances is changed."""

from w2vlab.augmentations.additive_noise import AdditiveNoise
from w2vlab.augmentations.gain import Gain
from w2vlab.augmentations.reverberation import Reverberation
from w2vlab.augmentations.speed import SpeedPerturbation
from w2vlab.augmentations.utterance_mixing import UtteranceMixing

__all__ = ["AdditiveNoise", "Gain", "Reverberation", "SpeedPerturbation", "UtteranceMixing"]
