"""What the probes of a run are asked to take."""

from __future__ import annotations

from w2vlab.types import Seconds


def check_sizes(num_train: int, num_test: int, batch_seconds: Seconds) -> None:
    """Refuses sizes with which no probe can be fitted and scored.

    Args:
        num_train: Utterances that the probe is fitted on.
        num_test: Utterances that it is scored on.
        batch_seconds: Audio in a batch.

    Raises:
        ValueError: `num_train` is less than 2, `num_test` less than 1, or `batch_seconds` not positive.
    """
    for name, number, least in (("num_train", num_train, 2), ("num_test", num_test, 1)):
        if number < least:
            raise ValueError(f"`{name}` must be at least {least}, but is {number}.")
    if batch_seconds <= 0:
        raise ValueError(f"`batch_seconds` must be positive, but is {batch_seconds}.")
