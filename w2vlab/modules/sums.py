"""Sums over the global batch, from which logged means are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from w2vlab.functional.codebooks import count_codes, sum_probabilities
from w2vlab.metrics import codebook_statistics
from w2vlab.types import AudioBatch, PretrainOutput, Seconds
from w2vlab.utils.distributed import all_reduce_sum

PREDICTIONS = "predictions"

SHARE = "data/share/"
"""Start of the names under which the shares of the corpora are logged."""

DELIVERED = "w2vlab_delivered"
"""Key of the seconds in a checkpoint."""

_SECONDS = "corpus_seconds/"

_TERM, _PART, _WHOLE = "term/", "part/", "whole/"


@dataclass
class Sums:
    """Accumulates tensors and host numbers by name, in float64, without synchronizing with the device.

    Names, their order and shapes must be the same on all processes.

    Attributes:
        device: Device of the tensors.
    """

    device: torch.device
    _tensors: dict[str, Tensor] = field(default_factory=dict)
    _numbers: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, Tensor | float], counted: bool = True) -> None:
        """Adds `values`; adds zeros if not `counted`, so that the names are the same on all processes."""
        for name, value in values.items():
            if not isinstance(value, Tensor):
                self._numbers[name] = self._numbers.get(name, 0.0) + (value if counted else 0.0)
                continue
            value = value.detach().to(self._dtype)
            if not counted:
                value = torch.zeros_like(value)
            self._tensors[name] = self._tensors[name] + value if name in self._tensors else value

    def over_processes(self) -> dict[str, Tensor]:
        """Returns the sums over all processes, in one all-reduce; every process must call it."""
        numbers = torch.tensor(list(self._numbers.values()), dtype=self._dtype)
        if self.device.type == "cuda":
            numbers = numbers.pin_memory()
        parts = [numbers.to(self.device, non_blocking=True), *(tensor.flatten() for tensor in self._tensors.values())]
        with torch.no_grad():
            joined = all_reduce_sum(torch.cat(parts))
        shapes = [*(torch.Size() for _ in self._numbers), *(tensor.shape for tensor in self._tensors.values())]
        split = torch.split(joined, [shape.numel() for shape in shapes])
        names = [*self._numbers, *self._tensors]
        return {name: part.view(shape) for name, part, shape in zip(names, split, shapes, strict=True)}

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64  # MPS has no float64


def metric_sums(output: PretrainOutput, terms: Mapping[str, Tensor], codebook_size: int) -> dict[str, Tensor | float]:
    """Returns the sums of one micro-batch from which `means` computes the logged values.

    Args:
        output: Output of the forward pass.
        terms: The weighted terms of the objective, summed over predictions, `()` each.
        codebook_size: Entries V of a codebook; 0 if codes are not counted.
    """
    prediction, targets, padding = output.prediction, output.targets, output.target_padding_mask
    values: dict[str, Tensor | float] = {PREDICTIONS: sum(prediction.num_predictions)}
    if prediction.num_candidates:
        values["correct"] = prediction.num_correct
    values |= {_TERM + name: term for name, term in terms.items()}
    for name, (part, whole) in prediction.shares.items():
        values |= {_PART + name: part, _WHOLE + name: whole}
    if codebook_size:
        values["codes"] = count_codes(targets.assignment, codebook_size, padding)
        if targets.probabilities is not None:
            values["probabilities"] = sum_probabilities(targets.probabilities.detach(), padding)
    return values


def masked_share(output: PretrainOutput) -> dict[str, Tensor | float]:
    """Returns the sums for the fraction of masked frames; empty without a mask."""
    if output.mask is None:
        return {}
    return {
        # Those that are hidden, which are not those to predict if every frame is predicted (`NoMasking`).
        _PART + "masked_fraction": output.mask.frames.sum(),
        _WHOLE + "masked_fraction": sum(output.num_frames),
    }


def means(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the logged means of sums of `metric_sums`: terms, total, accuracy, shares and codebook usage."""
    predictions = sums[PREDICTIONS].clamp(min=1)
    values = {
        f"loss/{name.removeprefix(_TERM)}": total / predictions
        for name, total in sums.items()
        if name.startswith(_TERM)
    }
    values["loss/total"] = torch.stack(list(values.values())).sum()
    if "correct" in sums:
        values["accuracy"] = sums["correct"] / predictions
    for name, whole in sums.items():
        if name.startswith(_WHOLE):
            share = name.removeprefix(_WHOLE)
            values[share] = sums[_PART + share] / whole.clamp(min=1)
    if "codes" in sums:
        found = codebook_statistics(sums["codes"], sums.get("probabilities"))
        values |= {f"codebook/{name}": value for name, value in found.items()}
    return {name: value.float() for name, value in values.items()}


class DeliveredAudio:
    """Seconds of each corpus in all complete updates so far, on all processes; on the device, without synchronizing."""

    def __init__(self) -> None:
        self._seconds: dict[str, Tensor | Seconds] = {}

    @staticmethod
    def sums(batch: AudioBatch) -> dict[str, Seconds]:
        """Returns the seconds of each corpus in a micro-batch, to be summed over the global batch.

        Every batch of a mixture has all names, so the names are the same on all processes; other batches have none.
        """
        return {_SECONDS + name: seconds for name, seconds in (batch.corpus_seconds or {}).items()}

    def add(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Adds the sums of an update; returns the shares in all updates so far, by their logged names."""
        for name, seconds in sums.items():
            if name.startswith(_SECONDS):
                corpus = name.removeprefix(_SECONDS)
                self._seconds[corpus] = self._seconds.get(corpus, 0.0) + seconds
        names = [name for name, seconds in self._seconds.items() if isinstance(seconds, Tensor)]
        if not names:
            return {}
        every = torch.stack([torch.as_tensor(self._seconds[name]) for name in names])
        return {SHARE + name: share.float() for name, share in zip(names, every / every.sum(), strict=True)}

    def state_dict(self) -> dict[str, Seconds]:
        """Returns the seconds of each corpus, for a checkpoint."""
        return {name: float(seconds) for name, seconds in self._seconds.items()}

    def load_state_dict(self, state: Any) -> None:
        """Restores the state of `state_dict`; of a checkpoint without one, or with another, it is that of no audio."""
        seconds = state.items() if isinstance(state, dict) else ()
        self._seconds = {str(name): float(value) for name, value in seconds if isinstance(value, int | float)}
