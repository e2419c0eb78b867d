"""The families of parts. Subclassing one of these classes is all the registration there is.

A part whose widths follow from its neighbours takes them as its first arguments. The module that assembles the parts
supplies them, so that YAML never repeats a width. Modules therefore receive parts as factories (the `…Factory`
aliases): in YAML a class name with its other arguments, in Python the class itself or a `functools.partial` of it.
"""

from __future__ import annotations

from collections.abc import Callable

from w2vlab.interfaces.augmentations import Augmentation, UtteranceAugmentation, check_augmentations
from w2vlab.interfaces.capabilities import Compilable, LearnsByStatistics, OfUtterances, StepDependent
from w2vlab.interfaces.networks import (
    ContextNetwork,
    FeatureEncoder,
    Masking,
    Quantizer,
    UtteranceEncoder,
    UtteranceTargets,
)
from w2vlab.interfaces.objectives import (
    Decoder,
    LossTerm,
    NegativeSampler,
    Penalty,
    PredictionLoss,
    PredictionLossFactory,
    UpdatePenalty,
)
from w2vlab.interfaces.positions import AttentionPositions
from w2vlab.interfaces.teachers import Teacher
from w2vlab.types import TargetSpec
from w2vlab.vocabulary import Vocabulary

__all__ = [
    "AttentionPositions",
    "AttentionPositionsFactory",
    "Augmentation",
    "Compilable",
    "ContextFactory",
    "ContextNetwork",
    "Decoder",
    "DecoderFactory",
    "EncoderFactory",
    "FeatureEncoder",
    "LearnsByStatistics",
    "LossTerm",
    "Masking",
    "MaskingFactory",
    "NegativeSampler",
    "NegativeSamplerFactory",
    "OfUtterances",
    "Penalty",
    "PenaltyFactory",
    "PredictionLoss",
    "PredictionLossFactory",
    "Quantizer",
    "QuantizerFactory",
    "StepDependent",
    "Teacher",
    "TeacherFactory",
    "UpdatePenalty",
    "UtteranceAugmentation",
    "UtteranceEncoder",
    "UtteranceTargets",
    "check_augmentations",
]

EncoderFactory = Callable[[], FeatureEncoder]
ContextFactory = Callable[[int], ContextNetwork]
AttentionPositionsFactory = Callable[[int, int], AttentionPositions]
QuantizerFactory = Callable[[int], Quantizer]
MaskingFactory = Callable[[], Masking]
NegativeSamplerFactory = Callable[[TargetSpec], NegativeSampler]
PenaltyFactory = Callable[[], Penalty]
DecoderFactory = Callable[[Vocabulary], Decoder]
TeacherFactory = Callable[[ContextNetwork], Teacher]
