"""Splits a corpus by hashes of the ids, so that adding files moves no utterance from one part to the other."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def position(utterance_id: str) -> float:
    """Returns a hash of `utterance_id`, uniform in [0, 1), for the choice of validation utterances."""
    return _uniform_hash(utterance_id, b"w2vlab-split")


def held_out_position(utterance_id: str) -> float:
    """Returns another hash of `utterance_id`, independent of `position`, for the choice of an evaluation's test set."""
    return _uniform_hash(utterance_id, b"w2vlab-test")


def _uniform_hash(utterance_id: str, purpose: bytes) -> float:
    digest = hashlib.blake2b(utterance_id.encode(), digest_size=8, person=purpose).digest()
    # A float has 53 bits of precision; with more the result could round up to 1.
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def validation_limit(positions: npt.NDArray[np.float64], fraction: float, option: str = "corpus") -> float:
    """Returns the position below which utterances are for validation.

    This is `fraction`, unless one part would have no utterance: then it is moved until that part has one.

    Args:
        positions: `position` of each utterance.
        fraction: Fraction of utterances for validation, in (0, 1).
        option: Name of the option with the corpus, for the message.

    Raises:
        ValueError: There are fewer than two utterances with different positions.
    """
    lowest, highest = positions.min(initial=1.0), positions.max(initial=0.0)
    if lowest >= highest:
        raise ValueError(
            f"`{option}` must have at least 2 usable utterances to set one aside for validation, "
            f"but has {len(positions)}; give more audio, or a validation corpus with --data.validation=FOLDER."
        )
    return float(np.clip(fraction, np.nextafter(lowest, 1.0), highest))
