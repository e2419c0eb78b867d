"""A loss from outside w2vlab: one part, one file."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from w2vlab.functional.contrastive import contrastive_logits, count_correct, fingerprint
from w2vlab.functional.lengths import frames_with_target, make_padding_mask
from w2vlab.functional.negatives import draw_from_own_utterance
from w2vlab.interfaces import PredictionLoss
from w2vlab.types import LossInputs, LossOutput, TargetSpec


class RankingLoss(PredictionLoss):
    """Ranks the true target above each distractor separately, and not above all of them together.

    The mean over the distractors of `log(1 + exp(distractor - target))`; it starts near ln 2.

    Args:
        context_dim: Width D of the contexts; supplied by the module, not by YAML.
        targets: Width and codebooks of the targets; supplied by the module, not by YAML.
        projection_dim: Width in which contexts and targets are compared.
        num_negatives: Distractors K per prediction, other frames of the same utterance.
        logit_temperature: Divisor of the cosine similarities.

    Reference:
        Rendle et al. 2009, arXiv:1205.2618, Section 4.1, without its regularization.
    """

    name: ClassVar[str] = "ranking"

    def __init__(
        self,
        context_dim: int,
        targets: TargetSpec,
        projection_dim: int = 256,
        num_negatives: int = 100,
        logit_temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if num_negatives < 1:
            raise ValueError(f"`num_negatives` must be at least 1, but is {num_negatives}.")
        if logit_temperature <= 0:
            raise ValueError(f"`logit_temperature` must be above 0, but is {logit_temperature}.")
        self.num_negatives = num_negatives
        self.logit_temperature = logit_temperature
        self.context_projection = nn.Linear(context_dim, projection_dim)
        self.target_projection = nn.Linear(targets.dim, projection_dim)

    def min_frames(self, first_ahead: int) -> int:
        """Returns the frames up to the first target, at least two: a target and a distractor."""
        return max(2, first_ahead + 1)

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Returns the summed loss over all frames that are not padding.

        Raises:
            ValueError: No utterance has a distractor, or a frame far enough ahead.
        """
        ahead = inputs.first_ahead  # 0 if frames are masked; otherwise frames from context to target
        remaining = frames_with_target(inputs.num_targets, ahead)
        quantized = inputs.targets.quantized  # (B, N, E)
        own = torch.arange(quantized.shape[1], device=quantized.device).expand(quantized.shape[:2])  # (B, N)
        logits, _ = contrastive_logits(
            self.context_projection(inputs.context[:, : quantized.shape[1] - ahead]),
            self.target_projection(quantized),
            own[:, ahead:],
            draw_from_own_utterance(inputs, self.num_negatives)[:, ahead:],  # addressed by seed, update and utterance
            fingerprint(quantized),
            self.logit_temperature,
        )  # (B, N - ahead, 1 + K), the true target first; a distractor equal to it is minus infinity
        losses = F.softplus(logits[..., 1:] - logits[..., :1]).mean(dim=-1)  # (B, N - ahead)
        padding = make_padding_mask(remaining, losses.shape[1], losses.device)
        if padding is not None:
            losses = losses.masked_fill(padding, 0.0)
        return LossOutput(
            total=losses.sum(),  # a sum with its counts: the mean is taken over the global batch
            num_predictions=remaining,
            num_correct=count_correct(logits, None if padding is None else ~padding),
            num_candidates=1 + self.num_negatives,
        )
