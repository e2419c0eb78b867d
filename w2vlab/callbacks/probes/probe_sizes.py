"""Check of the sizes of a linear probe."""

from __future__ import annotations

from w2vlab.types import Seconds
from w2vlab.utils.checks import check_at_least


def check_probe_sizes(num_train: int, num_test: int, batch_seconds: Seconds) -> None:
    """Checks that a probe can be fitted and tested with these sizes.

    Args:
        num_train: Utterances that the probe is fitted to.
        num_test: Utterances that it is tested on.
        batch_seconds: Maximum audio in a batch.

    Raises:
        ValueError: `num_train` is less than 2, `num_test` less than 1, or `batch_seconds` not positive.
    """
    check_at_least(2, num_train=num_train)
    check_at_least(1, num_test=num_test)
    if batch_seconds <= 0:
        raise ValueError(f"`batch_seconds` must be positive, but is {batch_seconds}.")
