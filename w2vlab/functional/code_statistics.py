"""What sequences of codes tell about codebooks: which entries live, which come together, how they follow each other.

Everything here is on the host and counts codes as they are; a sequence is the codes `(T, G)` of one utterance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from w2vlab.functional.codebooks import count_codes


def usage_counts(sequences: Sequence[Tensor], codebook_size: int) -> Tensor:
    """Counts how often each entry was chosen: float32 of shape `(G, V)`."""
    return count_codes(torch.cat(list(sequences))[None], codebook_size)


def joint_perplexity(sequences: Sequence[Tensor]) -> float:
    """Returns how many combinations of codes are used, in effect: the exponential of the entropy of the tuples.

    A frame's tuple is its codes in all G codebooks, so this lies between the largest perplexity of a codebook (the
    others follow from it) and the product of all of them (they are independent), and is at most the number of frames.
    """
    _, counts = torch.unique(torch.cat(list(sequences)), dim=0, return_counts=True)
    return math.exp(_entropy(counts))


def next_code_entropy(sequences: Sequence[Tensor], codebook_size: int) -> list[float]:
    """Returns how much is not known of the next code when this one is, in bits a frame, for each codebook.

    This is Shannon's F_2, `H(this, next) - H(this)`, over all pairs of neighbouring frames of an utterance, with the
    shares among these pairs as probabilities: 0 where each code has one successor, log2 V where codes follow each other
    at random. It is too low where pairs are fewer than the V^2 that there may be.

    Args:
        sequences: The codes `(T, G)` of each utterance.
        codebook_size: Entries V of a codebook.

    Reference:
        Shannon 1951, Prediction and Entropy of Printed English, Equation 1.
    """
    this = torch.cat([codes[:-1] for codes in sequences])  # (pairs, G)
    pairs = this * codebook_size + torch.cat([codes[1:] for codes in sequences])
    return [
        max(0.0, (_entropy(_occurrences(pairs[:, group])) - _entropy(_occurrences(this[:, group]))) / math.log(2))
        for group in range(this.shape[1])
    ]


def mean_run_length(sequences: Sequence[Tensor]) -> list[float]:
    """Returns for how many frames a code lasts on average, for each codebook; a run ends with its utterance."""
    num_frames = sum(len(codes) for codes in sequences)
    runs = sum(1 + (codes[1:] != codes[:-1]).sum(dim=0) for codes in sequences if len(codes))
    return [num_frames / int(count) for count in torch.as_tensor(runs)]


def changed_share(before: Sequence[Tensor], now: Sequence[Tensor]) -> list[float]:
    """Returns the share of frames that have another code than `before`, for each codebook."""
    return (torch.cat(list(before)) != torch.cat(list(now))).float().mean(dim=0).tolist()


def _occurrences(codes: Tensor) -> Tensor:
    counts: Tensor = torch.unique(codes, return_counts=True)[1]
    return counts


def _entropy(counts: Tensor) -> float:
    """Returns the entropy of a distribution that is given by counts above 0, in nats; 0 of nothing."""
    shares = counts.double() / counts.sum()
    return float(-(shares * shares.log()).sum())
