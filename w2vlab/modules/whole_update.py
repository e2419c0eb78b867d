"""Statistics of the global batch that penalties need before the first backward pass of an update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from w2vlab.interfaces import UpdatePenalty
from w2vlab.types import Prepared, PretrainOutput


@dataclass(frozen=True)
class GlobalBatchStatistics:
    """Sums over all micro-batches of an update on all processes.

    Attributes:
        num_predictions: Predictions of the global batch, `()`.
        statistics: Statistics of each penalty of the whole update, by the name of the penalty.
    """

    num_predictions: Tensor
    statistics: dict[str, Tensor]

    def term(self, name: str, penalty: UpdatePenalty, output: PretrainOutput) -> Tensor:
        """Returns the weighted contribution of a micro-batch to the term of a penalty, `()`.

        The values of all micro-batches add up to the number of predictions times the penalty, and so do the gradients:
        that of a micro-batch is with respect to its own frames, with the others held constant.

        Args:
            name: Name of the penalty.
            penalty: The penalty.
            output: Output of the forward pass of the micro-batch.
        """
        own = penalty.statistics(output.targets, output.target_padding_mask)
        assert own is not None, "a quantizer has probabilities always or never"
        total = self.statistics[name].to(own.dtype)
        value = penalty.evaluate(total + (own - own.detach()))
        slope = self.num_predictions.to(value.dtype) * (value - value.detach())
        return penalty.weight * (sum(output.prediction.num_predictions) * value.detach() + slope)


def whole_update_penalties(penalties: nn.ModuleDict) -> dict[str, UpdatePenalty]:
    """Returns the penalties that are a function of the whole global batch."""
    found = ((name, penalty) for name, penalty in penalties.items() if isinstance(penalty, UpdatePenalty))
    return {name: penalty for name, penalty in found if penalty.whole_update}


def statistics_of(penalties: Mapping[str, UpdatePenalty], prepared: Prepared | PretrainOutput) -> dict[str, Tensor]:
    """Returns the statistics of one micro-batch without gradient, for the penalties that have statistics."""
    padding_mask = prepared.target_padding_mask
    with torch.no_grad():
        found = {name: penalty.statistics(prepared.targets, padding_mask) for name, penalty in penalties.items()}
    return {name: statistics for name, statistics in found.items() if statistics is not None}
