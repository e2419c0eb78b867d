from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2vlab.data.corpora.splitting import position, validation_limit

names = st.sets(st.text(st.characters(codec="utf-8"), max_size=12), min_size=2, max_size=60)


def held_out(ids, fraction: float) -> set[str]:
    limit = validation_limit(np.array([position(name) for name in ids]), fraction)
    return {name for name in ids if position(name) < limit}


@given(names, st.floats(0.01, 0.99))
def test_both_sides_get_an_utterance_whatever_the_order(ids, fraction):
    chosen = held_out(sorted(ids), fraction)
    assert 1 <= len(chosen) < len(ids)
    assert held_out(sorted(ids, reverse=True), fraction) == chosen


@given(names, names, st.floats(0.2, 0.8))
def test_adding_files_moves_none_unless_a_side_was_empty(ids, more, fraction):
    by_hash = {name for name in ids if position(name) < fraction}
    if by_hash and by_hash != ids:
        assert held_out(ids | more, fraction) & ids == by_hash


def test_share_is_about_the_fraction():
    chosen = held_out([f"utterance-{n}" for n in range(10_000)], 0.05)
    assert 400 < len(chosen) < 600  # five standard deviations


@pytest.mark.parametrize("count", [0, 1])
def test_too_few(count):
    with pytest.raises(
        ValueError, match=rf"^`corpus` must have at least 2 usable .*, but has {count}; give more audio"
    ):
        validation_limit(np.full(count, 0.3), 0.05)
