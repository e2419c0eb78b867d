"""The loss of HuBERT, BEST-RQ, DinoSR and SpidR: classify the codes of masked frames."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.choices import check_choice
from w2vlab.functional.lengths import frames_with_target, make_padding_mask
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import PredictionLoss
from w2vlab.losses.code_scores import Contexts, CosineScores, LinearScores
from w2vlab.types import AllFrames, LossInputs, LossOutput, TargetSpec
from w2vlab.utils.messages import W2VLabWarning

Similarity = Literal["linear", "cosine"]
Output = Literal["layer", "feedforward"]

_PROJECTION_DIM, _TEMPERATURE = 256, 0.1


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
        similarity: How entries are scored: by a linear layer for each codebook (`linear`, BEST-RQ), or by the cosine
            similarity of a projection for each codebook with a learned embedding of each entry (`cosine`, HuBERT).
        projection_dim: Width P in which both are compared, with `cosine` (fairseq: `final_dim`).
        logit_temperature: tau, by which similarities are divided, with `cosine` (fairseq: `logit_temp`).
        unmasked_weight: Weight of the frames that are not predicted for being masked (fairseq: `pred_nomask_weight`),
            relative to those that are. Unless it is 0, the loss is divided by the number of all frames, as in fairseq,
            and `masked_accuracy` and `unmasked_accuracy` are logged, too.
        layers: The layer of the context network from whose output each codebook is predicted, G numbers: from 1, or
            from -1 for the last layer downwards (SpidR). None predicts all codebooks from the contexts.
        output: What is taken of `layers`: the output of the layer (`layer`), or that of its last feed-forward network
            before the residual connection (`feedforward`), as in SpidR's released code.

    Reference:
        Hsu et al. 2021, arXiv:2106.07447, Equations 1 to 3; Chiu et al. 2022, arXiv:2202.01855, Section 3; Liu et al.
        2023, arXiv:2305.10005 (DinoSR); Poli et al. 2025, arXiv:2512.20308 (SpidR). The mean
        here is over codebooks, too; fairseq's HuBERT sums over them, so that with G of them a penalty here has 1/G of
        the weight there.
    """

    utterances_are_independent = True

    name: ClassVar[str] = "code_prediction"
    teaches_targets: ClassVar[bool] = False
    needs_codes: ClassVar[bool] = True

    def __init__(
        self,
        context_dim: int,
        targets: TargetSpec,
        offset: int | None = None,
        similarity: Similarity = "linear",
        projection_dim: int = _PROJECTION_DIM,
        logit_temperature: float = _TEMPERATURE,
        unmasked_weight: float = 0.0,
        layers: list[int] | None = None,
        output: Output = "layer",
    ) -> None:
        super().__init__()
        check_choice("similarity", similarity, Similarity)
        check_choice("output", output, Output)
        if targets.num_codebooks == 0:
            raise ValueError(
                "`quantizer` must have codebooks for CodePredictionLoss, but its targets are continuous "
                "(IdentityQuantizer). Use another quantizer, such as RandomProjectionQuantizer, or ContrastiveLoss."
            )
        if offset is not None and offset < 1:
            raise ValueError(f"`offset` must be at least 1, but is {offset}.")
        if projection_dim < 1:
            raise ValueError(f"`projection_dim` must be at least 1, but is {projection_dim}.")
        if logit_temperature <= 0:
            raise ValueError(f"`logit_temperature` must be above 0, but is {logit_temperature}.")
        if unmasked_weight < 0:
            raise ValueError(f"`unmasked_weight` must not be negative, but is {unmasked_weight}.")
        if layers is not None and len(layers) != targets.num_codebooks:
            raise ValueError(
                f"`layers` must have a number for each of the {targets.num_codebooks} codebooks of `quantizer`, but is "
                f"{list(layers)}. Change it, or `quantizer.num_codebooks`; None predicts all from the contexts."
            )
        if output == "feedforward" and layers is None:
            raise ValueError("`output` must be layer without `layers`, but is feedforward. Set `layers`.")
        self.num_codebooks = targets.num_codebooks
        self.codebook_size = targets.codebook_size
        self.offset = offset
        self.unmasked_weight = unmasked_weight
        self.uses_every_frame = self.predicts_every_frame = unmasked_weight > 0
        self.layers = None if layers is None else tuple(layers)
        self.context_layers = tuple(dict.fromkeys(layers or ()))
        self.uses_contexts = layers is None
        self.feedforward = output == "feedforward"
        self.code_scores: nn.Module
        if similarity == "cosine":
            self.code_scores = CosineScores(context_dim, targets, projection_dim, logit_temperature)
        else:
            _warn_of_cosine_options(projection_dim, logit_temperature)
            self.code_scores = LinearScores(context_dim, targets)

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

    def heads(self) -> dict[str, list[tuple[nn.Parameter, slice]]]:
        """Returns the rows of the weights of each codebook: all are sorted by codebooks."""
        count, heads = self.num_codebooks, {}
        for codebook in range(count):
            layer = "" if self.layers is None else f"_layer_{self.layers[codebook]}"
            shares = ((weight, len(weight) // count) for weight in self.code_scores.parameters())
            rows = [(weight, slice(codebook * size, (codebook + 1) * size)) for weight, size in shares]
            heads[f"head_{codebook + 1}{layer}"] = rows
        return heads

    def min_frames(self, first_ahead: int) -> int:
        """Returns the fewest frames in which one prediction fits."""
        return self.frames_ahead(first_ahead) + 1

    def num_predictions(self, num_targets: Sequence[int], first_ahead: int) -> tuple[int, ...]:
        """Returns the predicted codes of each utterance."""
        ahead = self.frames_ahead(first_ahead)
        return tuple(max(0, frames - ahead) * self.num_codebooks for frames in num_targets)

    def score(self, contexts: Contexts) -> Tensor:
        """Returns the logits `(B, N, G, V)` of every entry of every codebook."""
        scores = self.code_scores(contexts)  # (B, N, G * V)
        return at_least_float32(scores.unflatten(-1, (self.num_codebooks, self.codebook_size)))

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Returns the summed cross-entropy over all frames and codebooks, in nats.

        Raises:
            ValueError: No utterance is longer than the offset.
        """
        # An empty sum puts the vectors into the graph with gradient zero, even if they are not finite; so it does
        # the contexts, if codes are predicted from layers, because DDP waits for a gradient of what follows them.
        connection = inputs.targets.quantized[:, :0].sum()
        if self.layers is not None:
            connection = connection + inputs.context[:, :0].sum()
        if self._predicts_every_frame_of(inputs):
            assert inputs.all_frames is not None, "checked"
            return self._of_every_frame(inputs.all_frames, inputs.num_targets, connection)
        ahead = self.frames_ahead(inputs.first_ahead)
        remaining = frames_with_target(inputs.num_targets, ahead)
        codes = inputs.targets.codes[:, ahead:]  # (B, N - ahead, G)
        contexts = [one[:, : codes.shape[1]] for one in self._contexts_of(inputs.context, inputs.layers)]
        losses, correct = self._classify(contexts, codes, remaining)
        return LossOutput(
            total=losses.sum() + connection,
            num_predictions=self.num_predictions(inputs.num_targets, inputs.first_ahead),
            num_correct=correct.sum(),
            num_candidates=self.codebook_size,
        )

    def _contexts_of(self, context: Tensor, layers: Mapping[int, Tensor]) -> list[Tensor]:
        """Returns what codes are predicted from, `(B, N, D)` each: one tensor for all codebooks, or one for each."""
        return [context] if self.layers is None else [layers[number] for number in self.layers]

    def _classify(self, contexts: Sequence[Tensor], codes: Tensor, num_frames: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns cross-entropies, and which codes have the highest score, `(B, N, G)`; zero on padding.

        Args:
            contexts: As of `_contexts_of`.
            codes: The codes to predict from them, `(B, N, G)`.
            num_frames: Frames of each utterance without padding, B integers.
        """
        logits = self.score(contexts[0] if self.layers is None else contexts)  # (B, N, G, V)
        with torch.autocast(logits.device.type, enabled=False):
            losses = F.cross_entropy(logits.flatten(0, 2), codes.flatten(), reduction="none").view_as(codes)
        correct = logits.argmax(dim=-1) == codes
        padding = make_padding_mask(num_frames, codes.shape[1], codes.device)
        if padding is not None:
            losses = losses.masked_fill(padding[..., None], 0.0)
            correct = correct & ~padding[..., None]
        return losses, correct

    def _predicts_every_frame_of(self, inputs: LossInputs) -> bool:
        """Returns whether the frames that are not masked count; warns if none are masked."""
        if self.predicts_every_frame and inputs.first_ahead > 0:
            warnings.warn(
                "`unmasked_weight` has no effect if no frames are masked: every frame is predicted.",
                category=W2VLabWarning,
                stacklevel=3,
            )
            return False
        return self.predicts_every_frame

    def _of_every_frame(self, frames: AllFrames, num_targets: Sequence[int], connection: Tensor) -> LossOutput:
        """Returns the sum over all frames, those that are not targets weighted by `unmasked_weight`."""
        assert frames.context is not None, "the module sets it for a loss that predicts every frame"
        contexts = self._contexts_of(frames.context, frames.layers)
        losses, correct = self._classify(contexts, frames.targets.codes, frames.num_frames)  # (B, T, G)
        is_target = frames.is_target(num_targets)[..., None]  # (B, T, 1)
        weights = torch.where(is_target, 1.0, self.unmasked_weight).to(losses.dtype)
        num_masked = sum(num_targets) * self.num_codebooks
        num_unmasked = sum(frames.num_frames) * self.num_codebooks - num_masked
        masked = (correct & is_target).sum()
        return LossOutput(
            total=(losses * weights).sum() + connection,
            num_predictions=self.num_predictions(frames.num_frames, 0),
            num_correct=correct.sum(),
            num_candidates=self.codebook_size,
            shares={
                "masked_accuracy": (masked, num_masked),
                "unmasked_accuracy": (correct.sum() - masked, num_unmasked),
            },
        )


def _warn_of_cosine_options(projection_dim: int, logit_temperature: float) -> None:
    values = {
        "projection_dim": (projection_dim, _PROJECTION_DIM),
        "logit_temperature": (logit_temperature, _TEMPERATURE),
    }
    for name, (value, default) in values.items():
        if value != default:
            warnings.warn(f"`{name}` has no effect: `similarity` is linear.", category=W2VLabWarning, stacklevel=4)
