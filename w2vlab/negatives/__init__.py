"""Negative samplers: where the distractors of a contrastive loss come from."""

from w2vlab.negatives.codebook import CodebookNegatives
from w2vlab.negatives.combined import CombinedNegatives
from w2vlab.negatives.other_utterances import OtherUtterancesNegatives
from w2vlab.negatives.same_utterance import SameUtteranceNegatives

__all__ = ["CodebookNegatives", "CombinedNegatives", "OtherUtterancesNegatives", "SameUtteranceNegatives"]
