"""What must be known of a whole update before its first backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from w2vlab.interfaces import UpdatePenalty
from w2vlab.modules.sums import PREDICTIONS, Sums
from w2vlab.types import Prepared, PretrainOutput


@dataclass(frozen=True)
class WholeUpdate:
    """Sums over all micro-batches of an update on all processes.

    Attributes:
        predictions: How many there are, `()`.
        statistics: What each penalty of a whole update is a function of, by the penalty's name.
    """

    predictions: Tensor
    statistics: dict[str, Tensor]

    @staticmethod
    def of(sums: Sums) -> WholeUpdate:
        """Adds up over processes what `statistics_of` gave for the micro-batches of this one."""
        totals = sums.over_processes()
        return WholeUpdate(totals.pop(PREDICTIONS), totals)

    def term(self, name: str, penalty: UpdatePenalty, output: PretrainOutput) -> Tensor:
        """Returns the part of a micro-batch in a penalty's term, weighted and summed over predictions, `()`.

        Over all micro-batches the values add up to the number of predictions times the penalty, and so do the
        gradients: each micro-batch sends back what its own frames contribute to the sum, the others held fixed.
        """
        own = penalty.statistics(output.targets, output.target_padding_mask)
        assert own is not None, "a quantizer has probabilities always or never"
        total = self.statistics[name].to(own.dtype)
        value = penalty.evaluate(total + (own - own.detach()))
        slope = self.predictions.to(value.dtype) * (value - value.detach())
        return penalty.weight * (sum(output.prediction.num_predictions) * value.detach() + slope)


def whole_update_penalties(penalties: nn.ModuleDict) -> dict[str, UpdatePenalty]:
    """Returns those penalties that are one of a whole update."""
    found = ((name, penalty) for name, penalty in penalties.items() if isinstance(penalty, UpdatePenalty))
    return {name: penalty for name, penalty in found if penalty.whole_update}


def statistics_of(penalties: Mapping[str, UpdatePenalty], prepared: Prepared | PretrainOutput) -> dict[str, Tensor]:
    """Returns the statistics of one micro-batch, without gradient, for those penalties that have any."""
    padding_mask = prepared.target_padding_mask
    with torch.no_grad():
        found = {name: penalty.statistics(prepared.targets, padding_mask) for name, penalty in penalties.items()}
    return {name: statistics for name, statistics in found.items() if statistics is not None}
