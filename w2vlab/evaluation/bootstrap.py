"""How far figures could be off because of the utterances and cells that they happen to be taken on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from w2vlab.evaluation.abx import AbxTask
from w2vlab.evaluation.probe import ProbeResult
from w2vlab.evaluation.unit_quality import UnitData
from w2vlab.functional.abx import StagedMean

Array = npt.NDArray[np.float64]

NUM_RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure and where it lies in 95 % of the resamples.

    Attributes:
        value: The figure itself.
        low: The 2.5th percentile.
        high: The 97.5th percentile.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampled:
    """A figure and what it is in each resample; those of the same units can be paired.

    Attributes:
        value: The figure itself.
        values: One a resample.
    """

    value: float
    values: Array

    @property
    def interval(self) -> Interval:
        """The percentile interval."""
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(self.values, [tail, 100 - tail])
        return Interval(self.value, float(low), float(high))

    def minus(self, other: Resampled) -> Interval:
        """Returns by how much this is more than `other`, resample by resample."""
        return Resampled(self.value - other.value, self.values - other.values).interval


def resample(size: int, seed: int, number: int = NUM_RESAMPLES) -> Array:
    """Draws `size` units with replacement, `number` times: how often each is there, shape `(number, size)`."""
    draws = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), number)
    counts: Array = draws.astype(np.float64)
    return counts


def of_probe(probe: ProbeResult, seed: int = 0, number: int = NUM_RESAMPLES) -> Resampled:
    """Resamples the test utterances of a probe's accuracy. The probe is not fitted anew."""
    ids = sorted(probe.total)
    correct, total = (np.array([counts[name] for name in ids], float) for counts in (probe.correct, probe.total))
    weights = resample(len(ids), seed, number)
    return Resampled(probe.accuracy, weights @ correct / np.maximum(weights @ total, 1))


def of_abx(task: AbxTask, errors: Sequence[float], seed: int = 0, number: int = NUM_RESAMPLES) -> Resampled:
    """Resamples the cells of an ABX error."""
    mean = StagedMean([cell.key for cell in task.cells])
    weights = resample(len(errors), seed, number)
    return Resampled(mean(errors), np.array([mean(errors, row) for row in weights]))


def of_pnmi(data: UnitData, seed: int = 0, number: int = NUM_RESAMPLES) -> Resampled:
    """Resamples the test utterances of the PNMI of the tuples of codes."""
    codes, _ = data.numbered()["joint"]
    ids = sorted(codes)
    pairs = [data.labelled(name, codes[name]) for name in ids]
    owner = np.repeat(np.arange(len(ids)), [len(phones) for _, phones in pairs])
    joint = torch.cat([numbers * data.num_phones + phones for numbers, phones in pairs]).numpy()
    _, cell = np.unique(joint, return_inverse=True)
    statistic = _pnmi_of(cell, joint // data.num_phones, joint % data.num_phones)
    weights = resample(len(ids), seed, number)
    return Resampled(statistic(np.ones(len(owner))), np.array([statistic(row[owner]) for row in weights]))


def _pnmi_of(*numbers: npt.NDArray[np.int64]) -> Callable[[Array], float]:
    def entropy(groups: npt.NDArray[np.int64], weights: Array) -> float:
        counts = np.bincount(groups, weights)
        shares = counts[counts > 0] / weights.sum()
        return float(-(shares * np.log(shares)).sum())

    def statistic(weights: Array) -> float:
        joint, codes, phones = (entropy(groups, weights) for groups in numbers)
        return max(0.0, (codes + phones - joint) / phones) if phones > 0 else 0.0

    return statistic
