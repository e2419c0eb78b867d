"""The loss of HuBERT and BEST-RQ: classify the codes of masked frames."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.lengths import frames_with_target, make_padding_mask
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import PredictionLoss
from w2vlab.types import LossInputs, LossOutput, TargetSpec
from w2vlab.utils.messages import W2VLabWarning


class CodePredictionLoss(PredictionLoss):
    """Predicts the codes of a frame by a softmax over the entries of each codebook (cross-entropy).

    The codes are constants, so that the quantizer has no gradient from this loss. If the latents that it quantizes are
    trained, nothing in this loss keeps them from collapsing to codes that are easy to predict; HuBERT and BEST-RQ
    quantize features that are not trained. In training the codes are those that the quantizer sampled, including its
    noise. Each codebook of each frame is one prediction, so that the loss starts near ln V.

    Under `MaskedPrediction` a context predicts the codes of its own masked frame. Under `FuturePrediction` contexts see
    their own frame, so that they predict the codes of the frame `offset` ahead.

    Args:
        context_dim: Width D of the contexts; supplied by the module, not by YAML.
        targets: What the targets are; supplied by the module, not by YAML.
        offset: Frames from a context to the frame whose codes it predicts, if contexts see their own frame; None takes
            the nearest frame that shares no audio with the context's own frame.

    Reference:
        Hsu et al. 2021, arXiv:2106.07447, Equation 1; Chiu et al. 2022, arXiv:2202.01855, Section 3, whose linear
        softmax layer for each codebook this is (HuBERT scores by cosine similarity with learned embeddings).
    """

    name: ClassVar[str] = "code_prediction"
    teaches_targets: ClassVar[bool] = False

    def __init__(self, context_dim: int, targets: TargetSpec, offset: int | None = None) -> None:
        super().__init__()
        if targets.num_codebooks == 0:
            raise ValueError(
                "`quantizer` must have codebooks for CodePredictionLoss, but its targets are continuous "
                "(IdentityQuantizer). Use another quantizer, such as RandomProjectionQuantizer, or ContrastiveLoss."
            )
        if offset is not None and offset < 1:
            raise ValueError(f"`offset` must be at least 1, but is {offset}.")
        self.num_codebooks = targets.num_codebooks
        self.codebook_size = targets.codebook_size
        self.offset = offset
        self.code_scores = nn.Linear(context_dim, targets.num_codebooks * targets.codebook_size)

    def frames_ahead(self, first_ahead: int) -> int:
        """Returns the frames from a context to the frame whose codes it predicts."""
        if self.offset is None:
            return first_ahead
        if first_ahead == 0:
            # The masked frames are not contiguous in time, so that `offset` masked frames are not a fixed distance.
            warnings.warn(
                "`offset` has no effect if frames are masked: a context predicts the codes of its own frame.",
                category=W2VLabWarning,
                stacklevel=2,
            )
            return 0
        return self.offset

    def min_frames(self, first_ahead: int) -> int:
        """Returns the fewest frames in which one prediction fits."""
        return self.frames_ahead(first_ahead) + 1

    def num_predictions(self, num_targets: Sequence[int], first_ahead: int) -> tuple[int, ...]:
        """Returns the predicted codes of each utterance."""
        ahead = self.frames_ahead(first_ahead)
        return tuple(max(0, frames - ahead) * self.num_codebooks for frames in num_targets)

    def score(self, context: Tensor) -> Tensor:
        """Returns the logits `(B, N, G, V)` of every entry of every codebook."""
        scores = self.code_scores(context)  # (B, N, G * V)
        return at_least_float32(scores.unflatten(-1, (self.num_codebooks, self.codebook_size)))

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Returns the summed cross-entropy over all frames and codebooks, in nats.

        Raises:
            ValueError: No utterance is longer than the offset.
        """
        ahead = self.frames_ahead(inputs.first_ahead)
        remaining = frames_with_target(inputs.num_targets, ahead)
        codes = inputs.targets.codes[:, ahead:]  # (B, N - ahead, G)
        logits = self.score(inputs.context[:, : codes.shape[1]])  # (B, N - ahead, G, V)
        with torch.autocast(logits.device.type, enabled=False):
            losses = F.cross_entropy(logits.flatten(0, 2), codes.flatten(), reduction="none").view_as(codes)
        correct = logits.argmax(dim=-1) == codes
        padding = make_padding_mask(remaining, codes.shape[1], codes.device)
        if padding is not None:
            losses = losses.masked_fill(padding[..., None], 0.0)
            correct = correct & ~padding[..., None]
        # An empty sum puts the vectors into the graph with gradient zero, even if they are not finite.
        connection = inputs.targets.quantized[:, :0].sum()
        return LossOutput(
            total=losses.sum() + connection,
            num_predictions=self.num_predictions(inputs.num_targets, inputs.first_ahead),
            num_correct=correct.sum(),
            num_candidates=self.codebook_size,
        )
