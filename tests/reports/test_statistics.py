from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from w2vlab.reports.statistics import Difference, Mean, compare_means, compute_mean


def test_mean_and_deviation_by_hand() -> None:
    assert compute_mean([2.0, 4.0, 9.0]) == Mean(3, 5.0, pytest.approx(math.sqrt((9 + 1 + 16) / 2)))
    assert compute_mean([7.0]) == Mean(1, 7.0, None)
    assert compute_mean([]).number == 0
    assert math.isnan(compute_mean([]).mean)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1.0, 2.0, 4.0], [3.0, 3.5, 9.0, 4.0]),
        ([0.61, 0.62], [0.58, 0.60]),
        ([1.0, 1.0, 1.0], [3.0, 3.5, 9.0]),
        ([1e-9, 3e-9], [2e-9, 7e-9, 4e-9]),
        ([1e-170, 3e-170], [2e-170, 7e-170, 4e-170]),
    ],
)
def test_interval_is_that_of_welch(one: list[float], other: list[float]) -> None:
    found = compare_means(compute_mean(one), compute_mean(other))
    assert found is not None
    assert found.value == pytest.approx(sum(one) / len(one) - sum(other) / len(other), rel=1e-12)
    if max(one) > 1e-100:
        expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    else:  # the squares of the variances overflow
        scaled = compare_means(compute_mean([1e170 * x for x in one]), compute_mean([1e170 * x for x in other]))
        assert scaled is not None
        assert found.low == pytest.approx(1e-170 * scaled.low, rel=1e-3)


def test_interval_of_two_and_two_by_hand() -> None:
    """Equal deviations of two values each: 2 degrees of freedom, whose t is 4.30265."""
    found = compare_means(compute_mean([1.0, 3.0]), compute_mean([5.0, 7.0]))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((-4 - 4.302653 * math.sqrt(2), -4 + 4.302653 * math.sqrt(2)))


def test_one_seed_in_a_group_has_no_interval() -> None:
    assert compare_means(compute_mean([1.0]), compute_mean([2.0, 3.0])) == Difference(-1.5, None, None)
    assert compare_means(compute_mean([2.0, 3.0]), compute_mean([1.0])) == Difference(1.5, None, None)
    assert compare_means(compute_mean([]), compute_mean([1.0])) is None


def test_no_spread_at_all() -> None:
    assert compare_means(compute_mean([2.0, 2.0]), compute_mean([1.0, 1.0])) == Difference(1.0, 1.0, 1.0)


VALUES = st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300), max_size=5)


@given(one=VALUES, other=VALUES)
def test_every_interval_holds_its_difference(one: list[float], other: list[float]) -> None:
    found = compare_means(compute_mean(one), compute_mean(other))
    if not one or not other:
        assert found is None
    elif len(one) == 1 or len(other) == 1:
        assert found.low is found.high is None
    else:
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    ("sizes", "deviations"),
    [((2, 2), (1, 1)), ((3, 3), (1, 4)), ((3, 5), (3, 1)), ((5, 3), (1, 1)), ((10, 10), (1, 2))],
)
def test_coverage_of_the_intervals(sizes: tuple[int, int], deviations: tuple[float, float], monkeypatch) -> None:
    """For normally distributed outcomes, 90 to 99 % of the intervals contain the true difference."""
    # SciPy's quantile, which is a hundred times faster; another test compares ours with it.
    monkeypatch.setattr("w2vlab.reports.statistics.t_quantile", lambda freedom: stats.t.ppf(0.975, freedom))
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        one, other = (draw.normal(0, scale, size).tolist() for size, scale in zip(sizes, deviations, strict=True))
        found = compare_means(compute_mean([0.7 + value for value in one]), compute_mean(other))
        held += found.low <= 0.7 <= found.high
    assert 900 < held < 990
