"""Mutual information of codes and phones, with its jackknife values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from w2vlab.functional.measures.jackknife import Floats, JackknifeEstimate

Ints = npt.NDArray[np.int64]


def pnmi_estimate(utterances: Sequence[tuple[Ints, Ints]]) -> JackknifeEstimate:
    """Returns the PNMI of codes and phones (`measures.units`), and those that leave out each utterance.

    Args:
        utterances: Code and phone of each frame: two arrays `(T,)` of each utterance.

    Returns:
        PNMI is 0 if only one phone is left.
    """
    owner = np.repeat(np.arange(len(utterances)), [len(codes) for codes, _ in utterances])
    codes, phones = (np.unique(np.concatenate(side), return_inverse=True)[1] for side in zip(*utterances, strict=True))
    pairs, pair = np.unique(codes * (phones.max(initial=0) + 1) + phones, return_inverse=True)
    code, phone = np.divmod(pairs, phones.max(initial=0) + 1)
    counts = np.bincount(pair, minlength=len(pairs)).astype(np.float64)

    def pnmi(counts: Floats) -> float:
        joint = _entropy(counts)
        of_codes, of_phones = (_entropy(np.bincount(side, counts).astype(np.float64)) for side in (code, phone))
        normalized = (of_codes + of_phones - joint) / of_phones if of_phones > 0 else 0.0
        return min(1.0, max(0.0, normalized))  # rounding could exceed the range

    per_utterance = (np.bincount(pair[owner == number], minlength=len(pairs)) for number in range(len(utterances)))
    return JackknifeEstimate(pnmi(counts), np.array([pnmi(counts - removed) for removed in per_utterance]))


def _entropy(counts: Floats) -> float:
    """Returns the entropy in nats; 0 if all counts are 0."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log(shares)).sum())
