"""The largest batches that fit in memory."""

from __future__ import annotations

from collections.abc import Callable

TOLERANCE = 0.05
"""Relative distance between the largest batch that fits and the smallest that does not, at which a search ends."""


class OutOfMemory(Exception):
    """A batch does not fit in memory."""


def largest_that_fits(fits: Callable[[int], bool], guess: int, most: int) -> int:
    """Searches for the largest batch that fits, by doubling or halving and then by bisection.

    Args:
        fits: Tries a batch of this many utterances; if it fits, all smaller ones do.
        guess: The first to try, at least 1.
        most: More than these are not needed, at least 1.

    Returns:
        The largest number of utterances that was found to fit, within `TOLERANCE` of the largest that does; 0 if not
        even one utterance fits.
    """
    good, bad = 0, most + 1
    trial = min(guess, most)
    while good < most and (bad > most or bad - good > max(1, int(TOLERANCE * good))):
        if fits(trial):
            good = trial
            trial = min(2 * good, most) if bad > most else (good + bad) // 2
        else:
            bad = trial
            trial = (good + bad) // 2
    return good
