"""Which utterances validate: decided by each one's id alone, so adding files moves none from one side to the other."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def position(utterance_id: str) -> float:
    """Returns where `utterance_id` falls in [0, 1), evenly over ids."""
    return _even(utterance_id, b"w2vlab-split")


def held_out_position(utterance_id: str) -> float:
    """Returns the same for the choice of what an evaluation tests on, which has nothing to do with `position`."""
    return _even(utterance_id, b"w2vlab-test")


def _even(utterance_id: str, purpose: bytes) -> float:
    digest = hashlib.blake2b(utterance_id.encode(), digest_size=8, person=purpose).digest()
    # 53 bits are all that a float holds; one more could round up to 1.
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def validation_limit(positions: npt.NDArray[np.float64], fraction: float) -> float:
    """Returns the position below which an utterance validates.

    It is `fraction`, moved just far enough where that leaves either side without an utterance.

    Args:
        positions: Of all utterances.
        fraction: Share of utterances to set aside, in (0, 1).

    Raises:
        ValueError: There are not two utterances to be told apart.
    """
    lowest, highest = positions.min(initial=1.0), positions.max(initial=0.0)
    if lowest >= highest:
        raise ValueError(
            "`corpus` must have at least 2 usable utterances to set one aside for validation, "
            f"but has {len(positions)}; give more audio, or a validation corpus with --data.validation=FOLDER."
        )
    return float(np.clip(fraction, np.nextafter(lowest, 1.0), highest))
