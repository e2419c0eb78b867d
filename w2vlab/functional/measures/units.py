"""Agreement of discrete codes with phones, and bit rates of codes.

All tensors are on the host. A table of counts has codes in rows and phones in columns, shape `(V, P)`: the number of
frames with code v and phone p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def cooccurrence(codes: Tensor, phones: Tensor, num_codes: int, num_phones: int) -> Tensor:
    """Counts how often each code and each phone occur in the same frame.

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
    """Returns the accuracy of predicting the most frequent phone of each code, in [0, 1].

    It increases with the number of codes (1 if each frame has its own), so compare it together with that number and
    with `cluster_purity`.

    Args:
        counts: As `cooccurrence` returns it, shape `(V, P)`.

    Reference:
        Hsu et al. 2021, arXiv:2106.07447, Section on k-means cluster quality.
    """
    return float(counts.amax(dim=1).sum() / counts.sum())


def cluster_purity(counts: Tensor) -> float:
    """Returns the fraction of frames that have the most frequent code of their phone, in [0, 1]; 1 with a single code.

    Args:
        counts: As `cooccurrence` returns it, shape `(V, P)`.

    Reference:
        Hsu et al. 2021, arXiv:2106.07447.
    """
    return float(counts.amax(dim=0).sum() / counts.sum())


def phone_normalized_mutual_information(counts: Tensor) -> float:
    """Returns the phone-normalized mutual information (PNMI), `I(phone; code) / H(phone)`, in [0, 1].

    The plug-in estimate has a positive bias, which increases with the number of codes per frame: compare it with the
    PNMI of codes that are independent of the phones.

    Args:
        counts: As `cooccurrence` returns it, shape `(V, P)`.

    Returns:
        NaN if there is only one phone.

    Reference:
        Hsu et al. 2021, arXiv:2106.07447.
    """
    joint = counts.double() / counts.sum()
    phones, codes = _entropy(joint.sum(dim=0)), _entropy(joint.sum(dim=1))
    if phones <= 0:
        return math.nan
    return min(1.0, max(0.0, (phones + codes - _entropy(joint.flatten())) / phones))


def joint_codes(sequences: Sequence[Tensor]) -> tuple[list[Tensor], int]:
    """Maps tuples of codes to joint codes, one for each tuple that occurs.

    Args:
        sequences: Codes `(T, G)` of each utterance.

    Returns:
        Joint code of each frame, `(T,)` for each utterance, and the number of joint codes.
    """
    tuples, numbers = torch.unique(torch.cat(list(sequences)), dim=0, return_inverse=True)
    return list(numbers.split([len(codes) for codes in sequences])), len(tuples)


@dataclass(frozen=True)
class BitRate:
    """Bit rates of codes with ideal entropy coding of independent symbols.

    Attributes:
        frames: Bits per second with one symbol per frame: the frame rate times the entropy of the codes.
        runs: Bits per second with one symbol per run of equal codes, without the durations: runs per second times the
            entropy of their codes.
        runs_with_lengths: Bits per second with one symbol per run that includes its duration, which is lossless: runs
            per second times the entropy of (code, number of frames).
    """

    frames: float
    runs: float
    runs_with_lengths: float


def bit_rate(sequences: Sequence[Tensor], frames_per_second: float) -> BitRate:
    """Computes the bit rates of codes `(T,)` of each utterance; runs end with their utterances.

    Args:
        sequences: Codes of each utterance.
        frames_per_second: Frame rate in Hz.

    Reference:
        `frames` is the bit rate of ZeroSpeech 2019, Dunbar et al. 2019, arXiv:1904.11469, Section 4, with one symbol
        per frame; `runs` is the same with one symbol per run.
    """
    run_codes, run_lengths = [], []
    for codes in sequences:
        values, counts = torch.unique_consecutive(codes, return_counts=True)
        run_codes.append(values)
        run_lengths.append(counts)
    frames, runs, lengths = torch.cat(list(sequences)), torch.cat(run_codes), torch.cat(run_lengths)
    if not len(frames):
        return BitRate(frames=math.nan, runs=math.nan, runs_with_lengths=math.nan)
    runs_per_second = len(runs) / (len(frames) / frames_per_second)
    return BitRate(
        frames=frames_per_second * _entropy_in_bits(frames),
        runs=runs_per_second * _entropy_in_bits(runs),
        runs_with_lengths=runs_per_second * _entropy_in_bits(runs * (int(lengths.max()) + 1) + lengths),
    )


def _entropy_in_bits(symbols: Tensor) -> float:
    counts = torch.unique(symbols, return_counts=True)[1].double()
    return _entropy(counts / counts.sum()) / math.log(2)


def _entropy(probabilities: Tensor) -> float:
    """Returns the entropy in nats, with 0 log 0 = 0."""
    return float(-torch.special.xlogy(probabilities, probabilities).sum())
