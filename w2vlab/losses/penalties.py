"""Optional pressure on the codebooks and on the latents."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from w2vlab.distributed import all_reduce_sum
from w2vlab.functional.codebooks import perplexity, sum_probabilities
from w2vlab.functional.lengths import make_padding_mask, mean_per_utterance
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import Penalty
from w2vlab.types import PretrainOutput


def _check_weight(weight: float) -> float:
    if weight < 0:
        raise ValueError(f"`weight` must not be negative, but is {weight}.")
    return weight


class DiversityPenalty(Penalty):
    """Pushes a quantizer to use all entries of its codebooks alike.

    `(G V - perplexity) / (G V)`, with the perplexity of the soft assignment averaged over the batch of all processes:
    softmax without noise, without temperature. It reaches the scores and what is before them; the sampled entries take
    no part. On a quantizer without probabilities it is zero and says so once.

    Args:
        weight: alpha, its factor in the objective.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Equation 4; scaled as in the released code.
    """

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = _check_weight(weight)

    def forward(self, output: PretrainOutput) -> Tensor:
        """Returns the penalty of the batch, `()`, in [0, 1)."""
        probabilities = output.targets.probabilities
        if probabilities is None:
            # Python shows a warning from the same place once.
            warnings.warn(
                "DiversityPenalty has no effect: this quantizer has no probabilities to spread. Take it out of "
                "`model.penalties`, or use a quantizer that has (GumbelQuantizer).",
                stacklevel=2,
            )
            return output.context.new_zeros(())
        num_entries = probabilities.shape[-2] * probabilities.shape[-1]
        total = all_reduce_sum(sum_probabilities(probabilities, output.target_padding))  # (G, V)
        distribution = total / total[:1].sum()  # every codebook counts the same frames
        return (num_entries - perplexity(distribution).sum()) / num_entries


class FeaturePenalty(Penalty):
    """Keeps the encoder's output small: the mean of its squares before any normalisation.

    As published it is taken after the gradient multiplier, so with the defaults (10 and 0.1) its weight in the encoder
    is 1.

    Args:
        weight: Its factor in the objective.
        include_padding: Count padded frames too, as fairseq does.

    Reference:
        Released code of Baevski et al. 2020, arXiv:2006.11477 (`features_pen`); the paper does not name it.
    """

    def __init__(self, weight: float = 10.0, include_padding: bool = False) -> None:
        super().__init__()
        self.weight = _check_weight(weight)
        self.include_padding = include_padding

    def forward(self, output: PretrainOutput) -> Tensor:
        """Returns the mean square of each utterance's latents, `(B,)`."""
        if torch.is_grad_enabled() and not output.features.requires_grad:
            warnings.warn(
                "FeaturePenalty has no effect: the encoder has nothing to learn. Take it out of `model.penalties`.",
                stacklevel=2,
            )
        with torch.autocast(output.features.device.type, enabled=False):
            squares = at_least_float32(output.features).square().mean(dim=-1)  # (B, T)
        padding = None
        if not self.include_padding:
            padding = make_padding_mask(output.num_frames, squares.shape[1], squares.device)
        return mean_per_utterance(squares, padding)
