"""Metrics of codebooks and of speed, the same for every quantizer."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from w2vlab.functional.codebooks import count_codes, perplexity, sum_probabilities
from w2vlab.types import QuantizerOutput, Seconds


class CodebookMeter(Metric):
    """Counts the codes of many batches, over all processes.

    Args:
        num_codebooks: Codebooks G.
        codebook_size: Entries V of each.
    """

    counts: Tensor
    probabilities: Tensor

    def __init__(self, num_codebooks: int, codebook_size: int) -> None:
        super().__init__()
        shape = (num_codebooks, codebook_size)
        self.add_state("counts", torch.zeros(shape), dist_reduce_fx="sum")
        self.add_state("probabilities", torch.zeros(shape), dist_reduce_fx="sum")
        self.has_probabilities = False

    def update(self, output: QuantizerOutput, padding_mask: Tensor | None = None, counted: bool = True) -> None:
        """Adds the codes of one batch.

        Args:
            output: The output of a quantizer.
            padding_mask: True on padding, shape `(B, N)`.
            counted: False for a batch that another process counts.
        """
        self.has_probabilities = output.probabilities is not None
        if not counted:
            return
        self.counts += count_codes(output.assignment, self.counts.shape[1], padding_mask)
        if output.probabilities is not None:
            self.probabilities += sum_probabilities(output.probabilities.detach(), padding_mask)

    def compute(self) -> dict[str, Tensor]:
        """Returns the `codebook_statistics` of all batches."""
        return codebook_statistics(self.counts, self.probabilities if self.has_probabilities else None)


def codebook_statistics(counts: Tensor, probabilities: Tensor | None) -> dict[str, Tensor]:
    """Measures perplexity and usage of codebooks.

    Args:
        counts: How often each entry was chosen, shape `(G, V)`.
        probabilities: Sums of the soft assignments, shape `(G, V)`, or None.

    Returns:
        `perplexity_hard` and, with probabilities, `perplexity_soft`, both summed over the codebooks and so in
        [G, G V]; `num_used`, the entries chosen at least once, and `usage`, their share of the G V.
    """
    num_used = (counts > 0).sum()
    values = {
        "perplexity_hard": perplexity(_normalise(counts)).sum(),
        "usage": num_used / counts.numel(),
        "num_used": num_used.float(),
    }
    if probabilities is not None:
        values["perplexity_soft"] = perplexity(_normalise(probabilities)).sum()
    return values


def _normalise(counts: Tensor) -> Tensor:
    return counts / counts.sum(dim=1, keepdim=True).clamp(min=1e-9)


class RateMeter:
    """The throughput of a process, over its last whole updates.

    Rates are taken over whole updates, because micro-batches do not take equally long: the first one computes the
    statistics of update penalties, and the last one steps the optimiser. The first update after a start includes the
    start-up; it is dropped as soon as there is a second one.

    Args:
        window: The fewest micro-batches that rates are taken over, rounded up to whole updates.
    """

    def __init__(self, window: int = 20) -> None:
        self._window = window
        self._marks: deque[_Mark] = deque()
        self.restart()

    def restart(self) -> None:
        """Starts counting now, so that time outside of training is left out."""
        self._marks.clear()
        self._done = _Mark(0.0, 0, np.zeros(1))
        self._starting = True
        self.end_update()

    def add(self, *amounts: float, micro_batches: int = 1) -> None:
        """Counts finished micro-batches; the amounts keep their number and order until the next `restart`."""
        done = self._done
        self._done = _Mark(0.0, done.micro_batches + micro_batches, done.amounts + np.array(amounts))

    def end_update(self) -> None:
        """Ends an update after its last micro-batch."""
        self._marks.append(replace(self._done, time=time.perf_counter()))
        if self._starting and len(self._marks) == 3:
            self._starting = False
            self._marks.popleft()
        while len(self._marks) > 2 and self._marks[-1].micro_batches - self._marks[1].micro_batches >= self._window:
            self._marks.popleft()

    def read(self) -> npt.NDArray[np.float64] | None:
        """Returns the amounts a second; None before the end of the first update."""
        first, last = self._marks[0], self._marks[-1]
        return (last.amounts - first.amounts) / (last.time - first.time) if last.time > first.time else None


@dataclass(frozen=True)
class _Mark:
    """The work done until a time."""

    time: float
    micro_batches: int
    amounts: npt.NDArray[np.float64]


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measures the floating-point operations a second of one product of square matrices, in about 0.2 s.

    This is the peak rate that the device reaches with its threads, clock and libraries, and so less than its data sheet
    says. The fastest of several products counts, because other processes can only slow one down. On a GPU this
    synchronizes and allocates 0.25 GiB.

    Args:
        device: The device.
        dtype: Of the matrices.
    """
    # Random, because a GPU is faster with zeros; from a separate generator, so that other draws do not change.
    generator = torch.Generator(device).manual_seed(0)
    size, matrix = _SMALLEST, torch.empty(0)
    seconds, spent, tries = 0.0, 0.0, _TRIES
    while spent < _MEASURING_SECONDS:
        # Small products do not reach the peak rate, so the size is doubled until one takes long enough. Several tries
        # decide that, because a single product may have waited for another process.
        small = seconds < _PRODUCT_SECONDS and (2 * size) ** 2 * dtype.itemsize <= _MATRIX_BYTES
        if small and tries >= _TRIES:
            size, seconds, tries = 2 * size, math.inf, 0
            matrix = torch.randn(size, size, dtype=dtype, device=device, generator=generator)
            torch.mm(matrix, matrix)  # warm-up
        start = _now(device)
        torch.mm(matrix, matrix)
        elapsed = _now(device) - start
        seconds, spent, tries = min(seconds, elapsed), spent + elapsed, tries + 1
    return 2 * size**3 / seconds


_SMALLEST = 64
_MATRIX_BYTES = 2**27
_PRODUCT_SECONDS: Seconds = 0.005
_MEASURING_SECONDS: Seconds = 0.2
_TRIES = 3


def _now(device: torch.device) -> Seconds:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
