"""The loss of data2vec: regress the targets of masked frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.lengths import (
    frames_with_target,
    make_padding_mask,
    mean_frame,
    mean_per_utterance,
    variance_share,
)
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import PredictionLoss
from w2vlab.types import LossInputs, LossOutput, TargetSpec


class RegressionLoss(PredictionLoss):
    """Predicts the target vectors of frames by a linear layer, with a squared or a smooth L1 error.

    The targets are constants. Nothing in this loss keeps them from collapsing, if they are trained: use it with a
    teacher that is an average of the student (`TeacherPrediction`). Each frame is one prediction; its error is summed
    over the width E of the targets. If contexts see their own frame, they predict the nearest one that they do not see.

    Two shares are logged, each a mean over utterances, over their predicted frames: `prediction_variance`, the variance
    over time of the predictions in their mean square (0 if all are equal), and `explained_variance`, by how much the
    squared error is below that of the mean target of the utterance (1 without an error, 0 if it is not below).

    Args:
        context_dim: Width D of the contexts; supplied by the module, not by YAML.
        targets: What the targets are; supplied by the module, not by YAML.
        beta: Error below which smooth L1 is squared, `error ** 2 / (2 beta)`; 0 for the squared error, without a half.
        scale: Factor of the error; None for `1 / sqrt(E)`, as in fairseq.

    Reference:
        Baevski et al. 2022, arXiv:2202.03555, Section 3.4.
    """

    utterances_are_independent = True

    name: ClassVar[str] = "regression"
    teaches_targets: ClassVar[bool] = False

    def __init__(self, context_dim: int, targets: TargetSpec, beta: float = 0.0, scale: float | None = None) -> None:
        super().__init__()
        if beta < 0:
            raise ValueError(f"`beta` must not be negative, but is {beta}.")
        if scale is not None and scale <= 0:
            raise ValueError(f"`scale` must be above 0, but is {scale}.")
        self.beta = beta
        self.scale = targets.dim**-0.5 if scale is None else scale
        self.projection = nn.Linear(context_dim, targets.dim)

    def num_predictions(self, num_targets: Sequence[int], first_ahead: int) -> tuple[int, ...]:
        """Returns the predicted frames of each utterance."""
        return tuple(max(0, frames - first_ahead) for frames in num_targets)

    def min_frames(self, first_ahead: int) -> int:
        """Returns the fewest frames in which one prediction fits."""
        return first_ahead + 1

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Returns the summed error over all frames.

        Raises:
            ValueError: No utterance has a target far enough ahead.
        """
        ahead = inputs.first_ahead
        remaining = frames_with_target(inputs.num_targets, ahead)
        predicted = self.projection(inputs.context[:, : inputs.context.shape[1] - ahead])  # (B, M, E)
        with torch.autocast(predicted.device.type, enabled=False):
            predicted = at_least_float32(predicted)
            # The vectors stay in the graph with gradient zero, because DDP waits for a gradient of every parameter.
            connection = inputs.targets.quantized[:, :0].sum()
            targets = at_least_float32(inputs.targets.quantized[:, ahead:].detach())
            if self.beta:
                errors = F.smooth_l1_loss(predicted, targets, reduction="none", beta=self.beta)
            else:
                errors = (predicted - targets).square()
            errors = errors.sum(dim=-1)  # (B, M)
            padding = make_padding_mask(remaining, errors.shape[1], errors.device)
            if padding is not None:
                errors = errors.masked_fill(padding, 0.0)
            total: Tensor = errors.sum() * self.scale + connection
            shares = _shares(predicted.detach(), targets, padding)
        return LossOutput(
            total=total,
            num_predictions=self.num_predictions(inputs.num_targets, ahead),
            num_correct=total.new_zeros(()),
            num_candidates=0,
            shares={name: (values.sum(), len(values)) for name, values in shares.items()},
        )


@torch.no_grad()
def _shares(predicted: Tensor, targets: Tensor, padding: Tensor | None) -> dict[str, Tensor]:
    """Returns the logged shares of each utterance, `(B,)`, of `predicted` and `targets` `(B, M, E)`."""
    deviation = targets - mean_frame(targets, padding)[:, None]
    variance = mean_per_utterance(deviation.square().mean(dim=-1), padding)  # (B,)
    error = mean_per_utterance((predicted - targets).square().mean(dim=-1), padding)
    # Targets without a variance have nothing to explain.
    explained = 1 - torch.where(variance > 0, error / variance, 1.0)
    return {
        "prediction_variance": variance_share(predicted, padding),
        "explained_variance": explained.clamp(min=0.0),
    }
