"""Distractors from other frames of the same utterance."""

from __future__ import annotations

from w2vlab.functional.choices import check_choice
from w2vlab.functional.negatives import NegativesFrom, draw_from_own_utterance, index_candidates
from w2vlab.interfaces import NegativeSampler
from w2vlab.types import LossInputs, Negatives, TargetSpec
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

    purpose = "negatives"

    def __init__(
        self, targets: TargetSpec, num_negatives: int = 100, negatives_from: NegativesFrom = "targets"
    ) -> None:
        super().__init__()
        check_choice("negatives_from", negatives_from, NegativesFrom)
        check_at_least(1, num_negatives=num_negatives)
        self.num_negatives = num_negatives
        self.uses_every_frame = negatives_from == "anywhere"

    def forward(self, inputs: LossInputs) -> Negatives:
        """Draws the distractors of each frame to predict; a frame is never its own.

        Raises:
            ValueError: An utterance has a single candidate.
        """
        all_frames = inputs.all_frames if self.uses_every_frame else None
        indices = draw_from_own_utterance(inputs, self.num_negatives, all_frames, self.purpose)
        return Negatives(indices=indices if self.uses_every_frame else index_candidates(inputs, indices))
