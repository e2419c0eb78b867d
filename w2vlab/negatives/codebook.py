"""Distractors that are random codewords."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from w2vlab.functional.negatives import draw_codewords, narrow
from w2vlab.interfaces import NegativeSampler
from w2vlab.types import LossInputs, Negatives, RandomAddress, TargetSpec
from w2vlab.utils.checks import check_at_least


class CodebookNegatives(NegativeSampler):
    """Draws distractors among random codewords; each combination of entries is equally likely, used or not.

    The frames of an utterance share a pool of as many codewords as there are frames; fairseq (`codebook_negatives`)
    draws new ones for each frame. The distractors train the codebook if the quantizer's `lookup` has a gradient.

    Args:
        targets: What the targets are; supplied by the loss, not by YAML.
        num_negatives: Distractors K of each prediction.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Table 13.
    """

    utterances_are_independent = True

    purpose = "codewords"

    def __init__(self, targets: TargetSpec, num_negatives: int = 100) -> None:
        super().__init__()
        check_at_least(1, num_negatives=num_negatives)
        self.num_negatives = num_negatives
        if targets.num_codebooks == 0:
            raise ValueError(
                "`quantizer` must have codebooks to draw codewords from (CodebookNegatives, `num_codebook_negatives`), "
                "but its targets are continuous (IdentityQuantizer). Use another quantizer, or other negatives."
            )
        self._targets = targets

    def draw(
        self, num_targets: Sequence[int], num_frames: Sequence[int], positions: Tensor, address: RandomAddress
    ) -> dict[str, tuple[Tensor, ...]]:
        """Draws the codes of the pool of each utterance `(B, M, G)`, and which of it each distractor is `(B, M, K)`."""
        codes, picks = self._draw(num_targets, positions.shape[1], address)
        return {self.key: (narrow(codes), narrow(picks))}

    def _draw(self, num_targets: Sequence[int], size: int, address: RandomAddress) -> tuple[Tensor, Tensor]:
        codebooks, entries = self._targets.num_codebooks, self._targets.codebook_size
        generators = address.generators(self.purpose)
        return draw_codewords(num_targets, size, self.num_negatives, codebooks, entries, generators)

    def forward(self, inputs: LossInputs) -> Negatives:
        """Draws a pool of codewords for each utterance, and each prediction's distractors from that pool.

        Raises:
            ValueError: The module gave no `lookup`.
        """
        if inputs.lookup is None:
            raise ValueError("`lookup` must be given for CodebookNegatives, but is None.")
        device = inputs.context.device
        codes, picks = inputs.take(self.key) or self._draw(inputs.num_targets, inputs.context.shape[1], inputs.address)
        num_frames = inputs.candidates.shape[1]
        return Negatives(
            indices=num_frames + picks.to(device, non_blocking=True),  # the pool follows the frames
            vectors=inputs.lookup(codes.to(device, non_blocking=True)),  # (B, M, E)
        )
