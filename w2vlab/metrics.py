"""What is measured of codebooks and of speed, the same for every quantizer."""

from __future__ import annotations

import time
from collections import deque

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
            output: What a quantizer returned.
            padding_mask: True on frames that do not count, shape `(B, N)`.
            counted: False for a batch that another process counts.
        """
        self.has_probabilities = output.probabilities is not None
        if not counted:
            return
        self.counts += count_codes(output.assignment, self.counts.shape[1], padding_mask)
        if output.probabilities is not None:
            self.probabilities += sum_probabilities(output.probabilities.detach(), padding_mask)

    def compute(self) -> dict[str, Tensor]:
        """Returns `codebook_statistics` of everything counted."""
        return codebook_statistics(self.counts, self.probabilities if self.has_probabilities else None)


def codebook_statistics(counts: Tensor, probabilities: Tensor | None) -> dict[str, Tensor]:
    """Measures how much of the codebooks is used.

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


class AudioRate:
    """Seconds of audio that one process gets through in a second, over the last updates.

    Args:
        window: Batches that the rate is taken over.
    """

    def __init__(self, window: int = 20) -> None:
        self._marks: deque[tuple[float, Seconds]] = deque(maxlen=window + 1)
        self._audio: Seconds = 0.0
        self.restart()

    def restart(self) -> None:
        """Starts counting now, leaving out whatever was not training."""
        self._marks.clear()
        self.add(0.0)

    def add(self, seconds: Seconds) -> None:
        """Counts a finished batch."""
        self._audio += seconds
        self._marks.append((time.perf_counter(), self._audio))

    def read(self) -> float:
        """Returns the rate over the window, 0 before the first batch."""
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - start) if end > start else 0.0
