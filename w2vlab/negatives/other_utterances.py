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
        row_size = max(candidates)
        drawn = draw_from_other_utterances(
            num_targets,
            candidates,
            positions.shape[1],
            row_size,
            self.num_negatives,
            address.generators(self.purpose),
        )
        return {self.key: (narrow(drawn // row_size), narrow(drawn % row_size))}

    def forward(self, inputs: LossInputs) -> Negatives:
        """Draws the distractors of each frame to predict."""
        if len(inputs.num_targets) == 1:
            return super().forward(inputs)
        all_frames = inputs.all_frames if self.uses_every_frame else None
        found = inputs.take(self.key)
        if found is None:
            size = inputs.context.shape[1]
            row_size = size if all_frames is None else inputs.candidates.shape[1]
            drawn = draw_from_other_utterances(
                inputs.num_targets,
                inputs.num_targets if all_frames is None else all_frames.num_frames,
                size,
                row_size,
                self.num_negatives,
                inputs.address.generators(self.purpose),
            ).to(inputs.context.device, non_blocking=True)
            found = drawn // row_size, drawn % row_size
        utterances, indices = found
        if all_frames is None:
            indices = index_candidates(inputs, indices, utterances)
        return Negatives(indices=indices, utterances=utterances)
