"""A draw in stages: its mean has the expected value of the whole's, however unbalanced the groups are."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2vlab.functional.measures.abx import StagedMean
from w2vlab.functional.measures.staged_draw import multistage_sample

KEYS = [(pair, speaker) for pair, speakers in {"ab": (9, 2), "ac": (1,), "ba": (5, 1, 1)}.items()
        for speaker, number in enumerate(speakers) for _ in range(number)]  # fmt: skip
ERRORS = np.random.default_rng(0).random(len(KEYS)) * np.arange(len(KEYS))


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 12, 18])
def test_the_sample_mean_is_unbiased(most: int) -> None:
    draw = np.random.default_rng(most)
    means = []
    for _ in range(3000):
        chosen = multistage_sample(KEYS, most, draw)
        means.append(StagedMean([KEYS[place] for place in chosen])(ERRORS[chosen]))
    off = np.mean(means) - StagedMean(KEYS)(ERRORS)
    assert abs(off) < 4 * np.std(means) / math.sqrt(len(means))


@given(
    keys=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=40),
    most=st.integers(1, 50),
    seed=st.integers(0, 9),
)
def test_sample_sizes_are_equal_between_groups(keys: list[tuple[int, int]], most: int, seed: int) -> None:
    chosen = multistage_sample(keys, most, np.random.default_rng(seed))
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(most, len(keys))
    there, drawn = Counter(key[0] for key in keys), Counter(keys[place][0] for place in chosen)
    if most >= len(there):
        assert drawn.keys() == there.keys()
    # None has two more than another that could have had one more.
    for one, other in ((a, b) for a in there for b in there):
        assert drawn[one] <= drawn[other] + 1 or drawn[other] == there[other]
