"""Spans of frames: lengths, bounds, distributions and what they cover.

Every statistical bound is six standard errors wide or more, so that a correct draw fails with odds below 1e-8; the
seeds are fixed besides.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2vlab.functional.spans import arrange_spans, draw_span_lengths, draw_span_starts, spans_to_frames


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def assert_distributed(drawn, probabilities: dict) -> None:
    """Every value comes as often as it should, and none that should not."""
    counts, total = Counter(drawn), len(drawn)
    assert set(counts) <= {value for value, probability in probabilities.items() if probability > 0}
    for value, probability in probabilities.items():
        error = math.sqrt(total * probability * (1 - probability))
        assert abs(counts[value] - total * probability) <= 6 * error + 1, value


def normal_below(x: float, mean: float, deviation: float) -> float:
    return 0.5 * (1 + math.erf((x - mean) / (deviation * math.sqrt(2))))


def test_static_lengths() -> None:
    assert draw_span_lengths(3, "static", 7, 0.0, rng(0)).tolist() == [7, 7, 7]


def test_b1_uniform_lengths_on_a_current_numpy() -> None:
    """fairseq's call raises: a `Generator` has no `randint`. Both bounds are included."""
    lengths = draw_span_lengths(60_000, "uniform", 15, 1, rng(0))
    assert_distributed(lengths.tolist(), {length: 1 / 30 for length in range(1, 31)})
    lengths = draw_span_lengths(60_000, "uniform", 15, 10, rng(1))
    assert_distributed(lengths.tolist(), {length: 1 / 21 for length in range(10, 31)})


def test_normal_lengths_are_rounded_and_at_least_one() -> None:
    lengths = draw_span_lengths(60_000, "normal", 15, 10, rng(0))
    probabilities = {
        length: normal_below(length + 0.5, 15, 10) - normal_below(length - 0.5, 15, 10) for length in range(2, 80)
    }
    assert_distributed(lengths.tolist(), {1: normal_below(1.5, 15, 10), **probabilities})


@pytest.mark.parametrize("mean", [2, 15])
def test_poisson_lengths_are_at_least_one(mean: int) -> None:
    lengths = draw_span_lengths(60_000, "poisson", mean, 0.0, rng(0))
    probabilities = {length: math.exp(-mean) * mean**length / math.factorial(length) for length in range(60)}
    probabilities[1] += probabilities.pop(0)
    assert_distributed(lengths.tolist(), probabilities)


def starts_of(seed: int, **options: bool) -> list[int]:
    return draw_span_starts(np.full(4, 10), 30, rng(seed), **options).tolist()


@pytest.mark.parametrize(("last_start", "num_places"), [(False, 20), (True, 21)])
@pytest.mark.parametrize("replacement", [False, True])
def test_starts_are_uniform(replacement: bool, last_start: bool, num_places: int) -> None:
    """Never 20 by default, so the last of 30 frames stays visible."""
    drawn = [starts_of(seed, replacement=replacement, last_start=last_start) for seed in range(4000)]
    assert any(len(set(starts)) < 4 for starts in drawn) == replacement
    assert_distributed(
        [start for starts in drawn for start in starts], {start: 1 / num_places for start in range(num_places)}
    )


def test_the_shortest_span_bounds_the_starts() -> None:
    drawn = [draw_span_starts(np.array([9, 2, 30]), 20, rng(seed)).tolist() for seed in range(300)]
    assert {start for starts in drawn for start in starts} == set(range(18))


def test_spans_nearly_as_long_as_the_utterance() -> None:
    assert sorted(draw_span_starts(np.array([50, 40]), 30, rng(0)).tolist()) == [0, 1]
    assert draw_span_starts(np.array([50]), 30, rng(0), replacement=True).tolist() == [0]
    assert draw_span_starts(np.array([1, 1, 1, 3]), 2, rng(0), replacement=True).tolist() == [0, 0, 0, 0]
    assert draw_span_starts(np.array([], dtype=np.int64), 30, rng(0)).tolist() == []


spans = st.integers(1, 60).flatmap(
    lambda num_frames: st.tuples(
        st.just(num_frames),
        st.lists(st.tuples(st.integers(0, num_frames - 1), st.integers(1, 70)), min_size=1, max_size=12),
    )
)


