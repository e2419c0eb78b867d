"""Mutual information of codes and phones, and how far it could be off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from w2vlab.functional.jackknife import Floats, Jackknifed

Ints = npt.NDArray[np.int64]


def jackknifed_pnmi(utterances: Sequence[tuple[Ints, Ints]]) -> Jackknifed:
    """Returns the PNMI of codes with phones (`functional.units`) without each utterance; 0 where one phone is left.

    Args:
        utterances: The code and the phone of each frame, two arrays `(T,)` an utterance.
    """
    owner = np.repeat(np.arange(len(utterances)), [len(codes) for codes, _ in utterances])
    codes, phones = (np.unique(np.concatenate(side), return_inverse=True)[1] for side in zip(*utterances, strict=True))
    pairs, pair = np.unique(codes * (phones.max(initial=0) + 1) + phones, return_inverse=True)
    code, phone = np.divmod(pairs, phones.max(initial=0) + 1)
    counts = np.bincount(pair, minlength=len(pairs)).astype(np.float64)

    def figure(counts: Floats) -> float:
        joint = _entropy(counts)
        of_codes, of_phones = (_entropy(np.bincount(side, counts).astype(np.float64)) for side in (code, phone))
        share = (of_codes + of_phones - joint) / of_phones if of_phones > 0 else 0.0
        return min(1.0, max(0.0, share))  # but for rounding

    own = (np.bincount(pair[owner == number], minlength=len(pairs)) for number in range(len(utterances)))
    return Jackknifed(figure(counts), np.array([figure(counts - theirs) for theirs in own]))


def _entropy(counts: Floats) -> float:
    """Returns the entropy in nats; 0 of nothing."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log(shares)).sum())
