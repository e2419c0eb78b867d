"""Distractors from other frames of the same utterance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from w2vlab.functional.choices import check_choice
from w2vlab.functional.negatives import NegativesFrom, draw_ahead, draw_from_own_utterance, index_candidates
from w2vlab.interfaces import NegativeSampler
from w2vlab.types import LossInputs, Negatives, RandomAddress, TargetSpec
from w2vlab.utils.checks import check_at_least


class SameUtteranceNegatives(NegativeSampler):
    """Draws distractors among other frames of the same utterance, uniformly with replacement.

    Args:
        targets: What the targets are; supplied by the loss, not by YAML.
        num_negatives: Distractors K of each prediction.
        negatives_from: Draw among the frames to predict (`targets`), or among all frames, masked or not (`anywhere`;
            fairseq: `negatives_from_everywhere`). The two are the same if every frame is predicted.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 3.2; `anywhere` in Table 13.
    """

    utterances_are_independent = True

    purpose = "negatives"

    def __init__(
        self, targets: TargetSpec, num_negatives: int = 100, negatives_from: NegativesFrom = "targets"
    ) -> None:
        super().__init__()
        check_choice("negatives_from", negatives_from, NegativesFrom)
        check_at_least(1, num_negatives=num_negatives)
        self.num_negatives = num_negatives
        self.uses_every_frame = negatives_from == "anywhere"

    def draw(
        self, num_targets: Sequence[int], num_frames: Sequence[int], positions: Tensor, address: RandomAddress
    ) -> dict[str, tuple[Tensor, ...]]:
        """Draws the distractors of each frame to predict: indices among all frames, or among those to predict."""
        candidates = num_frames if self.uses_every_frame else num_targets
        own = positions if self.uses_every_frame else torch.arange(positions.shape[1])
        generators = address.generators(self.purpose)
        return {self.key: (draw_ahead(num_targets, candidates, own, self.num_negatives, generators),)}

    def forward(self, inputs: LossInputs) -> Negatives:
        """Draws the distractors of each frame to predict; a frame is never its own.

        Raises:
            ValueError: An utterance has a single candidate.
        """
        drawn = inputs.take(self.key)
        if drawn is None:
            all_frames = inputs.all_frames if self.uses_every_frame else None
            indices = draw_from_own_utterance(inputs, self.num_negatives, all_frames, self.purpose)
        else:
            (indices,) = drawn
        return Negatives(indices=indices if self.uses_every_frame else index_candidates(inputs, indices))