@given(spans)
@settings(deadline=None)
def test_covered_frames_equal_a_loop(case: tuple[int, list[tuple[int, int]]]) -> None:
    num_frames, drawn = case
    covered = {frame for start, length in drawn for frame in range(start, start + length) if frame < num_frames}
    starts, lengths = np.array(drawn).T
    assert spans_to_frames(starts, lengths, num_frames).tolist() == sorted(covered)


def test_spans_of_one_length() -> None:
    assert spans_to_frames(np.array([7, 2, 3]), 3, 20).tolist() == [2, 3, 4, 5, 7, 8, 9]
    assert spans_to_frames(np.array([8]), 3, 10).tolist() == [8, 9]
    assert spans_to_frames(np.array([], dtype=np.int64), 3, 10).tolist() == []


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=12),
    st.integers(2, 80),
    st.integers(0, 4),
    st.booleans(),
    st.integers(0, 1000),
)
@settings(deadline=None)
def test_arranged_spans_keep_their_space_and_lengths(
    lengths: list[int], num_frames: int, min_space: int, last_start: bool, seed: int
) -> None:
    starts, placed = arrange_spans(np.array(lengths), num_frames, min_space, rng(seed), last_start=last_start)
    longest_first = sorted(lengths, reverse=True)
    assert placed.tolist() == longest_first[: len(placed)]
    order = np.argsort(starts)
    first, ends = starts[order], (starts + placed)[order]
    if len(placed):
        assert first[0] >= 0
        assert ends[-1] <= num_frames - (not last_start)
    assert (first[1:] - ends[:-1] >= min_space).all()
    if len(placed) < len(lengths):  # the one that was left out indeed fits nowhere
        length = longest_first[len(placed)]
        edges = [-min_space, *np.stack([first, ends], 1).ravel(), num_frames - (not last_start) + min_space]
        assert all(edges[i + 1] - edges[i] - 2 * min_space < length for i in range(0, len(edges), 2))


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 4), st.booleans(), st.integers(0, 1000))
@settings(deadline=None)
def test_all_spans_are_placed_if_there_is_enough_room(
    num_spans: int, length: int, min_space: int, last_start: bool, seed: int
) -> None:
    """Each span takes `2 * (length + min_space) - 1` starts away from the next at most."""
    num_frames = length + 1 - last_start + (num_spans - 1) * (2 * (length + min_space) - 1)
    starts, _ = arrange_spans(np.full(num_spans, length), num_frames, min_space, rng(seed), last_start=last_start)
    assert len(starts) == num_spans


def arrangements(lengths: list[int], num_frames: int, min_space: int) -> dict[tuple[int, ...], float]:
    """Every arrangement with its probability, as fairseq defines it.

    Parts are `[s, e)` of which a span never takes the last frame; one is chosen by its size, then a start uniformly.
    """
    found: dict[tuple[int, ...], float] = defaultdict(float)

    def place(parts: list[tuple[int, int]], rest: list[int], starts: tuple[int, ...], probability: float) -> None:
        fitting = [(s, e) for s, e in parts if rest and e - s > rest[0]]
        if not fitting:
            found[starts] += probability
            return
        length = rest[0]
        for s, e in fitting:
            chosen = probability * (e - s) / sum(end - start for start, end in fitting)
            others = [part for part in parts if part != (s, e)]
            for start in range(s, e - length):
                pieces = [(s, start - min_space + 1), (start + length + min_space, e)]
                place(others + pieces, rest[1:], (*starts, start), chosen / (e - length - s))

    place([(0, num_frames)], sorted(lengths, reverse=True), (), 1.0)
    return found


@pytest.mark.parametrize(
    ("lengths", "num_frames", "min_space"), [([3, 3], 14, 1), ([1, 4, 2], 13, 2), ([2, 2, 2], 8, 1)]
)
def test_b1_spans_without_overlap_on_a_current_numpy(lengths: list[int], num_frames: int, min_space: int) -> None:
    """fairseq's `no_overlap` raises (`Generator.randint`, `np.int`); its distribution is enumerated here."""
    drawn = [
        tuple(arrange_spans(np.array(lengths), num_frames, min_space, rng(seed))[0].tolist()) for seed in range(6_000)
    ]
    expected = arrangements(lengths, num_frames, min_space)
    assert sum(expected.values()) == pytest.approx(1)
    assert_distributed(drawn, expected)
