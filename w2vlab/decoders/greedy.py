"""Decoding by the most likely entry of each frame."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from w2vlab.functional.ctc import best_path
from w2vlab.interfaces import Decoder
from w2vlab.vocabulary import Vocabulary


class GreedyDecoder(Decoder):
    """Takes the most likely entry of each frame, without a language model.

    Args:
        vocabulary: The model's; supplied by the module, not by YAML.

    Reference:
        Graves et al. 2006, Connectionist Temporal Classification (ICML), Section 3.2, best path decoding.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def decode(self, log_probabilities: Tensor, num_frames: Sequence[int]) -> list[str]:
        """Returns the transcript of each utterance."""
        return [self.vocabulary.decode(numbers) for numbers in best_path(log_probabilities, num_frames)]
