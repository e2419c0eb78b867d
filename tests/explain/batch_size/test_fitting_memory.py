"""The search for the largest batch that fits in memory."""

from __future__ import annotations

import pytest

from w2vlab.explain.batch_size.fitting_memory import TOLERANCE, largest_that_fits


@pytest.mark.parametrize("guess", [1, 7, 100, 5000])
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 19, 20, 21, 250, 999])
def test_the_largest_is_found_within_the_tolerance(limit, guess):
    tried = []

    def fits(utterances):
        tried.append(utterances)
        return utterances <= limit

    found = largest_that_fits(fits, guess, most=1000)
    assert limit / (1 + TOLERANCE) - 1 <= found <= limit
    assert found == 0 or found in tried
    assert len(tried) == len(set(tried)) <= 20


@pytest.mark.parametrize("guess", [1, 10, 300])
def test_it_ends_at_the_most_that_are_needed(guess):
    tried = []
    assert largest_that_fits(lambda utterances: tried.append(utterances) or True, guess, most=64) == 64
    assert max(tried) == 64
