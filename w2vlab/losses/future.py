"""The loss of wav2vec and vq-wav2vec: predict the next frames."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.choices import check_choice
from w2vlab.functional.contrastive import count_correct, fingerprint
from w2vlab.functional.lengths import frames_with_target, make_padding_mask
from w2vlab.functional.negatives import draw_ahead, draw_from_own_utterance
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import PredictionLoss
from w2vlab.types import LossInputs, LossOutput, RandomAddress, TargetSpec
from w2vlab.utils.messages import W2VLabWarning

Objective = Literal["logistic", "infonce"]


class FuturePredictionLoss(PredictionLoss):
    """Identifies the frame k steps ahead among other frames of the same utterance, for several k at once.

    Each step has its own affine map of the context, which is scored against candidates by dot product. Negatives are
    drawn once for each target frame and are shared by all steps. The loss is summed over steps and frames, as in the
    papers.

    Under `MaskedPrediction` the frames are the masked ones: without `offset` the first step is a context's own masked
    frame, and each further step is the next masked frame.

    Args:
        context_dim: Width D of the contexts; supplied by the module, not by YAML.
        targets: What the targets are; supplied by the module, not by YAML.
        num_steps: Steps predicted ahead (12 in the released code; vq-wav2vec's paper says 8).
        num_negatives: Negatives of each prediction, drawn with replacement from the same utterance.
        objective: `logistic` as in the papers: a binary classification of each candidate, all with weight 1; `infonce`:
            a softmax over all candidates.
        offset: Frames from a context to the first target; None takes the nearest frame that shares no audio with the
            context's own frame, as the released code does (3 for its encoder).
        balanced_classes: With the `logistic` objective, weight each negative by 1/K, so that all of them together weigh
            as much as the true target. An option of the released code, off in the published models.

    Reference:
        Schneider et al. 2019, arXiv:1904.05862, Section 2.2, Equation 2.
    """

    utterances_are_independent = True

    name: ClassVar[str] = "future"

    def __init__(
        self,
        context_dim: int,
        targets: TargetSpec,
        num_steps: int = 12,
        num_negatives: int = 10,
        objective: Objective = "logistic",
        offset: int | None = None,
        balanced_classes: bool = False,
    ) -> None:
        super().__init__()
        check_choice("objective", objective, Objective)
        if num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1, but is {num_steps}.")
        if num_negatives < 1:
            raise ValueError(f"`num_negatives` must be at least 1, but is {num_negatives}.")
        if offset is not None and offset < 1:
            raise ValueError(f"`offset` must be at least 1, but is {offset}.")
        if balanced_classes and objective != "logistic":
            warnings.warn(
                f"`balanced_classes` has no effect if `objective` is {objective}: it weights the negatives of "
                "`logistic`.",
                category=W2VLabWarning,
                stacklevel=2,
            )
        self.num_steps = num_steps
        self.num_negatives = num_negatives
        self.objective = objective
        self.balanced_classes = balanced_classes
        self.offset = offset
        # One affine map for each step, with a shared bias: a transposed convolution whose width is the number of steps.
        self.step_projection = nn.ConvTranspose2d(context_dim, targets.dim, (1, num_steps))

    def first_step(self, first_ahead: int) -> int:
        """Returns the frames from a context to its nearest target."""
        return self.offset if self.offset is not None else first_ahead

    def min_frames(self, first_ahead: int) -> int:
        """Returns the fewest frames in which one prediction fits."""
        return max(2, self.first_step(first_ahead) + 1)

    def num_predictions(self, num_targets: Sequence[int], first_ahead: int) -> tuple[int, ...]:
        """Returns the predictions of each utterance: the steps that stay within it, summed over its frames."""
        first = self.first_step(first_ahead)
        steps = range(first, first + self.num_steps)
        return tuple(sum(max(0, frames - ahead) for ahead in steps) for frames in num_targets)

    def draw(
        self, num_targets: Sequence[int], num_frames: Sequence[int], positions: Tensor, address: RandomAddress
    ) -> dict[str, tuple[Tensor, ...]]:
        """Draws the indices `(B, T, K)` of each target frame's negatives ahead."""
        own, generators = torch.arange(positions.shape[1]), address.generators("negatives")
        return {self._key: (draw_ahead(num_targets, num_targets, own, self.num_negatives, generators),)}

    @property
    def _key(self) -> str:
        return f"{FuturePredictionLoss.__name__}: {self.num_negatives}"

    def draw_negatives(self, inputs: LossInputs) -> Tensor:
        """Returns the indices `(B, T, K)` of each target frame's negatives; draws them unless that was done before."""
        drawn = inputs.take(self._key)
        return draw_from_own_utterance(inputs, self.num_negatives) if drawn is None else drawn[0]

    def predict(self, context: Tensor) -> Tensor:
        """Maps contexts `(B, T, D)` to their predictions for each step, `(B, T, steps, E)`."""
        weight = self.step_projection.weight[:, :, 0]  # (D, E, steps)
        matrix = weight.transpose(1, 2).flatten(1)  # (D, steps * E)
        predictions = (context @ matrix).view(*context.shape[:2], self.num_steps, -1)  # (B, T, steps, E)
        assert self.step_projection.bias is not None, "built with a bias"
        return predictions + self.step_projection.bias

    def score(self, inputs: LossInputs, negatives: Tensor) -> list[Tensor]:
        """Returns the logits of each step that fits, `(B, T - ahead, 1 + K)`, true target first."""
        targets = inputs.targets.quantized  # (B, T, E)
        batch, length, width = targets.shape
        first = self.first_step(inputs.first_ahead)
        steps = range(first, min(first + self.num_steps, length))
        predictions = self.predict(inputs.context)  # (B, T, steps, E)
        # Shift each step's predictions to the frames that they predict, which leaves zeros at the first ones.
        shifted = torch.stack(
            [F.pad(predictions[:, : length - ahead, step], (0, 0, ahead, 0)) for step, ahead in enumerate(steps)], dim=2
        )
        with torch.autocast(targets.device.type, enabled=False):
            targets, shifted = at_least_float32(targets), at_least_float32(shifted)
            distractors = targets.gather(1, negatives.flatten(1)[..., None].expand(-1, -1, width))
            candidates = torch.cat([targets[:, :, None], distractors.view(batch, length, -1, width)], dim=2)
            # Candidates of each target frame, (B, T, 1 + K, E); for K near 10 this is smaller than all pairs of frames.
            logits = shifted @ candidates.transpose(2, 3)  # (B, T, steps, 1 + K)
        return [logits[:, ahead:, step] for step, ahead in enumerate(steps)]

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Returns the summed loss over all steps and frames that fit, in nats.

        Raises:
            ValueError: No utterance is longer than the offset.
        """
        first = self.first_step(inputs.first_ahead)
        frames_with_target(inputs.num_targets, first)  # raises if no utterance is long enough
        total = inputs.context.new_zeros((), dtype=torch.float32)
        num_correct = torch.zeros((), dtype=torch.int64, device=inputs.context.device)
        counts = self.num_predictions(inputs.num_targets, inputs.first_ahead)
        negatives = self.draw_negatives(inputs)  # (B, T, K)
        identity = fingerprint(inputs.targets.quantized)  # (B, T)
        equal = identity.gather(1, negatives.flatten(1)).view_as(negatives) == identity[..., None]  # (B, T, K)
        padding = make_padding_mask(inputs.num_targets, equal.shape[1], equal.device)
        equal = equal if padding is None else equal & ~padding[..., None]
        for step, logits in enumerate(self.score(inputs, negatives)):
            ahead = first + step
            remaining = [max(0, frames - ahead) for frames in inputs.num_targets]
            padding = make_padding_mask(remaining, logits.shape[1], logits.device)
            losses = self._losses(logits)  # (B, T - ahead)
            total = total + (losses if padding is None else losses.masked_fill(padding, 0.0)).sum()
            # A negative that equals the target counts as wrong in the loss, as published. The accuracy leaves it out,
            # because the two scores differ by rounding alone, and leaves out frames without any other negative.
            distinct = logits[..., 1:].masked_fill(equal[:, ahead:], -torch.inf)
            distinct_logits = torch.cat([logits[..., :1], distinct], dim=-1)
            has_distinct = ~equal[:, ahead:].all(dim=-1)
            num_correct = num_correct + count_correct(
                distinct_logits, has_distinct if padding is None else has_distinct & ~padding
            )
        shares = {"equal_negatives": (equal.sum(), sum(inputs.num_targets) * self.num_negatives)}
        return LossOutput(
            total=total,
            num_predictions=counts,
            num_correct=num_correct,
            num_candidates=1 + self.num_negatives,
            shares=shares,
        )

    def _losses(self, logits: Tensor) -> Tensor:
        """Turns logits `(…, 1 + K)`, true target first, into losses `(…)`."""
        if self.objective == "infonce":
            return -F.log_softmax(logits, dim=-1)[..., 0]
        # -log sigmoid of the true target, -log(1 - sigmoid) of each negative
        negatives = F.softplus(logits[..., 1:])
        negative = negatives.mean(dim=-1) if self.balanced_classes else negatives.sum(dim=-1)
        return F.softplus(-logits[..., 0]) + negative
