"""The sampler that a loss's numbers of negatives stand for."""

from __future__ import annotations

import warnings
from functools import partial

from w2vlab.functional.choices import check_choice
from w2vlab.functional.negatives import NegativesFrom
from w2vlab.interfaces import NegativeSampler, NegativeSamplerFactory
from w2vlab.negatives.codebook import CodebookNegatives
from w2vlab.negatives.combined import CombinedNegatives
from w2vlab.negatives.other_utterances import OtherUtterancesNegatives
from w2vlab.negatives.same_utterance import SameUtteranceNegatives
from w2vlab.types import TargetSpec
from w2vlab.utils.messages import W2VLabWarning


def build_sampler(
    targets: TargetSpec,
    *,
    num_negatives: int,
    num_other_negatives: int = 0,
    num_codebook_negatives: int = 0,
    negatives_from: NegativesFrom = "targets",
) -> NegativeSampler:
    """Builds the sampler of each source that has a number above 0, combined if there are several.

    Args:
        targets: What the targets are.
        num_negatives: Distractors from the same utterance.
        num_other_negatives: Distractors from the other utterances of the micro-batch.
        num_codebook_negatives: Distractors among random codewords.
        negatives_from: Which frames of utterances are drawn from.

    Raises:
        ValueError: A number is negative or all are 0, or there are no codewords to draw from.
    """
    check_choice("negatives_from", negatives_from, NegativesFrom)
    numbers = {
        "num_negatives": num_negatives,
        "num_other_negatives": num_other_negatives,
        "num_codebook_negatives": num_codebook_negatives,
    }
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"`{name}` must not be negative, but is {number}.")
    samplers: list[NegativeSamplerFactory] = []
    if num_negatives:
        samplers.append(partial(SameUtteranceNegatives, num_negatives=num_negatives, negatives_from=negatives_from))
    if num_codebook_negatives:
        samplers.append(partial(CodebookNegatives, num_negatives=num_codebook_negatives))
    if num_other_negatives:
        samplers.append(
            partial(OtherUtterancesNegatives, num_negatives=num_other_negatives, negatives_from=negatives_from)
        )
    if not samplers:
        raise ValueError(
            "`num_negatives` must be at least 1, but is 0, and there are no negatives from elsewhere "
            "(`num_other_negatives`, `num_codebook_negatives`)."
        )
    if negatives_from == "anywhere" and num_negatives + num_other_negatives == 0:
        warnings.warn(
            "`negatives_from` has no effect: all negatives are codewords (`num_codebook_negatives`).",
            category=W2VLabWarning,
            stacklevel=3,
        )
    return samplers[0](targets) if len(samplers) == 1 else CombinedNegatives(targets, samplers)
