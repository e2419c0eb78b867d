"""Sums and logged means of a validation of a pretraining objective."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from w2vlab.interfaces import Quantizer, UpdatePenalty
from w2vlab.metrics import CodebookMeter
from w2vlab.modules.sums import PREDICTIONS, Sums, means, metric_sums
from w2vlab.modules.whole_update import statistics_of, whole_update_penalties
from w2vlab.types import PretrainOutput
from w2vlab.utils.distributed import all_reduce_sum

_JOINT = "joint/"
"""Prefix of the names of statistics of penalties of the whole global batch."""


class Validation:
    """Sums over the batches of one validation, on all processes.

    Args:
        penalties: The penalties of the objective, by their names in the logs.
        quantizer: The quantizer of the targets.
        device: Device of the sums.
    """

    def __init__(self, penalties: nn.ModuleDict, quantizer: Quantizer, device: torch.device) -> None:
        self._penalties = whole_update_penalties(penalties)
        self._sums = Sums(device)
        self._codebook: CodebookMeter | None = None
        if quantizer.num_codebooks:
            self._codebook = CodebookMeter(quantizer.num_codebooks, quantizer.codebook_size).to(device)

    def add(self, output: PretrainOutput, terms: Mapping[str, Tensor], counted: bool) -> None:
        """Adds one batch.

        Args:
            output: Output of the forward pass.
            terms: The weighted terms of the objective, summed over predictions, `()` each.
            counted: False if the batch repeats one of another process.
        """
        joint = statistics_of(self._penalties, output)
        values = metric_sums(output, {name: term for name, term in terms.items() if name not in joint}, codebook_size=0)
        values |= {_JOINT + name: statistics for name, statistics in joint.items()}
        self._sums.add(values, counted)
        if self._codebook is not None:
            self._codebook.update(output.targets, output.target_padding_mask, counted)

    def compute(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """Returns the logged means, and how often each entry was chosen, `(G, V)` on the host."""
        sums = self._sums.over_processes()
        for name in [name for name in sums if name.startswith(_JOINT)]:
            # A function of the sums, as in training, so it does not depend on the batch size.
            name = name.removeprefix(_JOINT)
            penalty: UpdatePenalty = self._penalties[name]
            sums["term/" + name] = penalty.weight * penalty.evaluate(sums.pop(_JOINT + name)) * sums[PREDICTIONS]
        values = means(sums)
        if self._codebook is None:
            return values, None
        values |= {f"codebook/{name}": value for name, value in self._codebook.compute().items()}
        return values, all_reduce_sum(self._codebook.counts).cpu()
