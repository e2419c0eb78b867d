"""The contrastive loss of wav2vec 2.0."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.choices import check_choice
from w2vlab.functional.contrastive import contrastive_logits, count_correct, fingerprint
from w2vlab.functional.lengths import frames_with_target, make_padding_mask
from w2vlab.functional.negatives import NegativesFrom
from w2vlab.interfaces import Compilable, NegativeSamplerFactory, PredictionLoss
from w2vlab.negatives.shorthands import build_sampler
from w2vlab.types import LossInputs, LossOutput, Negatives, RandomAddress, TargetSpec

TargetProjection = Literal["linear", "glu", "mlp"]


class ContrastiveLoss(PredictionLoss):
    """Identifies the true target of a frame among distractors, by default targets of the same utterance (InfoNCE).

    Cross-entropy over cosine similarities of the projected context with the projected true target and K distractors. At
    the start all candidates score alike and the loss is ln(1 + K), 4.615 nats for K = 100. A distractor whose quantized
    vector equals that of the true target is excluded, because it would penalize the right answer.

    Under `FuturePrediction` a context has seen its own frame, so the true target is the nearest later frame that shares
    no audio with it (`LossInputs.first_ahead`).

    Args:
        context_dim: Width D of the contexts; supplied by the module, not by YAML.
        targets: What the targets are; supplied by the module, not by YAML.
        projection_dim: Width P in which both are compared (fairseq: `final_dim`).
        num_negatives: Distractors of each prediction from its own utterance (`SameUtteranceNegatives`).
        logit_temperature: kappa, by which similarities are divided.
        num_other_negatives: Distractors from the other utterances of the micro-batch (`OtherUtterancesNegatives`).
        num_codebook_negatives: Distractors among random codewords (`CodebookNegatives`).
        negatives_from: The frames among which distractors are drawn: those to predict (`targets`) or all (`anywhere`).
        target_projection: The projection of targets and distractors before they are compared: one matrix (`linear`), a
            matrix and then a gated linear unit of the same width (`glu`; fairseq: `target_glu`), or two matrices with
            GELU between (`mlp`; the paper's "MLP on targets", for continuous ones).
        negatives: Builds the sampler of the distractors. None builds the one that the three numbers and
            `negatives_from` describe; they keep their defaults if a sampler is given.

    Attributes:
        negatives: The sampler of the distractors.
        num_negatives: The option; None if a sampler was given.

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
        negatives: NegativeSamplerFactory | None = None,
    ) -> None:
        super().__init__()
        if projection_dim < 1:
            raise ValueError(f"`projection_dim` must be at least 1, but is {projection_dim}.")
        if logit_temperature <= 0:
            raise ValueError(f"`logit_temperature` must be above 0, but is {logit_temperature}.")
        shorthands: dict[str, Any] = {
            "num_negatives": num_negatives,
            "num_other_negatives": num_other_negatives,
            "num_codebook_negatives": num_codebook_negatives,
            "negatives_from": negatives_from,
        }
        if negatives is None:
            self.negatives = build_sampler(targets, **shorthands)
        else:
            _check_defaults(shorthands)
            self.negatives = negatives(targets)
        self.num_negatives = num_negatives if negatives is None else None
        self.uses_every_frame = self.negatives.uses_every_frame
        self.logit_temperature = logit_temperature
        self.pair_scores = PairScores(logit_temperature)
        self.context_projection = nn.Linear(context_dim, projection_dim)
        self.target_projection = nn.Linear(targets.dim, projection_dim)
        self.target_head = _target_head(target_projection, projection_dim)

    @property
    def utterances_are_independent(self) -> bool:
        """Whether no distractors are drawn from other utterances of the micro-batch."""
        return getattr(self.negatives, "utterances_are_independent", False)

    def min_frames(self, first_ahead: int) -> int:
        """Returns the fewest targets with a distractor (2) and with a target `first_ahead` frames ahead."""
        return max(2, first_ahead + 1)

    def draw(
        self, num_targets: Sequence[int], num_frames: Sequence[int], positions: Tensor, address: RandomAddress
    ) -> dict[str, tuple[Tensor, ...]]:
        """Draws the distractors of a batch ahead, if the sampler can."""
        return self.negatives.draw(num_targets, num_frames, positions, address)

    def score(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        """Returns the logits `(B, M, 1 + K)`, true target first, and which distractors equal it `(B, M, K)`.

        If contexts see their own frame, M is smaller by `first_ahead`, because the last contexts have no target.
        """
        # The candidates are the quantized vectors of an utterance; the distractors are drawn as indices into them.
        drawn: Negatives = self.negatives(inputs)
        candidates = inputs.candidates  # (B, N, E)
        if drawn.vectors is not None:
            candidates = torch.cat([candidates, drawn.vectors.to(candidates.dtype)], dim=1)  # (B, N + R, E)
        # Context m is compared with target m + `ahead`. Under `MaskedPrediction`, `ahead` is 0.
        ahead = inputs.first_ahead
        predictions = self.context_projection(inputs.context[:, : inputs.context.shape[1] - ahead])  # (B, M, P)
        keys = self.target_head(self.target_projection(candidates))  # (B, N + R, P)
        utterances = None if drawn.utterances is None else drawn.utterances[:, ahead:]
        # Cosine similarities over the temperature. Equal fingerprints (hashes) mean equal quantized vectors.
        scores: tuple[Tensor, Tensor] = self.pair_scores(
            predictions,
            keys,
            inputs.positions[:, ahead:],
            drawn.indices[:, ahead:],
            fingerprint(candidates),
            utterances,
        )
        return scores

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Returns the summed cross-entropy over all frames to predict, in nats.

        Raises:
            ValueError: No utterance has a distractor, or a target `first_ahead` frames ahead.
        """
        remaining = frames_with_target(inputs.num_targets, inputs.first_ahead)
        logits, excluded = self.score(inputs)
        # Excluded distractors have logits of minus infinity, so they do not count in the softmax. `log_softmax` is more
        # accurate than logsumexp minus the logit of the target, which rounds a small loss to zero.
        losses = -F.log_softmax(logits, dim=-1)[..., 0]  # (B, M)
        padding_mask = make_padding_mask(remaining, logits.shape[1], logits.device)
        valid = None
        if padding_mask is not None:
            valid = ~padding_mask
            losses = losses.masked_fill(padding_mask, 0.0)
            excluded = excluded & valid[..., None]
        return LossOutput(
            total=losses.sum(),
            num_predictions=remaining,
            num_correct=count_correct(logits, valid),
            num_candidates=1 + self.negatives.num_negatives,
            shares={"excluded_negatives": (excluded.sum(), sum(remaining) * self.negatives.num_negatives)},
        )


class PairScores(nn.Module, Compilable):
    """`contrastive_logits` as a module, so that it can be compiled without the draws on the host.

    Args:
        temperature: kappa, by which similarities are divided.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self,
        predictions: Tensor,
        candidates: Tensor,
        positives: Tensor,
        negatives: Tensor,
        identity: Tensor,
        utterances: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the logits `(B, M, 1 + K)` and which distractors were excluded `(B, M, K)`."""
        return contrastive_logits(predictions, candidates, positives, negatives, identity, self.temperature, utterances)


def _target_head(target_projection: TargetProjection, width: int) -> nn.Module:
    """Builds the layers after the linear projection of the targets."""
    check_choice("target_projection", target_projection, TargetProjection)
    if target_projection == "glu":
        return nn.Sequential(nn.Linear(width, 2 * width), nn.GLU())
    if target_projection == "mlp":
        return nn.Sequential(nn.GELU(), nn.Linear(width, width))
    return nn.Identity()


def _check_defaults(shorthands: dict[str, Any]) -> None:
    """Refuses numbers of distractors if a sampler is given, which has its own options for them."""
    parameters = inspect.signature(ContrastiveLoss).parameters
    for name, value in shorthands.items():
        default = parameters[name].default
        if value != default:
            raise ValueError(
                f"`{name}` must be {default}, its default, if `negatives` is given, but is {value}. Set the sampler's "
                "own options, below `negatives`."
            )
