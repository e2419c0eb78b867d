"""The phone probe: accuracy of a linear classifier that predicts the phone from the frame in its middle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2vlab.data.corpora.splitting import held_out_position
from w2vlab.data.labels.alignments import Alignment
from w2vlab.frame_grid import FrameGrid
from w2vlab.functional.measures.logistic import Logistic, fit_logistic
from w2vlab.types import Seconds

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Strengths of the regularisation that are tried, in descending order."""

VALIDATION_SHARE = 0.2
"""Fraction of the training utterances on which the strength of the regularisation is chosen."""


_TOLERANCE, _TOLERANCE_OF_CHOICE = 3e-4, 1e-3
"""Largest gradient at which a fit ends; a third of it changes accuracies by 0.1 to 0.2 points, in twice the time."""


@dataclass(frozen=True)
class PhoneFrames:
    """One frame for each phone of an utterance.

    Attributes:
        frames: Indices of the frames, int64 of shape `(N,)`.
        labels: Labels of the phones, int64 of shape `(N,)`.
    """

    frames: Tensor
    labels: Tensor


def phone_rows(
    alignment: Alignment, phones: Sequence[str], grid: FrameGrid, num_frames: int, shift: Seconds = 0.0
) -> PhoneFrames:
    """Returns the frame nearest to the middle of each phone of an utterance.

    Args:
        alignment: The phone alignment of the utterance.
        phones: All phone names, in the order of their labels.
        grid: Positions of the frames in time.
        num_frames: Number of frames of the utterance.
        shift: Time in seconds from the middle of the phone to the frame; phones whose frame would be after the last
            phone are left out.
    """
    number = {phone: index for index, phone in enumerate(phones)}
    times: npt.NDArray[np.float64] = alignment.centres + shift
    inside = times < alignment.ends[-1]
    labels = np.array([number[phone] for phone in alignment.phones], dtype=np.int64)[inside]
    return PhoneFrames(torch.from_numpy(grid.nearest(times[inside], num_frames)), torch.from_numpy(labels))


@dataclass
class Examples:
    """Examples to fit a probe to or to test it on.

    Attributes:
        features: Features `(N, D)` of each utterance, by its id.
        labels: Phone labels `(N,)` of each utterance, by its id.
    """

    features: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)

    def select(self, ids: Sequence[str]) -> Examples:
        """Returns the examples of `ids`."""
        present = [name for name in ids if name in self.features]
        return Examples({n: self.features[n] for n in present}, {n: self.labels[n] for n in present})

    def stacked(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the features and the labels of all utterances."""
        features, labels = torch.cat(list(self.features.values())), torch.cat(list(self.labels.values()))
        return features.to(device), labels.to(device)


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Result of a probe.

    Attributes:
        correct: Number of correctly classified phones of each test utterance, by its id.
        total: Number of phones of each test utterance, by its id.
        majority: Accuracy of always predicting the most frequent phone of the training utterances.
        penalty: Strength of the regularisation that was chosen.
    """

    correct: Mapping[str, int]
    total: Mapping[str, int]
    majority: float
    penalty: float

    @property
    def accuracy(self) -> float:
        """Fraction of correctly classified phones, in [0, 1]."""
        return sum(self.correct.values()) / sum(self.total.values())


def run_probe(
    train: Examples,
    test: Examples,
    num_phones: int,
    device: torch.device | str = "cpu",
    penalties: Sequence[float] = PENALTIES,
) -> ProbeResult:
    """Fits a multinomial logistic regression to the training examples, and tests it on the others.

    Features are standardised with the statistics of the training examples. The regularisation is weakened as long as
    the accuracy on a fifth of the training utterances increases, with a fit to the rest of them; test utterances do not
    affect the choice. The result is deterministic.

    Args:
        train: Examples of the training utterances.
        test: Examples of the test utterances. Phones that are not in the training examples count as errors.
        num_phones: Number P of phones.
        device: Device of the fit.
        penalties: Strengths of the regularisation to try, in descending order; see
            `functional.measures.logistic.fit_logistic`.
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
    """Splits training examples into held-out ones, for choices of hyper-parameters, and the rest.

    Both parts are all examples if there is only one utterance.
    """
    # Ordering by the hash that chose the test utterances is unbiased, because it does not depend on the audio.
    ordered = sorted(train.features, key=held_out_position)
    if len(ordered) < 2:
        return train, train
    size = max(1, round(VALIDATION_SHARE * len(ordered)))
    return train.select(ordered[:size]), train.select(ordered[size:])


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
            break  # weaker penalties are not better, and their fits take the longest
        best, best_correct = penalty, correct
    return best
