"""Statistics of code sequences: usage of entries, joint perplexity of codebooks, entropy of successive codes.

All tensors are on the host; a sequence is the codes `(T, G)` of one utterance.
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
    """Returns the perplexity of the tuples of codes of all G codebooks: the exponential of their entropy.

    It is between the largest perplexity of a codebook (if that one determines the others) and the product of all
    perplexities (if the codebooks are independent), and at most the number of frames.
    """
    _, counts = torch.unique(torch.cat(list(sequences)), dim=0, return_counts=True)
    return math.exp(_entropy(counts))


def next_code_entropy(sequences: Sequence[Tensor], codebook_size: int) -> list[float]:
    """Returns the conditional entropy of the next code given the current one, in bits per frame, for each codebook.

    This is Shannon's F_2, `H(current, next) - H(current)`, estimated from all pairs of successive frames of an
    utterance: 0 if each code has only one successor, log2 V for independent and uniform codes. The estimate is too low
    if there are fewer pairs than the V^2 possible ones.

    Args:
        sequences: Codes `(T, G)` of each utterance.
        codebook_size: Entries V of a codebook.

    Reference:
        Shannon 1951, Prediction and Entropy of Printed English, Equation 1.
    """
    current = torch.cat([codes[:-1] for codes in sequences])  # (pairs, G)
    pairs = current * codebook_size + torch.cat([codes[1:] for codes in sequences])
    return [
        max(0.0, (_entropy(_occurrences(pairs[:, group])) - _entropy(_occurrences(current[:, group]))) / math.log(2))
        for group in range(current.shape[1])
    ]


def mean_run_length(sequences: Sequence[Tensor]) -> list[float]:
    """Returns the mean number of frames in a run of equal codes, for each codebook; runs end with their utterances."""
    num_frames = sum(len(codes) for codes in sequences)
    runs = sum(1 + (codes[1:] != codes[:-1]).sum(dim=0) for codes in sequences if len(codes))
    return [num_frames / int(count) for count in torch.as_tensor(runs)]


def changed_share(before: Sequence[Tensor], now: Sequence[Tensor]) -> list[float]:
    """Returns the fraction of frames whose code differs from that in `before`, for each codebook."""
    return (torch.cat(list(before)) != torch.cat(list(now))).float().mean(dim=0).tolist()


def _occurrences(codes: Tensor) -> Tensor:
    counts: Tensor = torch.unique(codes, return_counts=True)[1]
    return counts


def _entropy(counts: Tensor) -> float:
    """Returns the entropy in nats of a distribution given by positive counts; 0 without counts."""
    shares = counts.double() / counts.sum()
    return float(-(shares * shares.log()).sum())
