"""Distractors from the other utterances of the micro-batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from w2vlab.functional.negatives import draw_from_other_utterances, index_candidates, narrow
from w2vlab.negatives.same_utterance import SameUtteranceNegatives
from w2vlab.types import LossInputs, Negatives, RandomAddress


class OtherUtterancesNegatives(SameUtteranceNegatives):
    """Draws distractors among the frames of the other utterances of the micro-batch, uniformly with replacement.

    The update then depends on how utterances are batched. In a micro-batch of one utterance, distractors come from its
    own other frames. fairseq's `cross_sample_negatives` come from the whole micro-batch, including the utterance itself
    and the true target.

    Args:
        targets: What the targets are; supplied by the loss, not by YAML.
        num_negatives: Distractors K of each prediction.
        negatives_from: Draw among the frames to predict (`targets`), or among all frames, masked or not (`anywhere`;
            fairseq: `negatives_from_everywhere`). The two are the same if every frame is predicted.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Table 13.
    """

    utterances_are_independent = False

    purpose = "other_negatives"

    def draw(
        self, num_targets: Sequence[int], num_frames: Sequence[int], positions: Tensor, address: RandomAddress
    ) -> dict[str, tuple[Tensor, ...]]:
        """Draws utterance and index of the distractors of each frame to predict; of a single utterance, the index."""
        if len(num_targets) == 1:
            return super().draw(num_targets, num_frames, positions, address)
        candidates = num_frames if self.uses_every_frame else num_targets
        utterances, indices = self._draw(num_targets, candidates, positions.shape[1], address)
        return {self.key: (narrow(utterances), narrow(indices))}

    def _draw(
        self, num_targets: Sequence[int], candidates: Sequence[int], size: int, address: RandomAddress
    ) -> tuple[Tensor, Tensor]:
        row_size, generators = max(candidates), address.generators(self.purpose)
        drawn = draw_from_other_utterances(num_targets, candidates, size, row_size, self.num_negatives, generators)
        return drawn // row_size, drawn % row_size

    def forward(self, inputs: LossInputs) -> Negatives:
        """Draws the distractors of each frame to predict."""
        if len(inputs.num_targets) == 1:
            return super().forward(inputs)
        all_frames = inputs.all_frames if self.uses_every_frame else None
        candidates = inputs.num_targets if all_frames is None else all_frames.num_frames
        drawn = inputs.take(self.key) or self._draw(
            inputs.num_targets, candidates, inputs.context.shape[1], inputs.address
        )
        utterances, indices = (tensor.to(inputs.context.device, non_blocking=True) for tensor in drawn)
        if all_frames is None:
            indices = index_candidates(inputs, indices, utterances)
        return Negatives(indices=indices, utterances=utterances)
