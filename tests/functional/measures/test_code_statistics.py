"""Statistics of sequences of codes, held to plain loops over the formulas."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2vlab.functional.measures.code_statistics import (
    changed_share,
    joint_perplexity,
    mean_run_length,
    next_code_entropy,
    usage_counts,
)

SIZE = 4


@st.composite
def sequences_of_codes(draw):
    groups = draw(st.integers(1, 3))
    frame = st.lists(st.integers(0, SIZE - 1), min_size=groups, max_size=groups)
    utterances = draw(st.lists(st.lists(frame, min_size=1, max_size=12), min_size=1, max_size=4))
    return [torch.tensor(utterance) for utterance in utterances]


def bits(counts: Counter) -> float:
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values())


@given(sequences_of_codes())
@settings(deadline=None)
def test_loops_over_the_formulas(sequences):
    frames = [tuple(frame) for codes in sequences for frame in codes.tolist()]
    assert joint_perplexity(sequences) == pytest.approx(2 ** bits(Counter(frames)))
    counts = usage_counts(sequences, SIZE)
    entropies, runs = next_code_entropy(sequences, SIZE), mean_run_length(sequences)
    for group in range(sequences[0].shape[1]):
        used = Counter(frame[group] for frame in frames)
        assert counts[group].tolist() == [used[code] for code in range(SIZE)]
        pairs, this, num_runs = Counter(), Counter(), 0
        for codes in sequences:
            row = codes[:, group].tolist()
            num_runs += 1
            for before, after in pairwise(row):
                pairs[before, after] += 1
                this[before] += 1
                num_runs += before != after
        # Shannon's F_2: - sum p(i, j) log2 p(j | i)
        total = sum(pairs.values())
        expected = -sum(n / total * math.log2(n / this[i]) for (i, _), n in pairs.items())
        assert entropies[group] == pytest.approx(expected, abs=1e-9)
        assert 0 <= entropies[group] <= math.log2(SIZE) + 1e-9
        assert runs[group] == pytest.approx(len(frames) / num_runs)


def test_pairs_do_not_cross_utterances():
    alternating = [torch.tensor([[0], [1]]), torch.tensor([[0], [1]])]
    assert next_code_entropy(alternating, 2) == [0.0]
    assert mean_run_length([torch.zeros(3, 1).long(), torch.zeros(5, 1).long()]) == [4.0]


def test_closed_forms():
    generator = torch.Generator().manual_seed(0)
    random = [torch.randint(0, SIZE, (20_000, 2), generator=generator)]
    assert next_code_entropy(random, SIZE) == pytest.approx([2.0, 2.0], abs=0.01)
    assert joint_perplexity(random) == pytest.approx(SIZE**2, rel=0.01)
    twice = [random[0][:, :1].expand(-1, 2)]
    assert joint_perplexity(twice) == pytest.approx(SIZE, rel=0.01)
    one = [torch.zeros(7, 3).long()]
    assert joint_perplexity(one) == 1
    assert next_code_entropy([one[0][:1]], SIZE) == [0.0, 0.0, 0.0]


def test_fraction_of_changed_codes():
    before = [torch.tensor([[0, 1], [2, 3]]), torch.tensor([[1, 1], [1, 1]])]
    now = [torch.tensor([[0, 1], [2, 0]]), torch.tensor([[0, 1], [1, 0]])]
    assert changed_share(before, now) == [0.25, 0.5]
    assert changed_share(before, before) == [0, 0]
