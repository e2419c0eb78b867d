"""How well discrete codes agree with phones, and how many bits they take.

Everything here is on the host. A table of counts has codes in rows and phones in columns, shape `(V, P)`: in how many
frames code v stood where phone p was spoken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def cooccurrence(codes: Tensor, phones: Tensor, num_codes: int, num_phones: int) -> Tensor:
    """Counts how often each code comes with each phone.

    Args:
        codes: In `[0, num_codes)`, int64 of shape `(N,)`.
        phones: In `[0, num_phones)`, int64 of shape `(N,)`.
        num_codes: Number V of codes.
        num_phones: Number P of phones.

    Returns:
        float64 of shape `(V, P)`.
    """
    pairs = torch.bincount(codes * num_phones + phones, minlength=num_codes * num_phones)
    return pairs.view(num_codes, num_phones).double()


def phone_purity(counts: Tensor) -> float:
    """Returns the accuracy of naming each code by its most frequent phone, in [0, 1].

    With a code for every frame it would be 1, so it is to be read beside the number of codes and `cluster_purity`.

    Args:
        counts: As `cooccurrence` returns it, shape `(V, P)`.

    Reference:
        Hsu et al. 2021, arXiv:2106.07447, Section on k-means cluster quality.
    """
    return float(counts.amax(dim=1).sum() / counts.sum())


def cluster_purity(counts: Tensor) -> float:
    """Returns the share of frames that have the most frequent code of their phone, in [0, 1]; 1 with a single code.

    Args:
        counts: As `cooccurrence` returns it, shape `(V, P)`.

    Reference:
        Hsu et al. 2021, arXiv:2106.07447.
    """
    return float(counts.amax(dim=0).sum() / counts.sum())


def phone_normalized_mutual_information(counts: Tensor) -> float:
    """Returns which share of the uncertainty about the phone goes when the code is known (PNMI), in [0, 1].

    `I(phone; code) / H(phone)`, from shares of frames as they are. A finite sample makes it too high, the more so the
    more codes there are for the frames: compare with that of codes that have nothing to do with the phones.

    Args:
        counts: As `cooccurrence` returns it, shape `(V, P)`.

    Returns:
        NaN where there is one phone only.

    Reference:
        Hsu et al. 2021, arXiv:2106.07447.
    """
    joint = counts.double() / counts.sum()
    phones, codes = _entropy(joint.sum(dim=0)), _entropy(joint.sum(dim=1))
    if phones <= 0:
        return math.nan
    return min(1.0, max(0.0, (phones + codes - _entropy(joint.flatten())) / phones))


def joint_codes(sequences: Sequence[Tensor]) -> tuple[list[Tensor], int]:
    """Numbers the tuples of codes that are used.

    Args:
        sequences: The codes `(T, G)` of each utterance.

    Returns:
        The number of each frame's tuple, `(T,)` for each utterance, and how many tuples there are.
    """
    tuples, numbers = torch.unique(torch.cat(list(sequences)), dim=0, return_inverse=True)
    return list(numbers.split([len(codes) for codes in sequences])), len(tuples)


@dataclass(frozen=True)
class BitRate:
    """What it takes to write codes down, by an ideal code for independent symbols with the frequencies that they have.

    Attributes:
        frames: Bits a second where each frame is written: frames a second times the entropy of a frame's tuple.
        runs: Bits a second where a tuple is written when it changes, and how long it lasts is not: changes a second
            times the entropy of the tuples of runs.
        runs_with_lengths: Bits a second where a tuple is written when it changes, and with it how long it lasts:
            changes a second times the entropy of (tuple, frames). Nothing is lost.
    """

    frames: float
    runs: float
    runs_with_lengths: float


def bit_rate(sequences: Sequence[Tensor], frames_per_second: float) -> BitRate:
    """Measures the bits a second of numbered codes `(T,)` of each utterance; a run ends with its utterance.

    Reference:
        `frames` is the bit rate of ZeroSpeech 2019, Dunbar et al. 2019, arXiv:1904.11469, Section 4, with one symbol a
        frame; `runs` the same with one symbol a run.
    """
    runs, lengths = [], []
    for codes in sequences:
        values, count = torch.unique_consecutive(codes, return_counts=True)
        runs.append(values)
        lengths.append(count)
    whole, values, count = torch.cat(list(sequences)), torch.cat(runs), torch.cat(lengths)
    if not len(whole):
        return BitRate(math.nan, math.nan, math.nan)
    seconds = len(whole) / frames_per_second
    return BitRate(
        frames_per_second * _bits(whole),
        len(values) / seconds * _bits(values),
        len(values) / seconds * _bits(values * (int(count.max()) + 1) + count),
    )


def _bits(symbols: Tensor) -> float:
    counts = torch.unique(symbols, return_counts=True)[1].double()
    return _entropy(counts / counts.sum()) / math.log(2)


def _entropy(shares: Tensor) -> float:
    """Returns the entropy in nats, where nothing times its logarithm is nothing."""
    return float(-torch.special.xlogy(shares, shares).sum())
