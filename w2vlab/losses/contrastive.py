"""The contrastive loss of wav2vec 2.0."""

from __future__ import annotations

import warnings
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.choices import check_choice
from w2vlab.functional.contrastive import contrastive_logits, count_correct, fingerprint
from w2vlab.functional.lengths import frames_with_target, make_padding_mask
from w2vlab.functional.negatives import draw_codewords, draw_for_task, draw_from_other_utterances
from w2vlab.interfaces import Compilable, PredictionLoss
from w2vlab.types import Everywhere, LossOutput, PredictionTask, TargetSpec
from w2vlab.wording import W2VLabWarning

NegativesFrom = Literal["targets", "anywhere"]
TargetProjection = Literal["linear", "glu", "mlp"]


class PairScores(nn.Module, Compilable):
    """`contrastive_logits` as a module, behind what is drawn on the host.

    Args:
        temperature: kappa, by which similarities are divided.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self, predictions: Tensor, candidates: Tensor, positives: Tensor, negatives: Tensor, identity: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the logits of `contrastive_logits` and which negatives were excluded."""
        return contrastive_logits(predictions, candidates, positives, negatives, identity, self.temperature)


class ContrastiveLoss(PredictionLoss):
    """Tells the true target of a frame from distractors, by default targets of the same utterance (InfoNCE).

    Cross-entropy over cosine similarities of the projected context with the projected true target and K negatives. At
    the start all candidates look alike and the loss is ln(1 + K), 4.615 nats for K = 100. A negative that equals the
    true target is left out, wherever it comes from. Negatives may come from three places at once; K is their sum, and
    the draws of one place do not change those of another.

    Under `FuturePrediction` contexts see their own frame, which would be its own answer. There the true target is the
    nearest frame ahead that shares no audio with it.

    Args:
        context_dim: Width D of the contexts; supplied by the module, not by YAML.
        targets: What the targets are; supplied by the module, not by YAML.
        projection_dim: Width P in which both are compared (fairseq: `final_dim`).
        num_negatives: Negatives of each prediction from other frames of its own utterance, drawn with replacement.
        logit_temperature: kappa, by which similarities are divided.
        num_other_negatives: Negatives from the other utterances of the micro-batch, so that the update depends on how
            utterances are batched. Where there is one utterance only, they come from its other frames. fairseq's
            `cross_sample_negatives` come from the whole micro-batch, the own utterance and the true target included.
        num_codebook_negatives: Negatives among random codewords, each combination of entries alike, chosen or not
            (fairseq: `codebook_negatives`). An utterance's frames share a pool of as many codewords as there are
            frames; fairseq draws anew for each. They teach the codebook as far as the quantizer's `lookup` does.
        negatives_from: What negatives from utterances are drawn among: the frames to predict (`targets`), or all
            frames, hidden or not (`anywhere`; fairseq: `negatives_from_everywhere`). Where every frame is predicted
            the two are the same.
        target_projection: What targets and negatives pass before they are compared: one matrix (`linear`), a matrix
            and then a gated linear unit of the same width (`glu`; fairseq: `target_glu`), or two matrices with GELU
            between (`mlp`; the paper's "MLP on targets", for continuous ones).

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 3.2, Equation 3; variants in Table 13.
    """

    name: ClassVar[str] = "contrastive"

    def __init__(
        self,
        context_dim: int,
        targets: TargetSpec,
        projection_dim: int = 256,
        num_negatives: int = 100,
        logit_temperature: float = 0.1,
        num_other_negatives: int = 0,
        num_codebook_negatives: int = 0,
        negatives_from: NegativesFrom = "targets",
        target_projection: TargetProjection = "linear",
    ) -> None:
        super().__init__()
        check_choice("negatives_from", negatives_from, NegativesFrom)
        check_choice("target_projection", target_projection, TargetProjection)
        numbers = {
            "num_negatives": num_negatives,
            "num_other_negatives": num_other_negatives,
            "num_codebook_negatives": num_codebook_negatives,
        }
        for name, number in numbers.items():
            if number < 0:
                raise ValueError(f"`{name}` must not be negative, but is {number}.")
        if sum(numbers.values()) == 0:
            raise ValueError(
                "`num_negatives` must be at least 1, but is 0, and there are no negatives from elsewhere "
                "(`num_other_negatives`, `num_codebook_negatives`)."
            )
        if projection_dim < 1:
            raise ValueError(f"`projection_dim` must be at least 1, but is {projection_dim}.")
        if logit_temperature <= 0:
            raise ValueError(f"`logit_temperature` must be above 0, but is {logit_temperature}.")
        if num_codebook_negatives and targets.num_codebooks == 0:
            raise ValueError(
                "`quantizer` must have codebooks for `num_codebook_negatives`, but its targets are continuous "
                "(IdentityQuantizer). Use another quantizer, or set `num_codebook_negatives` to 0."
            )
        self.uses_every_frame = negatives_from == "anywhere" and num_negatives + num_other_negatives > 0
        if negatives_from == "anywhere" and not self.uses_every_frame:
            warnings.warn(
                "`negatives_from` has no effect: all negatives are codewords (`num_codebook_negatives`).",
                category=W2VLabWarning,
                stacklevel=2,
            )
        self.target_spec = targets
        self.num_negatives = num_negatives
        self.num_other_negatives = num_other_negatives
        self.num_codebook_negatives = num_codebook_negatives
        self.logit_temperature = logit_temperature
        self.pair_scores = PairScores(logit_temperature)
        self.context_projection = nn.Linear(context_dim, projection_dim)
        self.target_projection = nn.Linear(targets.dim, projection_dim)
        self.target_head: nn.Module = nn.Identity()
        if target_projection == "glu":
            self.target_head = nn.Sequential(nn.Linear(projection_dim, 2 * projection_dim), nn.GLU())
        elif target_projection == "mlp":
            self.target_head = nn.Sequential(nn.GELU(), nn.Linear(projection_dim, projection_dim))

    @property
    def num_all_negatives(self) -> int:
        """Negatives K of a prediction, wherever they come from."""
        return self.num_negatives + self.num_other_negatives + self.num_codebook_negatives

    def min_frames(self, first_ahead: int) -> int:
        """Returns the frames up to the first target, and no fewer than that and another."""
        return max(2, first_ahead + 1)

    def draw_negatives(self, task: PredictionTask) -> Tensor:
        """Draws the indices `(B, M, K)` of each frame's negatives among the frames of its own utterance."""
        return draw_for_task(task, self.num_negatives, self._everywhere(task))

    def draw_other_negatives(self, task: PredictionTask, row_size: int) -> Tensor:
        """Draws the indices `(B, M, K)` of each frame's negatives in other utterances, `row_size` to an utterance."""
        purpose, everywhere = "other_negatives", self._everywhere(task)
        if len(task.num_valid) == 1:
            return draw_for_task(task, self.num_other_negatives, everywhere, purpose)
        indices = draw_from_other_utterances(
            task.num_valid,
            task.num_valid if everywhere is None else everywhere.num_frames,
            task.context.shape[1],
            row_size,
            self.num_other_negatives,
            task.address.generators(purpose),
        )
        return indices.to(task.context.device, non_blocking=True)

    def draw_codewords(self, task: PredictionTask) -> tuple[Tensor, Tensor]:
        """Draws a pool of codes `(B, M, G)` and the indices `(B, M, K)` of each frame's negatives in it."""
        device = task.context.device
        codes, picks = draw_codewords(
            task.num_valid,
            task.context.shape[1],
            self.num_codebook_negatives,
            self.target_spec.num_codebooks,
            self.target_spec.codebook_size,
            task.address.generators("codewords"),
        )
        return codes.to(device, non_blocking=True), picks.to(device, non_blocking=True)

    def score(self, task: PredictionTask) -> tuple[Tensor, Tensor]:
        """Returns the logits `(B, M, 1 + K)`, true target first, and which negatives were excluded `(B, M, K)`.

        Where contexts have seen their own frame, M is smaller by `first_ahead`: the last ones have no target.
        """
        candidates, positives = self._frames(task)  # (B, N, E), (B, M)
        batch, num_frames = candidates.shape[:2]
        negatives: list[Tensor] = []
        if self.num_negatives:
            negatives.append(self.draw_negatives(task))
        if self.num_codebook_negatives:
            if task.lookup is None:
                raise ValueError("`lookup` must be given with `num_codebook_negatives`, but is None.")
            codes, picks = self.draw_codewords(task)
            candidates = torch.cat([candidates, task.lookup(codes).to(candidates.dtype)], dim=1)  # (B, N + M, E)
            negatives.append(num_frames + picks)
        identity = fingerprint(candidates)
        ahead = task.first_ahead
        predictions = self.context_projection(task.context[:, : positives.shape[1] - ahead])
        candidates = self.target_head(self.target_projection(candidates))  # (B, N or N + M, P)
        if self.num_other_negatives:
            # Where rows draw from each other, candidates are numbered through the batch.
            first = candidates.shape[1] * torch.arange(batch, device=candidates.device)[:, None]  # (B, 1)
            positives = positives + first
            negatives = [indices + first[..., None] for indices in negatives]
            negatives.append(self.draw_other_negatives(task, candidates.shape[1]))
        chosen = torch.cat(negatives, dim=-1)[:, ahead:]  # (B, M, K)
        positives = positives[:, ahead:]  # (B, M)
        if self.num_other_negatives:
            # The batch is scored as one long row.
            predictions, candidates = predictions.flatten(0, 1)[None], candidates.flatten(0, 1)[None]
            positives, chosen = positives.flatten()[None], chosen.flatten(0, 1)[None]
            identity = identity.flatten()[None]
        logits, excluded = self.pair_scores(predictions, candidates, positives, chosen, identity)
        return logits.view(batch, -1, logits.shape[-1]), excluded.view(batch, -1, excluded.shape[-1])

    def forward(self, task: PredictionTask) -> LossOutput:
        """Returns the summed cross-entropy over all valid frames, in nats.

        Raises:
            ValueError: No utterance has two frames, or one far enough ahead.
        """
        remaining = frames_with_target(task.num_valid, task.first_ahead)
        logits, excluded = self.score(task)
        padding = make_padding_mask(remaining, logits.shape[1], logits.device)
        # A logit of minus infinity takes no part. Subtracting index 0 from a logsumexp would round a small loss away.
        losses = -F.log_softmax(logits, dim=-1)[..., 0]  # (B, M)
        valid = None
        if padding is not None:
            valid = ~padding
            losses = losses.masked_fill(padding, 0.0)
            excluded = excluded & valid[..., None]
        return LossOutput(
            total=losses.sum(),
            counts=remaining,
            num_correct=count_correct(logits, valid),
            num_candidates=1 + self.num_all_negatives,
            shares={"excluded_negatives": (excluded.sum(), sum(remaining) * self.num_all_negatives)},
        )

    def _everywhere(self, task: PredictionTask) -> Everywhere | None:
        return task.everywhere if self.uses_every_frame else None

    def _frames(self, task: PredictionTask) -> tuple[Tensor, Tensor]:
        """Returns the vectors `(B, N, E)` among which negatives are drawn, and which of them the targets are."""
        everywhere = self._everywhere(task)
        if everywhere is not None:
            return everywhere.targets.quantized, everywhere.positions
        quantized = task.targets.quantized
        own = torch.arange(quantized.shape[1], device=quantized.device)
        return quantized, own.expand(quantized.shape[:2])
