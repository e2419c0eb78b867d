"""The phone probe: how well a linear classifier names the phone in whose middle a frame lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2vlab.data.alignments import Alignment
from w2vlab.data.splitting import held_out_position
from w2vlab.evaluation.frames import FrameGrid
from w2vlab.functional.logistic import Logistic, fit_logistic
from w2vlab.types import Seconds

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Strengths of the regularisation that are tried, from the strongest."""

VALIDATION_SHARE = 0.2
"""Of the utterances to learn from, those on which the strength is chosen."""


_TOLERANCE, _TOLERANCE_OF_CHOICE = 3e-4, 1e-3
"""Gradients at which a fit is done: with a third of them accuracies move by 0.1 to 0.2 points, in twice the time."""


@dataclass(frozen=True)
class Rows:
    """One frame for each phone that was spoken.

    Attributes:
        frames: Which frame of the utterance, int64 of shape `(N,)`.
        labels: Which phone, int64 of shape `(N,)`.
    """

    frames: Tensor
    labels: Tensor


def phone_rows(
    alignment: Alignment, phones: Sequence[str], grid: FrameGrid, num_frames: int, shift: Seconds = 0.0
) -> Rows:
    """Returns the frame nearest to the middle of each phone of an utterance.

    Args:
        alignment: The phones.
        phones: All names, in the order of their labels.
        grid: Where the frames lie.
        num_frames: Frames of the utterance.
        shift: How much later the frame lies than the middle of the phone; phones for which that is behind the last
            label are left out.
    """
    number = {phone: index for index, phone in enumerate(phones)}
    times: npt.NDArray[np.float64] = alignment.centres + shift
    inside = times < alignment.ends[-1]
    labels = np.array([number[phone] for phone in alignment.phones], dtype=np.int64)[inside]
    return Rows(torch.from_numpy(grid.nearest(times[inside], num_frames)), torch.from_numpy(labels))


@dataclass
class Examples:
    """What a probe is fitted to or measured on.

    Attributes:
        features: The rows `(N, D)` of each utterance, by its id.
        labels: The phone of each row, `(N,)`.
    """

    features: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)

    def some(self, ids: Sequence[str]) -> Examples:
        """Returns the examples of `ids` alone."""
        wanted = [name for name in ids if name in self.features]
        return Examples({n: self.features[n] for n in wanted}, {n: self.labels[n] for n in wanted})

    def stacked(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns everything as two tensors."""
        features, labels = torch.cat(list(self.features.values())), torch.cat(list(self.labels.values()))
        return features.to(device), labels.to(device)


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a probe came to.

    Attributes:
        correct: Phones named right in each test utterance, by its id.
        total: Phones in each test utterance.
        majority: Accuracy of naming the most frequent phone of the training each time.
        penalty: The strength of the regularisation that was chosen.
    """

    correct: Mapping[str, int]
    total: Mapping[str, int]
    majority: float
    penalty: float

    @property
    def accuracy(self) -> float:
        """Share of phones named right, in [0, 1]."""
        return sum(self.correct.values()) / sum(self.total.values())


def run_probe(
    train: Examples,
    test: Examples,
    num_phones: int,
    device: torch.device | str = "cpu",
    penalties: Sequence[float] = PENALTIES,
) -> ProbeResult:
    """Fits a multinomial logistic regression, and names the phones of the test utterances.

    Features are standardised by those it is fitted to. The regularisation is made weaker for as long as that helps on a
    fifth of the training utterances, fitted to the rest; the test has no part in that. Nothing is drawn.

    Args:
        train: Examples of the utterances to learn from.
        test: Examples of others. A phone that was not there to be learned counts as wrong.
        num_phones: Names P.
        device: Where to compute.
        penalties: Strengths to try, from the strongest; `functional.logistic.fit_logistic` says of what.
    """
    device = torch.device(device)
    penalty = penalties[0] if len(penalties) == 1 else _best_penalty(train, num_phones, device, penalties)
    model = fit_logistic(*train.stacked(device), num_phones, penalty, tolerance=_TOLERANCE)
    correct, total = {}, {}
    for name, rows in test.features.items():
        expected = test.labels[name]
        correct[name] = int((model.predict(rows.to(device)).cpu() == expected).sum())
        total[name] = len(expected)
    most_frequent = torch.bincount(torch.cat(list(train.labels.values())), minlength=num_phones).argmax()
    majority = (torch.cat(list(test.labels.values())) == most_frequent).float().mean()
    return ProbeResult(correct=correct, total=total, majority=float(majority), penalty=penalty)


def held_out_split(train: Examples) -> tuple[Examples, Examples]:
    """Returns the training utterances on which choices are made, and the rest to fit to; both the same where it is one.

    The test has no part in such choices.
    """
    ordered = sorted(train.features, key=held_out_position)
    if len(ordered) < 2:
        return train, train
    # The hash chose these utterances too; its order says nothing about what is in them.
    size = max(1, round(VALIDATION_SHARE * len(ordered)))
    return train.some(ordered[:size]), train.some(ordered[size:])


def _best_penalty(train: Examples, num_phones: int, device: torch.device, penalties: Sequence[float]) -> float:
    if len(train.features) < 2:
        return penalties[len(penalties) // 2]
    validation, rest = held_out_split(train)
    rows, labels = rest.stacked(device)
    held_out, expected = validation.stacked(device)
    best, best_correct = penalties[0], -1
    model: Logistic | None = None
    for penalty in penalties:
        model = fit_logistic(rows, labels, num_phones, penalty, start=model, tolerance=_TOLERANCE_OF_CHOICE)
        correct = int((model.predict(held_out) == expected).sum())
        if correct <= best_correct:
            break  # it only gets worse from here, and weaker penalties take the longest
        best, best_correct = penalty, correct
    return best
