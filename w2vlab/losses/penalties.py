"""Optional penalties on the codebooks and on the latents."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from w2vlab.functional.codebooks import perplexity, sum_probabilities
from w2vlab.functional.lengths import make_padding_mask, mean_per_utterance
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import Penalty, UpdatePenalty
from w2vlab.types import PretrainOutput, QuantizerOutput
from w2vlab.utils.messages import W2VLabWarning


def _check_weight(weight: float) -> float:
    if weight < 0:
        raise ValueError(f"`weight` must not be negative, but is {weight}.")
    return weight


class DiversityPenalty(UpdatePenalty):
    """Rewards a quantizer that uses all entries of its codebooks equally often.

    `(G V - perplexity) / (G V)`, with the perplexity of the soft assignment averaged over the frames to predict:
    softmax without noise, without temperature. Its gradient reaches the scores and the encoder, but not the sampled
    entries. With a quantizer without probabilities it is zero, and a warning says so once.

    Args:
        weight: alpha, its factor in the objective.
        whole_update: Average over the global batch, so that the value does not depend on the number of processes and
            micro-batches; with gradient accumulation this takes another forward pass of encoder and quantizer, without
            gradient. False averages over each micro-batch, as published (there, over each GPU).

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Equation 4; scaled as in the released code.
    """

    def __init__(self, weight: float = 0.1, whole_update: bool = True) -> None:
        super().__init__()
        self.weight = _check_weight(weight)
        self.whole_update = whole_update

    def statistics(self, targets: QuantizerOutput, padding_mask: Tensor | None) -> Tensor | None:
        """Returns the summed soft assignments, `(G, V)`."""
        if targets.probabilities is None:
            # Python shows a warning of the same line once.
            warnings.warn(
                "DiversityPenalty has no effect: this quantizer has no probabilities. Remove it from "
                "`model.penalties`, or use a quantizer that has them (GumbelQuantizer).",
                category=W2VLabWarning,
                stacklevel=2,
            )
            return None
        return sum_probabilities(targets.probabilities, padding_mask)

    def evaluate(self, statistics: Tensor) -> Tensor:
        """Returns the penalty of summed assignments `(G, V)`: `()`, in [0, 1)."""
        distribution = statistics / statistics[:1].sum()  # all codebooks count the same frames
        return (statistics.numel() - perplexity(distribution).sum()) / statistics.numel()


class FeaturePenalty(Penalty):
    """Keeps the encoder's output small: the mean square of the features before any normalisation.

    As published it is taken after the gradient multiplier, so with the defaults (10 and 0.1) its weight in the encoder
    is 1.

    Args:
        weight: Its factor in the objective.
        include_padding: Include padded frames, as fairseq does.

    Reference:
        Released code of Baevski et al. 2020, arXiv:2006.11477 (`features_pen`); the paper does not mention it.
    """

    def __init__(self, weight: float = 10.0, include_padding: bool = False) -> None:
        super().__init__()
        self.weight = _check_weight(weight)
        self.include_padding = include_padding

    @property
    def utterances_are_independent(self) -> bool:
        """Whether padding is left out."""
        return not self.include_padding

    def forward(self, output: PretrainOutput) -> Tensor:
        """Returns the mean square of each utterance's latents, `(B,)`."""
        if torch.is_grad_enabled() and not output.features.requires_grad:
            warnings.warn(
                "FeaturePenalty has no effect: the encoder is not trained. Remove it from `model.penalties`.",
                category=W2VLabWarning,
                stacklevel=2,
            )
        with torch.autocast(output.features.device.type, enabled=False):
            squares = at_least_float32(output.features).square().mean(dim=-1)  # (B, T)
        padding = None
        if not self.include_padding:
            padding = make_padding_mask(output.num_frames, squares.shape[1], squares.device)
        return mean_per_utterance(squares, padding)
