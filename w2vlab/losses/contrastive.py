"""The contrastive loss of wav2vec 2.0."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.contrastive import contrastive_logits, count_correct, fingerprint
from w2vlab.functional.lengths import make_padding_mask
from w2vlab.functional.negatives import draw_negatives
from w2vlab.interfaces import PredictionLoss
from w2vlab.types import LossOutput, PredictionTask, TargetSpec


class ContrastiveLoss(PredictionLoss):
    """Tells the true target of a frame from targets of other frames of the same utterance (InfoNCE).

    Cross-entropy over cosine similarities of the projected context with the projected true target and K negatives. At
    the start all candidates look alike and the loss is ln(1 + K), 4.615 nats for K = 100.

    Args:
        context_dim: Width D of the contexts; supplied by the module, not by YAML.
        targets: What the targets are; supplied by the module, not by YAML.
        projection_dim: Width P in which both are compared (fairseq: `final_dim`).
        num_negatives: Negatives K of each prediction, drawn with replacement among the other target frames.
        logit_temperature: kappa, by which similarities are divided.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 3.2, Equation 3.
    """

    name: ClassVar[str] = "contrastive"

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
        """Returns 2: the true target and another."""
        return 2

    def draw_negatives(self, task: PredictionTask) -> Tensor:
        """Draws the indices `(B, M, K)` of each frame's negatives among the task's frames."""
        size = task.context.shape[1]
        negatives = draw_negatives(task.num_valid, size, self.num_negatives, task.address.generators("negatives"))
        return negatives.to(task.context.device, non_blocking=True)

    def score(self, task: PredictionTask) -> tuple[Tensor, Tensor]:
        """Returns the logits `(B, M, 1 + K)`, true target first, and which negatives were excluded `(B, M, K)`."""
        return contrastive_logits(
            self.context_projection(task.context),
            self.target_projection(task.targets.quantized),
            self.draw_negatives(task),
            fingerprint(task.targets.quantized),
            self.logit_temperature,
        )

    def forward(self, task: PredictionTask) -> LossOutput:
        """Returns the summed cross-entropy over all valid frames, in nats."""
        logits, excluded = self.score(task)
        padding = make_padding_mask(task.num_valid, logits.shape[1], logits.device)
        # A logit of minus infinity takes no part. Subtracting index 0 from a logsumexp would round a small loss away.
        losses = -F.log_softmax(logits, dim=-1)[..., 0]  # (B, M)
        valid = None
        if padding is not None:
            valid = ~padding
            losses = losses.masked_fill(padding, 0.0)
            excluded = excluded & valid[..., None]
        count = sum(task.num_valid)
        return LossOutput(
            total=losses.sum(),
            counts=task.num_valid,
            num_correct=count_correct(logits, valid),
            num_candidates=1 + self.num_negatives,
            metrics={"excluded_negatives": excluded.sum() / (count * self.num_negatives)},
        )
