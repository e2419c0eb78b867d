"""The time or the memory of a batch as a function of its shape, fitted to trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from w2vlab.types import Seconds


@dataclass(frozen=True)
class BatchShape:
    """The shape of a batch.

    Attributes:
        utterances: Number of utterances n.
        seconds: Length t of each.
    """

    utterances: int
    seconds: Seconds


@dataclass(frozen=True)
class CostModel:
    """What a batch of n utterances of t seconds costs: fixed + linear · n t + quadratic · n t².

    Convolutions and linear layers are linear in the length of an utterance; the scores of attention are quadratic.

    Attributes:
        fixed: Cost of any batch.
        linear: Cost of each second of audio.
        quadratic: Cost of each second of audio, for each second that its utterance is long.
    """

    fixed: float
    linear: float
    quadratic: float

    def predict(self, shape: BatchShape) -> float:
        """Returns the cost of a batch."""
        return self.fixed + shape.utterances * self.of_utterance(shape.seconds)

    def of_utterance(self, seconds: Seconds) -> float:
        """Returns what one more utterance of this length adds."""
        return self.linear * seconds + self.quadratic * seconds**2

    @property
    def quadratic_seconds(self) -> Seconds | None:
        """Length q with which an utterance of t seconds costs as much as t + t² / q seconds; None if it costs t.

        Raises:
            ValueError: The cost has no linear term.
        """
        if self.quadratic == 0:
            return None
        if self.linear == 0:
            raise ValueError("The cost of a batch must grow with its audio, but grows with the square of lengths only.")
        return self.linear / self.quadratic


def fit_cost(shapes: Sequence[BatchShape], costs: Sequence[float]) -> CostModel:
    """Fits a cost model by least squares of the relative deviations, without negative terms.

    The solution is exact: of the subsets of the terms, that with the smallest deviation whose terms are positive.

    Args:
        shapes: Shapes of the batches.
        costs: Their measured costs, positive.

    Raises:
        ValueError: There are no trials, or a cost is not positive.
    """
    if not shapes or min(costs) <= 0:
        raise ValueError(f"`costs` must be positive and at least one, but are {list(costs)}.")
    n, t = np.array([[shape.utterances, shape.seconds] for shape in shapes], dtype=np.float64).T
    terms = np.stack([np.ones_like(t), n * t, n * t**2], axis=1) / np.array(costs)[:, None]  # (N, 3)
    # If all utterances have the same length, the last two terms are proportional, and the quadratic one is left out.
    columns = (0, 1, 2) if len({shape.seconds for shape in shapes}) > 1 else (0, 1)
    best, least = np.zeros(3), np.inf
    for size in range(1, len(columns) + 1):
        for chosen in combinations(columns, size):
            found = np.linalg.lstsq(terms[:, chosen], np.ones(len(n)), rcond=None)[0]
            error = float(((terms[:, chosen] @ found - 1) ** 2).sum())
            if (found > 0).all() and error < least * (1 - 1e-9) - 1e-20:  # a further term must explain something
                best, least = np.zeros(3), error
                best[list(chosen)] = found
    return CostModel(*best.tolist())


def deviations(model: CostModel, shapes: Sequence[BatchShape], costs: Sequence[float]) -> list[float]:
    """Returns how far predictions are from measurements, as fractions of the measurements."""
    return [model.predict(shape) / cost - 1 for shape, cost in zip(shapes, costs, strict=True)]
