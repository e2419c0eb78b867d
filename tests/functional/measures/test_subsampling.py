"""Intervals by halves and quarters: those of a mean are Student's, and each holds its figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from w2vlab.functional.measures.interval import Interval
from w2vlab.functional.measures.subsampling import HALVES, NUM_SPLITS, QUARTERS, SubsamplingEstimate, draw_splits

NUMBERS = st.floats(0, 1) | st.just(math.nan)


def on_parts(values: np.ndarray) -> SubsamplingEstimate:
    """The mean of `values`, and that of their parts."""
    parts = [
        np.array([[values[split == part].mean() for part in range(size)] for split in draw_splits(len(values), size)])
        for size in (HALVES, QUARTERS)
    ]
    halves, quarters = parts
    return SubsamplingEstimate(
        value=float(values.mean()),
        number=len(values),
        halves=halves,
        quarters=quarters,
        lowest=-math.inf,
        highest=math.inf,
    )


@pytest.mark.parametrize("number", [8, 50, 51])
def test_splits_have_parts_of_the_same_size(number: int) -> None:
    for parts in (HALVES, QUARTERS):
        splits = draw_splits(number, parts)
        assert splits.shape == (NUM_SPLITS, number)
        sizes = np.array([np.bincount(split, minlength=parts) for split in splits])
        assert sizes.max() - sizes.min() <= 1
        assert len(np.unique(splits, axis=0)) > NUM_SPLITS / 4
        assert np.array_equal(splits, draw_splits(number, parts))


def test_interval_of_a_mean_is_about_student_s() -> None:
    values = np.random.default_rng(0).normal(size=64)
    found = on_parts(values).interval
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.value - found.low == pytest.approx(found.high - found.value)
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.2)


def test_difference_is_paired() -> None:
    one, other = np.random.default_rng(1).normal(size=(2, 64))
    one += 10 * other  # what they have in common is in neither
    found = on_parts(one).minus(on_parts(10 * other))
    expected = stats.ttest_rel(one, 10 * other).confidence_interval(0.95)
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.2)
    assert on_parts(one).minus(on_parts(one)) == Interval(0.0, 0.0, 0.0)


def test_without_a_variance_the_interval_is_the_full_range() -> None:
    halves, quarters = (np.full((5, parts), math.nan) for parts in (2, 4))
    nothing = SubsamplingEstimate(value=0.4, number=3, halves=halves, quarters=quarters)
    assert nothing.interval == Interval(0.4, 0.0, 1.0)
    assert nothing.minus(nothing) == Interval(0.0, -1.0, 1.0)


@given(
    value=st.floats(0, 1),
    number=st.integers(2, 9),
    halves=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4),
    quarters=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=4),
    other=st.floats(0, 1),
)
def test_every_interval_contains_its_value(
    value: float, number: int, halves: list, quarters: list, other: float
) -> None:
    first, second = np.array(halves).reshape(-1, 2), np.array(quarters).reshape(-1, 4)
    one = SubsamplingEstimate(value=value, number=number, halves=first, quarters=second)
    another = SubsamplingEstimate(value=other, number=number, halves=first[:, ::-1], quarters=second[:, ::-1])
    for interval in (one.interval, one.minus(another), another.minus(one)):
        assert interval.low <= interval.value <= interval.high
        assert math.isfinite(interval.low)
        assert math.isfinite(interval.high)
